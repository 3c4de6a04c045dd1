"""Keypoints for codec tests."""

import torch
from torch import Tensor

from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Instances


def skeleton(count: int) -> Skeleton:
    return Skeleton.build([f"point{i}" for i in range(count)], swap_pairs=[("point0", "point1")])


def instances(keypoints: Tensor, visible: Tensor | None = None) -> Instances:
    """One instance per row from (B, K, 2) keypoints in input pixels."""
    batch, count, _ = keypoints.shape
    return Instances(
        keypoints=keypoints[:, None],
        visible=torch.full((batch, 1, count), 2.0) if visible is None else visible[:, None],
        boxes_xyxy=torch.zeros(batch, 1, 4),
        areas=torch.ones(batch, 1),
        categories=torch.zeros(batch, 1, dtype=torch.int64),
        ids=torch.zeros(batch, 1, dtype=torch.int64),
        scores=torch.ones(batch, 1),
        valid=torch.ones(batch, 1, dtype=torch.bool),
    )


def batch(labels: Instances, input_hw: tuple[int, int] = (1, 1)) -> Batch:
    """What a codec gets; those of one person have their input's size from elsewhere."""
    count = len(labels.valid)
    numbers = torch.arange(count)
    return Batch(
        inputs=torch.zeros(count, 3, *input_hw, dtype=torch.uint8),
        instances=labels,
        image_from_input=torch.eye(3).repeat(count, 1, 1),
        image_ids=numbers,
        indices=numbers,
        image_hw=torch.ones(count, 2, dtype=torch.int64),
    )


def points_everywhere(input_hw: tuple[int, int], batch: int = 8, count: int = 17) -> Tensor:
    """(B, K, 2): anywhere in the input; the first rows run along its borders and sit in its corners."""
    last = torch.tensor([input_hw[1] - 1.0, input_hw[0] - 1.0])
    points = torch.rand(batch, count, 2, generator=torch.Generator().manual_seed(0)) * last
    points[0, :, 0], points[1, :, 0], points[2, :, 1], points[3, :, 1] = 0, last[0], 0, last[1]
    points[4, :4] = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]) * last
    return points
