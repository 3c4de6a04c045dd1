"""The neck of RT-DETR, as RTMO has it."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightpose.errors import UserError
from lightpose.models.backbones.layers import conv_norm
from lightpose.models.base import FeatureModule
from lightpose.models.necks.concat import check_pyramid

_conv = partial(conv_norm, activation=partial(nn.SiLU, inplace=True))
_plain = partial(conv_norm, activation=None)


class HybridEncoder(FeatureModule):
    """Self-attention over the coarsest map, then a pyramid down and up again (RT-DETR, arXiv:2304.08069).

    Tensors are called as in the published code, but for those of the attention.

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map, increasing.
        out_channels: of every level that comes out.
        out_indices: which levels come out, finest first.
        hidden: channels inside.
        blocks: of each fusion: 1, 2 and 3 are s, m and l.
        expansion: channels of the blocks, relative to ``hidden``: 0.5, 0.75 and 1 are s, m and l.
        attention_heads: of the self-attention.
        feedforward: channels inside the feed-forward part of the attention.

    Raises:
        UserError: when the strides do not increase, or a level is asked for that isn't there.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        out_channels: int = 256,
        out_indices: Sequence[int] = (1, 2),
        hidden: int = 256,
        blocks: int = 1,
        expansion: float = 0.5,
        attention_heads: int = 8,
        feedforward: int = 1024,
    ) -> None:
        super().__init__()
        check_pyramid("hybrid_encoder", strides)
        if not out_indices or not all(0 <= index < len(strides) for index in out_indices):
            raise UserError(
                f"neck.out_indices={list(out_indices)} must name some of {len(strides)} levels, counted from 0"
            )
        self.out_indices, steps = tuple(out_indices), len(strides) - 1
        self.out_channels = (out_channels,) * len(self.out_indices)
        self.strides = tuple(strides[index] for index in self.out_indices)
        width = int(hidden * expansion)
        self.input_proj = nn.ModuleList(_plain(channels, hidden) for channels in in_channels)
        self.encoder = nn.TransformerEncoderLayer(
            hidden, attention_heads, feedforward, dropout=0.0, activation="gelu", batch_first=True
        )
        self.lateral_convs = nn.ModuleList(_conv(hidden, hidden) for _ in range(steps))
        self.fpn_blocks = nn.ModuleList(CSPRepLayer(2 * hidden, width, hidden, blocks) for _ in range(steps))
        up = max(self.out_indices)
        self.downsample_convs = nn.ModuleList(_conv(hidden, hidden, 3, stride=2) for _ in range(up))
        self.pan_blocks = nn.ModuleList(CSPRepLayer(2 * hidden, width, hidden, blocks) for _ in range(up))
        outs = nn.ModuleList(_plain(hidden, out_channels) for _ in self.out_indices)
        self.projector = nn.ModuleDict({"convs": outs})

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """A map of each level of ``out_indices``."""
        maps = [conv(feature) for conv, feature in zip(self.input_proj, features, strict=True)]
        level, narrow = self._attended(maps[-1]), []
        for lateral, block, finer in zip(self.lateral_convs, self.fpn_blocks, reversed(maps[:-1]), strict=True):
            narrow.append(lateral(level))
            larger = functional.interpolate(narrow[-1], size=finer.shape[-2:], mode="nearest")
            level = block(torch.cat([larger, finer], 1))
        levels = [level]
        for downsample, block, same in zip(self.downsample_convs, self.pan_blocks, reversed(narrow), strict=False):
            levels.append(block(torch.cat([downsample(levels[-1]), same], 1)))
        outs: nn.ModuleList = self.projector.get_submodule("convs")  # type: ignore[assignment]
        return [conv(levels[index]) for conv, index in zip(outs, self.out_indices, strict=True)]

    def _attended(self, maps: Tensor) -> Tensor:
        """The map (B, C, h, w) after its cells have looked at each other; queries and keys know their places."""
        height, width = maps.shape[-2:]
        layer, tokens = self.encoder, maps.flatten(2).mT  # (B, h w, C)
        placed = tokens + sine_places(height, width, tokens.shape[-1], tokens)
        mixed, _ = layer.self_attn(placed, placed, tokens, need_weights=False)
        tokens = layer.norm1(tokens + mixed)
        tokens = layer.norm2(tokens + layer.linear2(functional.gelu(layer.linear1(tokens))))
        return tokens.mT.unflatten(2, (height, width))


class CSPRepLayer(nn.Module):
    """Blocks beside a 1x1 convolution, added.

    Args:
        in_channels: of the map.
        width: of the blocks.
        out_channels: of the result.
        count: of blocks.
    """

    def __init__(self, in_channels: int, width: int, out_channels: int, count: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(in_channels, width), _conv(in_channels, width)
        self.bottlenecks = nn.Sequential(*(RepBlock(width) for _ in range(count)))
        self.conv3 = _conv(width, out_channels) if width != out_channels else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, h, w) to (B, out, h, w)."""
        fused: Tensor = self.conv3(self.bottlenecks(self.conv1(x)) + self.conv2(x))
        return fused


class RepBlock(nn.Module):
    """A 3x3 and a 1x1 convolution side by side (arXiv:2101.03697)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch_3x3, self.branch_1x1 = _plain(width, width, 3), _plain(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        return functional.silu(self.branch_3x3(x) + self.branch_1x1(x))


def sine_places(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """(height * width, channels): cosines and sines of the row, then of the column."""
    rows, columns = (torch.arange(side, device=like.device) for side in (height, width))
    places = torch.cartesian_prod(rows, columns)  # (h w, 2)
    return sine_waves(places, channels // 2, 10000.0).flatten(-2).to(like.dtype)


def sine_waves(positions: Tensor, channels: int, temperature: float) -> Tensor:
    """(..., channels) float32: cosines, then sines, of positions (...) at speeds from 1 down to 1 / temperature."""
    steps = torch.arange(channels // 2, device=positions.device, dtype=torch.float32) / (channels // 2)
    angles = positions.float()[..., None] * temperature**-steps
    return torch.cat([angles.cos(), angles.sin()], -1)
