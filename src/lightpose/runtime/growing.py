"""Files that grow by stretches, each whole or not there, so that a full disk leaves what fits."""

from pathlib import Path


class GrowingFile:
    """A file that is complete after each stretch; close it.

    Args:
        path: of the file, which is made anew.
        begin: what it begins with.
        end: what stands at its end, after whatever is added.

    Raises:
        OSError: when it can't be written.
    """

    def __init__(self, path: Path, begin: bytes = b"", end: bytes = b"") -> None:
        self._file = path.open("wb", buffering=0)
        self._end, self.length = end, 0
        self.add(begin)

    def add(self, stretch: bytes) -> None:
        """Put a stretch before the end.

        Raises:
            OSError: when it doesn't fit; the file then is as it was.
        """
        try:
            self._write(self.length, stretch + self._end)
        except OSError:
            if self.length:
                self.cut(self.length)
            raise
        self.length += len(stretch)

    def cut(self, length: int) -> None:
        """Take back what was added from a length on."""
        self._write(length, self._end)  # in the place of something else, which takes no space
        self._file.truncate(length + len(self._end))
        self.length = length

    def close(self) -> None:
        """Nothing is left to write."""
        self._file.close()

    def _write(self, place: int, content: bytes) -> None:
        self._file.seek(place)
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]
