"""A COCO keypoint file as columns: a few NumPy arrays, parsed once and mapped from disk afterwards.

The arrays are all that stays in memory, and processes share their pages, so memory doesn't grow with the number of
workers. What can't be used is counted by reason, never dropped in silence.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.errors import UserError
from lightpose.structures import Array

log = logging.getLogger(__name__)

READER_VERSION = 1
AREA_PER_BOX = 0.53
"""Share of its box that a person covers, for files without ``area``: what most pose code assumes."""

USABLE, CROWD, UNLABELLED, BAD_BOX = range(4)
STATUS = ("usable", "crowd", "no labelled keypoint", "box missing, empty or outside the image")
UNKNOWN_IMAGE, OTHER_CATEGORY, DUPLICATE_ID = "unknown image id", "category without keypoints", "duplicate id"
FILLED_AREA = f"area missing, taken as {AREA_PER_BOX} of the box"
ODD_VISIBILITY = "visibility other than 0, 1 and 2, rounded"
NOT_FINITE = "keypoint not finite, taken as unlabelled"


@dataclass(frozen=True)
class CocoIndex:
    """The columns of a file; I images, A annotations ordered by image, K keypoints, coordinates in image pixels.

    Attributes:
        path: the file.
        categories: the file's categories that have keypoints, as they stand there.
        dropped: reason → number of annotations that are not in the columns at all.
        mended: what was filled or corrected → number of annotations.
        image_ids: (I,) int64.
        image_hw: (I, 2) int32.
        file_names: (I,) UTF-8 bytes.
        first: (I + 1,) int64; annotations of image i are ``first[i]:first[i + 1]``.
        image_rows: (A,) int32, the image of each annotation.
        ids: (A,) int64.
        category_rows: (A,) int16, index into ``categories``.
        boxes_xywh: (A, 4) float64, as they stand in the file.
        boxes_xyxy: (A, 4) float32, the same cut at the outermost pixel centres of the image.
        areas: (A,) float64, square pixels.
        keypoints: (A, K, 2) float32.
        visible: (A, K) uint8 in {0, 1, 2}.
        status: (A,) uint8, index into `STATUS`.
    """

    path: Path
    categories: list[dict[str, Any]]
    dropped: dict[str, int]
    mended: dict[str, int]
    image_ids: Array
    image_hw: Array
    file_names: Array
    first: Array
    image_rows: Array
    ids: Array
    category_rows: Array
    boxes_xywh: Array
    boxes_xyxy: Array
    areas: Array
    keypoints: Array
    visible: Array
    status: Array

    @property
    def num_keypoints(self) -> int:
        """K."""
        return int(self.keypoints.shape[1])

    def file_name(self, image_row: int) -> str:
        """The name of an image as it stands in the file."""
        return bytes(self.file_names[image_row]).decode()

    def reasons(self) -> dict[str, int]:
        """Reason → number of annotations that can't be trained on."""
        counts = np.bincount(self.status, minlength=len(STATUS))
        inside = {reason: int(count) for reason, count in zip(STATUS[1:], counts[1:], strict=True) if count}
        return inside | self.dropped

    def summary(self) -> str:
        """One sentence: how many annotations there are, how many are used, why the others are not."""
        usable, reasons = int((self.status == USABLE).sum()), self.reasons()
        total = usable + sum(reasons.values())
        why = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
        mended = "".join(f"; {count} with {what}" for what, count in self.mended.items())
        return f"{self.path}: {total} annotations, {usable} usable" + (f"; dropped: {why}" if why else "") + mended

    def ground_truth(self) -> dict[str, Any]:
        """All images and all annotations of the keypoint categories as a COCO dictionary, for the OKS metric.

        Crowd and unlabelled instances are in it (the evaluation ignores what matches them); missing areas are filled.
        """
        images = zip(self.image_ids.tolist(), self.image_hw.tolist(), self.file_names.tolist(), strict=True)
        labels = np.concatenate([self.keypoints, self.visible[..., None]], -1).reshape(len(self.ids), -1)
        annotations = zip(
            self.ids.tolist(),
            self.image_ids[self.image_rows].tolist(),
            self.category_rows.tolist(),
            self.boxes_xywh.tolist(),
            self.areas.tolist(),
            labels.tolist(),
            (self.visible > 0).sum(-1).tolist(),
            (self.status == CROWD).tolist(),
            strict=True,
        )
        return {
            "images": [
                {"id": i, "height": hw[0], "width": hw[1], "file_name": name.decode()} for i, hw, name in images
            ],
            "categories": self.categories,
            "annotations": [
                {
                    "id": annotation_id,
                    "image_id": image_id,
                    "category_id": self.categories[category_row]["id"],
                    "bbox": box,
                    "area": area,
                    "keypoints": keypoints,
                    "num_keypoints": labelled,
                    "iscrowd": int(crowd),
                }
                for annotation_id, image_id, category_row, box, area, keypoints, labelled, crowd in annotations
            ],
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the path where the columns are mapped from disk, so that spawned workers share their pages."""
        folder = getattr(self.keypoints.base, "filename", None)
        if folder is None:
            return CocoIndex, tuple(getattr(self, field.name) for field in fields(self))
        return _reload, (Path(folder).parent, self.path)


_COLUMNS = [field.name for field in fields(CocoIndex)][4:]
_DAMAGED = (OSError, EOFError, ValueError, TypeError, KeyError)


def read_coco(path: Path | str) -> CocoIndex:
    """The columns of a COCO keypoint file, from the cache if path, size and time of change are the known ones.

    The cache lies in ``$LIGHTPOSE_CACHE``, by default ``$XDG_CACHE_HOME/lightpose``; where it can't be written, the
    file is parsed at every start.

    Raises:
        UserError: when the file is missing, not COCO, or its annotations contradict its categories.
    """
    path = Path(path)
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"annotation file {path} can't be read ({error.strerror}); check the path") from error
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lightpose"
    root = Path(os.environ.get("LIGHTPOSE_CACHE") or root) / "coco"
    name = f"{path.stem}-{_hash(str(path.resolve()))}"
    folder = root / f"{name}-{_hash(f'{stat.st_size} {stat.st_mtime_ns} {READER_VERSION}')}"
    try:
        return _load(folder, path)
    except _DAMAGED:
        index = _parse(path, _read_json(path))
    try:
        _save(index, folder)
        for old in set(root.glob(f"{name}-*")) - {folder}:  # of an earlier content of the file
            shutil.rmtree(old, ignore_errors=True)
        return _load(folder, path)
    except _DAMAGED as error:
        log.info("The parsed annotations of %s are not cached: %s", path, error)
        return index


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _save(index: CocoIndex, folder: Path) -> None:
    """Write the columns beside their place, then rename: readers see all of them or none.

    Of several processes that do so at once, the first one's stay.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as made:
        new = Path(made) / folder.name
        new.mkdir()
        for column in _COLUMNS:
            np.save(new / f"{column}.npy", getattr(index, column))
        meta = {"categories": index.categories, "dropped": index.dropped, "mended": index.mended}
        (new / "meta.json").write_text(json.dumps(meta))
        try:
            new.rename(folder)
        except OSError:  # there are some already
            try:
                _load(folder, index.path)
            except _DAMAGED:
                with contextlib.suppress(OSError):  # another process mends them, too
                    folder.rename(Path(made) / "damaged")
                    new.rename(folder)


def _load(folder: Path, path: Path) -> CocoIndex:
    meta = json.loads((folder / "meta.json").read_text())
    columns = {column: np.load(folder / f"{column}.npy", mmap_mode="r") for column in _COLUMNS}
    # A plain view of the mapped memory: rows of np.memmap are an order of magnitude slower to take.
    return CocoIndex(path, **meta, **{name: column.view(np.ndarray) for name, column in columns.items()})


def _reload(folder: Path, path: Path) -> CocoIndex:
    try:
        return _load(folder, path)
    except _DAMAGED:  # deleted since, or the cache is not one that this process can see
        return read_coco(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"annotation file {path} is not JSON: {error}") from error
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(data, dict) or key not in data]
    if missing:
        raise UserError(
            f"annotation file {path} has no {', '.join(missing)}; a COCO keypoint file is a JSON object "
            "with `images`, `annotations` and `categories`"
        )
    return data


