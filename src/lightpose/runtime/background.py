"""Checkpoints that are written while training goes on."""

import logging
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

from lightpose.runtime.snapshots import Snapshot, Snapshots
from lightpose.runtime.whole_files import WholeFiles

log = logging.getLogger(__name__)

WAITING = 2
"""How many checkpoints may wait while one is written; each takes as much memory of the host as it is long."""


@dataclass(slots=True)
class _Write:
    """A file to be written; until the thread begins, a newer snapshot may take the place of this one."""

    path: Any
    storage_options: Any
    snapshot: Snapshot | None  # None if a newer one could not be taken
    begun: bool = False


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
        self._jobs: dict[Future[None], str] = {}  # → path of a checkpoint, or nothing
        self._replaceable: dict[str, _Write] = {}
        self._beginning = Lock()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Copy ``checkpoint``, to be written to ``path``. Waits only where too many of other paths wait already.

        Raises:
            Exception: that an earlier write raised, such as OSError.
        """
        self._look()
        with self._beginning:
            write = self._replaceable.get(str(path))
            if write is not None and not write.begun:
                self._snapshots.give_back(write.snapshot)
                write.snapshot = None
                write.snapshot = self._snapshots.take(checkpoint)
                return
        while sum(map(bool, self._jobs.values())) > WAITING:
            wait(self._jobs, return_when=FIRST_COMPLETED)
            self._look()
        write = _Write(path, storage_options, self._snapshots.take(checkpoint))
        self._queue(partial(self._write, write), str(path))
        self._replaceable[str(path)] = write

    def _write(self, write: _Write) -> None:
        with self._beginning:
            write.begun = True
        if write.snapshot is None:
            return
        try:
            write.snapshot.wait()
            super().save_checkpoint(write.snapshot.content, write.path, write.storage_options)
        finally:
            self._snapshots.give_back(write.snapshot)

    def _queue(self, call: Callable[[], None], path: str = "") -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._jobs[self._thread.submit(call)] = path

    def _look(self) -> None:
        """Forget what is done, and raise what went wrong."""
        self._replaceable = {path: write for path, write in self._replaceable.items() if not write.begun}
        done = [job for job in self._jobs if job.done()]
        for job in done:
            del self._jobs[job]
        for job in done:
            job.result()

    def is_pending(self, path: Any) -> bool:
        """Whether a checkpoint that was saved to ``path`` is still to be written."""
        return any(other == str(path) and not job.done() for job, other in self._jobs.items())

    def afterwards(self, call: Callable[[], None]) -> None:
        """Let the thread call ``call`` once all that was saved before is written."""
        self._replaceable.clear()
        self._queue(call)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint of this run once all that was saved before is written."""
        self.afterwards(partial(super().remove_checkpoint, path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Content of a checkpoint, once all that was saved before is written; its run goes on from now on."""
        self.wait()
        return super().load_checkpoint(path, map_location, weights_only)

    def wait(self) -> None:
        """Return once all that was saved is written.

        Raises:
            Exception: that a write raised, such as OSError.
        """
        wait(self._jobs)
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
