"""The boxes that people are looked for in, image by image."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightpose.data.coco.boxes import ListedBoxes
from lightpose.data.coco.columns import FARTHEST
from lightpose.errors import UserError
from lightpose.structures import Array

Detections = tuple[Array, Array]
"""The boxes of one image: (N, 4) float32 xyxy in image pixels, and their scores (N,) float32."""

NO_BOXES: Detections = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


def by_image(image_ids: Sequence[Sequence[int]], listed: ListedBoxes) -> dict[int, Detections]:
    """Boxes by the id of the image, of which ``image_ids`` gives one or more for each box."""
    rows = rows_by_image(image_ids)
    return {image_id: (listed.boxes_xyxy[found], listed.scores[found]) for image_id, found in rows.items()}


def rows_by_image(image_ids: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """Image id → the boxes that it has, of which ``image_ids`` gives one or more images for each."""
    rows: dict[int, list[int]] = {}
    for row, ids in enumerate(image_ids):
        for image_id in ids:
            rows.setdefault(image_id, []).append(row)
    return rows


def check_boxes(boxes_xyxy: Any, scores: Any, where: str) -> Detections:
    """Boxes and scores as arrays; scores of 1 for None.

    Raises:
        UserError: for what is not numbers, wrong shapes, numbers that aren't finite, and boxes without area.
    """
    boxes = _floats(boxes_xyxy, f"the boxes of {where}")
    if boxes.size == 0:
        return NO_BOXES
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError(f"the boxes of {where} have shape {boxes.shape}; expected (N, 4), one row x1, y1, x2, y2 each")
    good = (np.abs(boxes) <= FARTHEST).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        raise UserError(f"box {first} of {where} is {boxes[first].tolist()}; expected x1 < x2 and y1 < y2, in pixels")
    confidence = np.ones(len(boxes), np.float32) if scores is None else _floats(scores, f"the box scores of {where}")
    if confidence.shape != (len(boxes),):
        raise UserError(f"the box scores of {where} have shape {confidence.shape}; expected ({len(boxes)},)")
    if not np.isfinite(confidence).all():
        raise UserError(f"the box scores of {where} are {confidence.tolist()}; expected finite numbers")
    return boxes, confidence


def _floats(values: Any, what: str) -> Array:
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which is noticed
            return np.asarray(values, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{what} are no numbers: {error}") from error
