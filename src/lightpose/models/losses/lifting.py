"""Losses of joints in space: ``joints`` (B, ..., K, 3) or ``motion`` (B, T, K, 3), with weights (B, ..., K).

As published recipes do, they average over all joints, those of weight 0 included, unless they say otherwise. A loss is
0 when nothing has a weight.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.losses.weighting import expand
from lightpose.structures import Targets


class MPJPE(nn.Module):
    """Distance between prediction and target, averaged over joints."""

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The loss ``joints``."""
        error = outputs["joints"] - targets.maps["joints"]
        return {"joints": (error * expand(targets.weights["joints"], error)).norm(dim=-1).mean()}


class JointMSE(nn.Module):
    """Squared error, averaged over joints and axes."""

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The loss ``joints``."""
        error = outputs["joints"] - targets.maps["joints"]
        return {"joints": (error.square() * expand(targets.weights["joints"], error)).mean()}


class MotionLoss(nn.Module):
    """Errors of position, of position after scaling, and of velocity, of ``motion`` (B, T, K, 3).

    The sum that MotionBERT (arXiv:2210.06551) and MotionAGFormer (arXiv:2310.16288) train with: MPJPE; N-MPJPE, for
    which each pose is scaled to be nearest to its target; and the distance between the motions of a joint from a frame
    to the next.

    Args:
        scaled: factor on N-MPJPE.
        velocity: factor on the error of velocity.
    """

    def __init__(self, scaled: float = 0.5, velocity: float = 20.0) -> None:
        super().__init__()
        self.scaled, self.velocity = scaled, velocity

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The losses ``position``, ``scaled`` and ``velocity``, the last of which is 0 where T is 1."""
        given, target = outputs["motion"], targets.maps["motion"]
        weights = expand(targets.weights["motion"], given)  # (B, T, K, 1)
        counts = (weights > 0).to(given.dtype)
        own = given * counts
        factor = (own * target).sum((-2, -1), keepdim=True) / own.square().sum((-2, -1), keepdim=True).clamp_min(1e-12)
        errors = {
            "position": given - target,
            "scaled": factor * given - target,
            "velocity": (given - target).diff(dim=1),
        }
        both = {"velocity": torch.minimum(weights[:, 1:], weights[:, :-1])}
        factors = {"scaled": self.scaled, "velocity": self.velocity}
        return {
            name: factors.get(name, 1.0)
            * (error * both.get(name, weights)).norm(dim=-1).sum()
            / max(error.shape[:-1].numel(), 1)
            for name, error in errors.items()
        }


class BoneLength(nn.Module):
    """Difference between the batch's mean bone lengths, predicted and labelled, averaged over bones (arXiv:1811.11742).

    A bone counts where both of its ends have a weight.

    Args:
        parents: of each joint, the one at the other end of its bone; the root's is the root itself.
    """

    ends: Tensor

    def __init__(self, parents: Sequence[int]) -> None:
        super().__init__()
        bones = [(child, parent) for child, parent in enumerate(parents) if child != parent]
        if not bones or not all(0 <= parent < len(parents) for parent in parents):
            raise UserError(
                f"criterion.parents={list(parents)} must name a keypoint, 0 to {len(parents) - 1}, for each keypoint; "
                "the root is its own parent"
            )
        self.register_buffer("ends", torch.tensor(bones).T, persistent=False)  # (2, bones)

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The loss ``bone``."""
        weights = targets.weights["joints"]
        counts = (weights[..., self.ends[0]] > 0) & (weights[..., self.ends[1]] > 0)  # (..., bones)
        predicted, labelled = (
            self._mean_lengths(points, counts) for points in (outputs["joints"], targets.maps["joints"])
        )
        return {"bone": (predicted - labelled).abs().mean()}

    def _mean_lengths(self, points: Tensor, counts: Tensor) -> Tensor:
        child, parent = points[..., self.ends[0], :], points[..., self.ends[1], :]
        lengths = (child - parent).norm(dim=-1) * counts  # (..., bones)
        return lengths.flatten(0, -2).sum(0) / counts.flatten(0, -2).sum(0).clamp_min(1)
