"""A head whose coordinates are means of its heatmaps."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.base import Criterion
from lightpose.models.heads.heatmap import HeatmapHead
from lightpose.structures import Spec

LARGEST_CORRECTION = 10.0


class IntegralHead(HeatmapHead):
    """``heatmap`` (K, h, w), a softmax over all cells, and its mean ``keypoints`` (K, 2) as shares of the map's size.

    Integral regression (arXiv:1711.08229), and with a loss of the maps DSNT (arXiv:1801.07372). Softmax and mean are
    in float32 under autocast.

    Args:
        in_channels: see `HeatmapHead`.
        strides: see `HeatmapHead`.
        spec: see `HeatmapHead`.
        criterion: see `HeatmapHead`.
        upsample: see `HeatmapHead`.
        channels: see `HeatmapHead`.
        stages: see `HeatmapHead`.
        groups: see `HeatmapHead`.
        hidden: see `HeatmapHead`.
        beta: factor of the logits before the softmax.
        debiased: take the background's part out of the mean, as cells whose logit is 0 pull it to the map's middle
            (arXiv:2110.13434). A map that is mostly background is moved from the middle by no more than ten times.
        stored_places: keep the place of each column and row among the weights, as published ones do.

    Raises:
        UserError: when the features can't be upsampled to the map's size, or ``beta`` is not positive.
    """

    emits = frozenset({"heatmap", "keypoints"})

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        spec: Spec,
        criterion: Criterion,
        upsample: Literal["deconv", "bilinear"] = "deconv",
        channels: int = 256,
        stages: int = 1,
        groups: int = 1,
        hidden: int | None = None,
        beta: float = 1.0,
        debiased: bool = False,
        stored_places: bool = False,
    ) -> None:
        if beta <= 0:
            raise UserError(f"head.beta={beta} must be positive; published values are 1, and 10 if debiased")
        super().__init__(in_channels, strides, spec, criterion, upsample, channels, stages, groups, hidden)
        self.beta, self.debiased = beta, debiased
        self.columns = self.rows = None
        if stored_places:
            height, width = self.map_hw
            self.columns = nn.Parameter(torch.arange(width).view(1, 1, 1, -1) / width, requires_grad=False)
            self.rows = nn.Parameter(torch.arange(height).view(1, 1, -1, 1) / height, requires_grad=False)

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, shaped (B, *spec.outputs[name])."""
        logits = super().forward(features)["heatmap"].float() * self.beta
        maps = logits.flatten(-2).softmax(-1).view_as(logits)  # (B, K, h, w)
        correction = self._correction(logits) if self.debiased else 1.0
        x, y = _mean(maps.sum(-2), correction, self.columns), _mean(maps.sum(-1), correction, self.rows)
        return {"heatmap": maps, "keypoints": torch.stack([x, y], -1)}

    def _correction(self, logits: Tensor) -> Tensor:
        """(B, K): how many times further from the map's middle the mean lies without the background."""
        height, width = logits.shape[-2:]
        log_share = math.log(height * width) - logits.flatten(-2).logsumexp(-1)  # of the background in the softmax
        return 1 / (1 - log_share.clamp_max(0).exp()).clamp_min(1 / LARGEST_CORRECTION)


def _mean(shares: Tensor, correction: Tensor | float, places: Tensor | None) -> Tensor:
    """(B, K): the mean cell over the number of cells, of shares (B, K, cells) of sum 1.

    ``places`` are used as the cells over their number, where there are as many.
    """
    cells = shares.shape[-1]
    if places is None or places.numel() != cells:
        places = torch.arange(cells, device=shares.device, dtype=shares.dtype) / cells
    middle = (cells - 1) / (2 * cells)
    return middle + (shares * (places.flatten() - middle)).sum(-1) * correction
