"""Errors of two hands in space, as InterHand2.6M measures them."""

import torch
from torch import Tensor

from lightpose.errors import UserError
from lightpose.geometry import apply_affine
from lightpose.metrics.base import PoseMetric
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses


class HandsMPJPE(PoseMetric):
    """Distances in mm of hands from their roots, and of the roots from each other (arXiv:2008.09309).

    Keypoints go to the camera's frame with the true depth of the root of their hand. Only labelled keypoints of hands
    whose root is labelled count. The figures:

    - ``MPJPE_mm``: mean distance, each hand compared from its root; ``MPJPE_mm/single`` where one hand is labelled,
      ``MPJPE_mm/interacting`` where both are.
    - ``MRRPE_mm``: mean distance of the left root seen from the right one, of pairs whose roots are labelled.
    - ``handedness_accuracy``: share of the samples in which just the hands are expected (with a probability above 0.5)
      that have labelled keypoints.

    Args:
        skeleton: names of the keypoints of hands begin with ``right_`` and ``left_``; others don't count.
        roots: names of the right and of the left root.
    """

    higher_is_better = False
    figures = ("MPJPE_mm", "MPJPE_mm/single", "MPJPE_mm/interacting", "MRRPE_mm", "handedness_accuracy")

    def __init__(self, skeleton: Skeleton, roots: tuple[str, str] = ("right_wrist", "left_wrist")) -> None:
        count = skeleton.num_keypoints
        super().__init__(
            distances=torch.empty(0, count),
            mask=torch.empty(0, count, dtype=torch.bool),
            between_roots=torch.empty(0),
            rooted=torch.empty(0, 2, dtype=torch.bool),
            hands=torch.empty(0, 2, dtype=torch.bool),
            expected=torch.empty(0, 2, dtype=torch.bool),
        )
        self._roots = skeleton.indices(list(roots))
        self._sides = [
            torch.tensor([name.startswith(side) for name in skeleton.keypoints]) for side in ("right_", "left_")
        ]

    def update(self, poses: Poses, batch: Batch) -> None:
        """Add poses of image pixels with the extras of codec=hands, one for each row of the batch.

        Raises:
            UserError: for poses without depth, and for data without depth or cameras.
        """
        rows, extras = poses.batch_index, poses.extras
        if not {"depth_mm", "root_depth_mm", "right_hand", "left_hand"} <= set(extras):
            raise UserError("metric=hands compares hands in depth, which codec=hands finds; use metric=epe for others")
        labels = batch.instances.keypoints[rows, 0]
        if labels.shape[-1] != 3 or batch.cameras is None:
            raise UserError("metric=hands needs depth and the camera of each image; use a reader that gives both")
        truth = apply_affine(batch.image_from_input[rows], labels)  # (N, K, 3)
        known = (batch.instances.visible[rows, 0] > 0) & batch.instances.valid[rows, :1]  # (N, K)
        cameras, mask = batch.cameras[rows].float(), torch.zeros_like(known)
        distances = torch.zeros_like(truth[..., 0])
        seen, wanted = poses.keypoints[..., :2].float(), _in_space(truth, cameras)
        for root, side in zip(self._roots, self._sides, strict=True):
            depth = truth[:, root, 2:] + extras["depth_mm"]
            own = _in_space(torch.cat([seen, depth[..., None]], -1), cameras)
            error = (own - own[:, root, None]) - (wanted - wanted[:, root, None])
            here = side.to(known.device)
            distances = torch.where(here, error.norm(dim=-1), distances)
            mask = mask | (here & known & known[:, root, None])
        self.append(
            poses,
            batch,
            distances=distances,
            mask=mask,
            between_roots=self._between_roots(poses, truth, cameras),
            rooted=known[:, self._roots],
            hands=torch.stack([(known & side.to(known.device)).any(1) for side in self._sides], 1),
            expected=torch.stack([extras["right_hand"], extras["left_hand"]], 1) > 0.5,
        )

    def _between_roots(self, poses: Poses, truth: Tensor, cameras: Tensor) -> Tensor:
        """(N,) mm: how far the left root is from where it should be, both seen from the right one."""
        depth = truth[:, self._roots[:1], 2] + poses.extras["depth_mm"][:, self._roots]  # (N, 2)
        depth = torch.stack([depth[:, 0], depth[:, 1] + poses.extras["root_depth_mm"]], 1)
        own = _in_space(torch.cat([poses.keypoints[:, self._roots, :2].float(), depth[..., None]], -1), cameras)
        wanted = _in_space(truth[:, self._roots], cameras)
        return ((own[:, 1] - own[:, 0]) - (wanted[:, 1] - wanted[:, 0])).norm(dim=-1)

    def compute(self) -> dict[str, Tensor]:
        """The figures; NaN where there is nothing to measure."""
        rows = self.rows()
        distances, mask, hands = rows["distances"].double(), rows["mask"], rows["hands"]
        both, labelled = hands.all(1), hands.any(1)
        found = (
            distances[mask].mean(),
            distances[mask & ~both[:, None]].mean(),
            distances[mask & both[:, None]].mean(),
            rows["between_roots"].double()[rows["rooted"].all(1)].mean(),
            (hands == rows["expected"])[labelled].all(1).double().mean(),
        )
        return dict(zip(self.figures, found, strict=True))


def _in_space(points: Tensor, cameras: Tensor) -> Tensor:
    """(N, K, 3) mm in the camera's frame of image pixels and depths, by intrinsic matrices (N, 3, 3)."""
    focal = torch.stack([cameras[:, 0, 0], cameras[:, 1, 1]], -1)[:, None]
    depth = points[..., 2:]
    return torch.cat([(points[..., :2] - cameras[:, None, :2, 2]) / focal * depth, depth], -1)
