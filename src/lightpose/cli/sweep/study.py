"""The record of a search: an Optuna study in a file, with which a search goes on after whatever ended it."""

import inspect
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lightpose.checkpoint import assemble
from lightpose.cli.options import find, preparing
from lightpose.cli.sweep.space import Space
from lightpose.errors import UserError
from lightpose.report.sweep import FINISHED, REFUSED, STOPPED, Trial

JOURNAL = "sweep.journal"
_NAME = "sweep"
_ERROR, _STOPPED, _REACHED, _AGAIN_OF, _TRIES = "error", "stopped", "reached", "again_of", "tries"
"""What is noted of a trial: why it failed, after which validation it was stopped, the figure of a whole run, which one
that a kill ended it tries again, and how often that was tried."""

logging.getLogger("optuna").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def _storage(folder: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(folder / JOURNAL)))


def _pruner(settings: Mapping[str, Any]) -> Any:
    with preparing("sweep.pruner"):
        return assemble(settings["pruner"]) if settings["pruner"] else None


class Search:
    """The trials in a folder.

    A trial that was left running, because a signal or a failure ended the whole search, is tried again, unless its run
    came to its end.

    Args:
        folder: of the search; with a record in it, that one goes on.
        space: what is searched.
        monitor: the figure that is optimised.
        higher: whether a high one is good.
        settings: of the ``sweep`` group.
        seed: of the choices.

    Attributes:
        exhausted: whether the sampler has tried all that there is.

    Raises:
        UserError: when the record in the folder is of another search, or is damaged.
    """

    def __init__(
        self, folder: Path, space: Space, monitor: str, higher: bool, settings: Mapping[str, Any], seed: int
    ) -> None:
        self.folder, self.space, self.settings = folder, space, settings
        self.exhausted = False
        direction = "maximize" if higher else "minimize"
        folder.mkdir(parents=True, exist_ok=True)
        ranges = {key: distribution_to_json(kind) for key, kind in sorted(space.items())}
        what = {"monitor": monitor, "direction": direction, "space": ranges}
        try:
            self._storage = _storage(folder)
            self._study = optuna.create_study(
                storage=self._storage, study_name=_NAME, direction=direction, load_if_exists=True
            )
            before = self._study.user_attrs.get("what")
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder / JOURNAL} is damaged ({error}); give another output_dir") from error
        if before is None:
            self._study.set_user_attr("what", what)
        elif before != what:
            raise UserError(
                f"{folder} has a search over {', '.join(before['space'])} for {before['monitor']} in it, with other "
                "ranges, choices or keys than these; give the same again, or another output_dir"
            )
        _pruner(settings)  # is refused here, and not by each trial
        self._end_running()
        self._study.sampler = self._sampler(seed + len(self._study.get_trials(deepcopy=False)))

    def _sampler(self, seed: int) -> Any:
        """The sampler, which must not begin again with the choices that it has made before."""
        part = self.settings["sampler"]
        with preparing("sweep.sampler"):
            seeded = "seed" in inspect.signature(find(part["_target_"], "sweep.sampler")).parameters
            return assemble(part, **({"seed": seed} if seeded else {}))

    def _end_running(self) -> None:
        """Record trials that were left running and have ended; mark the others as failed, and queue their values."""
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            if _REACHED in trial.user_attrs:
                self.tell(trial.number, trial.user_attrs[_REACHED])
                continue
            tries = trial.user_attrs.get(_TRIES, 1)
            if tries > self.settings["retries"]:
                self._note(trial, _ERROR, f"the search was ended {tries} times while it ran")
            self._study.tell(trial.number, state=TrialState.FAIL)
        trials = self._study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get(_AGAIN_OF) for trial in trials}
        for trial in trials:
            if trial.state == TrialState.FAIL and _ERROR not in trial.user_attrs and trial.number not in again:
                notes = {_AGAIN_OF: trial.number, _TRIES: trial.user_attrs.get(_TRIES, 1) + 1}
                self._study.enqueue_trial(trial.params, user_attrs=notes)

    def _note(self, trial: FrozenTrial, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(trial._trial_id, key, value)

    @property
    def trials(self) -> list[Trial]:
        """What is recorded: all trials but those that run, wait, or are tried again."""
        found = (_record(trial) for trial in self._study.get_trials(deepcopy=False))
        return [trial for trial in found if trial is not None]

    def ask(self, count: int) -> list[tuple[int, dict[str, Any]]]:
        """Numbers and values of the next trials, which run from now on."""
        asked = [self._study.ask(self.space) for _ in range(count)]
        return [(trial.number, dict(trial.params)) for trial in asked]

    def tell(self, number: int, result: float | Exception | None) -> None:
        """Record what a trial returned or raised."""
        trial = self._study.get_trials(deepcopy=False)[number]
        if isinstance(result, Exception):
            error = str(result)
        elif _STOPPED in trial.user_attrs:
            self._finish(number, state=TrialState.PRUNED)
            return
        elif result is not None and math.isfinite(result):
            self._finish(number, values=result)
            return
        else:
            error = "the run gave no figure" if result is None else f"the figure is {result}"
        self._note(trial, _ERROR, error)
        self._finish(number, state=TrialState.FAIL)

    def _finish(self, number: int, **told: Any) -> None:
        try:
            self._study.tell(number, **told)
        except RuntimeError as error:
            if "Study.stop" not in str(error):
                raise
            self.exhausted = True  # which samplers of finite spaces say to Optuna's own loop


def _record(trial: FrozenTrial) -> Trial | None:
    states = {TrialState.COMPLETE: FINISHED, TrialState.PRUNED: STOPPED, TrialState.FAIL: REFUSED}
    said = trial.user_attrs.get(_ERROR, "")
    if trial.state not in states or (trial.state == TrialState.FAIL and not said):
        return None
    return Trial(trial.number, states[trial.state], trial.value, trial.params, said)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let no other process search in the folder.

    Raises:
        UserError: when one does.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "sweep.lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which ends with the process, however that ends
        except (BlockingIOError, PermissionError) as error:
            raise UserError(f"another search runs in {folder}; wait for it, or give another output_dir") from error
        yield


class RunningTrial:
    """A trial as its own run sees it, in whatever process that is.

    Args:
        folder: of the search.
        settings: of the ``sweep`` group, with the number of the trial.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = folder, settings

    @cached_property
    def _opened(self) -> tuple[JournalStorage, optuna.Study, int, Any]:
        storage = _storage(self.folder)
        study = optuna.load_study(study_name=_NAME, storage=storage)
        number = storage.get_trial_id_from_study_id_trial_number(study._study_id, self.settings["trial"])
        return storage, study, number, _pruner(self.settings)

    def stops(self, value: float, step: int) -> bool:
        """Record the figure of a validation; whether the run is too bad to go on."""
        storage, study, number, pruner = self._opened
        storage.set_trial_intermediate_value(number, step, value)
        stop = pruner is not None and pruner.prune(study, storage.get_trial(number))
        if stop:
            storage.set_trial_user_attr(number, _STOPPED, step)
        return stop

    def reached(self, value: float) -> None:
        """Record the figure of the whole run, in case that nobody is left who waits for it."""
        storage, _, number, _ = self._opened
        storage.set_trial_user_attr(number, _REACHED, value)
