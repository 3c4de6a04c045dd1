"""Bottom-up: whole images, with any number of people in each."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightpose.estimators.base import PoseEstimator
from lightpose.geometry import apply_affine
from lightpose.structures import Batch, Poses


class BottomUp(PoseEstimator):
    """All poses of each image. Images of a batch that differ in size go through the network size by size."""

    def to_image(self, poses: Poses, batch: Batch) -> Poses:
        """Keypoints, and boxes where there are some, to image pixels."""
        image_from_input = batch.image_from_input[poses.batch_index]
        boxes = poses.boxes_xyxy
        if boxes is not None:
            boxes = apply_affine(image_from_input, boxes.unflatten(-1, (2, 2))).flatten(1)
        return replace(poses, keypoints=apply_affine(image_from_input, poses.keypoints), boxes_xyxy=boxes)

    def predict_step(self, batch: Batch, batch_idx: int) -> Poses:
        """Poses in image pixels."""
        predict = super().predict_step
        return _size_by_size(batch, lambda part: predict(part, batch_idx))

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """See `PoseEstimator.validation_step`."""
        validate = super().validation_step
        return {"poses": _size_by_size(batch, lambda part: validate(part, batch_idx)["poses"])}


def _size_by_size(batch: Batch, poses_of: Callable[[Batch], Poses]) -> Poses:
    """The poses of the images of each size, so that each image gives what it gives alone."""
    if batch.input_hw is None:
        return poses_of(batch)
    found = [(rows, poses_of(part)) for rows, part in _same_sizes(batch)]
    return Poses.cat([replace(poses, batch_index=rows[poses.batch_index]) for rows, poses in found])


def _same_sizes(batch: Batch) -> Iterator[tuple[Tensor, Batch]]:
    """The images of each size, without what was added to them, and their rows in the batch."""
    sizes = batch.input_hw or ()
    for height, width in sorted(set(sizes)):
        rows = torch.tensor([row for row, size in enumerate(sizes) if size == (height, width)])
        rows = rows.to(batch.inputs.device, non_blocking=True)
        part = batch.map(lambda column, rows=rows: column[rows])  # type: ignore[misc]
        ignore = None if part.ignore is None else part.ignore[..., :height, :width]
        yield rows, replace(part, inputs=part.inputs[..., :height, :width], ignore=ignore, input_hw=None)
