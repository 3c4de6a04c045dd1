"""Distances between predicted and labelled keypoints of matched instances: PCK, AUC, EPE and NME.

A pose answers the only labelled instance of its sample, as in top-down estimation with labelled boxes, or in an image
of one person. A person whom no pose answers doesn't count, nor does a pose in a detected box. Only keypoints labelled
with v > 0 count. What distances are divided by stands in the figure's name.
"""

import logging
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lightpose.errors import UserError
from lightpose.geometry import apply_affine
from lightpose.metrics.base import PoseMetric
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses

log = logging.getLogger(__name__)


def pck_per_joint(distances: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """Share of each joint's distances below ``threshold``.

    Args:
        distances: (N, K), in units of the normaliser.
        mask: (N, K) bool, distances that count.
        threshold: in units of the normaliser.

    Returns:
        (K,); NaN for a joint without data.
    """
    return ((distances < threshold) & mask).sum(0) / mask.sum(0)


def pck(distances: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """Percentage of correct keypoints as a share: mean of `pck_per_joint` over joints that have data."""
    return pck_per_joint(distances, mask, threshold).nanmean()


def auc(distances: Tensor, mask: Tensor, steps: int = 20) -> Tensor:
    """Area under the curve of `pck` over the thresholds 0, 1/steps, ..., 1 - 1/steps."""
    return torch.stack([pck(distances, mask, step / steps) for step in range(steps)]).mean()


def mean_distance(distances: Tensor, mask: Tensor) -> Tensor:
    """Mean of the distances (N, K) that count: the end-point error, or the normalised mean error."""
    return distances[mask].mean()


class MatchedMetric(PoseMetric):
    """Distances in image pixels between each pose and the instance of its sample.

    Args:
        skeleton: the keypoints.
        normalizer: what distances are divided by: ``bbox``, the longer side of the labelled box; two keypoint names,
            the distance between their labels; None, nothing.
        columns: more columns, see `PoseMetric`.

    Attributes:
        refuses_several: whether samples of several people, or with several poses, are refused; else they are left out.
        left_out: instances left out of the last figures because their normaliser is zero or not labelled.

    Raises:
        UserError: for a normaliser that the skeleton doesn't have.
    """

    refuses_several: ClassVar[bool] = True

    def __init__(self, skeleton: Skeleton, normalizer: str | Sequence[str] | None = None, **columns: Tensor) -> None:
        count = skeleton.num_keypoints
        super().__init__(
            distances=torch.empty(0, count),
            visible=torch.empty(0, count, dtype=torch.bool),
            norms=torch.empty(0),
            people=torch.empty(0, dtype=torch.int64),
            **columns,
        )
        self._ends = None if normalizer in (None, "bbox") else _ends(skeleton, normalizer)
        self._by_box = normalizer == "bbox"
        self._suffix = "bbox" if self._ends is None else "-".join(skeleton.keypoints[end] for end in self._ends)
        self.left_out = 0
        self._told = False

    def update(self, poses: Poses, batch: Batch) -> None:
        """Add poses, in image pixels.

        Raises:
            UserError: when samples hold several instances, so that it isn't known which one a pose answers.
        """
        labels = batch.instances
        if self.refuses_several and labels.keypoints.shape[1] != 1:
            raise UserError(
                f"{type(self).__name__} compares each pose with the one instance of its sample, but samples hold up to "
                f"{labels.keypoints.shape[1]}; use metric=oks for whole images"
            )
        rows = poses.batch_index
        image_from_input = batch.image_from_input[rows]
        truth = apply_affine(image_from_input, labels.keypoints[rows, 0, :, :2])
        visible = (labels.visible[rows, 0] > 0) & labels.valid[rows, 0, None]
        if self._ends is not None:
            start, end = self._ends
            norms = (truth[:, start] - truth[:, end]).norm(dim=-1) * (visible[:, start] & visible[:, end])
        elif self._by_box:
            corners = apply_affine(image_from_input, labels.boxes_xyxy[rows, 0].unflatten(-1, (2, 2)))  # (N, 2, 2)
            norms = (corners[:, 1] - corners[:, 0]).abs().amax(-1)
        else:
            norms = torch.ones_like(truth[:, 0, 0])
        distances = (poses.keypoints[..., :2].float() - truth).norm(dim=-1)
        people = labels.valid.sum(1)[rows]
        self.append(poses, batch, distances=distances, visible=visible, norms=norms, people=people)

    def distances_and_mask(self) -> tuple[Tensor, Tensor]:
        """Distances (N, K) over the normaliser, in float64, and which of them count, (N, K) bool.

        Raises:
            UserError: when a sample has several poses, if `refuses_several`.
        """
        rows = self._of_lone(self.rows())
        norms, visible = rows["norms"].double(), rows["visible"]
        defined = norms > 0
        self.left_out = int((visible.any(1) & ~defined).sum())
        if self.left_out:
            log.warning(
                "%s leaves out %d of %d instances: their normaliser (%s) is zero or not labelled",
                type(self).__name__,
                self.left_out,
                int(visible.any(1).sum()),
                self._suffix,
            )
        return rows["distances"].double() / norms[:, None], visible & defined[:, None]

    def _of_lone(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rows of samples with one pose and at most one person; nothing says who else a pose answers."""
        _, place, poses = rows["sample_keys"][:, 0].unique(return_inverse=True, return_counts=True)
        lone = (poses[place] == 1) & (rows["people"] <= 1)
        if lone.all():
            return rows
        if self.refuses_several:
            raise UserError(
                f"{type(self).__name__} needs one pose for each sample, but some samples have several; "
                "use metric=oks for whole images"
            )
        if not self._told and len(poses) > 1:  # of one, as before training, nothing is to be counted
            log.warning(
                "%s leaves out %d of %d images, in which several people are labelled or found: nothing says which pose "
                "is whose",
                type(self).__name__,
                len(place[~lone].unique()),
                len(poses),
            )
            self._told = True
        return {name: column[lone] for name, column in rows.items()}


def _ends(skeleton: Skeleton, normalizer: str | Sequence[str] | None) -> tuple[int, int]:
    """Indices of the two keypoints whose distance normalises."""
    if normalizer is None or isinstance(normalizer, str) or len(normalizer) != 2:
        raise UserError(f"normalizer={normalizer!r} is neither bbox nor two keypoint names, e.g. [left_hip, right_hip]")
    missing = [name for name in normalizer if name not in skeleton.keypoints]
    if missing:
        raise UserError(
            f"the normaliser is the distance from {normalizer[0]} to {normalizer[1]}, but skeleton {skeleton.name!r} "
            f"has no {' or '.join(missing)}; set `normalizer` to bbox or to two of {', '.join(skeleton.keypoints)}"
        )
    start, end = (skeleton.keypoints.index(name) for name in normalizer)
    return start, end


class PCK(MatchedMetric):
    """Share of keypoints nearer to their label than ``threshold`` times the normaliser, averaged over joints.

    Args:
        skeleton: the keypoints.
        threshold: in units of the normaliser.
        normalizer: see `MatchedMetric`.
    """

    def __init__(self, skeleton: Skeleton, threshold: float = 0.2, normalizer: str | Sequence[str] = "bbox") -> None:
        super().__init__(skeleton, normalizer)
        self.threshold = threshold
        self.figures = (f"PCK@{threshold:g}_{self._suffix}",)

    def compute(self) -> dict[str, Tensor]:
        """The figure, under a name like ``PCK@0.2_bbox``; NaN without labelled instances."""
        return {self.figures[0]: pck(*self.distances_and_mask(), self.threshold)}


class AUC(MatchedMetric):
    """Area under the curve of PCK over thresholds from 0 to ``limit_px`` image pixels, in twentieths.

    Args:
        skeleton: the keypoints.
        limit_px: end of the range.
    """

    def __init__(self, skeleton: Skeleton, limit_px: float = 30.0) -> None:
        super().__init__(skeleton)
        self.limit_px = limit_px
        self.figures = (f"AUC@{limit_px:g}px",)

    def compute(self) -> dict[str, Tensor]:
        """The figure, under a name like ``AUC@30px``; NaN without labelled instances."""
        distances, mask = self.distances_and_mask()
        return {self.figures[0]: auc(distances / self.limit_px, mask)}


class EPE(MatchedMetric):
    """End-point error: distances in image pixels, over all keypoints and of each.

    Images in which several people are labelled or found are left out, with a warning the first time.

    Args:
        skeleton: the keypoints.
    """

    higher_is_better = False
    refuses_several = False

    def __init__(self, skeleton: Skeleton) -> None:
        super().__init__(skeleton)
        self.figures = ("EPE_px", "EPE_px_median", "EPE_px_p90", *(f"EPE_px/{name}" for name in skeleton.keypoints))

    def compute(self) -> dict[str, Tensor]:
        """Mean, median and 90th percentile, and the mean of each keypoint; NaN without labelled instances."""
        distances, mask = self.distances_and_mask()
        counted = distances[mask]
        of_each = torch.where(mask, distances, 0).sum(0) / mask.sum(0)
        with np.errstate(invalid="ignore"):  # of a model that diverged
            quantiles = np.quantile(counted.numpy(), [0.5, 0.9]) if len(counted) else np.full(2, np.nan)
        figures = torch.cat([mean_distance(distances, mask)[None], torch.from_numpy(quantiles), of_each])
        return dict(zip(self.figures, figures, strict=True))


class NME(MatchedMetric):
    """Normalised mean error: mean distance over the normaliser.

    Args:
        skeleton: the keypoints.
        normalizer: see `MatchedMetric`; for faces commonly the outer eye corners.
    """

    higher_is_better = False

    def __init__(self, skeleton: Skeleton, normalizer: str | Sequence[str] = "bbox") -> None:
        super().__init__(skeleton, normalizer)
        self.figures = (f"NME_{self._suffix}",)

    def compute(self) -> dict[str, Tensor]:
        """The figure, under a name like ``NME_bbox``; NaN without labelled instances."""
        return {self.figures[0]: mean_distance(*self.distances_and_mask())}
