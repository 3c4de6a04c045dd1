"""What MMPose's models were recorded to compute, and their weights, which follow from names."""

import gzip
import json
from typing import Any

from recorded import RECORDS as FOLDER
from recorded import weight
from torch import Tensor

with gzip.open(FOLDER / "architectures.json.gz", "rt") as file:
    RECORDS: dict[str, dict[str, Any]] = {each["name"]: each for each in json.load(file)}


def find(part: str) -> dict[str, Any]:
    """The first record whose name has ``part`` in it."""
    return next(each for name, each in RECORDS.items() if part in name)


def state_of(record: dict[str, Any]) -> dict[str, Tensor]:
    """The recorded weights, without constants."""
    return {name: weight(name, tuple(shape)) for name, shape in record["state"] if name not in record["kept"]}
