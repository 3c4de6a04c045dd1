"""Boxes from files: detections to evaluate or to predict in, instead of the annotated ones."""

import csv
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.data.coco_index import CocoIndex
from lightpose.errors import UserError
from lightpose.structures import Annotations, Array

log = logging.getLogger(__name__)

_Row = tuple[int | str, int, tuple[float, float, float, float], float]  # image, category id, xyxy, score


@dataclass(frozen=True, slots=True)
class ListedBoxes:
    """N boxes as a file lists them, those without an extent left out.

    Attributes:
        images: N file names, or image ids where the file gives no names.
        category_ids: (N,) int64; -1 where the file gives none.
        boxes_xyxy: (N, 4) float32, image pixels.
        scores: (N,) float32; 1 where the file gives none.
    """

    images: list[int | str]
    category_ids: Array
    boxes_xyxy: Array
    scores: Array


@dataclass(frozen=True, slots=True)
class DetectedBoxes:
    """N boxes in images of a `CocoIndex`, ordered by image.

    Attributes:
        image_rows: (N,) int32, row of the image in the index.
        category_rows: (N,) int64, position of the category in the index.
        boxes_xyxy: (N, 4) float32, image pixels.
        scores: (N,) float32.
    """

    image_rows: Array
    category_rows: Array
    boxes_xyxy: Array
    scores: Array


def parse_boxes(path: Path | str) -> ListedBoxes:
    """The boxes of a file.

    A ``.json`` file is a list of COCO results (``image_id`` or ``file_name``, ``bbox`` as x, y, w, h and perhaps
    ``category_id`` and ``score``), or a COCO annotation file (see `annotated_boxes`). A ``.csv`` file has the columns
    ``file_name,x1,y1,x2,y2`` and perhaps ``score``.

    Raises:
        UserError: when the file can't be read, is something else, or has no box with an extent.
    """
    path = Path(path).expanduser()
    try:
        if path.suffix.lower() == ".csv":
            return _listed(_csv_rows(path), path)
        content = json.loads(path.read_bytes())
        return annotated_boxes(content, path) if isinstance(content, Mapping) else _listed(_json_rows(content), path)
    except OSError as error:
        raise UserError(
            f"the file of boxes {path} can't be read ({error.strerror}); give a .json or .csv file"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the file of boxes {path} can't be used ({error!r}); expected a list of COCO results (image_id or "
            "file_name, category_id, bbox [x, y, w, h], score), a COCO annotation file, or a .csv with the columns "
            "file_name,x1,y1,x2,y2,score"
        ) from error


def annotated_boxes(content: Mapping[str, Any], path: Path) -> ListedBoxes:
    """The boxes that a COCO annotation file's ``content`` has, without crowds.

    They are of the categories with keypoints, if there are such.

    Raises:
        UserError: when a box is in an image that the file doesn't list.
    """
    names = {image["id"]: str(image["file_name"]) for image in content["images"]}
    categories = [category["id"] for category in content.get("categories", []) if category.get("keypoints")]
    annotations = [
        annotation
        for annotation in content.get("annotations", [])
        if not annotation.get("iscrowd") and (not categories or annotation["category_id"] in categories)
    ]
    strangers = [annotation["image_id"] for annotation in annotations if annotation["image_id"] not in names]
    if strangers:
        raise UserError(
            f"{path} annotates {len(strangers)} people in images that its `images` don't list, e.g. image_id "
            f"{strangers[0]}; list these, or drop their annotations"
        )
    return _listed(_json_rows({**entry, "file_name": names[entry["image_id"]]} for entry in annotations), path)


def _json_rows(entries: Iterable[Mapping[str, Any]]) -> Iterator[_Row]:
    for entry in entries:
        image = str(entry["file_name"]) if "file_name" in entry else int(entry["image_id"])
        x, y, width, height = map(float, entry["bbox"])
        box = (x, y, x + width, y + height)
        yield image, int(entry.get("category_id", -1)), box, float(entry.get("score", 1.0))


