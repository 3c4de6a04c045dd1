"""Columns of values that may be of any type: what is meant is taken, and what isn't clear is marked.

Each function looks at the types first, and takes the values one by one only where they are not those of the format.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy as np

from lightpose.data.coco.json_values import number, plain_text, whole_number
from lightpose.structures import Array

FARTHEST = 2**20
"""Pixels. No image is wider, and no coordinate beyond is meant."""
ODD_VISIBILITY = "visibility other than 0, 1 and 2, rounded"
NOT_FINITE = "keypoint not finite, taken as unlabelled"
_LONGEST_ID = 255


def id_text(value: Any) -> str | None:
    """An id as text, if it can be one."""
    if type(value) is int and whole_number(value) is None:
        return hex(value)  # decimal digits of a very long one would take quadratic time
    text = str(value) if type(value) in (int, str) else ""
    return text if 0 < len(text) <= _LONGEST_ID and plain_text(text) == text else None


def repeats(values: Sequence[Any], among: Array) -> Array:
    """(N,) whether each is one ``among`` several of the same id, and not the first."""
    repeated = np.zeros(len(values), bool)
    seen: set[int | str] = set()
    for row in np.flatnonzero(among).tolist():
        value = values[row]
        if type(value) is not int:
            whole = whole_number(value)
            value = id_text(value) if whole is None else whole
        if value is not None:
            repeated[row] = value in seen
            seen.add(value)
    return repeated


def ids(values: Sequence[Any]) -> Array | None:
    """(N,) int64; None where one is no whole number."""
    if set(map(type, values)) != {int}:
        values = [whole_number(value) for value in values]
    try:
        return np.array(values, np.int64)
    except (TypeError, OverflowError):
        return None


def crowds(values: Sequence[Any]) -> Array:
    """(N,) int8: 1 for a crowd, 0 for a person, -1 where nothing says which."""
    if set(map(type, values)) == {int}:
        return np.array([value != 0 for value in values], np.int8)
    words = {"": 0.0, "false": 0.0, "true": 1.0}
    amounts = np.array(
        [
            float(bool(value))
            if value is None or type(value) is bool
            else words.get(value.lower(), number(value))
            if isinstance(value, str)
            else number(value)
            for value in values
        ]
    )
    return np.where(np.isfinite(amounts), amounts != 0, -1).astype(np.int8)


def numbers(values: Sequence[Any]) -> Array:
    """(N,) float64; NaN for anything but a number."""
    if set(map(type, values)) <= {int, float}:
        with suppress(OverflowError):
            return np.array(values, np.float64)
    return np.array([number(value) for value in values], np.float64)


def boxes(values: Sequence[Any]) -> Array:
    """(N, 4) float64 x, y, width and height as the file has them; zeros for anything but a box."""
    nothing = (0, 0, 0, 0)
    flat = chain.from_iterable(value if type(value) is list and len(value) == 4 else nothing for value in values)
    found = numbers(list(flat)).reshape(-1, 4)
    found[~(np.abs(found) <= FARTHEST).all(-1)] = 0
    return found


def inside(boxes_xywh: Array, image_hw: Array) -> Array:
    """(N, 4) float32 xyxy, cut at the outermost pixel centres of the image, where its size is known."""
    limit = np.where(image_hw > 0, image_hw - 1, FARTHEST)[:, ::-1]
    corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], -1)
    return np.clip(corners, 0, np.tile(limit, 2)).astype(np.float32)


def usual_count(values: Sequence[Any]) -> int:
    """The number of keypoints that most annotations have; 0 where none has any."""
    counts = Counter(
        len(value) if type(value[0]) is list else len(value) // 3 for value in values if type(value) is list and value
    )
    return counts.most_common(1)[0][0] if counts else 0


def labels(values: Sequence[Any], count: int) -> tuple[Array, Array]:
    """(N, K, 3) float32 x, y and visibility, and (N,) whether a list is not of that; zeros for these and for none."""
    found = np.zeros((len(values), count, 3), np.float32)
    flat, rows = found.reshape(len(values), 3 * count), range(len(values))
    given = [row for row in rows if type(values[row]) is list and len(values[row]) == 3 * count]
    rest = [row for row in rows if values[row] is not None and values[row] != []]
    with np.errstate(over="ignore"):  # becomes infinite, which is noticed
        try:
            every = chain.from_iterable(values[row] for row in given)
            flat[given] = np.fromiter(every, np.float32, 3 * count * len(given)).reshape(len(given), -1)
            rest = sorted(set(rest) - set(given))
        except (TypeError, ValueError, OverflowError):
            pass
        misshapen = np.zeros(len(values), bool)
        for row in rest:
            try:
                one = np.array(values[row], np.float32)
            except (TypeError, ValueError, OverflowError):
                one = np.zeros(0, np.float32)
            misshapen[row] = one.shape not in ((3 * count,), (count, 3))
            flat[row] = 0 if misshapen[row] else one.ravel()
    return found, misshapen


def visibility(labels: Array) -> tuple[Array, dict[str, int]]:
    """Visibility (A, K) as 0, 1 or 2; labels (A, K, 3) that are not finite become zeros, in place."""
    finite = (np.abs(labels) <= FARTHEST).all(-1)
    labels[~finite] = 0
    given = labels[..., 2]
    visible = np.clip(np.rint(given), 0, 2).astype(np.uint8)
    return visible, {NOT_FINITE: (~finite).any(-1).sum(), ODD_VISIBILITY: (visible != given).any(-1).sum()}
