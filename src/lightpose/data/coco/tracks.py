"""Who is who in the frames of videos, as annotations with a ``track_id`` tell it: PoseTrack's files, and our own."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.data.coco.index import CocoIndex, read_coco
from lightpose.data.coco.json_values import read_json, whole_number
from lightpose.data.coco.onto import onto
from lightpose.data.coco.parse import USABLE
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton
from lightpose.structures import Array


@dataclass(frozen=True, slots=True)
class TrackFrame:
    """The labelled people of one frame.

    Attributes:
        image_id: of the frame.
        video: which it belongs to.
        ids: (M,) int64 track ids, each once.
        category_ids: (M,) int64.
        keypoints: (M, K, 2) image px.
        visible: (M, K) in {0, 1, 2}.
        areas: (M,) square px.
        ignore: polygons (P, 2) in image px, in which nobody is labelled; a row of NaN stands between the rings of one.
    """

    image_id: int
    video: str
    ids: Array
    category_ids: Array
    keypoints: Array
    visible: Array
    areas: Array
    ignore: list[Array]


def read_tracks(path: Path | str, skeleton: Skeleton) -> tuple[CocoIndex, list[TrackFrame]]:
    """The annotations of a file, and its frames in order, video by video.

    Images belong to one video unless they have a ``vid_id`` or ``video_id``; their order is that of ``frame_id``, or
    else of their ids. Those that PoseTrack says aren't labelled (``is_labeled``) are left out. What can't be used of
    the annotations, such as crowds, is to be ignored, and so are PoseTrack's ``ignore_regions_x`` and ``_y``.

    Raises:
        UserError: as `read_coco`, and for people without a ``track_id``, or two of one in a frame.
    """
    index = onto(read_coco(path), skeleton)
    content: Any = read_json(path, "the annotation file")
    of_text = index.id_of_text()
    images = {_id_of(entry.get("id"), of_text): entry for entry in _objects(content["images"])}
    track_ids = {whole_number(entry.get("id")): entry.get("track_id") for entry in _objects(content["annotations"])}
    usable = index.status == USABLE
    found = []
    for row, image_id in enumerate(index.image_ids.tolist()):
        entry = images.get(image_id, {})
        if entry.get("is_labeled", True) is False:
            continue
        rows = np.arange(index.first[row], index.first[row + 1])
        rows = rows[usable[rows]]
        ids = [whole_number(track_ids.get(number)) for number in index.ids[rows].tolist()]
        if None in ids or len(set(ids)) < len(ids):
            what = "no track_id" if None in ids else "the track_id of another"
            raise UserError(
                f"image {image_id} of {path} has a person with {what}; tracks are scored against annotations in which "
                "everyone has a track_id, one for each person of a video"
            )
        video, number = entry.get("vid_id", entry.get("video_id", "")), whole_number(entry.get("frame_id"))
        category_ids = np.array([category["id"] for category in index.categories], np.int64)
        frame = TrackFrame(
            image_id=image_id,
            video=str(video),
            ids=np.array(ids, np.int64),
            category_ids=category_ids[index.category_rows[rows]],
            keypoints=index.keypoints[rows],
            visible=index.visible[rows],
            areas=index.areas[rows],
            ignore=index.ignored(row) + _regions(entry),
        )
        found.append((str(video), image_id if number is None else number, frame))
    found.sort(key=lambda each: each[:2])
    return index, [frame for *_, frame in found]


def in_regions(points: Array, regions: list[Array]) -> Array:
    """(...,) bool, whether (..., 2) points lie in one of the polygons."""
    from matplotlib.path import Path as Outline

    flat = points.reshape(-1, 2)
    inside = np.zeros(len(flat), bool)
    for region in regions:
        within = np.zeros(len(flat), bool)
        ends = [-1, *np.flatnonzero(np.isnan(region[:, 0])).tolist(), len(region)]
        for start, end in pairwise(ends):  # a ring in a ring is a hole
            within ^= Outline(region[start + 1 : end]).contains_points(flat)
        inside |= within
    return inside.reshape(points.shape[:-1])


def _regions(entry: Mapping[str, Any]) -> list[Array]:
    """PoseTrack's regions, each of which is a list of x and one of y; those that are none are left out."""
    columns: list[Any] = [entry.get(f"ignore_regions_{axis}") for axis in "xy"]
    if not all(isinstance(column, list) and column for column in columns):
        return []
    nested = isinstance(columns[0][0], list)
    regions = []
    for x, y in zip(*columns, strict=False) if nested else [columns]:
        if isinstance(x, list) and isinstance(y, list) and len(x) == len(y) > 2:
            try:
                regions.append(np.stack([np.array(x, np.float64), np.array(y, np.float64)], -1))
            except (TypeError, ValueError, OverflowError):
                continue
    return [region for region in regions if np.isfinite(region).all()]


def _objects(entries: Any) -> list[dict[str, Any]]:
    return [entry for entry in entries if type(entry) is dict]


def _id_of(value: Any, of_text: Mapping[str, int]) -> int | None:
    return of_text.get(value) if isinstance(value, str) and value in of_text else whole_number(value)
