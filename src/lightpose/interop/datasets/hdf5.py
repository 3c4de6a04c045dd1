"""HDF5 files that other people wrote, opened with bounds."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightpose.errors import UserError

_MOST_BYTES = 2 * 2**30
"""Of the numbers of a file. Compressed, they may be a thousandth of that."""


@contextmanager
def opened(path: Path, what: str) -> Iterator[Any]:
    """An open `h5py.File`, which neither is larger than memory when it is read, nor leads to other files.

    Raises:
        UserError: for a file that is none, one whose data sets (but for pixels) hold too much, and one with links to
            other files.
    """
    import h5py

    try:
        file = h5py.File(path.resolve(), "r")
    except OSError as error:
        raise UserError(f"{what} {path} can't be read as HDF5 ({str(error)[:100]}); check that it is whole") from error
    with file:
        _check(file, f"{what} {path}")
        yield file


def _check(file: Any, where: str) -> None:
    import h5py

    total = 0
    queue, seen = [file], 0
    while queue:
        group = queue.pop()
        for name in group:
            seen += 1
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise UserError(
                    f"{where} links to another file, {link.filename[:100]}; give one that holds its labels itself"
                )
            if isinstance(link, h5py.SoftLink):
                continue
            found = group[name]
            if isinstance(found, h5py.Group):
                queue.append(found)
            elif isinstance(found, h5py.Dataset):
                if found.external or found.is_virtual:
                    raise UserError(
                        f"{where} keeps {name[:100]} in another file; give one that holds its labels itself"
                    )
                if name != "video" and found.ndim != 4:
                    total += found.size * found.dtype.itemsize
        if total > _MOST_BYTES or seen > 10**6:
            raise UserError(
                f"{where} holds more than {_MOST_BYTES >> 30} GB of numbers, which labels never are; is it damaged?"
            )
