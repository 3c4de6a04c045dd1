"""Where a keypoint is as a probability, and how good the best guess will be (ProbPose, arXiv:2412.02254)."""

import math

import torch
from torch import Tensor

from lightpose.codecs.base import Codec
from lightpose.codecs.grid import MapGrid
from lightpose.codecs.maps import labelled_cells, nobody, on_device, one_pose_per_row
from lightpose.codecs.peaks import argmax_cells
from lightpose.errors import UserError
from lightpose.geometry import Grid
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses, Spec, Targets

LEAST_SIGMA, LARGEST_SIGMA = 0.55, 3.0
"""Cells, between which published code keeps the width of a keypoint's OKS."""
LOGITS = ("presence", "visible", "oks")
STEPS = 5


class ProbPoseCodec(Codec):
    """Maps ``heatmap`` (K, h, w) of sum 1, and for each keypoint the logits ``presence``, ``visible`` and ``oks`` (K).

    A map is the probability of each cell to be the keypoint's place. The pose is where the expected OKS is largest. Its
    scores are the OKS that the network expects there, times the probability that the keypoint is in the input at all.
    `Poses.visibility` is the probability of v=2 among v=2 and v=1; the extras ``presence`` and ``expected_oks`` are the
    two factors of the score.

    OKS depends on the person's area, which is taken for a share of the input here. Round trip: a map with all
    probability in one cell gives the middle of that cell.

    Args:
        skeleton: gives K, the mirror pairs, the weights and the widths of OKS.
        input_hw: network input size.
        grid: which input pixel a map cell stands for.
        stride: input pixels per map cell.
        person_share: the person's area over the input's.

    Raises:
        UserError: for a share that is none.
    """

    def __init__(
        self, skeleton: Skeleton, input_hw: tuple[int, int], grid: Grid, stride: int = 4, person_share: float = 0.34
    ) -> None:
        if not 0 < person_share <= 1:
            raise UserError(f"codec.person_share={person_share} must be a share of the input, such as 0.34")
        self.map_grid = MapGrid(input_hw, grid, stride)
        self.mirror_lag = self.map_grid.mirror_lag
        count, map_hw = skeleton.num_keypoints, self.map_grid.map_hw
        targets = frozenset({"heatmap", "presence", "visible", "sigmas"})
        self.spec = Spec({"heatmap": (count, *map_hw), **dict.fromkeys(LOGITS, (count,))}, input_hw, targets)
        root = math.sqrt(person_share * math.prod(map_hw))
        self._sigmas = (2 * root * torch.tensor(skeleton.sigmas)).clamp(LEAST_SIGMA, LARGEST_SIGMA)  # (K,) cells
        self._loss_weights, self._swap = torch.tensor(skeleton.weights), torch.tensor(skeleton.swap)

    def encode(self, batch: Batch) -> Targets:
        """Of the first instance of each row, with weights (B, K).

        ``heatmap`` (B, K, h, w) is the OKS that each cell would get, of keypoints inside the input. ``presence`` says
        of labelled keypoints whether they are inside, and is 0 where nobody is; ``visible`` counts inside. ``sigmas``
        (B, K) are the deviations of OKS in cells.
        """
        instances = batch.instances
        cells, labels = labelled_cells(batch.instances, self.map_grid, 0.5)
        inside, (x, y) = labels[:, 0], cells[:, 0].unbind(-1)  # (B, K)
        height, width = self.map_grid.map_hw
        sigmas = on_device(self._sigmas, inside)
        maps = closeness(y, height, sigmas)[..., :, None] * closeness(x, width, sigmas)[..., None, :]
        labelled = ((instances.visible[:, 0] > 0) & instances.valid[:, :1]).float()
        weights = inside * on_device(self._loss_weights, inside)
        return Targets(
            {
                "heatmap": maps * inside[..., None, None],
                "presence": inside,
                "visible": (instances.visible[:, 0] > 1).float() * inside,
                "sigmas": sigmas.expand_as(inside),
            },
            {
                "heatmap": weights,
                "presence": labelled + nobody(instances),
                "visible": inside,
                "sigmas": weights,
            },
        )

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """One pose per row in input pixels."""
        maps = outputs["heatmap"].float()  # (B, K, h, w)
        sigmas = on_device(self._sigmas, maps).expand(maps.shape[:2])
        presence, visible, oks = (outputs[name].float().sigmoid() for name in LOGITS)
        points = best_points(maps, sigmas)
        poses = one_pose_per_row(self.map_grid.to_input(points, maps.shape[-2:]), presence * oks)
        extras = {"presence": presence, "expected_oks": oks}
        return Poses(
            poses.keypoints, poses.keypoint_scores, poses.scores, poses.batch_index, visibility=visible, extras=extras
        )

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input; an involution."""
        swap = on_device(self._swap, outputs["heatmap"])
        swapped = {name: output.index_select(1, swap) for name, output in outputs.items()}
        return {**swapped, "heatmap": swapped["heatmap"].flip(-1)}


def closeness(points: Tensor, length: int, sigmas: Tensor) -> Tensor:
    """(..., length): what each cell of one axis has of the OKS of a keypoint at ``points`` (...)."""
    distance = torch.arange(length, device=points.device) - points[..., None]
    return torch.exp(-(distance**2) / (2 * sigmas[..., None] ** 2))


def expected_oks(maps: Tensor, sigmas: Tensor) -> Tensor:
    """(B, K, h, w): the OKS to expect of each cell, of probabilities (B, K, h, w) and deviations (B, K) in cells."""
    height, width = maps.shape[-2:]
    rows, columns = (
        closeness(torch.arange(side, device=maps.device).float(), side, sigmas[..., None]) for side in (height, width)
    )  # (B, K, side, side)
    return rows @ maps @ columns


def best_points(maps: Tensor, sigmas: Tensor) -> Tensor:
    """(B, K, 2) cells, not whole ones, of the largest expected OKS: the highest cell, then steps of mean shift."""
    height, width = maps.shape[-2:]
    points = argmax_cells(expected_oks(maps, sigmas))[0].float()
    for _ in range(STEPS):
        x, y = points.unbind(-1)
        columns, rows = closeness(x, width, sigmas), closeness(y, height, sigmas)  # (B, K, w), (B, K, h)
        of_columns = torch.einsum("bkhw,bkh->bkw", maps, rows) * columns
        of_rows = torch.einsum("bkhw,bkw->bkh", maps, columns) * rows
        points = torch.stack([_mean(of_columns, x), _mean(of_rows, y)], -1)
    return points


def _mean(shares: Tensor, otherwise: Tensor) -> Tensor:
    """(B, K): the mean cell of shares (B, K, cells), or ``otherwise`` where they are zero."""
    total = shares.sum(-1)
    cells = torch.arange(shares.shape[-1], device=shares.device, dtype=shares.dtype)
    return torch.where(total > 1e-12, (shares * cells).sum(-1) / total.clamp_min(1e-12), otherwise)
