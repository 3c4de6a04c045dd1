"""CSPDarknet: the backbone of YOLOX."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.backbones.cspnext import CSPLayer, PooledPyramid
from lightpose.models.backbones.layers import conv_norm, maps_of
from lightpose.models.backbones.timm import select_levels
from lightpose.models.base import FeatureModule
from lightpose.models.weights import load_weights

CHANNELS = (64, 128, 256, 512, 1024)
BLOCKS = (3, 9, 9, 3)

yolox_norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
yolox_conv = partial(conv_norm, activation=partial(nn.SiLU, inplace=True), norm=yolox_norm)


class CSPDarknet(FeatureModule):
    """Cross-stage partial Darknet as YOLOX has it (arXiv:2107.08430).

    (B, 3, H, W) to maps of ``128 * widen * 2**i`` channels at stride ``4 * 2**i``. Tensors are called as in the
    published code, so published weights fit by name. Stages behind the deepest map asked for don't exist.

    Args:
        deepen: factor on the number of blocks: 0.33, 0.33, 0.67 and 1 are tiny, s, m and l.
        widen: factor on the channels: 0.375, 0.5, 0.75 and 1 are tiny, s, m and l.
        out_indices: which of the four maps to give, finest first; negative ones count from the end; None gives all.
        weights: start from this file (`lightpose.models.weights.load_weights`).

    Raises:
        UserError: for a factor that isn't positive, an index that isn't there, or weights that can't be had.
    """

    def __init__(
        self,
        deepen: float = 0.33,
        widen: float = 0.5,
        out_indices: Sequence[int] | None = (1, 2, 3),
        *,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if min(deepen, widen) <= 0:
            raise UserError(f"CSPDarknet needs positive factors, got deepen={deepen} and widen={widen}; 1 and 1 is l")
        channels, strides = [int(width * widen) for width in CHANNELS], [4, 8, 16, 32]
        self.out_indices = select_levels(out_indices, strides)
        self.out_channels = tuple(channels[i + 1] for i in self.out_indices)
        self.strides = tuple(strides[i] for i in self.out_indices)
        self.stem = nn.Sequential(OrderedDict(focus=Focus(), conv=yolox_conv(12, channels[0], 3)))
        self.depth = self.out_indices[-1] + 1
        for i in range(self.depth):
            last = i == len(BLOCKS) - 1
            layers: list[nn.Module] = [yolox_conv(channels[i], channels[i + 1], 3, stride=2)]
            layers += [PooledPyramid(channels[i + 1], yolox_conv)] if last else []
            layers += [csp_layer(channels[i + 1], channels[i + 1], max(round(BLOCKS[i] * deepen), 1), not last)]
            self.add_module(f"stage{i + 1}", nn.Sequential(*layers))
        if weights is not None:
            load_weights(self, weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the maps of ``out_indices``."""
        stages = [self.get_submodule(f"stage{i + 1}") for i in range(self.depth)]
        return maps_of(stages, self.stem(images), self.out_indices)


class Focus(nn.Module):
    """The four pixels of each 2x2 square as channels: top left, bottom left, top right, bottom right.

    A last row or column without a partner is repeated.
    """

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 4 C, H / 2, W / 2)."""
        missing = [images.shape[-1] % 2, images.shape[-2] % 2]
        if any(missing):
            images = nn.functional.pad(images, [0, missing[0], 0, missing[1]], mode="replicate")
        return torch.cat([images[..., y::2, x::2] for x in (0, 1) for y in (0, 1)], 1)


def csp_layer(in_channels: int, out_channels: int, count: int, residual: bool) -> CSPLayer:
    """Of YOLOX's blocks, which add their input to their output if ``residual``."""
    return CSPLayer(in_channels, out_channels, count, partial(Block, residual=residual), yolox_conv)


class Block(nn.Module):
    """A 1x1 convolution, then a 3x3 one."""

    def __init__(self, width: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.conv1, self.conv2 = yolox_conv(width, width), yolox_conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        out: Tensor = self.conv2(self.conv1(x))
        return x + out if self.residual else out
