"""Losses of heatmaps.

Published recipes average over all elements, those of weight 0 included, and their learning rates depend on that; so do
these. A loss is 0 when nothing has a weight.
"""

import torch
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.losses.weighting import expand
from lightpose.structures import Targets


class KeypointMSE(nn.Module):
    """Weighted squared error of ``heatmap`` (B, K, h, w), averaged over B, K, h and w (arXiv:1804.06208)."""

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The loss ``heatmap``."""
        return {"heatmap": _squared_error(outputs, targets).mean()}


class KeypointOHKM(nn.Module):
    """`KeypointMSE` over the hardest keypoints of each person only (CPN, arXiv:1711.07319).

    Args:
        top_k: how many; at most K.
    """

    def __init__(self, top_k: int = 8) -> None:
        super().__init__()
        if top_k < 1:
            raise UserError(f"criterion.top_k={top_k} must be at least 1; 8 is the published value")
        self.top_k = top_k

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The loss ``heatmap``.

        Raises:
            UserError: when there are fewer than ``top_k`` keypoints.
        """
        errors = _squared_error(outputs, targets).mean((-2, -1))  # (B, K)
        if errors.shape[1] < self.top_k:
            raise UserError(
                f"criterion.top_k={self.top_k} asks for more keypoints than the skeleton's {errors.shape[1]}; "
                f"set head.criterion.top_k to {errors.shape[1]} or less"
            )
        return {"heatmap": errors.topk(self.top_k).values.mean()}


class AdaptiveWing(nn.Module):
    """Adaptive wing loss (arXiv:1904.07399) of ``heatmap`` (B, K, h, w) with targets in [0, 1]; higher ones count as 1.

    Small errors count more near a peak, and like a squared error on the background.

    Args:
        alpha: exponent on the background; it is ``alpha - 1`` on a peak, so more than 1 keeps gradients finite.
        omega: height of the curve for small errors.
        epsilon: width of the curve for small errors.
        theta: error beyond which the loss is linear.
    """

    def __init__(self, alpha: float = 2.1, omega: float = 14.0, epsilon: float = 1.0, theta: float = 0.5) -> None:
        super().__init__()
        if alpha <= 2 or min(omega, epsilon, theta) <= 0:
            raise UserError(
                f"AdaptiveWing needs alpha > 2 and positive omega, epsilon and theta, got alpha={alpha}, "
                f"omega={omega}, epsilon={epsilon}, theta={theta}; the published values are 2.1, 14, 1 and 0.5"
            )
        self.alpha, self.omega, self.epsilon, self.theta = alpha, omega, epsilon, theta

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The loss ``heatmap``."""
        target = targets.maps["heatmap"].clamp_max(1)
        error = (outputs["heatmap"] - target).abs()
        power = self.alpha - target
        ratio = self.theta / self.epsilon
        slope = self.omega * power * ratio ** (power - 1) / (1 + ratio**power) / self.epsilon
        curve = self.omega * torch.log1p((error / self.epsilon) ** power)
        line = slope * (error - self.theta) + self.omega * torch.log1p(ratio**power)
        loss = torch.where(error < self.theta, curve, line)
        return {"heatmap": (loss * expand(targets.weights["heatmap"], loss)).mean()}


class HeatmapOffsetMSE(nn.Module):
    """Half the squared error of ``heatmap`` (B, K, h, w) and of ``offset`` (B, K, 2, h, w) within the target disk.

    The offset's dx and dy are summed, all else is averaged over all elements (arXiv:1911.07524).
    """

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The losses ``heatmap`` and ``offset``."""
        disk = targets.maps["heatmap"][:, :, None]
        offset = (disk * (outputs["offset"] - targets.maps["offset"])).square()
        offset = offset * expand(targets.weights["offset"], offset)
        return {"heatmap": _squared_error(outputs, targets).mean() / 2, "offset": offset.sum(2).mean() / 2}


def _squared_error(outputs: dict[str, Tensor], targets: Targets) -> Tensor:
    error = (outputs["heatmap"] - targets.maps["heatmap"]).square()
    return error * expand(targets.weights["heatmap"], error)
