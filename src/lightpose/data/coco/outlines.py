"""The outlines of annotations as polygons, from a ``segmentation`` of polygons or run lengths, or from the box.

Run lengths are decoded here and not by a library of COCO's, which trusts them: wrong ones write beyond its memory.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import cv2
import numpy as np

from lightpose.data.coco.columns import FARTHEST
from lightpose.data.pixels.image_header import MAX_PIXELS
from lightpose.structures import Array

_CORNERS = [[0, 1], [2, 1], [2, 3], [0, 3]]  # of a box xyxy


def outlines(segmentations: Sequence[Any], boxes_xyxy: Array, image_hw: Array) -> tuple[Array, Array, Array]:
    """Regions that cover N annotations; the box of one whose segmentation says nothing, and none without a box.

    Args:
        segmentations: N values of any type.
        boxes_xyxy: (N, 4).
        image_hw: (N, 2), zeros where unknown.

    Returns:
        (P, 2) float32 points in image pixels, where a row of NaN stands between the rings of a region. (R + 1,) int64:
        region r is ``first[r]:first[r + 1]`` of the points. (R,) int64 annotation of each region, in order.
    """
    parts: list[Any] = []
    rows: list[int] = []
    for row, value in enumerate(segmentations):
        if type(value) is list and value:
            some = value if type(value[0]) is list else [value]
            parts += some
            rows += [row] * len(some)
    points, lengths = _polygons(parts)
    found = set(np.array(rows, np.int64)[lengths > 0].tolist())
    others: list[Array] = []
    for row in sorted(set(range(len(segmentations))) - found):
        runs = segmentations[row] if type(segmentations[row]) is dict else {}
        region = _region(runs.get("counts"), runs.get("size"), image_hw[row].tolist())
        box = boxes_xyxy[row]
        if region is None and (box[2:] > box[:2]).all():
            region = box[_CORNERS]
        if region is not None and len(region):
            others.append(region)
            rows.append(row)
    points = np.concatenate([points, *others]).astype(np.float32)
    lengths = np.concatenate([lengths, [len(region) for region in others]]).astype(np.int64)
    starts, owners = np.cumsum(lengths) - lengths, np.array(rows, np.int64)
    order = np.argsort(owners, kind="stable")
    order = order[lengths[order] > 0]
    first = np.concatenate([[0], np.cumsum(lengths[order])])
    taken = np.repeat(starts[order] - first[:-1], lengths[order]) + np.arange(first[-1])
    return points[taken], first, owners[order]


def _polygons(parts: Sequence[Any]) -> tuple[Array, Array]:
    """Points (P, 2) of flat lists x, y, x, y, ..., and (N,) how many each has: 0 if it is no polygon."""
    given = [part if type(part) is list and len(part) >= 6 and len(part) % 2 == 0 else [] for part in parts]
    with np.errstate(over="ignore"):  # becomes infinite, which is noticed
        try:
            flat = _flat(given)
        except (TypeError, ValueError, OverflowError):
            given = [part if _is_flat(part) else [] for part in given]
            flat = _flat(given)
    lengths = np.array([len(part) // 2 for part in given], np.int64)
    points, owners = flat.reshape(-1, 2), np.repeat(np.arange(len(given)), lengths)
    wrong = np.unique(owners[~(np.abs(points) <= FARTHEST).all(-1)])
    lengths[wrong] = 0
    return points[~np.isin(owners, wrong)], lengths


def _flat(parts: Sequence[list[Any]]) -> Array:
    return np.fromiter(chain.from_iterable(parts), np.float32, sum(map(len, parts)))


def _is_flat(part: list[Any]) -> bool:
    try:
        return len(_flat([part])) == len(part)
    except (TypeError, ValueError, OverflowError):
        return False


def _region(counts: Any, size: Any, image_hw: list[int]) -> Array | None:
    """Rings (P, 2), a row of NaN between them, around the pixels of run lengths; None where these are wrong."""
    if type(counts) is str:
        counts = _decoded(counts)
    if type(counts) is not list or type(size) is not list or len(size) != 2 or set(map(type, size)) != {int}:
        return None
    height, width = size
    if not 0 < height * width <= MAX_PIXELS or min(size) < 1 or (any(image_hw) and size != image_hw):
        return None
    if set(map(type, counts)) != {int} or min(counts) < 0 or sum(counts) != height * width:
        return None
    pixels = np.repeat(np.arange(len(counts), dtype=np.uint8) % 2, counts)  # column by column
    contours, _ = cv2.findContours(
        np.ascontiguousarray(pixels.reshape(width, height).T), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    gap = np.full((1, 2), np.nan, np.float32)
    rings = [piece for contour in contours for piece in (gap, contour[:, 0].astype(np.float32))]
    return np.concatenate(rings[1:]) if rings else np.zeros((0, 2), np.float32)


def _decoded(text: str) -> list[int] | None:
    """Run lengths of COCO's compressed form: 5 bits a letter; from the fourth on, differences to the last but one."""
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:  # the last letter of a number, with its sign
            value -= (bits & 16) << (shift - 4)
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    return None if shift else counts
