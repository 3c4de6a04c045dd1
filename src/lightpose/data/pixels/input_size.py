"""Inputs of another size than they were made in."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from lightpose.errors import UserError
from lightpose.structures import Batch

STEP = 32
"""Pixels. Many networks have strides up to this one inside, which they don't give out."""


def sizes_between(input_hw: Sequence[int], scale: Sequence[float]) -> list[tuple[int, int]]:
    """Sizes of about the proportion of ``input_hw``, the smallest first; all sides are multiples of 32.

    Args:
        input_hw: network input size.
        scale: smallest and largest factor on it.

    Raises:
        UserError: for factors that are none.
    """
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise UserError(f"data.input_scale={list(scale)} must be two positive factors, the smaller first, or null")
    height, width = input_hw
    first, last = (max(1, round(factor * height / STEP)) for factor in scale)
    return [(rows * STEP, max(1, round(rows * width / height)) * STEP) for rows in range(first, last + 1)]


def resized_inputs(inputs: Tensor, input_hw: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) uint8 in another size, bilinear, and smoothed where it gets smaller."""
    resized = functional.interpolate(inputs.float(), input_hw, mode="bilinear", antialias=True)
    return resized.round().to(inputs.dtype)


def resized(batch: Batch, input_hw: tuple[int, int]) -> Batch:
    """The batch with inputs of another size; labels stay on their pixels."""
    old_h, old_w = batch.inputs.shape[-2:]
    if input_hw == (old_h, old_w):
        return batch
    scale_y, scale_x = input_hw[0] / old_h, input_hw[1] / old_w
    people, matrix, ignore = batch.instances, batch.image_from_input, batch.ignore

    def moved(points: Tensor) -> Tensor:
        x, y, rest = points[..., :1], points[..., 1:2], points[..., 2:]
        return torch.cat([(x + 0.5) * scale_x - 0.5, (y + 0.5) * scale_y - 0.5, rest], -1)

    along_x, along_y = matrix[..., 0] / scale_x, matrix[..., 1] / scale_y
    start = matrix[..., 2] - (matrix[..., 0] - along_x + matrix[..., 1] - along_y) / 2
    if ignore is not None:
        ignore = functional.interpolate(ignore[:, None].float(), input_hw, mode="nearest-exact")[:, 0] > 0
    return replace(
        batch,
        inputs=resized_inputs(batch.inputs, input_hw),
        instances=replace(
            people,
            keypoints=moved(people.keypoints),
            boxes_xyxy=moved(people.boxes_xyxy.unflatten(-1, (2, 2))).flatten(-2),
            areas=people.areas * (scale_x * scale_y),
        ),
        image_from_input=torch.stack([along_x, along_y, start], -1),
        ignore=ignore,
    )
