"""Losses of CID (Wang and Zhang, CVPR 2022)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.structures import Targets


class CIDLoss(nn.Module):
    """`focal_loss` of the maps of everyone and of each person, and `info_nce` of people's features.

    Args:
        instance_weight: factor on the loss of each person's maps.
        contrast_weight: factor on `info_nce`.
        temperature: of `info_nce`.
    """

    def __init__(self, instance_weight: float = 4.0, contrast_weight: float = 1.0, temperature: float = 0.05) -> None:
        super().__init__()
        if temperature <= 0:
            raise UserError(f"criterion.temperature={temperature} must be positive; 0.05 is the published value")
        self.instance_weight, self.contrast_weight, self.temperature = instance_weight, contrast_weight, temperature

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The loss ``heatmap``, of everyone."""
        return {"heatmap": focal_loss(outputs["heatmap"], targets.maps["heatmap"], targets.weights["heatmap"])}

    def of_people(
        self, maps: Tensor, target: Tensor, weights: Tensor, features: Tensor, rows: Tensor
    ) -> dict[str, Tensor]:
        """The losses ``instance_heatmap`` and ``contrast`` of N people.

        Args:
            maps: (N, K, h, w) probabilities.
            target: (N, K, h, w).
            weights: broadcasts with it.
            features: (N, C).
            rows: (N,) which sample each is from.
        """
        return {
            "instance_heatmap": self.instance_weight * focal_loss(maps, target, weights),
            "contrast": self.contrast_weight * info_nce(features, rows, self.temperature),
        }


def focal_loss(probabilities: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Focal loss of Gaussian maps (CornerNet, arXiv:1808.01244): the sum over all cells, for each peak.

    Args:
        probabilities: those nearer to 0 or to 1 than a millionth count as that far off, so that it stays finite.
        target: of the same shape; 1 at peaks.
        weights: broadcasts with it.
    """
    probabilities = probabilities.clamp(1e-6, 1 - 1e-6)
    at_peak = (1 - probabilities) ** 2 * probabilities.log()
    elsewhere = probabilities**2 * (1 - probabilities).log() * (1 - target) ** 4
    peaks = (target == 1) & (weights > 0)
    return -(torch.where(target == 1, at_peak, elsewhere) * weights).sum() / peaks.sum().clamp_min(1)


def info_nce(features: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """How much features (N, C) of people in the same row resemble each other (arXiv:1807.03748), averaged over N."""
    unit = F.normalize(features, dim=1)
    logits = (unit[:, None] * unit[None]).sum(-1) / temperature  # (N, N)
    logits = logits.masked_fill(rows[:, None] != rows, -torch.inf)
    return -logits.log_softmax(1).diagonal().sum() / max(len(features), 1)
