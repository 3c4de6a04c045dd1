"""Detected boxes from a file, to evaluate in them instead of the annotated ones."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightpose.data.coco_index import CocoIndex
from lightpose.errors import UserError
from lightpose.structures import Array

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Boxes:
    """N detected boxes, ordered by image.

    Attributes:
        image_rows: (N,) int32, row of the image in the index.
        boxes_xyxy: (N, 4) float32, image pixels.
        scores: (N,) float32.
    """

    image_rows: Array
    boxes_xyxy: Array
    scores: Array


def read_boxes(path: Path | str, index: CocoIndex, category: int | None = None, min_score: float = 0.0) -> Boxes:
    """Boxes in COCO's result format: a list of ``{image_id, category_id, bbox: [x, y, w, h], score}``.

    Args:
        path: the file.
        index: the annotations the boxes belong to.
        category: keep this ``category_id`` alone. None keeps the ids of the annotations' categories, or every box where
            no id matches, and says so in the log.
        min_score: boxes below it are left out.

    Raises:
        UserError: when the file is not such a list, names images that the annotations don't know, or leaves no box.
    """
    path = Path(path)
    try:
        entries = json.loads(path.read_bytes())
        image_ids = np.array([entry["image_id"] for entry in entries], np.int64)
        categories = np.array([entry.get("category_id", -1) for entry in entries], np.int64)
        boxes = np.array([entry["bbox"] for entry in entries], np.float32).reshape(-1, 4)
        scores = np.array([entry.get("score", 1.0) for entry in entries], np.float32)
    except OSError as error:
        raise UserError(f"file of boxes {path} can't be read ({error.strerror}); check `boxes`") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"file of boxes {path} can't be used ({error!r}); expected a JSON list of objects with image_id, "
            "category_id, bbox [x, y, w, h] and score"
        ) from error
    image_rows = _image_rows(path, image_ids, index)
    keep = _of_category(path, categories, index, category) & (scores >= min_score)
    sound = np.isfinite(boxes).all(-1) & (boxes[:, 2:] > 0).all(-1)
    if (keep & ~sound).any():
        log.warning("%s: %d boxes without an extent are left out", path, (keep & ~sound).sum())
    keep &= sound
    if not keep.any():
        raise UserError(
            f"none of the {len(boxes)} boxes of {path} is left at min_score={min_score}, category={category}; "
            f"their highest score is {scores.max(initial=0):.3g}, their category ids are {np.unique(categories)}"
        )
    rows = np.flatnonzero(keep)
    rows = rows[np.argsort(image_rows[rows], kind="stable")]
    xyxy = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], -1)
    return Boxes(image_rows[rows], xyxy[rows], scores[rows])


def _image_rows(path: Path, image_ids: Array, index: CocoIndex) -> Array:
    unknown = np.setdiff1d(image_ids, index.image_ids)
    if len(unknown):
        raise UserError(
            f"{path} has boxes for {len(unknown)} image ids that {index.path} doesn't know, e.g. {unknown[0]} "
            f"(it knows e.g. {index.image_ids[0]}); use the boxes of these images, or drop the others"
        )
    order = np.argsort(index.image_ids)
    return order[np.searchsorted(index.image_ids, image_ids, sorter=order)].astype(np.int32)


def _of_category(path: Path, categories: Array, index: CocoIndex, wanted: int | None) -> Array:
    if wanted is not None:
        return categories == wanted
    known = [category["id"] for category in index.categories]
    matching = np.isin(categories, known)
    if matching.all():
        return matching
    if not matching.any():
        log.warning(
            "%s: no box has a category id of %s, so all boxes are used (ids %s); data.dataset.box_category=ID chooses",
            path,
            known,
            np.unique(categories).tolist(),
        )
        return ~matching
    log.warning("%s: %d boxes of other categories than %s are left out", path, (~matching).sum(), known)
    return matching
