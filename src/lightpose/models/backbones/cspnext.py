"""CSPNeXt: the backbone of RTMDet and RTMPose."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.backbones.layers import conv_norm, maps_of
from lightpose.models.backbones.timm import select_levels
from lightpose.models.base import FeatureModule
from lightpose.models.weights import load_weights

CHANNELS = (64, 128, 256, 512, 1024)
BLOCKS = (3, 6, 6, 3)
POOLS = (5, 9, 13)

_conv = partial(conv_norm, activation=partial(nn.SiLU, inplace=True))


class CSPNeXt(FeatureModule):
    """Cross-stage partial network with large depthwise kernels (arXiv:2212.07784).

    (B, 3, H, W) normalised RGB to maps of ``128 * widen * 2**i`` channels at stride ``4 * 2**i``. Tensors are called as
    in the published code, so published weights fit by name. Stages behind the deepest map asked for don't exist.

    Args:
        deepen: factor on the number of blocks: 0.167, 0.33, 0.67, 1 and 1.33 are published.
        widen: factor on the channels: 0.375, 0.5, 0.75, 1 and 1.25 are published.
        out_indices: which of the four maps to give, finest first; negative ones count from the end; None gives all.
        weights: start from this file (`lightpose.models.weights.load_weights`).

    Raises:
        UserError: for a factor that isn't positive, an index that isn't there, or weights that can't be had.
    """

    def __init__(
        self,
        deepen: float = 0.67,
        widen: float = 0.75,
        out_indices: Sequence[int] | None = (-1,),
        *,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if min(deepen, widen) <= 0:
            raise UserError(f"CSPNeXt needs positive factors, got deepen={deepen} and widen={widen}; 1 and 1 is size l")
        stem, *channels = (int(width * widen) for width in CHANNELS)
        strides = [4, 8, 16, 32]
        self.out_indices = select_levels(out_indices, strides)
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self.strides = tuple(strides[i] for i in self.out_indices)

        half = int(CHANNELS[0] * widen // 2)
        self.stem = nn.Sequential(_conv(3, half, 3, stride=2), _conv(half, half, 3), _conv(half, stem, 3))
        self.depth = self.out_indices[-1] + 1
        for i in range(self.depth):
            count, last = max(round(BLOCKS[i] * deepen), 1), i == len(BLOCKS) - 1
            layers: list[nn.Module] = [_conv([stem, *channels][i], channels[i], 3, stride=2)]
            layers += [PooledPyramid(channels[i])] if last else []
            block = partial(Block, residual=not last)
            layers += [CSPLayer(channels[i], channels[i], count, block, attention=ChannelAttention)]
            self.add_module(f"stage{i + 1}", nn.Sequential(*layers))
        if weights is not None:
            load_weights(self, weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the maps of ``out_indices``."""
        stages = [self.get_submodule(f"stage{i + 1}") for i in range(self.depth)]
        return maps_of(stages, self.stem(images), self.out_indices)


class CSPLayer(nn.Module):
    """Half of the channels pass through blocks, half don't; both are fused.

    Args:
        in_channels: of the map.
        out_channels: of the result.
        count: of blocks.
        block: builds one from its channels.
        conv: builds a 1x1 convolution with norm and activation from its channels in and out.
        attention: builds from their channels what weighs both halves before they are fused.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        count: int,
        block: Callable[[int], nn.Module],
        conv: Callable[[int, int], nn.Module] = _conv,
        attention: Callable[[int], nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        width = out_channels // 2
        self.main_conv, self.short_conv = conv(in_channels, width), conv(in_channels, width)
        self.blocks = nn.Sequential(*(block(width) for _ in range(count)))
        self.attention = attention(2 * width)
        self.final_conv = conv(2 * width, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) to (B, out, h, w)."""
        both = torch.cat([self.blocks(self.main_conv(x)), self.short_conv(x)], 1)
        fused: Tensor = self.final_conv(self.attention(both))
        return fused


class Block(nn.Module):
    """A 3x3 convolution, then a depthwise 5x5 and a 1x1 one."""

    def __init__(self, width: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.conv1 = _conv(width, width, 3)
        depthwise, pointwise = _conv(width, width, 5, groups=width), _conv(width, width)
        self.conv2 = nn.Sequential(OrderedDict(depthwise_conv=depthwise, pointwise_conv=pointwise))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        out: Tensor = self.conv2(self.conv1(x))
        return x + out if self.residual else out


class ChannelAttention(nn.Module):
    """Channels scaled by what a linear layer makes of their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        return x * nn.functional.hardsigmoid(self.fc(x.mean((-2, -1), keepdim=True)))


class PooledPyramid(nn.Module):
    """A map next to its maxima over growing windows, fused (SPP, arXiv:1406.4729).

    Args:
        channels: in and out.
        conv: builds a 1x1 convolution with norm and activation from its channels in and out.
    """

    def __init__(self, channels: int, conv: Callable[[int, int], nn.Module] = _conv) -> None:
        super().__init__()
        width = channels // 2
        self.conv1 = conv(channels, width)
        self.conv2 = conv(width * (1 + len(POOLS)), channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        x = self.conv1(x)
        pooled = [nn.functional.max_pool2d(x, side, stride=1, padding=side // 2) for side in POOLS]
        fused: Tensor = self.conv2(torch.cat([x, *pooled], 1))
        return fused
