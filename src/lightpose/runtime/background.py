"""Checkpoints that are written while training goes on."""

import logging
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, NamedTuple

from lightpose.runtime.snapshots import Snapshot, Snapshots
from lightpose.runtime.whole_files import WholeFiles

log = logging.getLogger(__name__)

WAITING = 2
"""How many checkpoints may wait while one is written; each takes as much memory of the host as it is long."""


class _Job(NamedTuple):
    future: "Future[object]"
    path: str = ""
    snapshot: Snapshot | None = None


class BackgroundFiles(WholeFiles):
    """`WholeFiles` that are written by a thread, one after the other, from copies of what is saved.

    A newer checkpoint takes the place of one for the same path that still waits. Writes and removals keep their order.
    An error of the thread is raised at the next save, or at the end.

    Lightning's AsyncCheckpointIO is no base for this: it copies weights within the GPU's memory and other data not at
    all, lets any number of checkpoints wait, and removes and reads files without regard to those to be written.

    Args:
        read: as for `WholeFiles`.
    """

    def __init__(self, read: Callable[[Any], dict[str, Any]]) -> None:
        super().__init__(read)
        self._snapshots = Snapshots()
        self._thread: ThreadPoolExecutor | None = None
        self._jobs: list[_Job] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Copy ``checkpoint``, to be written to ``path``. Waits only where too many of other paths wait already.

        Raises:
            Exception: that an earlier write raised, such as OSError.
        """
        self._look()
        for job in self._jobs:
            if job.snapshot and job.path == str(path) and job.future.cancel():
                self._snapshots.give_back(job.snapshot)
        self._look()
        while len([job for job in self._jobs if job.snapshot]) > WAITING:
            wait([job.future for job in self._jobs], return_when=FIRST_COMPLETED)
            self._look()
        snapshot = self._snapshots.take(checkpoint)
        self._queue(partial(self._write, snapshot, path, storage_options), str(path), snapshot)

    def _write(self, snapshot: Snapshot, path: Any, storage_options: Any | None) -> None:
        try:
            snapshot.wait()
            super().save_checkpoint(snapshot.content, path, storage_options)
        finally:
            self._snapshots.give_back(snapshot)

    def _queue(self, call: Callable[[], object], path: str = "", snapshot: Snapshot | None = None) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._jobs.append(_Job(self._thread.submit(call), path, snapshot))

    def _look(self) -> None:
        """Forget what is done, and raise what went wrong."""
        done = [job.future for job in self._jobs if job.future.done()]
        self._jobs = [job for job in self._jobs if job.future not in done]
        for future in done:
            if not future.cancelled():
                future.result()

    def is_pending(self, path: Any) -> bool:
        """Whether a checkpoint that was saved to ``path`` is still to be written."""
        return any(job.path == str(path) and not job.future.done() for job in self._jobs)

    def afterwards(self, call: Callable[[], object]) -> None:
        """Let the thread call ``call`` once all that was saved before is written."""
        self._queue(call)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint of this run once all that was saved before is written."""
        self._queue(partial(super().remove_checkpoint, path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Content of a checkpoint, once all that was saved before is written; its run goes on from now on."""
        self.wait()
        return super().load_checkpoint(path, map_location, weights_only)

    def wait(self) -> None:
        """Return once all that was saved is written.

        Raises:
            Exception: that a write raised, such as OSError.
        """
        wait([job.future for job in self._jobs])
        self._look()

    def teardown(self) -> None:
        """Write what still waits, and end the thread.

        Raises:
            Exception: that a write raised, unless another exception is just ending the run.
        """
        ending = sys.exc_info()[1]
        try:
            self.wait()
        except Exception as error:
            if ending is None:
                raise
            log.warning("a checkpoint could not be written: %s", error)
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None
