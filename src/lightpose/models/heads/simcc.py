"""The head of SimCC: coordinates as classes."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.base import Criterion, Head
from lightpose.models.heads.heatmap import deconvs, start_small
from lightpose.structures import Spec


class SimCCHead(Head):
    """A map per keypoint, flattened, then one linear layer for each axis (arXiv:2107.03332).

    It reads the last feature map. The linear layers have as many inputs as that has cells, so the network takes inputs
    of one size only.

    Args:
        in_channels: channels of each feature map.
        strides: of each feature map.
        spec: what the codec expects.
        criterion: the loss.
        upsample_to: stride that transposed convolutions bring the features to; None for none of them.
        channels: of each transposed convolution.
        stages: how often the features go through these maps.
        groups: of each transposed convolution.
    """

    emits = frozenset({"x", "y"})

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        spec: Spec,
        criterion: Criterion,
        upsample_to: int | None = None,
        channels: int = 256,
        stages: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.criterion = criterion
        count, bins_x, bins_y = profile_shapes(spec)
        factor = 1.0 if upsample_to is None else max(strides[-1] / upsample_to, 1.0)
        self.upsample, width = deconvs(factor, in_channels[-1], channels, groups)
        self.final = nn.Conv2d(width, count, 1)
        start_small(self.final)
        cells = round(math.prod(map_hw(spec, strides[-1])) * factor**2)
        self.to_x, self.to_y = nn.Linear(cells, bins_x), nn.Linear(cells, bins_y)
        start_near_zero(self.to_x, self.to_y)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """``x`` and ``y``, each (B, K, bins)."""
        maps = self.final(self.upsample(features[-1])).flatten(2)  # (B, K, h w)
        return {"x": self.to_x(maps), "y": self.to_y(maps)}


def profile_shapes(spec: Spec) -> tuple[int, int, int]:
    """K, and the bins along x and y."""
    (count, bins_x), (_, bins_y) = (shape or () for shape in (spec.outputs["x"], spec.outputs["y"]))
    assert count is not None and bins_x is not None and bins_y is not None
    return count, bins_x, bins_y


def map_hw(spec: Spec, stride: int) -> tuple[int, int]:
    """Size of a feature map.

    Raises:
        UserError: when inputs are not images.
    """
    if spec.input_hw is None:
        raise UserError("a SimCC head needs a codec of images, but this codec's spec has no input_hw")
    return -(-spec.input_hw[0] // stride), -(-spec.input_hw[1] // stride)


def start_near_zero(*layers: nn.Linear) -> None:
    """Weights so small that no class stands out at first."""
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.01)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
