"""ShuffleNet: grouped 1x1 convolutions, between which channels change their groups."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightpose.models.backbones.layers import conv_norm, init_convs, shuffle_channels
from lightpose.models.backbones.timm import select_levels
from lightpose.models.base import FeatureModule
from lightpose.models.weights import load_weights

STEM = 24
CHANNELS = {1: (144, 288, 576), 2: (200, 400, 800), 3: (240, 480, 960), 4: (272, 544, 1088), 8: (384, 768, 1536)}
"""Of the three stages, for each number of groups."""
STRIDES = (8, 16, 32)
BLOCKS = (4, 8, 4)
BOTTLENECK = 4


class ShuffleNetV1(FeatureModule):
    """ShuffleNet (arXiv:1707.01083): (B, 3, H, W) normalised RGB to maps at strides 8, 16 and 32, of any input size.

    Tensors are called as in the published code, so published pose weights fit by name.

    Args:
        groups: of the 1x1 convolutions: 1, 2, 3, 4 or 8.
        out_indices: which of the three maps to give, finest first; negative ones count from the end; None gives all.
            Stages behind the last of them don't exist.
        weights: file to start from (`lightpose.models.weights.load_weights`).

    Raises:
        UserError: for an index that isn't there, or weights that can't be had.
    """

    def __init__(
        self,
        groups: int = 3,
        out_indices: Sequence[int] | None = (-1,),
        *,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.out_indices = select_levels(out_indices, STRIDES)
        self.out_channels = tuple(CHANNELS[groups][i] for i in self.out_indices)
        self.strides = tuple(STRIDES[i] for i in self.out_indices)
        self.conv1 = conv_norm(3, STEM, 3, stride=2)
        self.layers = nn.ModuleList()
        before = STEM
        for channels, count in list(zip(CHANNELS[groups], BLOCKS, strict=True))[: self.out_indices[-1] + 1]:
            # the few channels of the stem are not worth grouping
            first = ShuffleUnit(before, channels, groups, 1 if before == STEM else groups, stride=2)
            others = (ShuffleUnit(channels, channels, groups, groups) for _ in range(count - 1))
            self.layers.append(nn.Sequential(first, *others))
            before = channels
        init_convs(self)
        if weights is not None:
            load_weights(self, weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the maps of ``out_indices``."""
        x = functional.max_pool2d(self.conv1(images), 3, stride=2, padding=1)  # (B, 24, H/4, W/4)
        maps = []
        for layer in self.layers:
            maps.append(x := layer(x))
        return [maps[i] for i in self.out_indices]


class ShuffleUnit(nn.Module):
    """Bottleneck of grouped convolutions, added to its input or, where it halves the map, put beside it.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        groups: of the last 1x1 convolution.
        first_groups: of the first.
        stride: 2 halves the map; 1 needs as many channels out as in.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int, first_groups: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        narrow = out_channels // BOTTLENECK
        wide = out_channels - in_channels if stride == 2 else out_channels
        self.g_conv_1x1_compress = conv_norm(in_channels, narrow, groups=first_groups)
        self.depthwise_conv3x3_bn = conv_norm(narrow, narrow, 3, stride=stride, groups=narrow, activation=None)
        self.g_conv_1x1_expand = conv_norm(narrow, wide, groups=groups, activation=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h / stride, w / stride)."""
        # the paper shuffles before the depthwise convolution: the same network, but published weights need this order
        y = self.depthwise_conv3x3_bn(self.g_conv_1x1_compress(x))
        y = self.g_conv_1x1_expand(shuffle_channels(y, self.groups))
        if self.stride == 1:
            return torch.relu(x + y)
        return torch.relu(torch.cat([functional.avg_pool2d(x, 3, stride=2, padding=1), y], 1))
