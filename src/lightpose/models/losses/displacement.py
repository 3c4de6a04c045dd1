"""Losses of ``heatmap`` (B, K, h, w) and ``displacement`` (B, K, 2, h, w)."""

import torch.nn.functional as F
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.structures import Targets


class DisplacementLoss(nn.Module):
    """`KeypointMSE` of heatmaps, and smooth L1 (arXiv:1504.08083) of displacements, averaged over those with a weight.

    Args:
        displacement_weight: factor on the loss of displacements.
        beta: error in cells below which it is squared; 0 for the plain absolute error.
    """

    def __init__(self, displacement_weight: float = 0.002, beta: float = 1 / 9) -> None:
        super().__init__()
        if beta < 0:
            raise UserError(f"criterion.beta={beta} must be at least 0; 1/9 is the published value")
        self.displacement_weight, self.beta = displacement_weight, beta
        self.heatmap = KeypointMSE()

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The losses ``heatmap`` and ``displacement``; 0 when nothing has a weight."""
        target = targets.maps["displacement"]
        error = F.smooth_l1_loss(outputs["displacement"], target, reduction="none", beta=self.beta)
        weights = targets.weights["displacement"].expand_as(error)
        away = (error * weights).sum() / (weights > 0).sum().clamp_min(1)
        return {**self.heatmap(outputs, targets), "displacement": self.displacement_weight * away}
