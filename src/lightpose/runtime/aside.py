"""Files that appear whole or not at all, so that a full disk leaves the one before intact. Imports nothing heavy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write a file under; the file then takes the place of ``path``.

    Raises:
        OSError: when it can't be written or moved; then ``path`` is as it was. So it is after any other error.
    """
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)  # of a process that was killed, or a link that leads elsewhere
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
