"""Bottom-up: whole images, with any number of people in each."""

from dataclasses import replace

from lightpose.estimators.base import PoseEstimator
from lightpose.geometry import apply_affine
from lightpose.structures import Batch, Poses


class BottomUp(PoseEstimator):
    """All poses of each image."""

    def to_image(self, poses: Poses, batch: Batch) -> Poses:
        """Keypoints, and boxes where there are some, to image pixels."""
        image_from_input = batch.image_from_input[poses.batch_index]
        boxes = poses.boxes_xyxy
        if boxes is not None:
            boxes = apply_affine(image_from_input, boxes.unflatten(-1, (2, 2))).flatten(1)
        return replace(poses, keypoints=apply_affine(image_from_input, poses.keypoints), boxes_xyxy=boxes)
