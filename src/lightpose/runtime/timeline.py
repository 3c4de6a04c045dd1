"""Where the time goes from the command to the first step; it is told with ``LIGHTPOSE_DEBUG=1``. Imports nothing heavy.

Whoever ends a part of the work calls `mark`, and `finish` prints what each part took.
"""

import contextlib
import os
import sys
import time
from pathlib import Path

_loaded = time.time()
_marks: list[tuple[str, float]] | None = []
"""Name and end of each part so far; None once they are told."""


def wanted() -> bool:
    """Whether there is still something to tell."""
    return _marks is not None and os.environ.get("LIGHTPOSE_DEBUG") == "1"


def mark(part: str) -> None:
    """The work since the mark before is done; it is called ``part``. Parts of one name are added up."""
    if _marks is not None and wanted():
        _marks.append((part, time.time()))


def finish() -> None:
    """Print the table on stderr, once in a process."""
    global _marks
    if not _marks:
        return
    before, taken = process_start(), dict.fromkeys((part for part, _ in _marks), 0.0)
    lines = [f"first step after {_marks[-1][1] - before:.1f} s"]
    for part, moment in _marks:
        taken[part] += moment - before
        before = moment
    lines += [f"{seconds:6.2f} s  {part}" for part, seconds in taken.items()]
    _marks = None
    print("\n".join(lines), file=sys.stderr)


def process_start() -> float:
    """When this process began, in seconds since 1970; where the system doesn't say, when this module was loaded."""
    with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
        if 0 <= age < 3600 + time.time() - _loaded:  # some sandboxes count from another moment
            return time.time() - age
    return _loaded
