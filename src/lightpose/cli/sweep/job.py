"""One job of a multirun, as its own process sees it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from lightpose.callbacks.pruning import Pruning
from lightpose.cli.groups import given_dir


def job_command(folder: Path) -> list[str]:
    """The command that runs this job alone, for the further processes of its training.

    Args:
        folder: of the run.
    """
    overrides = HydraConfig.get().overrides
    given = [each for each in [*overrides.hydra, *overrides.task] if each != "hydra.mode=MULTIRUN"]
    folders = ["--config-dir", parts] if (parts := given_dir()) else []
    return [sys.executable, "-m", "lightpose.cli.train", *folders, *given, f"hydra.run.dir={folder}"]


def pruning(config: Mapping[str, Any], settings: Mapping[str, Any]) -> Pruning:
    """What tells a search how this trial does, and ends the trial if it does worse than others.

    Args:
        config: of the run.
        settings: of the ``sweep`` group, with the number of the trial.
    """
    from lightpose.cli.sweep.study import RunningTrial  # needs Optuna

    return Pruning(config["monitor"], RunningTrial(Path(config["output_dir"]).parent, settings).stops)
