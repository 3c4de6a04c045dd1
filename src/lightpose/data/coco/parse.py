"""From the content of a COCO file to columns. This is the one place that decides what a file means.

No value is trusted to have the type that the format gives it. A mistake in the structure (``images`` that are no list,
a category without id) is refused. An annotation that can't be used is left out or marked, and counted by reason, and
the others are used. Where the meaning is plain, as in ``"iscrowd": "0"``, it is taken.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.data.coco import columns
from lightpose.data.coco.columns import FARTHEST
from lightpose.data.coco.ground_truth import keypoint_categories
from lightpose.data.coco.json_values import WHOLE, kind, plain_text, shown, whole_number
from lightpose.data.coco.outlines import outlines
from lightpose.data.coco.wholebody import with_parts
from lightpose.errors import UserError
from lightpose.names import joined_names
from lightpose.structures import Array

AREA_PER_BOX = 0.53
"""Share of its box that a person covers, for files without ``area``: what most pose code assumes."""
USABLE, CROWD, UNLABELLED, BAD_BOX, BAD_KEYPOINTS = range(5)
STATUS = (
    "usable",
    "crowd",
    "no labelled keypoint",
    "box missing, empty or outside the image",
    "keypoints other than x, y and visibility of each",
)
OTHER_CATEGORY, UNKNOWN_IMAGE, DUPLICATE_ID = "category without keypoints", "unknown image id", "duplicate id"
NO_OBJECT, ODD_CROWD = "not an object, or one with two values for a key", "iscrowd neither 0 nor 1"
MISTAKES = (UNKNOWN_IMAGE, DUPLICATE_ID, NO_OBJECT, ODD_CROWD, STATUS[BAD_KEYPOINTS])
"""Reasons that tell of a damaged file, and not of a person whom nobody could label."""
FILLED_AREA = f"area missing or no positive number, taken as {AREA_PER_BOX} of the box"
ODD_SCORE = "score that is no number, taken as 1"

_LISTS = ("images", "annotations", "categories")
_KEYS = {OTHER_CATEGORY: "category_id", UNKNOWN_IMAGE: "image_id", DUPLICATE_ID: "id", ODD_CROWD: "iscrowd"}
UNNAMED = {"id": 1, "name": "unnamed"}
"""The category of a file that has none."""
_MOST_KEYPOINTS = 2000
_FARTHEST_FOCUS = 1e9
"""Pixels. A camera this far away sees nothing in perspective."""
_LONGEST_PATH, _LONGEST_NAME = 1024, 255  # bytes; Linux opens no longer names, nor paths of 4096


@dataclass(frozen=True)
class _Ids:
    """The ids of the entries of a list.

    Attributes:
        numbers: distinct, of 64 bits.
        texts: the ids as text, if not all of them are whole numbers; else nothing.
    """

    numbers: list[int]
    texts: list[str]

    def rows(self, values: Sequence[Any]) -> Array:
        """(N,) int64, the entry that each value means; -1 for none."""
        if self.texts:
            of_text: dict[str | None, int] = {text: row for row, text in enumerate(self.texts)}
            return np.array([of_text.get(columns.id_text(value), -1) for value in values], np.int64)
        of_number = {number: row for row, number in enumerate(self.numbers)}
        if set(map(type, values)) != {int}:
            values = [whole_number(value) for value in values]
        return np.array([of_number.get(value, -1) for value in values], np.int64)

    def remarks(self, key: str) -> list[str]:
        """That some numbers are not those of the file, if so."""
        made = [number for number, text in zip(self.numbers, self.texts, strict=False) if str(number) != text]
        some = f"{shown(self.texts[self.numbers.index(made[0])])} is {made[0]}" if made else ""
        return (
            [f"{len(made)} ids of `{key}` are no whole numbers, and get some in the file's order: {some}"]
            if made
            else []
        )


def parse_coco(path: Path, content: Any) -> dict[str, Any]:
    """The fields of a `lightpose.data.coco.index.CocoIndex`, but for its path.

    Args:
        path: the file, for messages.
        content: what `lightpose.data.coco.json_values.read_json` gives.

    Raises:
        UserError: naming the entry, for a mistake in the structure or in an image.
    """
    if not isinstance(content, Mapping) or "images" not in content:
        got = "has no `images`" if isinstance(content, Mapping) else f"holds {kind(content)}"
        raise UserError(
            f"annotation file {path} {got}; a COCO keypoint file is a JSON object with `images`, `annotations` and "
            "`categories`"
        )
    images, annotations, given_categories = (_list(path, content, key) for key in _LISTS)
    if not images:
        raise UserError(f"annotation file {path} lists no images; list those that its annotations are of")
    image_ids = _ids(path, "images", images)
    image_hw = _sizes(path, images)
    categories, category_ids, row_of_category = _categories(path, given_categories or [UNNAMED])
    remarks = image_ids.remarks("images") + category_ids.remarks("categories")

    entries = [entry for entry in annotations if type(entry) is dict]
    is_object = np.array([type(entry) is dict for entry in annotations], bool)
    places, crowd = np.flatnonzero(is_object), columns.crowds([entry.get("iscrowd") for entry in entries])
    image_rows = image_ids.rows([entry.get("image_id") for entry in entries])
    category_rows = np.zeros(len(entries), np.int64)
    if given_categories:
        category_rows = row_of_category[category_ids.rows([entry.get("category_id") for entry in entries])]
    else:
        remarks.append("there are no `categories`, so all annotations are taken to be of one")
    lost = {NO_OBJECT: np.flatnonzero(~is_object)}
    kept = np.ones(len(entries), bool)
    for reason, wrong in ((OTHER_CATEGORY, category_rows < 0), (UNKNOWN_IMAGE, image_rows < 0)):
        lost[reason], kept = places[kept & wrong], kept & ~wrong
    repeated = columns.repeats([entry.get("id") for entry in entries], kept)
    lost[DUPLICATE_ID], kept = places[repeated], kept & ~repeated
    lost[ODD_CROWD], kept = places[kept & (crowd < 0)], kept & (crowd >= 0)
    dropped = {reason: len(which) for reason, which in lost.items() if len(which)}
    examples = {reason: _example(annotations, int(lost[reason][0]), _KEYS.get(reason)) for reason in dropped}
    order = np.flatnonzero(kept)[np.argsort(image_rows[kept], kind="stable")]
    entries, places = [entries[row] for row in order.tolist()], places[order]
    image_rows, category_rows, crowd = image_rows[order].astype(np.int32), category_rows[order], crowd[order]

    categories, entries = with_parts(categories, entries)
    points = [entry.get("keypoints") for entry in entries]
    names, places_of = joined_names([category["keypoints"] for category in categories if "keypoints" in category])
    if not names:
        places_of = [list(range(columns.usual_count(points)))] * len(categories)
    num_keypoints = len(names or places_of[0])
    if num_keypoints > _MOST_KEYPOINTS:
        raise UserError(f"{path} has {num_keypoints} keypoints, expected {_MOST_KEYPOINTS} at most; is it damaged?")
    labels, misshapen = _labels(points, category_rows, places_of, num_keypoints)
    if misshapen.any():
        row = int(np.where(misshapen, places, len(annotations)).argmin())
        count = len(places_of[category_rows[row]])
        examples[STATUS[BAD_KEYPOINTS]] = (
            f"annotations[{places[row]}] has {kind(points[row])}, expected {3 * count} numbers for {count} keypoints"
        )
    boxes = columns.boxes([entry.get("bbox") for entry in entries])
    areas = columns.numbers([entry.get("area") for entry in entries])
    scores = columns.numbers([entry.get("score", 1.0) for entry in entries])
    ids = columns.ids([entry.get("id") for entry in entries])
    if ids is None:
        ids = places + 1
        remarks.append(
            "the ids of `annotations` are not all whole numbers; they are numbered from 1 in the file's order"
        )

    visible, mended = columns.visibility(labels)
    no_area, no_score = ~((areas > 0) & (areas <= FARTHEST**2)), ~np.isfinite(scores)
    areas[no_area] = (boxes[:, 2] * boxes[:, 3] * AREA_PER_BOX)[no_area]
    scores[no_score] = 1
    mended |= {FILLED_AREA: no_area.sum(), ODD_SCORE: no_score.sum()}
    boxes_xyxy = columns.inside(boxes, image_hw[image_rows])
    no_box = ~(boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(-1)
    status = np.select(
        [crowd > 0, misshapen, ~visible.any(-1), no_box], [CROWD, BAD_KEYPOINTS, UNLABELLED, BAD_BOX], USABLE
    )
    if (status == BAD_BOX).any():
        row = int(np.where(status == BAD_BOX, places, len(annotations)).argmin())
        examples[STATUS[BAD_BOX]] = f"annotations[{places[row]}] has the bbox {kind(entries[row].get('bbox'))}"
    ignored = np.flatnonzero(status != USABLE)
    segmentations = [entries[row].get("segmentation") for row in ignored.tolist()]
    ignored_points, ignored_first, owners = outlines(segmentations, boxes_xyxy[ignored], image_hw[image_rows[ignored]])
    return {
        "categories": categories,
        "keypoint_names": names,
        "dropped": dropped,
        "mended": {what: int(number) for what, number in mended.items() if number},
        "examples": examples,
        "remarks": remarks,
        "other_keypoints": _other_keypoints(entries),
        "image_ids": np.array(image_ids.numbers, np.int64),
        "image_texts": np.array([text.encode() for text in image_ids.texts], np.bytes_),
        "image_hw": image_hw,
        "cameras": _cameras(path, images),
        "crowding": columns.numbers([image.get("crowdIndex") for image in images]),
        "file_names": np.array(_file_names(path, images), np.bytes_),
        "first": np.searchsorted(image_rows, np.arange(len(images) + 1)),
        "image_rows": image_rows,
        "ids": ids,
        "category_rows": category_rows.astype(np.int32),
        "boxes_xywh": boxes,
        "boxes_xyxy": boxes_xyxy,
        "areas": areas,
        "scores": scores.astype(np.float32),
        "keypoints": labels[..., :2],
        "visible": visible,
        "status": status.astype(np.uint8),
        "ignored_points": ignored_points,
        "ignored_first": ignored_first,
        "ignored_regions": np.searchsorted(image_rows[ignored[owners]], np.arange(len(images) + 1)),
    }


def _labels(
    points: Sequence[Any], category_rows: Array, places_of: Sequence[Sequence[int]], num_keypoints: int
) -> tuple[Array, Array]:
    """`columns.labels` of annotations of several categories, each of whose keypoints has a place among all."""
    found, misshapen = np.zeros((len(points), num_keypoints, 3), np.float32), np.zeros(len(points), bool)
    for places in dict.fromkeys(map(tuple, places_of)):
        alike = [row for row, other in enumerate(places_of) if tuple(other) == places]
        rows = np.flatnonzero(np.isin(category_rows, alike))
        labels, misshapen[rows] = columns.labels([points[row] for row in rows.tolist()], len(places))
        found[rows[:, None], list(places)] = labels
    return found, misshapen


def _example(annotations: Sequence[Any], place: int, key: str | None) -> str:
    """An annotation in the words of a message, with its value for ``key`` if it is an object."""
    entry = annotations[place]
    return f"annotations[{place}] " + (f"has the {key} {kind(entry.get(key))}" if key else f"is {kind(entry)}")


def _list(path: Path, content: Mapping[str, Any], key: str) -> list[Any]:
    value = content.get(key, [])
    if not isinstance(value, list):
        raise UserError(f"`{key}` of {path} is {kind(value)}, expected a list of objects; mend the file")
    return value


def _wrong(path: Path, key: str, place: int, what: str, value: Any, expected: str) -> UserError:
    return UserError(f"{key}[{place}] of {path} has {what} {kind(value)}, expected {expected}; mend the file")


def _ids(path: Path, key: str, entries: Sequence[Any]) -> _Ids:
    """The ids of ``entries``, all of which must be objects."""
    for place, entry in enumerate(entries):
        if type(entry) is not dict:
            raise UserError(f"{key}[{place}] of {path} is {kind(entry)}, expected an object; mend the file")
    values = [entry.get("id") for entry in entries]
    numbers = [number for number in map(whole_number, values) if number is not None]
    if len(set(numbers)) == len(entries):
        return _Ids(numbers, [])
    texts = [text for text in map(columns.id_text, values) if text is not None]
    if len(texts) < len(entries):
        place = next(place for place, value in enumerate(values) if columns.id_text(value) is None)
        raise _wrong(path, key, place, "the id", values[place], "a whole number or text")
    repeated = [text for text, times in Counter(texts).items() if times > 1]
    if repeated:
        raise UserError(f"{len(repeated)} ids of `{key}` in {path} are used twice, e.g. {shown(repeated[0])}")
    used = {number for number, times in Counter(numbers).items() if times == 1}
    start = max([0, *used]) + 1
    free = (number for number in count(start if start < WHOLE - len(values) else 1) if number not in used)
    return _Ids([number if number in used else next(free) for number in map(whole_number, values)], texts)


def _sizes(path: Path, images: Sequence[Mapping[str, Any]]) -> Array:
    """(I, 2) int32 height and width; zeros where an image lacks one."""
    hw = np.zeros((len(images), 2), np.int32)
    for axis, key in enumerate(("height", "width")):
        for place, image in enumerate(images):
            value = image.get(key)
            pixels = whole_number(value)
            if pixels is not None and 0 < pixels <= FARTHEST:
                hw[place, axis] = pixels
            elif value is not None:
                raise _wrong(path, "images", place, f"the {key}", value, f"a whole number from 1 to {FARTHEST}")
    return hw * hw.all(-1, keepdims=True)


def _cameras(path: Path, images: Sequence[Mapping[str, Any]]) -> Array:
    """(I, 3, 3) float32 intrinsic matrices; (0, 3, 3) where no image gives a camera."""
    without = [place for place, image in enumerate(images) if image.get("cam_param") is None]
    if len(without) == len(images):
        return np.zeros((0, 3, 3), np.float32)
    if without:
        raise UserError(
            f"{len(without)} entries of `images` in {path} have no `cam_param`, e.g. images[{without[0]}], but others "
            "have one; give all of them a camera, or none"
        )
    cameras = np.tile(np.eye(3, dtype=np.float32), (len(images), 1, 1))
    for place, image in enumerate(images):
        given = image["cam_param"]
        if not isinstance(given, Mapping):
            raise _wrong(path, "images", place, "the cam_param", given, "an object with focal and princpt")
        for key, entries in (("focal", ([0, 1], [0, 1])), ("princpt", ([0, 1], [2, 2]))):
            value = given.get(key)
            numbers = columns.numbers(value if isinstance(value, list) else [])
            nearest = 1 / _FARTHEST_FOCUS if key == "focal" else -_FARTHEST_FOCUS
            if numbers.shape != (2,) or not ((numbers >= nearest) & (numbers <= _FARTHEST_FOCUS)).all():
                expected = "two positive numbers, in pixels" if key == "focal" else "the numbers x and y, in pixels"
                raise _wrong(path, "images", place, f"the {key} of cam_param", value, expected)
            cameras[place][entries] = numbers
    return cameras


def _file_names(path: Path, images: Sequence[Mapping[str, Any]]) -> list[bytes]:
    names = []
    for place, image in enumerate(images):
        name = image.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            raise _wrong(path, "images", place, "the file_name", name, "the name of an image file")
        try:
            encoded = name.encode()
        except UnicodeEncodeError as error:
            raise _wrong(path, "images", place, "the file_name", name, "text") from error
        if len(encoded) > _LONGEST_PATH or max(map(len, encoded.split(b"/"))) > _LONGEST_NAME:
            expected = f"a path of at most {_LONGEST_PATH} bytes, and {_LONGEST_NAME} between slashes"
            raise _wrong(path, "images", place, "the file_name", name, expected)
        names.append(encoded)
    return names


def _categories(path: Path, entries: Sequence[Any]) -> tuple[list[dict[str, Any]], _Ids, Array]:
    """The categories that have keypoints (all, if none lists any), the ids of all, and the row of each in the former.

    The rows end with that of an unknown id: -1.
    """
    ids = _ids(path, "categories", entries)
    categories = [_category(path, place, entry) | {"id": ids.numbers[place]} for place, entry in enumerate(entries)]
    used = [dict(category) for category in keypoint_categories(categories)]
    row_of = {category["id"]: row for row, category in enumerate(used)}
    return used, ids, np.array([*(row_of.get(number, -1) for number in ids.numbers), -1], np.int64)


def _category(path: Path, place: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What of a category is used; ``skeleton``, ``sigmas`` and ``swap_pairs`` as they stand in the file."""
    category = {key: entry[key] for key in ("skeleton", "sigmas", "swap_pairs") if entry.get(key) is not None}
    if entry.get("name") is not None:
        name = entry["name"]
        category["name"] = plain_text(name if isinstance(name, str) else shown(name))
    names = entry.get("keypoints")
    if names is not None and not isinstance(names, list):
        raise _wrong(path, "categories", place, "the keypoints", names, "the list of their names")
    for name in names or ():
        if type(name) not in (str, int):
            raise _wrong(path, "categories", place, "a keypoint named", name, "text")
    return category | ({"keypoints": [plain_text(str(name)) for name in names]} if names else {})


def _other_keypoints(entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Lists besides ``keypoints`` that look like some, as ``face_kpts`` of COCO-WholeBody: name → longest length."""
    found = {}
    for key in sorted(set().union(*entries)):
        if key != "keypoints" and ("kpts" in key or "keypoints" in key) and not key.endswith(("_score", "_valid")):
            longest = max((len(entry[key]) for entry in entries if isinstance(entry.get(key), list)), default=0)
            if longest:
                found[key] = longest
    return found
