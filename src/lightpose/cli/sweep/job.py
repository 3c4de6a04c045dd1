"""One job of a multirun, as its own process sees it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

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


def running_trial(config: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """The `lightpose.cli.sweep.study.RunningTrial` that this run is.

    Args:
        config: of the run.
        settings: of the ``sweep`` group, with the number of the trial.
    """
    from lightpose.cli.sweep.study import RunningTrial  # needs Optuna

    return RunningTrial(Path(config["output_dir"]).parent, settings)
