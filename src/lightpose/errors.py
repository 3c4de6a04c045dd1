"""The one exception that means "the input is wrong, and here is what to do"; and where in own code others arose."""

import sysconfig
import textwrap
import traceback
from pathlib import Path

_OTHERS = (
    str(Path(__file__).parent),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")),
)
"""Where lightpose, Python and installed packages are."""


class UserError(Exception):
    """A mistake in what the user gave: expected, actual, fix, in one paragraph.

    The commands print it without a traceback and exit with code 1.
    """


def in_short(error: BaseException, most: int = 300) -> str:
    """What an exception says, in one line of at most ``most`` characters that ends with a whole word; else its kind."""
    return textwrap.shorten(str(error), most, placeholder=" ...") or type(error).__name__


def place_in_own_code(error: BaseException) -> str:
    """Where in the user's own files an exception arose, such as ``, in /home/me/my_head.py, line 3``; or nothing."""
    if isinstance(error, SyntaxError) and error.filename:
        return f", in {error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith((*_OTHERS, "<"))]
    return f", in {own[-1].filename}, line {own[-1].lineno}" if own else ""
