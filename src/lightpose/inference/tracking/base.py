"""Who is who over the frames of a video."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import PurePath
from typing import Protocol

import numpy as np

from lightpose.geometry import extents
from lightpose.inference.frames import Frame
from lightpose.structures import Array, Poses

NOBODY = -1
"""The track id of a pose that has no identity, or none yet."""


def kept_for(keep_s: float, fps: float) -> float:
    """Seconds for which the identity of somebody last seen is kept: at least until the next frame."""
    return max(keep_s, 1.5 / fps)


class Tracker(Protocol):
    """Follows people from frame to frame; one object for one video, built with ``skeleton`` and ``fps``.

    Attributes:
        needs_image: whether it looks at the pixels.
    """

    needs_image: bool

    def __call__(self, poses: Poses[Array], time_s: float, image: Array | None = None) -> Poses[Array]:
        """The same poses with ``track_ids``: numbers from 1, or -1 for who has no identity, or none yet.

        Args:
            poses: of the next frame; none is an ordinary case.
            time_s: when the frame is shown; gaps are welcome.
            image: (H, W, 3) uint8 RGB, where it is needed.
        """
        ...


def tracked(
    results: Iterable[tuple[Frame, Poses[Array]]],
    make: Callable[[], Tracker],
    fps: float,
    of_files: bool = False,
) -> Iterator[tuple[Frame, Poses[Array]]]:
    """The same results, in which each pose has a track id.

    Args:
        results: frames in order, and their poses.
        make: builds a tracker.
        fps: frames per second.
        of_files: whether frames are image files. Then those of one folder are taken for the frames of one video, at a
            steady rate whatever their ids are, and nobody is in two folders. Frames that tell no time have that of
            their number.
    """
    trackers: dict[str, Tracker] = {}
    counts: dict[str, int] = {}
    numbers: dict[tuple[str, int], int] = {}
    for frame, poses in results:
        place = str(PurePath(frame.name).parent) if of_files else ""
        tracker = trackers.get(place) or trackers.setdefault(place, make())
        counts[place] = counts.get(place, 0) + 1 if of_files else frame.image_id
        time_s = counts[place] / fps if frame.time_s is None else frame.time_s
        found = tracker(poses, time_s, frame.pixels() if tracker.needs_image else None)
        assert found.track_ids is not None
        ids = [
            NOBODY if each == NOBODY else numbers.setdefault((place, each), len(numbers) + 1)
            for each in found.track_ids.tolist()
        ]
        yield frame, replace(found, track_ids=np.array(ids, np.int64))


def boxes_of(poses: Poses[Array]) -> Array:
    """(N, 4) xyxy: the boxes of the poses where there are, else those around the scored keypoints; NaN for neither."""
    points = poses.keypoints[..., :2].astype(np.float64)
    known = np.isfinite(points).all(-1) & (poses.keypoint_scores > 0)  # (N, K)
    around = np.concatenate(extents(points, known), -1)
    around[~known.any(1)] = np.nan
    if poses.boxes_xyxy is None:
        return around
    boxes = poses.boxes_xyxy.astype(np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]
    good = np.isfinite(boxes).all(-1) & (sides.min(-1, initial=np.inf) > 0)
    return np.where(good[:, None], boxes, around)


def confidence_of(poses: Poses[Array]) -> Array:
    """(N,) how sure it is that somebody is there: of the box, or else of the pose."""
    found: Array = poses.scores if poses.box_scores is None else poses.box_scores
    return np.nan_to_num(found.astype(np.float64), nan=0.0, posinf=1.0, neginf=0.0)
