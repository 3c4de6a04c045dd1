"""Checkpoints that appear whole or not at all."""

import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lightpose.runtime.aside import written_aside

log = logging.getLogger(__name__)


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints that are whole or not there, and removes no files but checkpoints of its run.

    Lightning's own way goes through the system's folder for temporary files. From there to another file system a move
    is a copy, which a full disk cuts short.

    A checkpoint carries the name of its run. Only checkpoints of this run are removed, and only in folders that it
    writes to, whatever a resumed checkpoint says of others.

    Args:
        read: gives the content of a checkpoint's file, with a dictionary under ``lightpose``; raises for a file that
            can't be trusted.
    """

    def __init__(self, read: Callable[[Any], dict[str, Any]]) -> None:
        super().__init__()
        self.read = read
        self.run = uuid.uuid4().hex
        self.folders: set[Path] = set()
        self.remote: set[str] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``; one with a protocol, such as ``s3://``, is left to Lightning.

        Raises:
            OSError: when it can't be written; then ``path`` is as it was.
        """
        checkpoint = {**checkpoint, "lightpose": {**checkpoint.get("lightpose", {}), "run": self.run}}
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            self.remote.add(str(path))
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.folders.add(path.parent.resolve())
        with written_aside(path) as part, part.open("wb") as file:
            patient = _Patient(file)
            torch.save(checkpoint, patient)  # type: ignore[arg-type]
            patient.flush()
            os.fsync(file.fileno())

    def is_pending(self, path: Any) -> bool:
        """Whether a checkpoint that was saved to ``path`` is still to be written."""
        return False

    def afterwards(self, call: Callable[[], None]) -> None:
        """Call ``call`` once all that was saved before is written."""
        call()

    def wait(self) -> None:
        """Return once all that was saved is written.

        Raises:
            OSError: when it can't be.
        """

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Content of a checkpoint, whose run goes on from now on."""
        content = self.read(path)
        run = content["lightpose"].get("run")
        self.run = run if isinstance(run, str) else self.run
        return content

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint of this run; leave anything else where it is, and say so."""
        if str(path) in self.remote:
            super().remove_checkpoint(path)
        elif self._is_own(Path(path)):
            Path(path).unlink()
        else:
            log.warning("%s is not removed, as this run did not write it", path)

    def _is_own(self, path: Path) -> bool:
        if path.is_symlink() or not path.is_file() or path.resolve().parent not in self.folders:
            return False
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception:  # as damaged files raise whatever they lead to
            return False
        own = content.get("lightpose") if isinstance(content, dict) else None
        return isinstance(own, dict) and own.get("run") == self.run


class _Patient:
    """A file whose first error waits until `flush`, as torch.save turns errors of writing into others.

    Args:
        file: to write to.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write ``data``; after an error nothing is written any more."""
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Raise the error, if there was one; else hand all that was written to the system."""
        if self.error is not None:
            raise self.error
        self.file.flush()
