"""Stacked hourglasses: down to the coarsest map and up again, once or several times."""

from collections.abc import Sequence
from pathlib import Path

import torch
from timm.models.resnet import BasicBlock
from torch import Tensor, nn
from torch.nn import functional

from lightpose.errors import UserError
from lightpose.models.backbones.layers import conv_norm, init_convs
from lightpose.models.base import FeatureModule
from lightpose.models.weights import load_weights


class Hourglass(FeatureModule):
    """Stacked hourglass network (arXiv:1603.06937), of residual blocks as in CornerNet (arXiv:1808.01244).

    (B, 3, H, W) normalised RGB to a map of stride 4 from each stage, of any input size. Tensors are called as in the
    published code, so published pose weights fit by name.

    Args:
        stages: hourglasses, one after the other.
        channels: of the map and of each halving of it.
        blocks: residual blocks at each of these sizes.
        weights: file to start from (`lightpose.models.weights.load_weights`).

    Raises:
        UserError: when ``channels`` and ``blocks`` differ in length, or weights can't be had.
    """

    def __init__(
        self,
        stages: int = 1,
        channels: Sequence[int] = (256, 256, 384, 384, 384, 512),
        blocks: Sequence[int] = (2, 2, 2, 2, 2, 4),
        *,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if stages < 1 or len(channels) != len(blocks) or len(channels) < 2:
            raise UserError(
                f"backbone.stages={stages} must be at least 1, and backbone.channels={list(channels)} and "
                f"backbone.blocks={list(blocks)} two or more numbers each, one for each size of the map"
            )
        width = channels[0]
        self.stages, self.out_channels, self.strides = stages, (width,), (4,)
        self.stem = nn.Sequential(conv_norm(3, 128, 7, stride=2), _blocks(128, width, 1, stride=2))
        self.hourglass_modules = nn.ModuleList(OneHourglass(channels, blocks) for _ in range(stages))
        self.out_convs = nn.ModuleList(conv_norm(width, width, 3) for _ in range(stages))
        self.conv1x1s, self.remap_convs = (
            nn.ModuleList(conv_norm(width, width, activation=None) for _ in range(stages - 1)) for _ in range(2)
        )
        self.inters = nn.ModuleList(BasicBlock(width, width) for _ in range(stages - 1))
        init_convs(self)
        if weights is not None:
            load_weights(self, weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the map (B, C, H/4, W/4) of each stage."""
        x = self.stem(images)
        maps: list[Tensor] = []
        for stage, (hourglass, conv) in enumerate(zip(self.hourglass_modules, self.out_convs, strict=True)):
            if stage:
                x = torch.relu(self.conv1x1s[stage - 1](x) + self.remap_convs[stage - 1](maps[-1]))
                x = self.inters[stage - 1](x)
            maps.append(conv(hourglass(x)))
        return maps


class OneHourglass(nn.Module):
    """Halves a map, goes on with that in a smaller hourglass, and adds it to the map again."""

    def __init__(self, channels: Sequence[int], blocks: Sequence[int]) -> None:
        super().__init__()
        width, below = channels[:2]
        self.up1 = _blocks(width, width, blocks[0])
        self.low1 = _blocks(width, below, blocks[0], stride=2)
        self.low2 = OneHourglass(channels[1:], blocks[1:]) if len(channels) > 2 else _blocks(below, below, blocks[1])
        self.low3 = nn.Sequential(*_blocks(below, below, blocks[0] - 1), *_blocks(below, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        y: Tensor = self.up1(x)
        return y + functional.interpolate(self.low3(self.low2(self.low1(x))), size=y.shape[-2:])


def _blocks(in_channels: int, out_channels: int, count: int, stride: int = 1) -> nn.Sequential:
    """``count`` residual blocks, the first of which changes size and channels."""
    shortcut = None
    if stride > 1 or in_channels != out_channels:
        conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        shortcut = nn.Sequential(conv, nn.BatchNorm2d(out_channels))
    blocks = [BasicBlock(in_channels, out_channels, stride, shortcut)] if count else []
    return nn.Sequential(*blocks, *(BasicBlock(out_channels, out_channels) for _ in range(count - 1)))
