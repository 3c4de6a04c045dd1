"""The boxes that people are looked for in, image by image."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightpose.data.boxes import ListedBoxes, parse_boxes
from lightpose.errors import UserError
from lightpose.structures import Array

if TYPE_CHECKING:
    from lightpose.inference.sources import Source

Detections = tuple[Array, Array]
"""The boxes of one image: (N, 4) float32 xyxy in image pixels, and their scores (N,) float32."""

NO_BOXES: Detections = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


def read_boxes(path: str | Path, source: "Source") -> dict[str, Detections]:
    """Boxes of a file (`lightpose.data.boxes.parse_boxes`) by the name of the image; one without boxes is left out.

    Raises:
        UserError: when the file can't be used, or is about images that the source doesn't have.
    """
    listed = parse_boxes(path)
    named: list[str] = []
    for image in listed.images:
        name = image if isinstance(image, str) else source.name_of(image) if source.has_ids else None
        if name is None or not source.has(name):
            example = source.name_of(next(iter(source.image_ids), 1))
            what = f"image_id {image}" if isinstance(image, int) else image
            raise UserError(
                f"boxes={path} has a box for {what}, which the source doesn't have: its names are like {example}. "
                "Boxes and source must name images alike; image ids count where the source is a COCO JSON or a video"
            )
        named.append(name)
    return by_name(named, listed)


def by_name(names: Sequence[str], listed: ListedBoxes) -> dict[str, Detections]:
    """Boxes by the name of the image, of which ``names`` gives one for each box."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return {name: (listed.boxes_xyxy[found], listed.scores[found]) for name, found in rows.items()}


def check_boxes(boxes_xyxy: Any, scores: Any, where: str) -> Detections:
    """Boxes and scores as arrays; scores of 1 for None.

    Raises:
        UserError: for wrong shapes, numbers that aren't finite, and boxes without area.
    """
    boxes = np.asarray(boxes_xyxy, np.float32)
    if boxes.size == 0:
        return NO_BOXES
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError(f"the boxes of {where} have shape {boxes.shape}; expected (N, 4), one row x1, y1, x2, y2 each")
    good = np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        raise UserError(f"box {first} of {where} is {boxes[first].tolist()}; expected x1 < x2 and y1 < y2, in pixels")
    confidence = np.ones(len(boxes), np.float32) if scores is None else np.asarray(scores, np.float32)
    if confidence.shape != (len(boxes),):
        raise UserError(f"the box scores of {where} have shape {confidence.shape}; expected ({len(boxes)},)")
    return boxes, confidence
