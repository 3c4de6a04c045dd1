"""What MMPose's models were recorded to compute, and their weights, which follow from names."""

import gzip
import json
from typing import Any

from recorded import RECORDS as FOLDER
from recorded import weight
from torch import Tensor

with gzip.open(FOLDER / "architectures.json.gz", "rt") as file:
    RECORDS: dict[str, dict[str, Any]] = {each["name"]: each for each in json.load(file)}

_last: dict[tuple[str, tuple[int, ...]], Tensor] = {}
"""The weights of the model before, since siblings share most of theirs, and drawing takes longer than computing."""


def find(part: str) -> dict[str, Any]:
    """The first record whose name has ``part`` in it."""
    return next(each for name, each in RECORDS.items() if part in name)


def state_of(record: dict[str, Any]) -> dict[str, Tensor]:
    """The recorded weights, without constants; not to be written into."""
    keys = [(name, tuple(shape)) for name, shape in record["state"] if name not in record["kept"]]
    drawn = {key: _last[key] if key in _last else weight(*key) for key in keys}
    _last.clear()
    _last.update(drawn)
    return {name: value for (name, _), value in drawn.items()}
