"""Top-down: one crop, or one whole image, and one instance in it."""

from dataclasses import replace
from typing import ClassVar

from lightpose.estimators.base import PoseEstimator
from lightpose.geometry import apply_affine
from lightpose.structures import Batch, Poses


class TopDown(PoseEstimator):
    """One pose for each box."""

    takes_boxes: ClassVar[bool] = True
    one_person: ClassVar[bool] = True

    def to_image(self, poses: Poses, batch: Batch) -> Poses:
        """Keypoints to image pixels, with the box that each pose was found in."""
        row = poses.batch_index
        image_from_input = batch.image_from_input[row]
        corners = batch.instances.boxes_xyxy[row, 0].view(-1, 2, 2)
        return replace(
            poses,
            keypoints=apply_affine(image_from_input, poses.keypoints),
            boxes_xyxy=apply_affine(image_from_input, corners).flatten(1),
            box_scores=batch.instances.scores[row, 0],
        )


class WholeImage(TopDown):
    """One pose for each image: the box is the whole image, whatever boxes there may be."""

    takes_boxes: ClassVar[bool] = False
