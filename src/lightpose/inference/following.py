"""Boxes that follow the poses of the frame before, so that a detector need not look at every frame."""

from collections.abc import Iterable, Iterator

import numpy as np

from lightpose.geometry import extents
from lightpose.inference.detections import NO_BOXES, Detections
from lightpose.inference.frames import Frame
from lightpose.inference.predictor import Find, Predictor
from lightpose.metrics.nms import oks_nms
from lightpose.structures import Array, Poses

PADDING = 1.2
"""Of the box around the keypoints, which lie inside the body."""
_CONFIDENT = 0.3
"""The least score of a keypoint that a box follows."""
_SMALLEST = 0.5
"""Of a box, relative to that of the frame before: keypoints that aren't found may leave a speck."""
_SAME = 0.7
"""OKS over which two boxes have come to follow one person."""


def followed(
    predictor: Predictor, frames: Iterable[Frame], find: Find, every: int, batch_size: int = 64
) -> Iterator[tuple[Frame, Poses[Array]]]:
    """The poses of every frame, with boxes of the detector in each ``every``-th one, and between them of the poses.

    Whoever comes in between is found at the next detection. Frames are posed one by one, as each waits for the one
    before.

    Args:
        predictor: of people in boxes.
        frames: of a video, in order.
        find: the detector.
        every: numbers of frames from one detection to the next.
        batch_size: people that go through the network at once.
    """
    boxes: Detections = NO_BOXES
    due = -1
    for frame in frames:
        if frame.image_id >= due:
            [boxes], due = find([frame]), frame.image_id + every
        [poses] = predictor([frame.pixels()], [boxes[0]], batch_size, [boxes[1]])
        yield frame, poses
        boxes = boxes_around(poses, np.array(predictor.skeleton.sigmas))


def boxes_around(poses: Poses[Array], sigmas: Array) -> Detections:
    """A box around the confident keypoints of each pose, one for each person; none for a pose without such keypoints.

    Args:
        poses: with the boxes and box scores they were found in; each score stays that of its box.
        sigmas: (K,) falloff constants of the skeleton.
    """
    points = poses.keypoints[..., :2]
    found = np.isfinite(points).all(-1) & (poses.keypoint_scores >= _CONFIDENT)  # (N, K)
    poses, points, found = poses.select(found.any(1)), points[found.any(1)], found[found.any(1)]
    if not len(poses):
        return NO_BOXES
    assert poses.boxes_xyxy is not None and poses.box_scores is not None
    low, high = extents(points, found)
    before = poses.boxes_xyxy[:, 2:] - poses.boxes_xyxy[:, :2]
    half = np.maximum(PADDING * (high - low), _SMALLEST * before) / 2
    boxes = np.concatenate([(low + high) / 2 - half, (low + high) / 2 + half], -1).astype(np.float32)
    kept = oks_nms(points, poses.scores, 4 * half.prod(1), sigmas, _SAME)
    return boxes[np.sort(kept)], poses.box_scores[np.sort(kept)]
