"""The head of ProbPose: a map of probabilities, and what is to be expected of it."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lightpose.codecs.probpose import LOGITS
from lightpose.models.base import Criterion, Head
from lightpose.models.heads.heatmap import HeatmapHead
from lightpose.models.heads.visibility import PooledLogits
from lightpose.structures import Spec


class ProbPoseHead(Head):
    """``heatmap`` (K, h, w) of sum 1 by sparsemax, and the logits ``presence``, ``visible`` and ``oks`` (K).

    After ProbPose (arXiv:2412.02254). The logits are pooled from the features, to which no gradient of theirs goes
    back. Sparsemax (arXiv:1602.02068) gives most cells exactly 0.

    Args:
        in_channels: see `lightpose.models.heads.heatmap.HeatmapHead`.
        strides: likewise.
        spec: likewise.
        criterion: the loss.
        upsample: see `lightpose.models.heads.heatmap.HeatmapHead`.
        channels: likewise.
        width: channels of the convolution before the logits.
        stages: how often the features go through these maps.
    """

    emits = frozenset({"heatmap", *LOGITS})

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        spec: Spec,
        criterion: Criterion,
        upsample: Literal["deconv", "bilinear"] = "deconv",
        channels: int = 256,
        width: int = 128,
        stages: int = 1,
    ) -> None:
        super().__init__()
        shape = spec.outputs[LOGITS[0]] or ()
        self.maps = HeatmapHead(in_channels, strides, spec, criterion, upsample, channels, stages)
        self.criterion = criterion
        self.logits = PooledLogits(in_channels[-1], width, len(LOGITS) * (shape[0] or 0))

    @property
    def needs(self) -> frozenset[str]:
        """``oks`` has no target: it is measured."""
        return frozenset({"heatmap", "presence", "visible", "sigmas"})

    def forward(self, features: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name, shaped (B, *spec.outputs[name])."""
        maps = self.maps(features)["heatmap"].float()
        logits = self.logits(features[-1]).chunk(len(LOGITS), 1)
        return {"heatmap": sparsemax(maps.flatten(-2)).view_as(maps), **dict(zip(LOGITS, logits, strict=True))}


def sparsemax(scores: Tensor) -> Tensor:
    """The nearest distribution (..., n) to ``scores`` (..., n), mostly zeros (arXiv:1602.02068)."""
    ordered = scores.sort(-1, descending=True).values
    ranks = torch.arange(1, scores.shape[-1] + 1, device=scores.device, dtype=scores.dtype)
    excess = ordered.cumsum(-1) - 1
    support = (ordered * ranks > excess).sum(-1, keepdim=True).clamp_min(1)  # scores that aren't finite have none
    threshold = excess.gather(-1, support - 1) / support
    return (scores - threshold).clamp_min(0)
