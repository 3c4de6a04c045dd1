"""Distances between predicted and labelled joints in space, in mm: MPJPE, P-MPJPE, N-MPJPE and the error of velocity.

Poses are compared from their root. Only joints labelled with v > 0 count, and they alone align a pose with its label.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lightpose.errors import UserError
from lightpose.metrics.base import PoseMetric
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses


def scaled(predicted: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Poses (N, K, 3), each times the factor that brings its masked joints (N, K) nearest to ``truth``."""
    own = predicted * mask[..., None]
    factor = (own * truth).sum((1, 2)) / own.square().sum((1, 2)).clamp_min(_LEAST)
    return predicted * factor[:, None, None]


def procrustes(predicted: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Poses (N, K, 3) moved, turned and scaled so that their masked joints (N, K) are nearest to ``truth``.

    A pose is never mirrored. Poses that are not finite stay as they are.
    """
    finite = predicted.isfinite().flatten(1).all(1)[:, None, None]
    weights = mask[..., None].to(predicted.dtype)
    count = weights.sum(1, keepdim=True).clamp_min(1)
    given = torch.where(finite, predicted, 0.0)
    center, aim = (given * weights).sum(1, keepdim=True) / count, (truth * weights).sum(1, keepdim=True) / count
    own, wanted = given - center, (truth - aim) * weights
    left, values, right = torch.linalg.svd(own.mT @ wanted)  # (N, 3, 3), (N, 3), (N, 3, 3)
    signs = torch.ones_like(values)
    signs[:, 2] = torch.sign(torch.linalg.det(left @ right))
    factor = (values * signs).sum(1) / (own * weights).square().sum((1, 2)).clamp_min(_LEAST)
    aligned = factor[:, None, None] * own @ (left * signs[:, None]) @ right + aim
    return torch.where(finite, aligned, predicted)


_LEAST = 1e-12  # square mm: of a pose that is one point


class MPJPE(PoseMetric):
    """Mean distances in mm; where the data tells actions, of each action too, as ``MPJPE_mm/Walking``.

    ``MPJPE_mm`` compares poses from their root, ``P-MPJPE_mm`` after `procrustes`, ``N-MPJPE_mm`` after `scaled`.
    ``MPJVE_mm`` compares how joints move from a frame to the next of the same clip (arXiv:1811.11742), in mm per frame
    of the data; NaN where the data tells no clips.

    Args:
        skeleton: the keypoints.
        root: names of the joints whose mean is the root; None takes `Skeleton.roots`.
    """

    higher_is_better = False
    figures = ("MPJPE_mm", "P-MPJPE_mm", "N-MPJPE_mm", "MPJVE_mm")

    def __init__(self, skeleton: Skeleton, root: Sequence[str] | None = None) -> None:
        count = skeleton.num_keypoints
        super().__init__(
            image_ids=torch.empty(0, dtype=torch.int64),
            predicted=torch.empty(0, count, 3),
            truth=torch.empty(0, count, 3),
            mask=torch.empty(0, count, dtype=torch.bool),
        )
        self._root = skeleton.roots(root)
        self._frames: dict[int, Mapping[str, Any]] = {}

    def set_ground_truth(self, coco: Mapping[str, Any]) -> None:
        """Take the action and the clip of each frame, where ``images`` have them."""
        self._frames = {image["id"]: image for image in coco["images"]}

    def update(self, poses: Poses, batch: Batch) -> None:
        """Add poses in mm, anywhere before the camera; ids of labels are those of their frames.

        Raises:
            UserError: for poses or labels of the plane.
        """
        rows, frames = poses.batch_index, poses.extras.get("frame", torch.zeros_like(poses.batch_index))
        truth = batch.instances.keypoints[rows, frames]
        if truth.shape[-1] != 3 or poses.keypoints.shape[-1] != 3:
            raise UserError("MPJPE compares joints in space; use metric=epe for keypoints of images")
        visible = batch.instances.visible[rows, frames] > 0
        mask = visible & batch.instances.valid[rows, frames, None] & visible[:, self._root].all(1, keepdim=True)
        own, wanted = (
            points.float() - points[:, self._root].float().mean(1, keepdim=True) for points in (poses.keypoints, truth)
        )
        self.append(poses, batch, image_ids=batch.instances.ids[rows, frames], predicted=own, truth=wanted, mask=mask)

    def compute(self) -> dict[str, Tensor]:
        """The figures over all labelled joints, then those of each action; NaN where there are none."""
        rows = self.rows()
        predicted, mask = rows["predicted"].double(), rows["mask"]
        truth = torch.where(mask[..., None], rows["truth"].double(), 0.0)
        frames = [self._frames.get(image_id, {}) for image_id in rows["image_ids"].tolist()]
        follows = torch.tensor(
            [
                previous.get("clip") is not None and previous["clip"] == frame.get("clip")
                for previous, frame in pairwise(frames)
            ],
            dtype=torch.bool,
        )
        motion = predicted.diff(dim=0) - truth.diff(dim=0)
        moved = mask[1:] & mask[:-1] & follows[:, None]
        errors = {
            "MPJPE_mm": (predicted - truth, mask),
            "P-MPJPE_mm": (procrustes(predicted, truth, mask) - truth, mask),
            "N-MPJPE_mm": (scaled(predicted, truth, mask) - truth, mask),
            "MPJVE_mm": (motion, moved),
        }
        figures = {name: error.norm(dim=-1)[counts].mean() for name, (error, counts) in errors.items()}
        for action in sorted({frame["action"] for frame in frames if frame.get("action")}):
            member = torch.tensor([frame.get("action") == action for frame in frames])
            for name, (error, counts) in errors.items():
                own = member[len(member) - len(error) :]
                figures[f"{name}/{action}"] = error[own].norm(dim=-1)[counts[own]].mean()
        return figures
