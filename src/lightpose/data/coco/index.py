"""A COCO keypoint file as columns: a few NumPy arrays, parsed once and mapped from disk afterwards.

The arrays are all that stays in memory, and processes share their pages, so memory doesn't grow with the number of
workers. What can't be used is counted by reason, never dropped in silence. `lightpose.data.coco.parse` says what a file
means.
"""

import contextlib
import glob
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.data.coco.ground_truth import annotation
from lightpose.data.coco.json_values import read_json
from lightpose.data.coco.parse import CROWD, STATUS, USABLE, parse_coco
from lightpose.errors import UserError
from lightpose.structures import Array

log = logging.getLogger(__name__)

READER_VERSION = 6


@dataclass(frozen=True)
class CocoIndex:
    """The columns of a file; I images, A annotations ordered by image, K keypoints, coordinates in image pixels.

    Attributes:
        path: the file.
        categories: the file's categories that have keypoints, or all of them where none has: ``id``, and where the
            file gives them ``name``, ``keypoints``, ``skeleton``, ``sigmas`` and ``swap_pairs``, the last three as they
            stand there.
        keypoint_names: K names, those of all categories joined by name; nothing where the file gives none.
        dropped: reason → number of annotations that are not in the columns at all.
        mended: what was filled or corrected → number of annotations.
        examples: reason → the first annotation that can't be used for it.
        remarks: what else there is to say of the file.
        other_keypoints: lists of the annotations besides ``keypoints`` that look like some → length of the longest.
        image_ids: (I,) int64.
        image_texts: (I,) UTF-8 bytes, the ids as the file has them where these are no numbers; else (0,).
        image_hw: (I, 2) int32; zeros where the file doesn't give both.
        cameras: (I, 3, 3) float32, intrinsic matrices; (0, 3, 3) where the file gives none.
        crowding: (I,) float64, the ``crowdIndex`` of images in CrowdPose (arXiv:1812.00324); NaN where there is none.
        file_names: (I,) UTF-8 bytes.
        first: (I + 1,) int64; annotations of image i are ``first[i]:first[i + 1]``.
        image_rows: (A,) int32, the image of each annotation.
        ids: (A,) int64.
        category_rows: (A,) int32, index into ``categories``.
        boxes_xywh: (A, 4) float64, as they stand in the file.
        boxes_xyxy: (A, 4) float32, the same cut at the outermost pixel centres of the image.
        areas: (A,) float64, square pixels.
        scores: (A,) float32, 1 where the file gives none.
        keypoints: (A, K, 2) float32.
        visible: (A, K) uint8 in {0, 1, 2}.
        status: (A,) uint8, index into `STATUS`.
        ignored_points: (P, 2) float32, of the regions of annotations that are not usable, such as crowds; a row of NaN
            stands between the rings of a region.
        ignored_first: (R + 1,) int64; region r is ``ignored_first[r]:ignored_first[r + 1]`` of the points.
        ignored_regions: (I + 1,) int64; image i has the regions ``ignored_regions[i]:ignored_regions[i + 1]``.
    """

    path: Path
    categories: list[dict[str, Any]]
    keypoint_names: list[str]
    dropped: dict[str, int]
    mended: dict[str, int]
    examples: dict[str, str]
    remarks: list[str]
    other_keypoints: dict[str, int]
    image_ids: Array
    image_texts: Array
    image_hw: Array
    cameras: Array
    crowding: Array
    file_names: Array
    first: Array
    image_rows: Array
    ids: Array
    category_rows: Array
    boxes_xywh: Array
    boxes_xyxy: Array
    areas: Array
    scores: Array
    keypoints: Array
    visible: Array
    status: Array
    ignored_points: Array
    ignored_first: Array
    ignored_regions: Array

    @property
    def num_keypoints(self) -> int:
        """K."""
        return int(self.keypoints.shape[1])

    def file_name(self, image_row: int) -> str:
        """The name of an image as it stands in the file."""
        return bytes(self.file_names[image_row]).decode()

    def camera(self, image_row: int) -> Array | None:
        """(3, 3) the intrinsic matrix of an image, if the file gives cameras."""
        matrix: Array | None = self.cameras[image_row] if len(self.cameras) else None
        return matrix

    def id_of_text(self) -> dict[str, int]:
        """Id in the file → number that stands for it, where the file's image ids are no numbers; else nothing."""
        texts = (text.decode() for text in self.image_texts.tolist())
        return dict(zip(texts, self.image_ids.tolist(), strict=False))

    def ignored(self, image_row: int) -> list[Array]:
        """The regions of an image with people who can't be learnt from; see `Sample`."""
        first, last = self.ignored_regions[image_row : image_row + 2].tolist()
        return [
            self.ignored_points[start:end] for start, end in pairwise(self.ignored_first[first : last + 1].tolist())
        ]

    def boxed(self) -> Array:
        """(N,) rows of the annotations that have a box and are no crowds, with or without keypoints."""
        extents = self.boxes_xyxy[:, 2:] > self.boxes_xyxy[:, :2]
        return np.flatnonzero(extents.all(-1) & (self.status != CROWD))

    def reasons(self) -> dict[str, int]:
        """Reason → number of annotations that can't be trained on."""
        counts = np.bincount(self.status, minlength=len(STATUS))
        inside = {reason: int(count) for reason, count in zip(STATUS[1:], counts[1:], strict=True) if count}
        return inside | self.dropped

    def summary(self) -> str:
        """One sentence: how many annotations there are, how many are used, why the others are not."""
        usable, reasons = int((self.status == USABLE).sum()), self.reasons()
        total = usable + sum(reasons.values())
        why = "; ".join(f"{count} {self.with_example(reason)}" for reason, count in reasons.items())
        more = [f"{count} with {what}" for what, count in self.mended.items()] + self.remarks
        images = len(self.image_ids)
        if bare := images - len(np.unique(self.image_rows[self.status == USABLE])):
            more.append(f"{bare} of {images} images have none that is usable")
        return "; ".join(
            [f"{self.path}: {total} annotations, {usable} usable", *([f"dropped: {why}"] if why else []), *more]
        )

    def with_example(self, reason: str) -> str:
        """A reason, and the first annotation that it is about."""
        return f"{reason} ({self.examples[reason]})" if reason in self.examples else reason

    def ground_truth(self) -> dict[str, Any]:
        """All images and all annotations of the keypoint categories as a COCO dictionary, for the OKS metric.

        Crowd and unlabelled instances are in it (the evaluation ignores what matches them); missing areas are filled.
        """
        names = [name.decode() for name in self.file_names.tolist()]
        images = zip(self.image_ids.tolist(), self.image_hw.tolist(), names, self.crowding.tolist(), strict=True)
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
                {"id": i, "height": hw[0], "width": hw[1], "file_name": name}
                | ({} if math.isnan(crowding) else {"crowdIndex": crowding})
                for i, hw, name, crowding in images
            ],
            "categories": self.categories,
            "annotations": [
                annotation(id_, image_id, self.categories[category_row]["id"], *rest)
                for id_, image_id, category_row, *rest in annotations
            ],
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the path where the columns are mapped from disk, so that spawned workers share their pages."""
        folder = getattr(self.status.base, "filename", None)  # the columns that a reader replaces have none
        if folder is None:
            return CocoIndex, tuple(getattr(self, field.name) for field in fields(self))
        return _reload, (Path(folder).parent, self.path)


_COLUMNS = [field.name for field in fields(CocoIndex) if field.type is Array]
_META = [field.name for field in fields(CocoIndex) if field.name not in ("path", *_COLUMNS)]


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
        name = f"{path.stem[:40]}-{_hash(str(path.resolve()))}"
    except (OSError, ValueError) as error:
        raise UserError(
            f"annotation file {path} can't be read ({getattr(error, 'strerror', error)}); check the path"
        ) from error
    root = _cache_folder()
    folder = root / f"{name}-{_hash(f'{stat.st_size} {stat.st_mtime_ns} {READER_VERSION}')}"
    try:
        return _load(folder, path)
    except Exception:  # not there, or damaged, which has as many names as there are ways to damage a file
        index = parse(path)
    try:
        _save(index, folder)
        for old in set(root.glob(f"{glob.escape(name)}-*")) - {folder}:  # of an earlier content of the file
            shutil.rmtree(old, ignore_errors=True)
        return _load(folder, path)
    except Exception as error:
        log.info("The parsed annotations of %s are not cached: %s", path, error)
        return index


def _cache_folder() -> Path:
    try:
        user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home, as in containers
        user = Path(os.devnull)  # where nothing can be written
    return Path(os.environ.get("LIGHTPOSE_CACHE") or user / "lightpose") / "coco"


def parse(path: Path) -> CocoIndex:
    """The columns of a file, not cached; raises as `read_coco` does."""
    return CocoIndex(path, **parse_coco(path, read_json(path, "annotation file")))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


def _save(index: CocoIndex, folder: Path) -> None:
    """Write the columns beside their place, then rename: readers see all of them or none.

    Of several processes that do so at once, the first one's stay.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as made:
        new = Path(made) / folder.name
        new.mkdir()
        columns = {column: getattr(index, column) for column in _COLUMNS}
        for column, values in columns.items():
            np.save(new / f"{column}.npy", values)
        meta = json.dumps(
            {
                "columns": {column: [str(values.dtype), list(values.shape)] for column, values in columns.items()},
                "rest": {name: getattr(index, name) for name in _META},
            }
        )
        (new / "meta.json").write_text(f"{_hash(meta)}\n{meta}")
        try:
            new.rename(folder)
        except OSError:  # there are some already
            try:
                _load(folder, index.path)
            except Exception:
                with contextlib.suppress(OSError):  # another process mends them, too
                    folder.rename(Path(made) / "damaged")
                    new.rename(folder)


def _load(folder: Path, path: Path) -> CocoIndex:
    """The columns that `_save` wrote; raises some exception for anything else."""
    digest, _, text = (folder / "meta.json").read_text().partition("\n")
    if digest != _hash(text):
        raise ValueError(f"{folder} is damaged")
    meta = json.loads(text)
    columns = {column: np.load(folder / f"{column}.npy", mmap_mode="r") for column in _COLUMNS}
    if any([str(values.dtype), list(values.shape)] != meta["columns"][name] for name, values in columns.items()):
        raise ValueError(f"{folder} is damaged")
    # A plain view of the mapped memory: rows of np.memmap are an order of magnitude slower to take.
    return CocoIndex(path, **meta["rest"], **{name: column.view(np.ndarray) for name, column in columns.items()})


def _reload(folder: Path, path: Path) -> CocoIndex:
    try:
        return _load(folder, path)
    except Exception:  # deleted since, or the cache is not one that this process can see
        return read_coco(path)
