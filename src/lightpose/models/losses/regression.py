"""Losses of coordinates: ``keypoints`` (B, K, D), with weights that broadcast from the left.

Published recipes average over all elements, those of weight 0 included, and their learning rates depend on that; so do
these, unless they say otherwise. A loss is 0 when nothing has a weight.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightpose.errors import UserError
from lightpose.models.losses.weighting import expand
from lightpose.structures import Targets


class SmoothL1(nn.Module):
    """Absolute error, squared near zero (arXiv:1504.08083).

    Args:
        beta: error below which it is squared, in the unit of the keypoints; 0 for the plain absolute error.
        labelled_only: average over the elements that have a weight, not over all.
    """

    def __init__(self, beta: float = 1.0, labelled_only: bool = False) -> None:
        super().__init__()
        if beta < 0:
            raise UserError(f"criterion.beta={beta} must be at least 0; 1 is the published value, 0 is plain L1")
        self.beta, self.labelled_only = beta, labelled_only

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The loss ``keypoints``."""
        loss = functional.smooth_l1_loss(
            outputs["keypoints"], targets.maps["keypoints"], reduction="none", beta=self.beta
        )
        weights = expand(targets.weights["keypoints"], loss).expand_as(loss)
        count = (weights > 0).sum().clamp_min(1) if self.labelled_only else loss.numel()
        return {"keypoints": (loss * weights).sum() / count}


class CoordinateMSE(nn.Module):
    """Squared error."""

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The loss ``keypoints``."""
        error = _error(outputs, targets)
        return {"keypoints": (error.square() * expand(targets.weights["keypoints"], error)).mean()}


class Wing(nn.Module):
    """Wing loss (arXiv:1711.06753): a logarithm for small errors. Summed over K and D, averaged over the batch.

    Args:
        omega: error beyond which the loss is linear.
        epsilon: curvature of the logarithm.
    """

    def __init__(self, omega: float = 10.0, epsilon: float = 2.0) -> None:
        super().__init__()
        _check_positive(omega=omega, epsilon=epsilon)
        self.omega, self.epsilon = omega, epsilon

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The loss ``keypoints``."""
        error = _error(outputs, targets).abs()
        curve = self.omega * torch.log1p(error / self.epsilon)
        line = error - self.omega + self.omega * math.log1p(self.omega / self.epsilon)
        return _summed(torch.where(error < self.omega, curve, line), targets)


class SoftWing(nn.Module):
    """Soft wing loss (Lin et al., TIP 2021): linear for small errors, then a logarithm.

    Summed over K and D, averaged over the batch.

    Args:
        omega1: error below which the loss is linear.
        omega2: height of the logarithm.
        epsilon: curvature of the logarithm.
    """

    def __init__(self, omega1: float = 2.0, omega2: float = 20.0, epsilon: float = 0.5) -> None:
        super().__init__()
        _check_positive(omega1=omega1, omega2=omega2, epsilon=epsilon)
        self.omega1, self.omega2, self.epsilon = omega1, omega2, epsilon

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The loss ``keypoints``."""
        error = _error(outputs, targets).abs()
        start = self.omega1 - self.omega2 * math.log1p(self.omega1 / self.epsilon)
        curve = self.omega2 * torch.log1p(error / self.epsilon) + start
        return _summed(torch.where(error < self.omega1, error, curve), targets)


def _error(outputs: dict[str, Tensor], targets: Targets) -> Tensor:
    return outputs["keypoints"] - targets.maps["keypoints"]


def _summed(loss: Tensor, targets: Targets) -> dict[str, Tensor]:
    return {"keypoints": (loss * expand(targets.weights["keypoints"], loss)).sum() / len(loss)}


def _check_positive(**options: float) -> None:
    wrong = [f"criterion.{name}={value}" for name, value in options.items() if value <= 0]
    if wrong:
        raise UserError(f"{' and '.join(wrong)} must be positive")
