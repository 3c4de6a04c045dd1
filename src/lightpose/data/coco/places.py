"""Whether labelled keypoints lie in their images."""

import logging

import numpy as np

from lightpose.data.coco.index import CocoIndex
from lightpose.data.coco.parse import USABLE
from lightpose.errors import UserError
from lightpose.structures import Array

log = logging.getLogger(__name__)

FAR = 0.5
"""A keypoint further outside the image than this share of its longer side counts as far outside."""


def check_places(index: CocoIndex) -> None:
    """Refuse keypoints that aren't in pixels of their image.

    Raises:
        UserError: when all that are labelled are shares of the image, or lie outside of it.
    """
    usable = np.flatnonzero(index.status == USABLE)
    labelled, hw = index.visible[usable] > 0, index.image_hw[index.image_rows[usable]]
    if not labelled.any():
        return
    if hw.max() > 2 and index.keypoints[usable][labelled].max() <= 1:
        raise UserError(
            f"all keypoints of {index.path} lie between 0 and 1: they must be in pixels, not shares of the image"
        )
    if (_outside(index, usable)[labelled] > 0).all():
        raise UserError(
            f"all labelled keypoints of {index.path} lie outside of their image; they must be in its pixels, so look "
            "at the numbers, and at `width` and `height` of `images`"
        )


def warn_of_places(index: CocoIndex) -> None:
    """Log who has keypoints far outside of the image, with the name of the file."""
    for remark in outside_remarks(index)[0]:
        log.warning("%s: %s", index.path, remark)


def outside_remarks(index: CocoIndex) -> tuple[list[str], list[str]]:
    """In words: people with keypoints far outside of their image, and people with keypoints just outside."""
    usable = np.flatnonzero(index.status == USABLE)
    outside = _outside(index, usable)
    far = (outside > FAR).any(-1)
    near = (outside > 0).any(-1) & ~far
    return _told(index.ids[usable[far]], "far outside"), _told(index.ids[usable[near]], "outside")


def _told(ids: Array, where: str) -> list[str]:
    some = ", ".join(map(str, ids[:3]))
    return [f"{len(ids)} people have keypoints {where} the image, e.g. annotation {some}"] if len(ids) else []


def _outside(index: CocoIndex, rows: Array) -> Array:
    """(N, K) how far each labelled keypoint is outside its image, as a share of the image's longer side."""
    hw = index.image_hw[index.image_rows[rows]].astype(np.float32)
    hw[hw == 0] = np.inf  # unknown
    points, limit = index.keypoints[rows], hw[:, None, ::-1]
    beyond = np.maximum(np.maximum(-points, points - limit), 0).max(-1)
    share: Array = beyond / hw.max(-1, keepdims=True) * (index.visible[rows] > 0)
    return share
