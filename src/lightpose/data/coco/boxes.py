"""Boxes from files: detections to evaluate or to predict in, instead of the annotated ones."""

import codecs
import csv
import io
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.data.coco.columns import FARTHEST
from lightpose.data.coco.index import CocoIndex
from lightpose.data.coco.json_values import kind, number, plain_text, read_file, read_json, shown, whole_number
from lightpose.data.coco.parse import BAD_BOX, CROWD, MISTAKES, STATUS, parse_coco
from lightpose.data.coco.results import text_of
from lightpose.data.pixels.image_files import expanded
from lightpose.errors import UserError
from lightpose.structures import Annotations, Array

log = logging.getLogger(__name__)

_COLUMNS = ("file_name", "x1", "y1", "x2", "y2")
_FORMATS = (
    "expected a list of COCO results (image_id or file_name, bbox [x, y, w, h], and perhaps category_id and score), a "
    "COCO annotation file, or a .csv with the columns file_name,x1,y1,x2,y2 and perhaps score"
)


@dataclass(frozen=True, slots=True)
class BoxedImage:
    """What a file says of the image of a box: at least one of the two.

    Attributes:
        image_id: a number, or text where an annotation file may have text.
        file_name: as it stands there.
    """

    image_id: int | str | None
    file_name: str | None

    def __str__(self) -> str:
        return f"image_id {shown(self.image_id)}" if self.file_name is None else plain_text(self.file_name)


@dataclass(frozen=True, slots=True)
class ListedBoxes:
    """N boxes as a file lists them, those that can't be used left out.

    Attributes:
        images: N images.
        category_ids: (N,) int64; -1 where the file gives none.
        boxes_xyxy: (N, 4) float32, image pixels.
        scores: (N,) float32; 1 where the file gives none.
    """

    images: list[BoxedImage]
    category_ids: Array
    boxes_xyxy: Array
    scores: Array


_Row = tuple[BoxedImage, int, tuple[float, float, float, float], float]  # image, category id, xyxy, score


