"""Lite-HRNet: HRNet whose pointwise convolutions are replaced by weights computed across resolutions and space."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightpose.models.backbones.hrnet import Fusion
from lightpose.models.backbones.layers import (
    ChannelWeighting,
    check_divides,
    conv_norm,
    init_convs,
    separable,
    shuffle_channels,
)
from lightpose.models.base import FeatureModule
from lightpose.models.weights import load_weights

STEM = 32
CHANNELS = (40, 80, 160, 320)
CROSS_RATIO = 8  # of all channels to those between which they decide on their weights


class LiteHRNet(FeatureModule):
    """Lite-HRNet (arXiv:2104.06403): (B, 3, H, W) normalised RGB to one map of 40 channels at stride 4.

    H and W must divide by 32. Tensors are called as in the published code, so published pose weights fit by name.

    Args:
        modules: how many modules stages 2 to 4 have: 2, 4, 2 in Lite-HRNet-18, and 3, 8, 3 in Lite-HRNet-30.
        weights: file to start from (`lightpose.models.weights.load_weights`).
        input_hw: input size, to be refused here if it doesn't divide.

    Raises:
        UserError: for an input size that doesn't divide, or weights that can't be had.
    """

    out_channels = CHANNELS[:1]
    strides = (4,)

    def __init__(
        self,
        modules: Sequence[int] = (2, 4, 2),
        *,
        weights: str | Path | None = None,
        input_hw: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_divides("LiteHRNet", input_hw)
        self.stem = Stem(STEM)
        first, second, third, fourth = CHANNELS
        self.transition0 = nn.ModuleList(
            [separable(STEM, first, stride=1), nn.Sequential(separable(STEM, second, stride=2))]
        )
        self.transition1 = nn.ModuleDict({"2": nn.Sequential(separable(second, third, stride=2))})
        self.transition2 = nn.ModuleDict({"3": nn.Sequential(separable(third, fourth, stride=2))})
        self.stage0, self.stage1, self.stage2 = (
            nn.Sequential(*(LiteModule(CHANNELS[:branches]) for _ in range(count)))
            for branches, count in zip((2, 3, 4), modules, strict=True)
        )
        self.head_layer = Head(CHANNELS[::-1])
        init_convs(self)
        if weights is not None:
            load_weights(self, weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to one map (B, 40, H/4, W/4)."""
        x = self.stem(images)
        maps: list[Tensor] = self.stage0([transition(x) for transition in self.transition0])
        maps = self.stage1([*maps, self.transition1["2"](maps[-1])])
        maps = self.stage2([*maps, self.transition2["3"](maps[-1])])
        return [self.head_layer(maps)]


class Stem(nn.Module):
    """(B, 3, H, W) to (B, channels, H/4, W/4); half of the channels take a longer way."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = conv_norm(3, channels, 3, stride=2)
        self.branch1 = nn.Sequential(
            conv_norm(half, half, 3, stride=2, groups=half, activation=None), conv_norm(half, half)
        )
        self.expand_conv = conv_norm(half, channels)
        self.depthwise_conv = conv_norm(channels, channels, 3, stride=2, groups=channels, activation=None)
        self.linear_conv = conv_norm(channels, half)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, channels, H/4, W/4)."""
        short, long = self.conv1(images).chunk(2, 1)
        long = self.linear_conv(self.depthwise_conv(self.expand_conv(long)))
        return shuffle_channels(torch.cat([self.branch1(short), long], 1), 2)


class LiteModule(nn.Module):
    """Two conditional blocks over all branches, then a fusion."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(ConditionalBlock(channels), ConditionalBlock(channels))
        self.fuse_layers = LiteFusion(channels, range(len(channels)), separable)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """All maps to maps of the same shapes."""
        fused: list[Tensor] = self.fuse_layers(self.layers(maps))
        return fused


class LiteFusion(Fusion):
    """HRNet's fusion as published weights of Lite-HRNet were trained.

    What the finest map stands for is counted twice, and all other maps receive the finest sum in place of that map.
    """

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """All maps to all maps."""
        finest = self._doubled(maps, 0)
        maps = [finest, *maps[1:]]
        return [torch.relu(finest), *(torch.relu(self._doubled(maps, row)) for row in self.rows[1:])]

    def _doubled(self, maps: list[Tensor], row: int) -> Tensor:
        parts = self.parts(maps, row)
        return sum(parts, parts[0])


class Head(nn.Module):
    """From the coarsest map on, each is projected, enlarged and added to the next finer one.

    Args:
        channels: of the maps, coarsest first.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.projects = nn.ModuleList()
        for width, finer in zip(channels, [*channels[1:], channels[-1]], strict=True):
            parts: OrderedDict[str, nn.Module] = OrderedDict(
                depthwise_conv=conv_norm(width, width, 3, groups=width, activation=None),
                pointwise_conv=conv_norm(width, finer),
            )
            self.projects.append(nn.Sequential(parts))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, finest first, to one of the finest size."""
        x: Tensor = self.projects[0](maps[-1])
        for project, finer in zip(self.projects[1:], reversed(maps[:-1]), strict=True):
            x = project(finer + functional.interpolate(x, finer.shape[-2:], mode="bilinear", align_corners=True))
        return x


class ConditionalBlock(nn.Module):
    """Weights half of the channels of every branch across resolutions, convolves them, weights them again.

    Maps (B, C_i, h / 2**i, w / 2**i) keep their shapes.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        halves = [width // 2 for width in channels]
        self.cross_resolution_weighting = CrossResolutionWeighting(halves)
        self.depthwise_convs = nn.ModuleList(conv_norm(half, half, 3, groups=half, activation=None) for half in halves)
        self.spatial_weighting = nn.ModuleList(ChannelWeighting(half) for half in halves)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """All maps to maps of the same shapes."""
        kept, changed = zip(*(x.chunk(2, 1) for x in maps), strict=True)
        changed = self.cross_resolution_weighting(changed)
        parts = zip(kept, changed, self.depthwise_convs, self.spatial_weighting, strict=True)
        return [shuffle_channels(torch.cat([a, weigh(conv(b))], 1), 2) for a, b, conv, weigh in parts]


class CrossResolutionWeighting(nn.Module):
    """Multiplies every map with weights that all maps together, seen at the coarsest resolution, decide on."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = list(channels)
        total = sum(channels)
        self.conv1 = conv_norm(total, total // CROSS_RATIO)
        self.conv2 = conv_norm(total // CROSS_RATIO, total, activation=nn.Sigmoid)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """(B, C_i, h / 2**i, w / 2**i) each to the same shapes."""
        factors = [2**i for i in reversed(range(len(maps)))]
        pooled = [functional.avg_pool2d(x, factor) for x, factor in zip(maps, factors, strict=True)]
        weights = self.conv2(self.conv1(torch.cat(pooled, 1))).split(self.channels, 1)  # of the coarsest size
        return [x * functional.interpolate(w, x.shape[-2:]) for x, w in zip(maps, weights, strict=True)]
