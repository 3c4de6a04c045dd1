"""Runs the jobs of a multirun: every combination of the values given, or what a search chooses."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, OmegaConf, open_dict

from lightpose.cli.app import check_keys
from lightpose.cli.options import check_options, check_types, preparing
from lightpose.cli.sweep.results import print_table, write_results
from lightpose.errors import UserError
from lightpose.report.sweep import FINISHED, REFUSED, Trial, best_of
from lightpose.runtime.signals import is_started_by_launcher, saying


class Sweep:
    """All jobs of a multirun; one that is refused doesn't stop the others. The ``sweep`` group makes it a search.

    Args:
        sweeper: Hydra's, which has the configuration that all jobs begin with, and the launcher.
    """

    def __init__(self, sweeper: BasicSweeper) -> None:
        assert sweeper.hydra_context is not None
        self.sweeper = sweeper
        config: Any = sweeper.config
        self.config = config
        self.loader = sweeper.hydra_context.config_loader
        self.folder = Path(str(self.config.hydra.sweep.dir)).absolute()

    def run(self, arguments: list[str]) -> None:
        """Run all jobs and print what they reached.

        Raises:
            UserError: when no job was run, or none reached anything; without a search, also when one was refused.
        """
        parser = OverridesParser.create(config_loader=self.loader)
        overrides = parser.parse_overrides([*self.sweeper._parse_config(), *arguments])
        settings: Any = OmegaConf.select(self.config, "sweep")
        if settings is None:
            self._grid(overrides)
        else:
            self._search(overrides, OmegaConf.to_container(settings, resolve=True))  # type: ignore[arg-type]

    def _launched(self, jobs: Sequence[Sequence[str]], first: int = 0) -> list[JobReturn]:
        """What the jobs gave. They are told the folder, as another process would work out another."""
        assert self.sweeper.launcher is not None
        place = f"hydra.sweep.dir={QuotedString(str(self.folder), Quote.single).with_quotes()}"
        return list(self.sweeper.launcher.launch([[*job, place] for job in jobs], initial_job_idx=first))

    # -- all combinations ----------------------------------------------------------------------------------------

    def _grid(self, overrides: list[Override]) -> None:
        for override in overrides:
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise UserError(f"{override.input_line} is a range to search; add sweep=search, or give some values")
        [jobs] = self.sweeper.split_arguments(overrides, None)
        self.sweeper.validate_batch_is_legal(jobs)
        shared = set.intersection(*map(set, jobs))
        trials = []
        for number, (job, done) in enumerate(zip(jobs, self._launched(jobs), strict=True)):
            values = dict(override.split("=", 1) for override in job if override not in shared)
            result = done._return_value
            state, said = (FINISHED, "") if done.status == JobStatus.COMPLETED else (REFUSED, str(result))
            trials.append(Trial(number, state, result if state == FINISHED else None, values, said))
        print_table(trials, "figure")
        refused = [trial for trial in trials if trial.state == REFUSED]
        if refused:
            raise UserError(f"{len(refused)} of {len(trials)} jobs failed; job {refused[0].number}: {refused[0].said}")

    # -- a search ------------------------------------------------------------------------------------------------

    def _search(self, overrides: list[Override], settings: dict[str, Any]) -> None:
        folder = self.folder
        if importlib.util.find_spec("optuna") is None:
            raise UserError('a search needs Optuna, which isn\'t installed: pip install "lightpose[sweep]"')
        from lightpose.cli.sweep.space import as_arguments, ends, read_space
        from lightpose.cli.sweep.study import Search, alone

        if is_started_by_launcher():
            raise UserError(
                "a search starts the processes of its runs itself; start it once, without torchrun or srun, such as "
                "with trainer.devices=2"
            )
        _check(settings)
        space, fixed = read_space(settings["space"] or {}, overrides)
        tried = {key: ends(distribution)[0] for key, distribution in space.items()}
        first = self._checked([*fixed, *as_arguments(tried)])
        for key, distribution in space.items():
            for value in ends(distribution)[1:]:
                self._checked([*fixed, *as_arguments({**tried, key: value})])
        monitor, higher = _monitored(first)
        at_once = settings["at_once"] or max(1, self.config.hydra.launcher.get("n_jobs") or 1)
        logarithmic = [key for key, distribution in space.items() if getattr(distribution, "log", False)]

        with alone(folder):
            search = Search(folder, space, monitor, higher, settings, first.seed)
            while (done := len(search.trials)) < settings["trials"] and not search.exhausted:
                print(f"{done} of {settings['trials']} trials are recorded in {folder}")
                batch = search.ask(min(at_once, settings["trials"] - done))
                jobs = [
                    [*fixed, *as_arguments(values), f"sweep.trial={number}", f"hydra.sweep.subdir={number}"]
                    for number, values in batch
                ]
                with saying(f"the same command with output_dir={folder} goes on with the search"):
                    results = self._launched(jobs, batch[0][0])
                for (number, _), job in zip(batch, results, strict=True):
                    search.tell(number, job._return_value)
                write_results(folder, search.trials, monitor, higher, logarithmic)
            trials = search.trials
        print_table(trials, monitor)
        best = best_of(trials, higher)
        if best is None:
            said = next((trial.said for trial in trials if trial.said), "all were stopped early")
            raise UserError(f"none of {len(trials)} trials finished: {said}")
        print(f"best {monitor} {best.value:.4f}: {' '.join(as_arguments(best.values))}")
        print(f"{folder / str(best.number) / 'checkpoints/best.ckpt'}, {folder / 'sweep.csv'}, {folder / 'sweep.png'}")

    def _checked(self, overrides: list[str]) -> DictConfig:
        """The configuration of a job, in which every key is known and has a value of its type."""
        job = self.loader.load_sweep_config(self.config, overrides)
        HydraConfig.instance().set_config(job)
        name = str(job.hydra.job.config_name)
        with open_dict(job):
            del job["hydra"]
        check_keys(job, name)
        check_types(job, name)
        return job


def _check(settings: dict[str, Any]) -> None:
    """Refuse settings of the wrong type.

    Raises:
        UserError: naming the first.
    """
    for key, least in (("trials", 1), ("at_once", 1), ("retries", 0)):
        value = settings[key]
        if not (key == "at_once" and value is None) and (type(value) is not int or value < least):
            raise UserError(f"sweep.{key}={value}: expected a whole number from {least}")
    check_options(settings, "sweep")
    if not isinstance(settings["space"], dict | None):
        raise UserError(f"sweep.space={settings['space']}: expected keys with their ranges or choices")


def _monitored(composed: DictConfig) -> tuple[str, bool]:
    """The figure that the runs choose their best checkpoint by, and whether a high one is good.

    Raises:
        UserError: when nothing is validated, or no best checkpoint is chosen by that figure.
    """
    from lightpose.checkpoint import assemble
    from lightpose.cli.setup import make_skeleton, monitored, resolved

    config = resolved(composed)
    if config["data"]["val"] is None:
        raise UserError("a search compares what its runs reach in validation; add data.val=val.json")
    check_options({"metric": config["metric"]})
    with preparing("skeleton"):
        skeleton = make_skeleton(config)
    with preparing("metric"):
        metrics = [assemble(part, skeleton=skeleton) for part in config["metric"].values() if part]
    figure, mode = monitored(config, metrics)
    best = config["callbacks"].get("best")
    if not best or best.get("monitor") not in (None, figure):
        watched = f"watches {best.get('monitor')}" if best else "is left out"
        raise UserError(
            f"a search compares {figure} of the best checkpoints, but callbacks.best {watched}; choose the figure by "
            "monitor=, and leave callbacks.best as it is"
        )
    return figure, mode == "max"
