"""The boxes that people are looked for in, image by image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightpose.data.coco.boxes import ListedBoxes, parse_boxes
from lightpose.data.coco.columns import FARTHEST
from lightpose.errors import UserError
from lightpose.structures import Array

if TYPE_CHECKING:
    from lightpose.inference.sources import Source

Detections = tuple[Array, Array]
"""The boxes of one image: (N, 4) float32 xyxy in image pixels, and their scores (N,) float32."""

NO_BOXES: Detections = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


def read_boxes(path: str | Path, source: "Source") -> dict[int, Detections]:
    """Boxes of a file (`lightpose.data.coco.boxes.parse_boxes`) by the id of the image; one without boxes is left out.

    Raises:
        UserError: when the file can't be used, or is about images that the source doesn't have.
    """
    listed = parse_boxes(path)
    find = source.finder()
    found = [find(image) for image in listed.images]
    for image, image_ids in zip(listed.images, found, strict=True):
        if not image_ids:
            example = source.name_of(next(iter(source.image_ids), 1))
            raise UserError(
                f"boxes={path} has a box for {image}, which the source doesn't have: its names are like {example}. "
                "Boxes and source must name images alike; image ids count where the source is a COCO JSON or a video"
            )
    return by_image(found, listed)


def by_image(image_ids: Sequence[Sequence[int]], listed: ListedBoxes) -> dict[int, Detections]:
    """Boxes by the id of the image, of which ``image_ids`` gives one or more for each box."""
    rows: dict[int, list[int]] = {}
    for row, ids in enumerate(image_ids):
        for image_id in ids:
            rows.setdefault(image_id, []).append(row)
    return {image_id: (listed.boxes_xyxy[found], listed.scores[found]) for image_id, found in rows.items()}


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
