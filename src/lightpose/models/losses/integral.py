"""Losses of maps of sum 1, and of coordinates that are their means."""

from torch import Tensor, nn

from lightpose.models.base import Criterion
from lightpose.models.losses.weighting import expand
from lightpose.structures import Targets


class JensenShannon(nn.Module):
    """Jensen-Shannon divergence of ``heatmap`` (B, K, h, w) from its target, each of sum 1 (arXiv:1801.07372).

    Summed over K, averaged over the batch.
    """

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The loss ``heatmap``."""
        predicted, target = (maps.clamp_min(1e-24) for maps in (outputs["heatmap"], targets.maps["heatmap"]))
        middle = ((predicted + target) / 2).log()
        loss = (predicted * (predicted.log() - middle) + target * (target.log() - middle)) / 2
        return {"heatmap": (loss * expand(targets.weights["heatmap"], loss)).sum() / len(loss)}


class KeypointsAndHeatmap(nn.Module):
    """One loss of coordinates and one of maps.

    Args:
        keypoints: a loss named ``keypoints``, or more.
        heatmap: a loss with other names.
    """

    def __init__(self, keypoints: Criterion, heatmap: Criterion) -> None:
        super().__init__()
        self.keypoints, self.heatmap = keypoints, heatmap

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The losses of both."""
        return {**self.keypoints(outputs, targets), **self.heatmap(outputs, targets)}
