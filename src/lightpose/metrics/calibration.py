"""How far scores of keypoints can be read as the OKS to expect."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightpose.metrics.keypoints import MatchedMetric
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Batch, Poses

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Keypoints whose scores are alike; figures are NaN where there are none.

    Attributes:
        name: the range of their scores.
        count: how many.
        score: their mean score.
        oks: their mean OKS.
    """

    name: str
    count: int
    score: float
    oks: float


class Calibration(MatchedMetric):
    """Scores of keypoints, which ProbPose (arXiv:2412.02254) means to be the OKS to expect, against the measured OKS.

    Of each pose and the one labelled instance of its sample, as `lightpose.metrics.keypoints.EPE`. The OKS is that of
    one keypoint, between 0 and 1. The figures:

    - ``calibration_error``: mean difference between score and OKS over ten bins of the score, weighted by their
      keypoints (arXiv:1706.04599).
    - ``OKS_at_score/0.0-0.1`` to ``OKS_at_score/0.9-1.0``: mean OKS of each bin; NaN where there are no such scores.

    Args:
        skeleton: the keypoints; its sigmas scale the similarity.
    """

    refuses_several = False
    higher_is_better = False
    figures = ("calibration_error", *(f"OKS_at_score/{low / BINS:.1f}-{(low + 1) / BINS:.1f}" for low in range(BINS)))

    def __init__(self, skeleton: Skeleton) -> None:
        empty = torch.empty(0, skeleton.num_keypoints)
        super().__init__(skeleton, oks=empty, keypoint_scores=empty)
        self.sigmas = skeleton.sigmas

    def append(self, poses: Poses, batch: Batch, **columns: Tensor) -> Tensor:
        """Keep scores and similarities beside the columns."""
        mine = {
            "oks": keypoint_oks(columns["distances"], poses, batch, self.sigmas),
            "keypoint_scores": poses.keypoint_scores,
        }
        return super().append(poses, batch, **columns, **mine)

    def compute(self) -> dict[str, float]:
        """The figures; NaN without labelled instances."""
        rows = self._of_lone(self.rows())
        counted = rows["visible"] & rows["keypoint_scores"].isfinite()
        bins = calibration(rows["keypoint_scores"][counted].numpy(), rows["oks"][counted].numpy())
        found = [calibration_error(bins), *(each.oks for each in bins)]
        return dict(zip(self.figures, found, strict=True))


def keypoint_oks(distances: Tensor, poses: Poses, batch: Batch, sigmas: Sequence[float]) -> Tensor:
    """(N, K): the OKS of each keypoint of N poses, by its distance (N, K) in image pixels; 0 where that isn't finite.

    The area is that of the first instance of each pose's sample.
    """
    linear = batch.image_from_input[poses.batch_index, :2, :2]
    (a, b), (c, d) = linear[:, 0].unbind(-1), linear[:, 1].unbind(-1)
    areas = batch.instances.areas[poses.batch_index, 0] * (a * d - b * c).abs()  # square image pixels
    spreads = 2 * areas[:, None] * (2 * distances.new_tensor(sigmas)) ** 2
    return torch.exp(-(distances**2) / spreads.clamp_min(1e-6)).nan_to_num(0)


def calibration(scores: Array, oks: Array) -> list[Bin]:
    """Ten bins of scores (n,), the outermost with what lies beyond 0 and 1, and the OKS (n,) that they get."""
    places = np.clip(np.floor(scores * BINS), 0, BINS - 1)
    bins = []
    for low in range(BINS):
        inside = places == low
        means = [float(values[inside].mean(dtype=np.float64)) if inside.any() else np.nan for values in (scores, oks)]
        bins.append(Bin(f"{low / BINS:.1f}-{(low + 1) / BINS:.1f}", int(inside.sum()), *means))
    return bins


def calibration_error(bins: Sequence[Bin]) -> float:
    """Mean difference between score and OKS, weighted by counts; NaN where there is nothing."""
    total = sum(each.count for each in bins)
    return sum(each.count * abs(each.score - each.oks) for each in bins if each.count) / total if total else np.nan
