"""What one-stage heads share: branches of convolutions, the points of priors, and what candidates are made from."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from lightpose.codecs.grid import MapGrid
from lightpose.codecs.people import between_cells
from lightpose.errors import UserError
from lightpose.geometry import Grid, input_from_map
from lightpose.models.backbones.cspdarknet import yolox_conv
from lightpose.structures import Spec

LARGEST = 8.0
"""Logarithm of the largest side of a box, in strides, so that a loss stays finite."""


def branch(in_channels: int, width: int, depth: int, groups: int = 1) -> nn.Sequential:
    """``depth`` 3x3 convolutions; all but the first in groups.

    Raises:
        UserError: for none.
    """
    if depth < 1:
        raise UserError(f"head.depth={depth} must be a whole number from 1")
    later = partial(yolox_conv, width, width, 3, groups=groups)
    return nn.Sequential(yolox_conv(in_channels, width, 3), *(later() for _ in range(depth - 1)))


def per_level(count: int, build: Callable[[], nn.Module]) -> nn.ModuleList:
    """As many of the same as there are levels."""
    return nn.ModuleList(build() for _ in range(count))


def start_rare(convs: nn.ModuleList, share: float = 0.01) -> None:
    """Let scores begin as if so many priors answered for somebody (arXiv:1708.02002)."""
    for conv in convs:
        nn.init.constant_(conv.get_parameter("bias"), math.log(share / (1 - share)))


def keypoints_of(spec: Spec) -> int:
    """K, as the codec expects it.

    Raises:
        KeyError: where it expects no boxes and points.
        UserError: where it leaves K open.
    """
    _, points = spec.outputs["boxes"], spec.outputs["points"]
    count = (points or (None,) * 3)[-2]
    if count is None:
        raise UserError(f"a one-stage head needs a codec that says how many keypoints there are, not points={points}")
    return count


def same_width(in_channels: Sequence[int], head: str, neck: str) -> int:
    """Channels of all levels.

    Raises:
        UserError: where they differ.
    """
    if len(set(in_channels)) > 1:
        raise UserError(
            f"head={head} needs levels of the same channels, but they have {list(in_channels)}; use neck={neck}"
        )
    return in_channels[0]


def flat(levels: Sequence[Tensor]) -> Tensor:
    """(B, P, C) float32: the cells of maps (B, C, h, w), level after level."""
    return torch.cat([level.flatten(2).mT for level in levels], 1).float()


def prior_points(levels: Sequence[Tensor], strides: Sequence[int], grid: Grid) -> Tensor:
    """(B, P, 3): the input pixel that each cell stands for, and its stride."""
    found = []
    for level, stride in zip(levels, strides, strict=True):
        height, width = level.shape[-2:]
        scale, offset = input_from_map(grid, (height * stride, width * stride), (height, width))
        x, y = (
            torch.arange(side, device=level.device) * scale[axis] + offset[axis]
            for axis, side in enumerate((width, height))
        )
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        found.append(torch.stack([columns, rows, torch.full_like(rows, stride)], -1).flatten(0, 1))
    return torch.cat(found).expand(levels[0].shape[0], -1, -1)


def boxes_of(offsets: Tensor, priors: Tensor) -> Tensor:
    """(B, P, 4) xyxy of offsets (B, P, 4): the middle in strides from the prior, and logarithms of the sides."""
    points, strides = priors.split([2, 1], -1)
    middle, sides = offsets.split(2, -1)
    center, half = points + middle * strides, sides.clamp_max(LARGEST).exp() * strides / 2
    return torch.cat([center - half, center + half], -1)


def points_of(offsets: Tensor, priors: Tensor) -> Tensor:
    """(B, P, K, 2) of offsets (B, P, 2 K) in strides from the prior."""
    points, strides = priors[..., None, :].split([2, 1], -1)
    return points + offsets.unflatten(-1, (-1, 2)) * strides


def moved(points: Tensor, shifts: Tensor, stride: int, grid: Grid) -> Tensor:
    """(B, P, K, 2): points that each move by what maps say where it is, or at the border if it is beyond.

    Args:
        points: (B, P, K, 2) input pixels.
        shifts: (B, 2 K, h, w) in strides.
        stride: of the maps.
        grid: of the maps.
    """
    height, width = shifts.shape[-2:]
    x, y = MapGrid((height * stride, width * stride), grid, stride).to_map(points).unbind(-1)
    cells = torch.stack([x.clamp(0, width - 1), y.clamp(0, height - 1)], -1)
    steps = [between_cells(maps, cells) for maps in shifts.unflatten(1, (-1, 2)).unbind(2)]
    return points + torch.stack(steps, -1) * stride
