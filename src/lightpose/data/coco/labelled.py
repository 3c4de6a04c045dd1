"""Labels on their way to a COCO file."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.data.coco.parse import AREA_PER_BOX
from lightpose.structures import Array

_MARGIN, _LEAST_MARGIN = 0.1, 0.02
"""Of a box made of keypoints: shares of its longer side, and of the picture's."""


@dataclass(frozen=True, slots=True)
class Category:
    """One kind of thing with keypoints.

    Attributes:
        name: of the kind.
        keypoints: K names.
        links: pairs of positions, from 0.
        swap_pairs: pairs of positions that a mirror image exchanges; None where nobody says.
    """

    name: str
    keypoints: tuple[str, ...]
    links: tuple[tuple[int, int], ...] = ()
    swap_pairs: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Person:
    """One labelled person or animal.

    Attributes:
        keypoints: (K, 2) image pixels.
        visible: (K,) 0 not labelled, 1 labelled and hidden, 2 labelled and seen.
        category: place among the categories.
        box_xywh: None where nobody drew one: then it is made of the keypoints.
        track_id: who it is.
        further: more of a COCO annotation, such as ``score``.
    """

    keypoints: Array
    visible: Array
    category: int = 0
    box_xywh: tuple[float, float, float, float] | None = None
    track_id: int | None = None
    further: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One labelled picture.

    Attributes:
        file: the image file.
        hw: its size.
        people: in it.
    """

    file: Path
    hw: tuple[int, int]
    people: list[Person]


def coco_content(pictures: Sequence[Picture], categories: Sequence[Category], near: Path) -> dict[str, Any]:
    """What a COCO keypoint file says of labelled pictures.

    A category has ``swap_pairs``, beyond COCO, where they are known: pairs of names.

    Args:
        pictures: whose files are named relative to ``near``.
        categories: of their people.
        near: folder in which the file will be.
    """
    base = os.path.realpath(near)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures, start=1):
        name = os.path.relpath(os.path.realpath(picture.file.parent), base)
        height, width = picture.hw
        file_name = (Path(name) / picture.file.name).as_posix()
        images.append({"id": number, "file_name": file_name, "height": height, "width": width})
        for person in picture.people:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **_annotation(person, picture.hw)})
    return {
        "images": images,
        "annotations": annotations,
        "categories": [_category(category, number) for number, category in enumerate(categories, start=1)],
    }


def write_coco(path: Path, content: dict[str, Any]) -> None:
    """Write a COCO file.

    Raises:
        OSError: when it can't be written.
    """
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


def _annotation(person: Person, hw: tuple[int, int]) -> dict[str, Any]:
    labelled = person.visible > 0
    points = np.where(labelled[:, None], person.keypoints, 0.0).round(4)
    box = box_of(person.keypoints[labelled], hw) if person.box_xywh is None else person.box_xywh
    rows = zip(points.tolist(), person.visible.tolist(), strict=True)
    return {
        "category_id": person.category + 1,
        "iscrowd": 0,
        "bbox": [round(float(edge), 4) for edge in box],
        "area": round(AREA_PER_BOX * float(box[2]) * float(box[3]), 4),
        "num_keypoints": int(labelled.sum()),
        "keypoints": [value for (x, y), visible in rows for value in (x, y, int(visible))],
        **({} if person.track_id is None else {"track_id": person.track_id}),
        **person.further,
    }


def box_of(points: Array, hw: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box (x, y, w, h) around keypoints (n, 2), a tenth of its longer side wider at each side, within the picture."""
    if not len(points):
        return 0.0, 0.0, 0.0, 0.0
    low, high = points.min(0), points.max(0)
    margin = max(_MARGIN * float((high - low).max()), _LEAST_MARGIN * max(hw))
    limits = np.array([hw[1], hw[0]]) - 1
    low, high = (low - margin).clip(0, limits), (high + margin).clip(0, limits)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])


def _category(category: Category, number: int) -> dict[str, Any]:
    names = category.keypoints
    content: dict[str, Any] = {
        "id": number,
        "name": category.name,
        "keypoints": list(names),
        "skeleton": [[start + 1, end + 1] for start, end in category.links],
    }
    if category.swap_pairs is not None:
        content["swap_pairs"] = [[names[left], names[right]] for left, right in category.swap_pairs]
    return content