def _parse(path: Path, data: Mapping[str, Any]) -> CocoIndex:
    categories, count = _keypoint_categories(path, data)
    image_ids, image_hw, file_names = _images(path, data["images"])
    row_of_image = {image_id: row for row, image_id in enumerate(image_ids.tolist())}
    row_of_category = {category["id"]: row for row, category in enumerate(categories)}

    kept: list[tuple[int, int, Mapping[str, Any]]] = []
    dropped: Counter[str] = Counter()
    seen: set[Any] = set()
    for annotation in data["annotations"]:
        image_row = row_of_image.get(annotation.get("image_id"))
        category_row = row_of_category.get(annotation.get("category_id"))
        if category_row is None:
            dropped[OTHER_CATEGORY] += 1
        elif image_row is None:
            dropped[UNKNOWN_IMAGE] += 1
        elif annotation.get("id") in seen:
            dropped[DUPLICATE_ID] += 1
        else:
            if annotation.get("id") is not None:
                seen.add(annotation["id"])
            kept.append((image_row, category_row, annotation))
    kept.sort(key=lambda item: item[0])

    image_rows = np.array([row for row, _, _ in kept], np.int32)
    ids = [row if annotation.get("id") is None else annotation["id"] for row, (_, _, annotation) in enumerate(kept)]
    labels = np.zeros((len(kept), count, 3), np.float32)
    boxes = np.zeros((len(kept), 4))
    for row, (_, _, annotation) in enumerate(kept):
        values = annotation.get("keypoints") or ()
        if values:
            labels[row] = _keypoints(path, annotation, values, count)
        box = annotation.get("bbox") or ()
        if len(box) == 4:
            boxes[row] = box
    crowd = np.array([bool(annotation.get("iscrowd")) for _, _, annotation in kept], bool)
    areas = np.array([annotation.get("area") or 0 for _, _, annotation in kept], np.float64)

    visible, mended = _visible(labels)
    no_area = ~(areas > 0)
    areas[no_area] = (boxes[:, 2] * boxes[:, 3] * AREA_PER_BOX)[no_area]
    mended[FILLED_AREA] = int(no_area.sum())
    limit = np.tile(image_hw[image_rows, ::-1], 2) - 1
    boxes_xyxy = np.clip(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], -1), 0, limit).astype(np.float32)
    good_box = (boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(-1) & np.isfinite(boxes).all(-1)
    status = np.select([crowd, ~visible.any(-1), ~good_box], [CROWD, UNLABELLED, BAD_BOX], USABLE).astype(np.uint8)
    return CocoIndex(
        path=path,
        categories=categories,
        dropped=dict(dropped),
        mended={what: number for what, number in mended.items() if number},
        image_ids=image_ids,
        image_hw=image_hw,
        file_names=file_names,
        first=np.searchsorted(image_rows, np.arange(len(image_ids) + 1)),
        image_rows=image_rows,
        ids=np.array(ids, np.int64),
        category_rows=np.array([row for _, row, _ in kept], np.int16),
        boxes_xywh=boxes,
        boxes_xyxy=boxes_xyxy,
        areas=areas,
        keypoints=labels[..., :2],
        visible=visible,
        status=status,
    )


def _keypoint_categories(path: Path, data: Mapping[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """The categories that have keypoints (all of them, if none lists any), and how many keypoints that is."""
    named = [category for category in data["categories"] if category.get("keypoints")]
    if len({tuple(category["keypoints"]) for category in named}) > 1:
        each = ", ".join(f"{category.get('name')} {len(category['keypoints'])}" for category in named)
        raise UserError(
            f"the categories of {path} have different keypoints ({each}), but a model learns one skeleton; "
            "write one file per category"
        )
    if named:
        return named, len(named[0]["keypoints"])
    lengths = [len(annotation["keypoints"]) for annotation in data["annotations"] if annotation.get("keypoints")]
    if not lengths:
        raise UserError(f"no category and no annotation of {path} has `keypoints`; this is not a keypoint file")
    return list(data["categories"]), lengths[0] // 3


def _images(path: Path, images: Sequence[Mapping[str, Any]]) -> tuple[Array, Array, Array]:
    try:
        ids = np.array([image["id"] for image in images], np.int64)
        hw = np.array([(image["height"], image["width"]) for image in images], np.int32).reshape(-1, 2)
        names = np.array([image["file_name"].encode() for image in images], np.bytes_)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"an entry of `images` in {path} is wrong ({error!r}); each needs an integer `id`, `width` and `height` in "
            "pixels, and `file_name`"
        ) from error
    repeated = np.flatnonzero(np.bincount(np.unique(ids, return_inverse=True)[1]) > 1) if len(ids) else ids
    if len(repeated):
        raise UserError(f"{len(repeated)} image ids of {path} are used twice, e.g. {np.unique(ids)[repeated[0]]}")
    return ids, hw, names


def _keypoints(path: Path, annotation: Mapping[str, Any], values: Any, count: int) -> Array:
    try:
        return np.array(values, np.float32).reshape(count, 3)
    except (TypeError, ValueError) as error:
        got = len(values) if isinstance(values, list) else repr(values)
        raise UserError(
            f"annotation {annotation.get('id')} of {path} has {got} keypoint numbers, expected {3 * count}: x, y and "
            f"visibility of {count} keypoints; mend the annotation, or the list of names in `categories`"
        ) from error


def _visible(labels: Array) -> tuple[Array, Counter[str]]:
    """Visibility (A, K) as 0, 1 or 2; labels (A, K, 3) that are not finite become zeros, in place."""
    finite = np.isfinite(labels).all(-1)
    labels[~finite] = 0
    given = labels[..., 2]
    visible = np.clip(np.rint(given), 0, 2).astype(np.uint8)
    counts = {NOT_FINITE: (~finite).any(-1).sum(), ODD_VISIBILITY: (visible != given).any(-1).sum()}
    return visible, Counter({what: int(number) for what, number in counts.items()})
