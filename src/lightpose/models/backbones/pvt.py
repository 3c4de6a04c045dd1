"""PVT: a vision transformer whose maps get coarser, and whose keys are fewer than its queries."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional

from lightpose.models.backbones.timm import select_levels
from lightpose.models.base import FeatureModule
from lightpose.models.weights import load_weights

CHANNELS = (64, 128, 320, 512)
HEADS = (1, 2, 5, 8)
REDUCTIONS = (8, 4, 2, 1)
EXPANSIONS = (8, 8, 4, 4)
STRIDES = (4, 8, 16, 32)
TRAINED_ON = 224
"""Side of the square images of ImageNet; position embeddings are as large, and are resized to those at hand."""


class PVT(FeatureModule):
    """Pyramid vision transformer (arXiv:2102.12122), of which timm has only the second version.

    (B, 3, H, W) normalised RGB to maps of 64, 128, 320 and 512 channels at strides 4 to 32, of any input size. Tensors
    are called as in the published code, so published pose weights fit by name.

    Args:
        blocks: of the four stages: 3, 4, 6, 3 in PVT-Small.
        out_indices: which of the four maps to give, finest first; negative ones count from the end; None gives all.
            Stages behind the last of them don't exist.
        drop_path_rate: stochastic depth (arXiv:1603.09382) of the last block; it rises to that from 0.
        weights: file to start from (`lightpose.models.weights.load_weights`).

    Raises:
        UserError: for an index that isn't there, or weights that can't be had.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 6, 3),
        out_indices: Sequence[int] | None = (-1,),
        drop_path_rate: float = 0.1,
        *,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.out_indices = select_levels(out_indices, STRIDES)
        self.out_channels = tuple(CHANNELS[i] for i in self.out_indices)
        self.strides = tuple(STRIDES[i] for i in self.out_indices)
        rates = iter(torch.linspace(0, drop_path_rate, sum(blocks), device="cpu").tolist())
        before = 3
        self.layers = nn.ModuleList()
        for stage in range(self.out_indices[-1] + 1):
            width = CHANNELS[stage]
            patches = Patches(before, width, 2 if stage else 4)
            positions = Positions(width, TRAINED_ON // STRIDES[stage])
            encoders = (
                Encoder(width, HEADS[stage], REDUCTIONS[stage], EXPANSIONS[stage] * width, next(rates))
                for _ in range(blocks[stage])
            )
            self.layers.append(nn.Sequential(patches, nn.Sequential(positions, *encoders)))
            before = width
        if weights is not None:
            load_weights(self, weights)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to the maps of ``out_indices``."""
        x, maps = images, []
        for layer in self.layers:
            maps.append(x := layer(x))
        return [maps[i] for i in self.out_indices]


class Patches(nn.Module):
    """Squares of the map as vectors; zeros fill up the last ones."""

    def __init__(self, in_channels: int, out_channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.projection = nn.Conv2d(in_channels, out_channels, side, stride=side)
        self.norm = nn.LayerNorm(out_channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, out_channels, h / side, w / side), rounded up."""
        x = functional.pad(x, (0, -x.shape[-1] % self.side, 0, -x.shape[-2] % self.side))
        y: Tensor = self.norm(self.projection(x).movedim(1, -1))
        return y.movedim(-1, 1)


class Positions(nn.Module):
    """Adds an embedding of each place, learnt for a square map and resized to the one at hand."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.pos_embed = nn.Parameter(torch.zeros(1, side**2, channels))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        places = self.pos_embed.mT.unflatten(-1, (self.side, self.side))  # (1, C, side, side)
        return x + functional.interpolate(places, x.shape[-2:], mode="bilinear")


class Encoder(nn.Module):
    """Attention, then two linear layers, each added to its input."""

    def __init__(self, channels: int, heads: int, reduction: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = ReducedAttention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        wide, narrow = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
        layers = nn.Sequential(OrderedDict({"0": wide, "1": nn.GELU(), "3": narrow}))
        self.ffn = nn.Sequential(OrderedDict(layers=layers))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x.movedim(1, -1))))
        y: Tensor = self.ffn(self.norm2(x.movedim(1, -1)).movedim(-1, 1))
        return x + self.drop_path(y)


class ReducedAttention(nn.Module):
    """Attention of every place to squares of ``reduction`` x ``reduction`` places."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.reduction = reduction
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, stride=reduction)
            self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) to (B, C, h, w)."""
        places = keys = x.flatten(1, 2)  # (B, h w, C)
        if self.reduction > 1:
            keys = self.norm(self.sr(x.movedim(-1, 1)).flatten(2).mT)
        y: Tensor = self.attn(places, keys, keys, need_weights=False)[0]
        return y.mT.unflatten(-1, x.shape[1:3])
