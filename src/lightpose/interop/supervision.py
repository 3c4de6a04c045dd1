"""Poses as Roboflow's `supervision` takes them, whose annotators and tools then draw, filter and count them."""

from typing import Any

import numpy as np

from lightpose.errors import UserError
from lightpose.structures import Array, Poses


def to_supervision(poses: Poses[Array] | Poses[Any], threshold: float | None = None) -> Any:
    """The poses of one image as `supervision.KeyPoints`; its ``as_detections()`` gives boxes around the keypoints.

    ``data`` has what there is of ``tracker_id`` (track ids, -1 for none), ``xyxy`` (the boxes that the poses were found
    in) and the extras.

    Args:
        poses: of one image, tensors or arrays.
        threshold: keypoints of a lower score are not ``visible``; None leaves all visible.

    Raises:
        UserError: where supervision is not installed.
    """
    try:
        import supervision
    except ImportError as error:
        raise UserError(
            "to_supervision needs supervision, which is not installed; run pip install supervision"
        ) from error
    arrays: Poses[Array] = poses.numpy() if not isinstance(poses.keypoints, np.ndarray) else poses
    data = {"tracker_id": arrays.track_ids, "xyxy": arrays.boxes_xyxy, **arrays.extras}
    classes = np.zeros(len(arrays), np.int64) if arrays.categories is None else arrays.categories
    return supervision.KeyPoints(
        xy=np.ascontiguousarray(arrays.keypoints[..., :2], np.float32),
        class_id=classes.astype(int),
        keypoint_confidence=arrays.keypoint_scores.astype(np.float32),
        detection_confidence=arrays.scores.astype(np.float32),
        visible=None if threshold is None else arrays.keypoint_scores >= threshold,
        data={name: column for name, column in data.items() if column is not None},
    )
