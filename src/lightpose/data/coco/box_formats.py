"""Whether the boxes of a COCO file are what the format says, or corners, centres or shares of the image."""

import logging

import numpy as np

from lightpose.data.coco.index import CocoIndex
from lightpose.data.coco.parse import AREA_PER_BOX, CROWD
from lightpose.structures import Array

log = logging.getLogger(__name__)

_ENOUGH = 20000
"""People who are looked at; more would say the same."""
_READINGS = {
    "x, y, width, height": (0.0, 1.0),
    "centre x, centre y, width, height": (-0.5, 0.5),
    "x1, y1, x2, y2": None,
}
"""Order of the numbers → where the box begins and ends, in sizes from the first two; None: it ends at the others."""


def warn_of_boxes(index: CocoIndex) -> None:
    """Log what `box_mistakes` finds, with the name of the file."""
    for mistake in box_mistakes(index):
        log.warning("%s: %s", index.path, mistake)


def box_mistakes(index: CocoIndex) -> list[str]:
    """What keypoints, images and areas say against ``bbox`` being x, y, width and height in pixels, in one sentence."""
    labelled = index.visible > 0
    known = index.image_hw[index.image_rows].all(-1) & (index.boxes_xywh[:, 2:] > 0).all(-1)
    rows = np.flatnonzero(known & labelled.any(-1) & (index.status != CROWD))
    rows = rows[:: -(-len(rows) // _ENOUGH) or 1]
    if not len(rows):
        return []
    boxes, points, labelled = index.boxes_xywh[rows], index.keypoints[rows], labelled[rows]
    sizes = np.tile(index.image_hw[index.image_rows[rows], ::-1], 2).astype(np.float64)
    corners = {name: _corners(boxes, where) for name, where in _READINGS.items()}
    plain = corners["x, y, width, height"]
    within = {
        **{f"{name} in pixels": box for name, box in corners.items() if box is not plain},
        **{f"{name} in shares of the image": box * sizes for name, box in corners.items()},
    }
    held, inside = _held(plain, points, labelled), _inside(plain, sizes)
    fitting = {name: _held(box, points, labelled) for name, box in within.items() if _inside(box, sizes) > 0.95}
    likely = max(fitting, key=lambda name: fitting[name], default="")
    asked = "; `bbox` must be x, y, width, height in pixels"
    if held < 0.8 and np.array_equal(plain, np.concatenate([np.zeros_like(sizes[:, :2]), sizes[:, :2]], -1)):
        return [f"{1 - held:.0%} of the labelled keypoints lie outside of their image; they must be in its pixels"]
    if held < 0.8:
        looks = (
            f"; they look like {likely}, as which they hold {fitting[likely]:.0%}"
            if likely and fitting[likely] > 0.9
            else ""
        )
        return [f"the boxes hold {held:.0%} of their labelled keypoints{looks}{asked}"]
    corner = "x1, y1, x2, y2 in pixels"
    if fitting.get(corner, 0) < min(held, 0.99) - 0.01:
        return []
    if inside < 0.8:
        return [f"{1 - inside:.0%} of the boxes leave their image; they look like {corner}{asked}"]
    if _area_fit(within[corner], index.areas[rows]) < _area_fit(plain, index.areas[rows]) - 0.1:
        return [f"the boxes look like {corner}, as which they fit `area` better and hold the keypoints as well{asked}"]
    return []


def _corners(boxes: Array, where: tuple[float, float] | None) -> Array:
    """(N, 4) xyxy."""
    start, size = boxes[:, :2], boxes[:, 2:]
    if where is None:
        return boxes
    return np.concatenate([start + where[0] * size, start + where[1] * size], -1)


def _held(boxes_xyxy: Array, points: Array, labelled: Array) -> float:
    """Share of the labelled keypoints that are in their box, or almost."""
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    slack = (1 + 0.02 * sides)[:, None]
    low, high = boxes_xyxy[:, None, :2] - slack, boxes_xyxy[:, None, 2:] + slack
    held = np.asarray(((points >= low) & (points <= high)).all(-1))
    return float(held[labelled].mean())


def _inside(boxes_xyxy: Array, sizes: Array) -> float:
    """Share of the boxes that have an extent and are in their image, or almost."""
    slack = 1 + 0.02 * sizes
    good = (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(-1)
    return float((good & (boxes_xyxy >= -slack).all(-1) & (boxes_xyxy <= sizes + slack).all(-1)).mean())


def _area_fit(boxes_xyxy: Array, areas: Array) -> float:
    """How far ``areas`` are from what they usually are, the box's or that of a person in it; a median of logarithms."""
    share = np.log(areas / (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clip(1e-6).prod(-1))
    return float(np.median(np.minimum(np.abs(share), np.abs(share - np.log(AREA_PER_BOX)))))
