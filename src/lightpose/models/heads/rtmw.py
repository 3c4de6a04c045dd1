"""The head of RTMW: coordinates as classes, from two levels of features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.backbones.layers import conv_norm
from lightpose.models.base import Criterion, Head
from lightpose.models.heads.rtmcc import GatedAttention, ScaleNorm
from lightpose.models.heads.simcc import map_hw, profile_shapes, start_near_zero
from lightpose.structures import Spec


class RTMWHead(Head):
    """`RTMCCHead` whose tokens have two halves: of the last map, and of the one before it (RTMW, arXiv:2407.08634).

    The last map is also brought to the size of the one before it, by a pixel shuffle and a convolution, and joined
    with it, if there is one. It takes inputs of one size only.

    Args:
        in_channels: channels of each feature map, the last of them a multiple of 4.
        strides: of each feature map; the last is twice the one before it.
        spec: what the codec expects.
        criterion: the loss.
        kernel: side of the convolutions.
        hidden: length of a token.
        expansion: how many times longer it is inside the gated attention unit.
        attention: length of queries and keys.
        stages: how often the features go through these maps.

    Raises:
        UserError: for channels that can't be shuffled, and for a last map that is not half as large as the one before.
    """

    emits = frozenset({"x", "y"})

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        spec: Spec,
        criterion: Criterion,
        kernel: int = 7,
        hidden: int = 256,
        expansion: int = 2,
        attention: int = 128,
        stages: int = 1,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        count, bins_x, bins_y = profile_shapes(spec)
        height, width = map_hw(spec, strides[-1])
        finer = list(in_channels[-2:-1])
        if in_channels[-1] % 4 or (finer and map_hw(spec, strides[-2]) != (2 * height, 2 * width)):
            raise UserError(
                f"head=rtmw needs a last map of a multiple of 4 channels, half as large as the one before, but there "
                f"are {list(in_channels)} channels at strides {list(strides)} for input_hw={spec.input_hw}; use "
                "neck=cspnext_pafpn, and an input_hw that the last stride divides"
            )
        quarter = in_channels[-1] // 4
        self.shuffled = conv_norm(quarter, quarter, kernel)
        self.coarse = Tokens(in_channels[-1], count, kernel, height * width, hidden // 2)
        self.fine = Tokens(quarter + sum(finer), count, kernel, 4 * height * width, hidden // 2)
        self.gau = GatedAttention(hidden, hidden * expansion, attention)
        self.to_x, self.to_y = nn.Linear(hidden, bins_x, bias=False), nn.Linear(hidden, bins_y, bias=False)
        start_near_zero(self.to_x, self.to_y)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """``x`` and ``y``, each (B, K, bins)."""
        last = features[-1]
        larger = self.shuffled(nn.functional.pixel_shuffle(last, 2))  # (B, C / 4, 2 h, 2 w)
        fine = self.fine(torch.cat([larger, *features[-2:-1]], 1))
        tokens = self.gau(torch.cat([self.coarse(last), fine], -1))  # (B, K, hidden)
        return {"x": self.to_x(tokens), "y": self.to_y(tokens)}


class Tokens(nn.Module):
    """A map per keypoint, flattened to a token each.

    Args:
        in_channels: of the features.
        count: K.
        kernel: side of the convolution that makes the maps.
        cells: of a map.
        width: of a token.
    """

    def __init__(self, in_channels: int, count: int, kernel: int, cells: int, width: int) -> None:
        super().__init__()
        self.final = conv_norm(in_channels, count, kernel)
        self.norm, self.embed = ScaleNorm(), nn.Linear(cells, width, bias=False)
        start_near_zero(self.embed)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in, h, w) to (B, K, width)."""
        tokens: Tensor = self.embed(self.norm(self.final(maps).flatten(2)))
        return tokens