class KnownImages:
    """Images that boxes may be of.

    Args:
        image_ids: of the images, or nothing where their ids mean nothing.
        file_names: as many, or as many as there are images.
        id_of_text: what else stands for an id.
    """

    def __init__(
        self, image_ids: Sequence[int], file_names: Sequence[str], id_of_text: Mapping[str, int] | None = None
    ) -> None:
        self._of_id = {image_id: row for row, image_id in enumerate(image_ids)}
        self._of_text = {text: self._of_id[image_id] for text, image_id in (id_of_text or {}).items()}
        self._names, self._of_name = file_names, defaultdict[str, list[int]](list)
        for row, name in enumerate(file_names):
            self._of_name[name].append(row)

    def rows(self, image: BoxedImage) -> list[int]:
        """Rows of the images that are meant: all of that name, or of them the one of that id; or that of the id."""
        number = whole_number(image.image_id)
        of_id = None if number is None else self._of_id.get(number)
        if self._of_text and isinstance(image.image_id, str):
            of_id = self._of_text.get(image.image_id)
        if image.file_name is None:
            return [] if of_id is None else [of_id]
        if of_id is not None and self._names[of_id] == image.file_name:
            return [of_id]
        return self._of_name.get(image.file_name, [])


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
    ``category_id`` and ``score``), or a COCO annotation file, all but crowds. A ``.csv`` file has the
    columns ``file_name,x1,y1,x2,y2`` and perhaps ``score`` and ``image_id``. Boxes without an extent or a finite
    score are left out, and counted in the log.

    Raises:
        UserError: when the file can't be read, is something else, or has no box that can be used.
    """
    path = expanded(path)
    if path.suffix.lower() == ".csv":
        return _listed(_csv_rows(path), path)
    content = read_json(path, "the file of boxes")
    if isinstance(content, Mapping):
        return annotated_boxes(CocoIndex(path, **parse_coco(path, content)))
    if not isinstance(content, list):
        raise UserError(f"the file of boxes {path} holds {kind(content)}; {_FORMATS}")
    return _listed(_json_rows(content, path), path)


def annotated_boxes(index: CocoIndex) -> ListedBoxes:
    """The boxes that an annotation file has, without crowds; the log counts those that are left out for a mistake."""
    rows = index.boxed()
    lost = {STATUS[BAD_BOX]: int((index.status != CROWD).sum()) - len(rows)}
    lost |= {index.with_example(reason): count for reason, count in index.dropped.items() if reason in MISTAKES}
    reasons = "; ".join(f"{count} {reason}" for reason, count in lost.items() if count)
    if reasons:
        log.warning("%s: %d annotations are left out: %s", index.path, sum(lost.values()), reasons)
    image_rows = index.image_rows[rows].tolist()
    return ListedBoxes(
        images=[BoxedImage(int(index.image_ids[row]), index.file_name(row)) for row in image_rows],
        category_ids=np.array([category["id"] for category in index.categories])[index.category_rows[rows]],
        boxes_xyxy=index.boxes_xyxy[rows],
        scores=index.scores[rows],
    )


def _json_rows(entries: Iterable[Any], path: Path) -> Iterator[_Row]:
    for place, entry in enumerate(entries):
        if type(entry) is not dict:
            raise _unusable(path, f"entry {place} is {kind(entry)}")
        box, score = entry.get("bbox"), entry.get("score")
        if not isinstance(box, list) or len(box) != 4:
            raise _unusable(path, f"entry {place} has the bbox {kind(box)}")
        values = [*box, 1.0 if score is None else score]
        numbers = [number(value) for value in values]
        for value, found in zip(values, numbers, strict=True):
            if math.isnan(found) and type(value) is not float:
                raise _unusable(path, f"entry {place} has {kind(value)} for a number")
        x, y, width, height, confidence = numbers
        category_id = whole_number(-1 if entry.get("category_id") is None else entry["category_id"])
        if category_id is None:
            raise _unusable(path, f"entry {place} has the category_id {kind(entry['category_id'])}")
        image = _image(entry.get("image_id"), entry.get("file_name"))
        if image is None:
            raise _unusable(path, f"entry {place} has the image_id {kind(entry.get('image_id'))} and no file_name")
        yield image, category_id, (x, y, x + width, y + height), confidence


def _csv_rows(path: Path) -> Iterator[_Row]:
    reader = csv.reader(io.StringIO(_csv_text(path), newline=""))
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in _COLUMNS if header.count(name) != 1]
        if missing:
            raise _unusable(path, f"its header {shown(','.join(header))} must have {' and '.join(missing)} once")
        for cells in reader:
            if not any(cells):
                continue
            where = f"line {reader.line_num}"
            if len(cells) != len(header):
                raise _unusable(path, f"{where} has {len(cells)} cells, but the header {len(header)}")
            row = dict(zip(header, cells, strict=True))
            image = _image(row.get("image_id") or None, text_of(row["file_name"]))
            if image is None:
                raise _unusable(path, f"{where} has no file_name")
            try:
                x1, y1, x2, y2 = (float(row[name]) for name in _COLUMNS[1:])
                score = float(row.get("score") or 1)
            except ValueError as error:
                raise _unusable(path, f"{where}: {error}") from error
            yield image, -1, (x1, y1, x2, y2), score
    except csv.Error as error:
        raise _unusable(path, f"line {reader.line_num}: {error}") from error


def _csv_text(path: Path) -> str:
    data = read_file(path, "the file of boxes")
    try:
        utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as spreadsheets may write it
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except ValueError as error:
        raise _unusable(path, f"it is no text in UTF-8 ({error})") from error


def _image(image_id: Any, file_name: Any) -> BoxedImage | None:
    """The image of a box, or None where nothing names it."""
    known = image_id if isinstance(image_id, str) else whole_number(image_id)
    name = file_name if isinstance(file_name, str) and file_name else None
    return None if known is None and name is None else BoxedImage(known, name)


def _unusable(path: Path, what: str) -> UserError:
    return UserError(f"the file of boxes {path} can't be used: {what}; {_FORMATS}")


def _listed(rows: Iterable[_Row], path: Path) -> ListedBoxes:
    every = list(rows)
    with np.errstate(over="ignore"):  # becomes infinite, which is noticed
        boxes = np.array([box for _, _, box, _ in every], np.float32).reshape(-1, 4)
        scores = np.array([score for *_, score in every], np.float32)
    sound = (np.abs(boxes) <= FARTHEST).all(-1) & (boxes[:, 2:] > boxes[:, :2]).all(-1) & np.isfinite(scores)
    if len(every) and not sound.any():
        raise UserError(
            f"none of the {len(every)} boxes of {path} has an extent and a finite score; the first is "
            f"{boxes[0].tolist()} of score {scores[0]}, expected x1 < x2 and y1 < y2, in pixels"
        )
    if not sound.all():
        first = int(np.flatnonzero(~sound)[0])
        log.warning(
            "%s: %d boxes without an extent or a finite score are left out, e.g. number %d, %s of score %s",
            path,
            (~sound).sum(),
            first + 1,
            boxes[first].tolist(),
            scores[first],
        )
    kept = [every[row] for row in np.flatnonzero(sound)]
    return ListedBoxes(
        images=[image for image, _, _, _ in kept],
        category_ids=np.array([category for _, category, _, _ in kept], np.int64),
        boxes_xyxy=boxes[sound],
        scores=scores[sound],
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
    boxes, image_rows = _placed(path, listed.images, index)
    category_rows = _category_rows(path, listed.category_ids, index, category)
    kept = (category_rows[boxes] >= 0) & (listed.scores[boxes] >= min_score)
    if not kept.any():
        raise UserError(
            f"none of the {len(listed.images)} boxes of {path} is left at a lowest score of {min_score}, category "
            f"{category}; their highest score is {listed.scores.max(initial=0):.3g}, their category ids are "
            f"{np.unique(listed.category_ids)}"
        )
    boxes, image_rows = boxes[kept], image_rows[kept]
    order = np.argsort(image_rows, kind="stable")
    boxes, image_rows = boxes[order], image_rows[order]
    return DetectedBoxes(image_rows, category_rows[boxes], listed.boxes_xyxy[boxes], listed.scores[boxes])


def _placed(path: Path | str, images: list[BoxedImage], index: CocoIndex) -> tuple[Array, Array]:
    """(M,) the box, and (M,) int32 row of an image in the index that it is in; M > N where images share a file."""
    names = [index.file_name(row) for row in range(len(index.image_ids))]
    known = KnownImages(index.image_ids.tolist(), names, index.id_of_text())
    rows = [known.rows(image) for image in images]
    unknown = sorted({str(image) for image, found in zip(images, rows, strict=True) if not found})
    if unknown:
        raise UserError(
            f"{path} has boxes for {len(unknown)} images that {index.path} doesn't know, e.g. {unknown[0]} "
            f"(it knows e.g. id {index.image_ids[0]}, {index.file_name(0)}); use the boxes of these images, or drop "
            "the others"
        )
    boxes = np.repeat(np.arange(len(images)), [len(found) for found in rows])
    return boxes, np.array([row for found in rows for row in found], np.int32)


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
    """The category of boxes whose ids say nothing: 0, if there is only one."""
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
