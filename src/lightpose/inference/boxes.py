"""Boxes that come from a file."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightpose.errors import UserError
from lightpose.structures import Array

if TYPE_CHECKING:
    from lightpose.inference.sources import Source

Detections = tuple[Array, Array]
"""The boxes of one image: (N, 4) float32 xyxy in image pixels, and their scores (N,) float32."""

NO_BOXES: Detections = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

_Row = tuple[str, list[float], float]  # name of the image, xyxy, score


def read_boxes(path: str | Path, source: "Source") -> dict[str, Detections]:
    """Boxes by the name of the image; an image that the file doesn't mention has none.

    A ``.json`` file is a list of COCO results (``image_id`` or ``file_name``, ``bbox`` as x, y, w, h and a ``score``),
    or a COCO annotation file. A ``.csv`` file has the columns ``file_name,x1,y1,x2,y2`` and, if known, ``score``.
    All boxes count, whatever their category.

    Raises:
        UserError: when the file can't be read, or is about images that the source doesn't have.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no boxes={path}; give a .json or .csv file")
    names = {number: name for name, number in source.image_ids.items()} if source.has_ids else {}
    try:
        if path.suffix.lower() == ".csv":
            boxes = _join(_csv_rows(path), path)
        else:
            content = json.loads(path.read_bytes())
            if isinstance(content, Mapping):
                own = {int(image["id"]): str(image["file_name"]) for image in content["images"]}
                boxes = annotation_boxes(content["annotations"], own, path)
            else:
                boxes = _join(_coco_rows(content, names, path), path)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"boxes={path} can't be read ({error!r}); expected a list of COCO results, a COCO annotation file, or a "
            ".csv with the columns file_name,x1,y1,x2,y2,score"
        ) from error
    strangers = sorted(boxes.keys() - source.image_ids.keys()) if source.image_ids else []
    if strangers:
        raise UserError(
            f"boxes={path} has boxes of {len(strangers)} images that the source doesn't have, such as {strangers[0]}; "
            f"the source has names such as {next(iter(source.image_ids))}. Boxes and source must name images alike"
        )
    return boxes


def annotation_boxes(
    annotations: Iterable[Mapping[str, Any]], names: Mapping[int, str], path: Path
) -> dict[str, Detections]:
    """Boxes by the name of the image, from a COCO file's annotations, without crowds and boxes without area."""
    people = [entry for entry in annotations if not entry.get("iscrowd") and min(entry["bbox"][2:]) > 0]
    return _join(_coco_rows(people, names, path), path)


def _coco_rows(entries: Iterable[Mapping[str, Any]], names: Mapping[int, str], path: Path) -> Iterable[_Row]:
    for entry in entries:
        if "file_name" in entry:
            name = str(entry["file_name"])
        elif int(entry["image_id"]) in names:
            name = names[int(entry["image_id"])]
        else:
            raise UserError(
                f"{path} has a box for image_id {entry['image_id']}, which the source doesn't have; give the COCO "
                "JSON as source, or a file_name with each box"
            )
        x, y, width, height = entry["bbox"]
        yield name, [x, y, x + width, y + height], entry.get("score", 1.0)


def _csv_rows(path: Path) -> Iterable[_Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            yield row["file_name"], [float(row[key]) for key in ("x1", "y1", "x2", "y2")], float(row.get("score") or 1)


def _join(rows: Iterable[_Row], path: Path) -> dict[str, Detections]:
    grouped: dict[str, list[_Row]] = {}
    for row in rows:
        grouped.setdefault(row[0], []).append(row)
    return {
        name: check_boxes([box for _, box, _ in found], [score for *_, score in found], f"{name} in {path}")
        for name, found in grouped.items()
    }


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
