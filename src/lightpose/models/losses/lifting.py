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
        self.register_buffer("ends", _bones(parents), persistent=False)  # (2, bones)

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


class HalfSupervised(nn.Module):
    """Losses of a batch of which a part is labelled, of ``joints`` (B, K, 3) and ``root`` (B, 3) (arXiv:1811.11742).

    Labelled samples are compared with their labels. Others are compared with where their keypoints are seen, once
    projected by the camera, and their mean bone lengths, as predicted, with those of labelled samples. A loss is a mean
    over the samples that it is for. The camera's lens doesn't bend.

    Args:
        parents: see `BoneLength`.
        projection: factor on the distance on the screen.
        bone: factor on the difference of bone lengths.
    """

    ends: Tensor

    def __init__(self, parents: Sequence[int], projection: float = 1.0, bone: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("ends", _bones(parents), persistent=False)
        self.projection, self.bone = projection, bone

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The losses ``joints``, ``root``, ``projection`` and ``bone``."""
        joints, root, maps, weights = outputs["joints"], outputs["root"], targets.maps, targets.weights
        labelled = (weights["joints"] > 0).any(1).to(joints.dtype)  # (B,)
        unlabelled = (weights["points"] > 0).any(1).to(joints.dtype)
        placed = joints + root[:, None]  # (B, K, 3)
        focal, center = maps["camera"][:, None].split(2, -1)
        seen = focal * placed[..., :2] / placed[..., 2:].clamp_min(_NEAREST) + center
        errors = {
            "joints": ((joints - maps["joints"]) * weights["joints"][..., None]).norm(dim=-1).mean(1),
            "root": ((root - maps["root"]) * weights["root"][:, None]).norm(dim=-1),
            "projection": self.projection
            * ((seen - maps["points"]) * weights["points"][..., None]).norm(dim=-1).mean(1),
        }
        counts = {"joints": labelled, "root": labelled, "projection": unlabelled}
        losses = {name: error.sum() / counts[name].sum().clamp_min(1) for name, error in errors.items()}
        lengths = (joints[:, self.ends[0]] - joints[:, self.ends[1]]).norm(dim=-1)  # (B, bones)
        own, others = ((lengths * share[:, None]).sum(0) / share.sum().clamp_min(1) for share in (labelled, unlabelled))
        both = labelled.amax() * unlabelled.amax()
        return {**losses, "bone": self.bone * both * (own - others).abs().mean()}


_NEAREST = 0.5
"""Metres: what is nearer to the camera is projected as if it were there."""


def _bones(parents: Sequence[int]) -> Tensor:
    """(2, bones) joints and their parents.

    Raises:
        UserError: for parents that are none.
    """
    bones = [(child, parent) for child, parent in enumerate(parents) if child != parent]
    if not bones or not all(0 <= parent < len(parents) for parent in parents):
        raise UserError(
            f"criterion.parents={list(parents)} must name a keypoint, 0 to {len(parents) - 1}, for each keypoint; "
            "the root is its own parent"
        )
    return torch.tensor(bones).T
