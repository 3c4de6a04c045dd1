"""The head of RTMPose: coordinates as classes, after keypoints have looked at each other."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightpose.models.base import Criterion, Head
from lightpose.models.heads.heatmap import start_small
from lightpose.models.heads.simcc import map_hw, profile_shapes, start_near_zero
from lightpose.structures import Spec


class RTMCCHead(Head):
    """A map per keypoint, flattened to a token each, a gated attention unit over tokens, a linear layer for each axis.

    After RTMPose (arXiv:2303.07399). It reads the last feature map, and takes inputs of one size only.

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map.
        spec: what the codec expects.
        criterion: the loss.
        kernel: side of the convolution that makes the maps.
        hidden: length of a token.
        expansion: how many times longer it is inside the gated attention unit.
        attention: length of queries and keys.
        stages: how often the features go through these maps.
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
        cells = math.prod(map_hw(spec, strides[-1]))
        self.final = nn.Conv2d(in_channels[-1], count, kernel, padding="same")
        start_small(self.final)
        self.norm, self.embed = ScaleNorm(), nn.Linear(cells, hidden, bias=False)
        self.gau = GatedAttention(hidden, hidden * expansion, attention)
        self.to_x, self.to_y = nn.Linear(hidden, bins_x, bias=False), nn.Linear(hidden, bins_y, bias=False)
        start_near_zero(self.embed, self.to_x, self.to_y)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """``x`` and ``y``, each (B, K, bins)."""
        maps = self.final(features[-1]).flatten(2)  # (B, K, h w)
        tokens = self.gau(self.embed(self.norm(maps)))  # (B, K, hidden)
        return {"x": self.to_x(tokens), "y": self.to_y(tokens)}


class ScaleNorm(nn.Module):
    """The last dimension divided by its root mean square, times one learnt number (arXiv:1910.05895)."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, tokens: Tensor) -> Tensor:
        """The same shape."""
        mean_square = tokens.float().square().mean(-1, keepdim=True)
        scaled: Tensor = tokens * mean_square.clamp_min(1e-10).rsqrt() * self.gain
        return scaled


class GatedAttention(nn.Module):
    """Gated attention unit: attention with squared ReLU and one shared base of queries and keys (arXiv:2202.10447).

    Args:
        width: of a token.
        inner: of values and gates.
        attention: of queries and keys.
    """

    def __init__(self, width: int, inner: int, attention: int) -> None:
        super().__init__()
        self.sizes = [inner, inner, attention]
        self.norm = ScaleNorm()
        self.uv = nn.Linear(width, sum(self.sizes), bias=False)
        self.gamma, self.beta = nn.Parameter(torch.rand(2, attention)), nn.Parameter(torch.rand(2, attention))
        self.out = nn.Linear(inner, width, bias=False)
        self.shortcut = nn.Parameter(torch.ones(width))
        nn.init.xavier_uniform_(self.uv.weight)
        start_near_zero(self.out)

    def forward(self, tokens: Tensor, places: Tensor | None = None) -> Tensor:
        """(B, K, width) to the same shape; ``places`` (K, attention) are added to what queries and keys are made of."""
        gates, values, base = functional.silu(self.uv(self.norm(tokens))).split(self.sizes, -1)
        base = base if places is None else base + places
        queries, keys = (base[..., None, :] * self.gamma + self.beta).unbind(-2)  # (B, K, attention) each
        weights = (queries @ keys.mT / math.sqrt(queries.shape[-1])).relu().square()  # (B, K, K)
        mixed: Tensor = tokens * self.shortcut + self.out(gates * (weights @ values))
        return mixed
