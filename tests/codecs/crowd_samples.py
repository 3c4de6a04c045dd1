"""Several people in an input, for tests of codecs."""

import torch
from codec_samples import batch
from torch import Tensor

from lightpose.structures import Batch, Instances

HW = (256, 320)


def crowd(
    keypoints: Tensor,
    visible: Tensor | None = None,
    valid: Tensor | None = None,
    input_hw: tuple[int, int] = HW,
) -> Batch:
    """A batch of people (B, M, K, 2) in input pixels, with boxes around their keypoints; all labelled unless told."""
    number, people, count, _ = keypoints.shape
    labels = Instances(
        keypoints=keypoints,
        visible=torch.full((number, people, count), 2.0) if visible is None else visible,
        boxes_xyxy=torch.cat([keypoints.amin(2), keypoints.amax(2)], -1),
        areas=torch.ones(number, people),
        categories=torch.zeros(number, people, dtype=torch.int64),
        ids=torch.arange(people).repeat(number, 1),
        scores=torch.ones(number, people),
        valid=torch.ones(number, people, dtype=torch.bool) if valid is None else valid,
    )
    return batch(labels, input_hw)


def scattered(input_hw: tuple[int, int], number: int = 6, count: int = 17) -> Tensor:
    """(B, 6, K, 2): people of several sizes in every corner and on every border, who overlap."""
    draw = torch.Generator().manual_seed(0)
    height, width = input_hw
    middles = torch.tensor([[0.15, 0.2], [0.5, 0.2], [0.85, 0.2], [0.15, 0.8], [0.5, 0.8], [0.85, 0.8]])
    middles = middles + 0.06 * torch.rand(number, 6, 2, generator=draw)
    sizes = 0.1 + 0.3 * torch.rand(number, 6, 1, 1, generator=draw)
    points = middles[:, :, None] + sizes * (torch.rand(number, 6, count, 2, generator=draw) - 0.5)
    last = torch.tensor([width - 1.0, height - 1.0])
    return (points * last).clamp_min(0).minimum(last)
