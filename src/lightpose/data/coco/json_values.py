"""JSON that other people wrote: read without trust in the type of any value."""

import json
import math
import os
import stat
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightpose.errors import UserError

WHOLE = 2**63
"""Ids are smaller than this, as 64 bits hold them."""

_CONTROLS = ("Cc", "Cs", "Zl", "Zp")  # of Unicode's categories; also halves of surrogate pairs


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """Stands for an object that gives one key two values: nothing says which is meant.

    Attributes:
        key: that key.
    """

    key: str


def read_json(path: Path | str, what: str) -> Any:
    """Content of a JSON file. An object that gives a key two different values is an `Ambiguous`.

    Args:
        path: the file.
        what: what it should be, for messages.

    Raises:
        UserError: when the file can't be read, or is not JSON.
    """
    try:
        return json.loads(read_file(path, what), object_pairs_hook=_object)
    except RecursionError as error:
        raise UserError(f"{what} {path} nests its lists or objects too deeply; write the file anew") from error
    except ValueError as error:
        raise UserError(f"{what} {path} is not JSON: {error}") from error


def read_file(path: Path | str, what: str) -> bytes:
    """Content of a file, which must be one with an end, and no folder, pipe or device.

    Raises:
        UserError: when it can't be read.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - refuses a name with a zero byte as ValueError
            raise UserError(f"{what} {path} is a folder, a pipe or a device; give a file")
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise UserError(f"{what} {path} can't be read ({getattr(error, 'strerror', error)}); check the path") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Ambiguous:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, value in pairs:
            if value != found[key]:
                return Ambiguous(key)
    return found


def whole_number(value: Any) -> int | None:
    """A whole number of 64 bits: as such, as a float without fraction, or as decimal digits; None for all else."""
    kind = type(value)
    if kind is str:
        digits = value[1:] if value[:1] == "-" else value
        number = int(value) if digits.isascii() and digits.isdecimal() and len(digits) < 20 else WHOLE
    elif kind is int or (kind is float and value.is_integer()):
        number = int(value)
    else:
        return None
    return number if -WHOLE <= number < WHOLE else None


def number(value: Any) -> float:
    """A number: as such, or as text; NaN for all else, and for what no float holds."""
    if type(value) in (int, float, str):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    return math.nan


def kind(value: Any) -> str:
    """What a value is, in the words of a message."""
    if isinstance(value, Ambiguous):
        return f"an object with two values for {shown(value.key)}"
    if isinstance(value, dict):
        return "an object"
    if not isinstance(value, list):
        return shown(value)
    short = len(value) <= 4 and not any(isinstance(item, (dict, list, Ambiguous)) for item in value)
    return f"[{', '.join(map(shown, value))}]" if short else f"a list of {len(value)}"


def shown(value: Any) -> str:
    """A value for messages: as JSON, shortened, with nothing that a terminal obeys."""
    text = json.dumps(value) if isinstance(value, (str, int, float, bool, type(None))) else kind(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def plain_text(text: str) -> str:
    """Text that can be printed and written: control characters are replaced, the rest of a very long one left out."""
    return "".join("\ufffd" if unicodedata.category(letter) in _CONTROLS else letter for letter in text[:1000])