def _csv_rows(path: Path) -> Iterator[_Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            box = (float(row["x1"]), float(row["y1"]), float(row["x2"]), float(row["y2"]))
            yield row["file_name"], -1, box, float(row.get("score") or 1)


def _listed(rows: Iterable[_Row], path: Path) -> ListedBoxes:
    every = list(rows)
    boxes = np.array([box for _, _, box, _ in every], np.float32).reshape(-1, 4)
    sound = np.isfinite(boxes).all(-1) & (boxes[:, 2:] > boxes[:, :2]).all(-1)
    if len(every) and not sound.any():
        raise UserError(
            f"none of the {len(every)} boxes of {path} has an extent; the first is {boxes[0].tolist()}, expected "
            "x1 < x2 and y1 < y2, in pixels"
        )
    if not sound.all():
        log.warning("%s: %d boxes without an extent are left out", path, (~sound).sum())
    kept = [every[row] for row in np.flatnonzero(sound)]
    return ListedBoxes(
        images=[image for image, _, _, _ in kept],
        category_ids=np.array([category for _, category, _, _ in kept], np.int64),
        boxes_xyxy=boxes[sound],
        scores=np.array([score for *_, score in kept], np.float32),
    )


def detected_boxes(
    path: Path | str, index: CocoIndex, category: int | None = None, min_score: float = 0.0
) -> DetectedBoxes:
    """The boxes of a file, in images of ``index``.

    Args:
        path: the file, see `parse_boxes`.
        index: the annotations the boxes belong to.
        category: keep this ``category_id`` alone. None keeps the ids of the annotations' categories, or every box where
            no id matches, and says so in the log.
        min_score: boxes below it are left out.

    Raises:
        UserError: when the file can't be used, names images that the annotations don't know, leaves no box, or leaves
            it open of which category a box is.
    """
    listed = parse_boxes(path)
    image_rows = _image_rows(path, listed.images, index)
    category_rows = _category_rows(path, listed.category_ids, index, category)
    rows = np.flatnonzero((category_rows >= 0) & (listed.scores >= min_score))
    if not len(rows):
        raise UserError(
            f"none of the {len(listed.images)} boxes of {path} is left at a lowest score of {min_score}, category "
            f"{category}; their highest score is {listed.scores.max(initial=0):.3g}, their category ids are "
            f"{np.unique(listed.category_ids)}"
        )
    rows = rows[np.argsort(image_rows[rows], kind="stable")]
    return DetectedBoxes(image_rows[rows], category_rows[rows], listed.boxes_xyxy[rows], listed.scores[rows])


def _image_rows(path: Path | str, images: list[int | str], index: CocoIndex) -> Array:
    """(N,) row of each image in the index."""
    row_of: dict[int | str, int] = {image_id: row for row, image_id in enumerate(index.image_ids.tolist())}
    if any(isinstance(image, str) for image in images):
        row_of |= {index.file_name(row): row for row in range(len(index.image_ids))}
    unknown = sorted({str(image) for image in images if image not in row_of})
    if unknown:
        raise UserError(
            f"{path} has boxes for {len(unknown)} images that {index.path} doesn't know, e.g. {unknown[0]} "
            f"(it knows e.g. id {index.image_ids[0]}, {index.file_name(0)}); use the boxes of these images, or drop "
            "the others"
        )
    return np.array([row_of[image] for image in images], np.int32)


def _category_rows(path: Path | str, category_ids: Array, index: CocoIndex, wanted: int | None) -> Array:
    """(N,) position of each box's category in the index; -1 for a box to leave out."""
    known = [category["id"] for category in index.categories]
    rows = np.full(len(category_ids), -1)
    for row, category_id in enumerate(known):
        rows[category_ids == category_id] = row
    if wanted is not None:
        return np.where(category_ids == wanted, rows if wanted in known else _only_category(path, index), -1)
    others = int((rows < 0).sum())
    if others == len(rows) and others:
        if (category_ids >= 0).any():
            ids = np.unique(category_ids).tolist()
            log.warning(
                "%s: no box has a category id of %s, so all are used (%s); box_category=ID chooses", path, known, ids
            )
        return np.full(len(rows), _only_category(path, index))
    if others:
        log.warning("%s: %d boxes of other categories than %s are left out", path, others, known)
    return rows


def _only_category(path: Path | str, index: CocoIndex) -> int:
    """The category of boxes whose ids say nothing: 0, as long as there is but one."""
    if len(index.categories) > 1:
        names = ", ".join(f"{category['id']} ({category.get('name')})" for category in index.categories)
        raise UserError(
            f"the boxes of {path} have category ids that {index.path} doesn't know, and it has several: {names}; give "
            "each box the id of its category"
        )
    return 0


def unlabelled(boxes_xyxy: Array, scores: Array, num_keypoints: int, categories: Array | None = None) -> Annotations:
    """Instances of which only the box is known.

    Args:
        boxes_xyxy: (M, 4) float32, image pixels.
        scores: (M,) float32.
        num_keypoints: K.
        categories: (M,) int64; None is 0 for all.
    """
    count = len(boxes_xyxy)
    return Annotations(
        keypoints=np.zeros((count, num_keypoints, 2), np.float32),
        visible=np.zeros((count, num_keypoints), np.float32),
        boxes_xyxy=boxes_xyxy,
        areas=(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(-1),
        categories=np.zeros(count, np.int64) if categories is None else categories,
        ids=np.full(count, -1),
        scores=scores,
    )
