"""Bottom-up: whole images, with any number of people in each."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightpose.data.pixels.input_size import STEP, resized_inputs
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.geometry import apply_affine
from lightpose.structures import Batch, Poses


class BottomUp(PoseEstimator):
    """All poses of each image. Images of a batch that differ in size go through the network size by size.

    Args:
        test_scales: factors on the size of the inputs when validating, testing and predicting, of which 1 is one; the
            outputs of all are joined, where the codec can do that.
        options: of `PoseEstimator`.

    Raises:
        UserError: for factors that can't be used, and for several where the codec joins no scales.
    """

    def __init__(self, *, test_scales: Sequence[float] = (1.0,), **options: Any) -> None:
        super().__init__(**options)
        if min(test_scales, default=0) <= 0 or 1 not in test_scales:
            raise UserError(f"estimator.test_scales={list(test_scales)} must be positive numbers, one of them 1")
        self.other_scales = [scale for scale in test_scales if scale != 1]
        if self.other_scales and not hasattr(self.codec, "merge_scales"):
            raise UserError(
                f"{type(self.codec).__name__} can't join what is found at several scales; set "
                "estimator.test_scales=[1.0], or use a codec with a method merge_scales, as associative_embedding"
            )

    def to_image(self, poses: Poses, batch: Batch) -> Poses:
        """Keypoints, and boxes where there are some, to image pixels."""
        image_from_input = batch.image_from_input[poses.batch_index]
        boxes = poses.boxes_xyxy
        if boxes is not None:
            boxes = apply_affine(image_from_input, boxes.unflatten(-1, (2, 2))).flatten(1)
        return replace(poses, keypoints=apply_affine(image_from_input, poses.keypoints), boxes_xyxy=boxes)

    def _outputs(self, inputs: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        plain, joined = super()._outputs(inputs)
        if not self.other_scales:
            return plain, joined
        others = [super(BottomUp, self)._outputs(self._resized(inputs, scale))[1] for scale in self.other_scales]
        merged: dict[str, Tensor] = self.codec.merge_scales(joined, others)  # type: ignore[attr-defined]
        return plain, merged

    def _resized(self, inputs: Tensor, scale: float) -> Tensor:
        """Inputs whose sides are as near to ``scale`` times theirs as the strides of the network allow."""
        step = max(*self.net.backbone.strides, STEP)
        height, width = (max(1, round(side * scale / step)) * step for side in inputs.shape[-2:])
        return resized_inputs(inputs, (height, width))

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
