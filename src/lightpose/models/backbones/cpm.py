"""Convolutional pose machines: large kernels that look at what the stage before them believed."""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.backbones.layers import conv_norm, init_convs
from lightpose.models.base import FeatureModule
from lightpose.models.weights import load_weights

WIDTH = 128
NARROW = 32


class CPM(FeatureModule):
    """Convolutional pose machine (arXiv:1602.00134), with batch norms.

    (B, 3, H, W) normalised RGB to maps of stride 8 from each stage, of any input size. Tensors are called as in the
    published code, so published pose weights fit by name.

    Args:
        maps: channels that each stage gives, and the next one reads; published networks have one for each keypoint.
        stages: how many there are; the first sees the image alone.
        weights: file to start from (`lightpose.models.weights.load_weights`).

    Raises:
        UserError: for less than two stages, or weights that can't be had.
    """

    def __init__(self, maps: int = 17, stages: int = 6, *, weights: str | Path | None = None) -> None:
        super().__init__()
        if stages < 2:
            raise UserError(f"backbone.stages={stages} must be at least 2; published networks have 6")
        self.stages, self.out_channels, self.strides = stages, (maps,), (8,)
        self.stem = nn.Sequential(
            *_shrink(),
            conv_norm(WIDTH, NARROW, 5),
            conv_norm(NARROW, 512, 9),
            conv_norm(512, 512),
            _plain(512, maps),
        )
        self.middle = nn.Sequential(*_shrink())
        later = range(stages - 1)
        self.middle_conv = nn.ModuleList(nn.Sequential(conv_norm(WIDTH, NARROW, 5)) for _ in later)
        self.cpm_stages = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    model=nn.Sequential(
                        *(conv_norm(before, WIDTH, 11) for before in (NARROW + maps, WIDTH, WIDTH)),
                    )
                )
            )
            for _ in later
        )
        self.out_convs = nn.ModuleList(nn.Sequential(conv_norm(WIDTH, WIDTH), _plain(WIDTH, maps)) for _ in later)
        init_convs(self)
        if weights is not None:
            load_weights(self, weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the maps (B, maps, H/8, W/8) of each stage."""
        stages: list[Tensor] = [self.stem(images)]
        seen = self.middle(images)  # (B, 128, H/8, W/8)
        for look, think, say in zip(self.middle_conv, self.cpm_stages, self.out_convs, strict=True):
            stages.append(say(think(torch.cat([stages[-1], look(seen)], 1))))
        return stages


def _shrink() -> list[nn.Module]:
    """Three convolutions, each of which is halved after it."""
    return [
        layer
        for before in (3, WIDTH, WIDTH)
        for layer in (conv_norm(before, WIDTH, 9), nn.MaxPool2d(3, stride=2, padding=1))
    ]


def _plain(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(in_channels, out_channels, 1)))
