"""The neck of YOLOX, and what it shares with others."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightpose.models.backbones.cspdarknet import csp_layer, yolox_conv
from lightpose.models.base import FeatureModule
from lightpose.models.necks.concat import check_pyramid


class PAFPN(FeatureModule):
    """A feature pyramid with a second way, back from fine to coarse (PAFPN, arXiv:1803.01534), of CSP layers.

    Tensors are called as in the published code.

    Args:
        name: of the neck, for messages.
        in_channels: channels of each feature map.
        strides: of each feature map, increasing.
        conv: builds a convolution from its channels in and out, its kernel and its stride.
        layer: builds what fuses two maps from its channels in and out.

    Raises:
        UserError: when the strides do not increase.
    """

    def __init__(
        self,
        name: str,
        in_channels: Sequence[int],
        strides: Sequence[int],
        conv: Callable[..., nn.Module],
        layer: Callable[[int, int], nn.Module],
    ) -> None:
        super().__init__()
        check_pyramid(name, strides)
        steps = list(pairwise(in_channels))
        down = list(reversed(steps))
        self.reduce_layers = nn.ModuleList(conv(coarse, fine) for fine, coarse in down)
        self.top_down_blocks = nn.ModuleList(layer(2 * fine, fine) for fine, _ in down)
        self.downsamples = nn.ModuleList(conv(fine, fine, 3, stride=2) for fine, _ in steps)
        self.bottom_up_blocks = nn.ModuleList(layer(2 * fine, coarse) for fine, coarse in steps)

    def fused(self, features: Sequence[Tensor]) -> list[Tensor]:
        """A map of each level, finest first, with the channels that came in."""
        level, narrow = features[-1], []
        for reduce, block, finer in zip(self.reduce_layers, self.top_down_blocks, reversed(features[:-1]), strict=True):
            narrow.append(reduce(level))
            larger = functional.interpolate(narrow[-1], size=finer.shape[-2:], mode="nearest")
            level = block(torch.cat([larger, finer], 1))
        levels = [level]
        for downsample, block, same in zip(self.downsamples, self.bottom_up_blocks, reversed(narrow), strict=True):
            levels.append(block(torch.cat([downsample(levels[-1]), same], 1)))
        return levels


class YOLOXPAFPN(PAFPN):
    """`PAFPN` of YOLOX, whose levels all come out, with the same channels.

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map, increasing.
        out_channels: of every level; None takes those of the finest feature map.
        blocks: of each CSP layer: 1, 1, 2 and 3 are tiny, s, m and l.

    Raises:
        UserError: when the strides do not increase.
    """

    def __init__(
        self, in_channels: Sequence[int], strides: Sequence[int], out_channels: int | None = None, blocks: int = 1
    ) -> None:
        layer = partial(csp_layer, count=blocks, residual=False)
        super().__init__("yolox_pafpn", in_channels, strides, yolox_conv, layer)
        width = out_channels or in_channels[0]
        self.out_channels, self.strides = (width,) * len(in_channels), tuple(strides)
        self.out_convs = nn.ModuleList(yolox_conv(channels, width) for channels in in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """A map of each level, finest first."""
        return [conv(level) for conv, level in zip(self.out_convs, self.fused(features), strict=True)]
