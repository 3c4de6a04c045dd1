"""COCO's average precision and recall over object keypoint similarity (OKS)."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, distributed

from lightpose.data.coco.ground_truth import keypoint_categories
from lightpose.data.coco.results import coco_results
from lightpose.errors import UserError
from lightpose.metrics.average_precision import FIGURES, GroundTruth
from lightpose.metrics.base import PoseMetric
from lightpose.metrics.nms import oks_nms, soft_oks_nms
from lightpose.skeleton import DEFAULT_SIGMA, Skeleton
from lightpose.structures import Array, Batch, Poses

log = logging.getLogger(__name__)

ScoreMode = Literal["bbox_keypoint", "keypoint", "bbox", "bbox_rle"]
Suppression = Literal["oks", "soft_oks", "none"]


class OKS(PoseMetric):
    """Average precision and recall over OKS, as COCO's keypoint evaluation defines them.

    Args:
        skeleton: the keypoints; its sigmas scale the similarity.
        score_mode: what ranks poses, see `pose_scores`.
        keypoint_threshold: keypoints must score above it to count in ``bbox_keypoint``.
        nms: which near-duplicates in an image to drop: those of `oks_nms`, of `soft_oks_nms`, or none.
        nms_threshold: similarity above which a pose is a duplicate; for ``soft_oks`` the width of the penalty.
        max_poses: poses kept in each image, best first. The evaluation itself counts no more than 20.

    Attributes:
        keeps_all: whether `poses` has all that was predicted, such as extras, and not only what is scored. Processes
            then exchange all of it, so training leaves it off.

    Raises:
        UserError: for an unknown score mode or suppression.
    """

    figures = FIGURES

    def __init__(
        self,
        skeleton: Skeleton,
        score_mode: ScoreMode = "bbox_keypoint",
        keypoint_threshold: float = 0.2,
        nms: Suppression = "oks",
        nms_threshold: float = 0.9,
        max_poses: int = 20,
    ) -> None:
        for option, value, known in (("score_mode", score_mode, ScoreMode), ("nms", nms, Suppression)):
            if value not in get_args(known):
                raise UserError(f"{option}={value!r} is unknown to the OKS metric; use {' or '.join(get_args(known))}")
        count = skeleton.num_keypoints
        super().__init__(
            image_ids=torch.empty(0, dtype=torch.int64),
            categories=torch.empty(0, dtype=torch.int64),
            keypoints=torch.empty(0, count, 2),
            keypoint_scores=torch.empty(0, count),
            box_scores=torch.empty(0),
            boxes_xyxy=torch.empty(0, 4),
        )
        self.skeleton = skeleton
        self.score_mode: ScoreMode = score_mode
        self.keypoint_threshold = keypoint_threshold
        self.nms: Suppression = nms
        self.nms_threshold = nms_threshold
        self.max_poses = max_poses
        self._ground_truth: GroundTruth | None = None
        self._own = torch.ones(1, count, dtype=torch.bool)
        self.keeps_all = False
        self._kept: tuple[Poses[Array], Array, Sequence[int]] | None = None
        self._told = skeleton.sigmas_known

    def reset(self) -> None:
        """Forget all poses, but for those that the last `compute` scored."""
        super().reset()
        self._whole: list[tuple[Tensor, Poses]] = []

    def set_ground_truth(self, coco: Mapping[str, Any]) -> None:
        """Score against this from now on.

        Args:
            coco: an annotation file's content: ``images``, ``annotations`` (crowds and unlabelled people included) and
                ``categories``.

        Raises:
            UserError: when annotations have another number of keypoints than the skeleton.
        """
        self._ground_truth = GroundTruth(coco, self.skeleton.num_keypoints)
        self._own = torch.from_numpy(_own_keypoints(keypoint_categories(coco["categories"]), self.skeleton))

    def update(self, poses: Poses, batch: Batch) -> None:
        """Add poses, in image pixels; of the category of their sample's first instance where they don't say theirs.

        Without box scores, as one-stage models give them, the poses' own stand in.
        """
        if not self._told:
            defaults = self.skeleton.sigmas.count(DEFAULT_SIGMA)
            log.warning(
                "skeleton %s gives no sigmas, so OKS takes %g for %s: AP can't be compared with published figures",
                self.skeleton.name,
                DEFAULT_SIGMA,
                "every keypoint" if defaults == self.skeleton.num_keypoints else f"{defaults} of its keypoints",
            )
        self._told = True
        xy = poses.keypoints[..., :2]
        keys = self.append(
            poses,
            batch,
            image_ids=batch.image_ids[poses.batch_index],
            categories=batch.instances.categories[poses.batch_index, 0]
            if poses.categories is None
            else poses.categories,
            keypoints=xy,
            keypoint_scores=poses.keypoint_scores,
            box_scores=poses.scores if poses.box_scores is None else poses.box_scores,
            boxes_xyxy=torch.cat([xy.amin(1), xy.amax(1)], -1) if poses.boxes_xyxy is None else poses.boxes_xyxy,
        )
        if self.keeps_all:
            self._whole.append((keys, poses))

    def compute(self) -> dict[str, float]:
        """The ten figures, and ``AP/CATEGORY`` of several; NaN for one that has no labelled instance in its range.

        Raises:
            UserError: when no ground truth was set, or it doesn't fit the poses.
        """
        if self._ground_truth is None:
            raise UserError(
                "OKS needs the content of an annotation file but none was given; validate on a data set that has one, "
                "or use metric=pck"
            )
        self._kept = self._keep(self._ground_truth.category_ids)
        return self._ground_truth.average_precision(self.predictions(), self.skeleton.sigmas)

    def poses(self) -> tuple[Poses[Array], Array, Sequence[int]]:
        """What the last `compute` scored, of all processes: poses, their image ids, and the data set's category ids.

        Scores are those of the score mode, ``batch_index`` is the position of the sample in the data set, and each pose
        has a category. It outlives `reset`.
        """
        if self._kept is None:
            raise RuntimeError("call compute() before asking for the poses that it scored")
        return self._kept

    def predictions(self) -> list[dict[str, Any]]:
        """The same `poses` as COCO results."""
        return coco_results(*self.poses())

    def _keep(self, category_ids: Sequence[int]) -> tuple[Poses[Array], Array, Sequence[int]]:
        """Gathered rows as scored poses, duplicates suppressed."""
        rows, whole = self.rows(), self._gathered() if self.keeps_all else None
        own = self._own[rows["categories"].clamp(max=len(self._own) - 1)]
        if not own.all():
            rows |= _only_own(rows["keypoints"], rows["keypoint_scores"], own)
            if whole is not None:
                whole.keypoints[..., :2] = rows["keypoints"].numpy()
                whole = replace(whole, keypoint_scores=rows["keypoint_scores"].numpy())
        scores = pose_scores(rows["box_scores"], rows["keypoint_scores"], self.score_mode, self.keypoint_threshold, own)
        finite = scores.isfinite() & rows["keypoints"].flatten(1).isfinite().all(1)
        if not finite.all():
            lost = int((~finite).sum())
            log.warning("%d of %d poses are not finite, and count as missing; the model diverged", lost, len(finite))
            rows, scores = {name: column[finite] for name, column in rows.items()}, scores[finite]
            whole = whole and whole.select(finite.numpy())
        image_ids, categories = rows["image_ids"].numpy(), rows["categories"].numpy()
        groups = np.unique(image_ids, return_inverse=True)[1] * len(category_ids) + categories
        keypoints, ranks = rows["keypoints"].numpy(), scores.numpy()
        sides = (rows["boxes_xyxy"][:, 2:] - rows["boxes_xyxy"][:, :2]).clamp_min(0)
        areas, sigmas = sides.prod(-1).numpy(), np.array(self.skeleton.sigmas)
        given = (keypoints, ranks, areas, sigmas, self.nms_threshold)
        if self.nms == "oks":
            order = oks_nms(*given, groups)
        elif self.nms == "soft_oks":
            order = soft_oks_nms(*given, self.max_poses, groups)
        else:
            order = np.lexsort((-ranks, groups))
        places = np.arange(len(order)) - np.searchsorted(groups[order], groups[order])
        kept = order[places < self.max_poses]
        scored = Poses(
            keypoints=rows["keypoints"],
            keypoint_scores=rows["keypoint_scores"],
            scores=scores,
            batch_index=rows["sample_keys"][:, 0],
            boxes_xyxy=rows["boxes_xyxy"],
            box_scores=rows["box_scores"],
            categories=rows["categories"],
        ).numpy()
        if whole is not None:
            names = ("scores", "batch_index", "boxes_xyxy", "box_scores", "categories")
            scored = replace(whole, **{name: getattr(scored, name) for name in names})
        return scored.select(kept), image_ids[kept], category_ids

    def _gathered(self) -> Poses[Array] | None:
        """All that was predicted, by all processes, ordered as `rows` are; None where there was no batch."""
        parts = [(keys.cpu().numpy(), poses.numpy()) for keys, poses in self._whole]
        if distributed.is_available() and distributed.is_initialized():
            of_each: list[Any] = [None] * distributed.get_world_size()
            distributed.all_gather_object(of_each, parts)
            parts = [part for process in of_each for part in process]
        if not parts:
            return None
        _, first = np.unique(np.concatenate([keys for keys, _ in parts]), axis=0, return_index=True)
        return Poses.cat([poses for _, poses in parts]).select(first)


def _own_keypoints(categories: Sequence[Mapping[str, Any]], skeleton: Skeleton) -> Array:
    """(C, K) whether each category has each keypoint of the skeleton; all of them where it names none that is known."""
    own = np.zeros((len(categories), skeleton.num_keypoints), bool)
    for row, category in enumerate(categories):
        own[row, [place for place in skeleton.places(category.get("keypoints", ())) if place >= 0]] = True
    return own | ~own.any(1, keepdims=True)


def _only_own(keypoints: Tensor, keypoint_scores: Tensor, own: Tensor) -> dict[str, Tensor]:
    """Poses (N, K, 2) in which keypoints that their category lacks score 0, in the middle of the others."""
    middle = (keypoints * own[..., None]).sum(1, keepdim=True) / own.sum(1)[:, None, None]
    return {
        "keypoints": torch.where(own[..., None], keypoints, middle),
        "keypoint_scores": keypoint_scores * own,
    }


def pose_scores(
    box_scores: Tensor, keypoint_scores: Tensor, mode: ScoreMode, threshold: float, own: Tensor | None = None
) -> Tensor:
    """What ranks poses.

    Args:
        box_scores: (N,).
        keypoint_scores: (N, K).
        mode: ``keypoint``, the mean keypoint score; ``bbox``, the box score; ``bbox_keypoint``, the box score times the
            mean of the keypoint scores above ``threshold``; ``bbox_rle``, the sum of the box score, the mean and the
            highest keypoint score.
        threshold: for ``bbox_keypoint``.
        own: (N, K) bool, keypoints that the pose's category has; the others must score 0. None: all of them.

    Returns:
        (N,).
    """
    mean = keypoint_scores.mean(-1) if own is None else keypoint_scores.sum(-1) / own.sum(-1)
    if mode == "bbox":
        return box_scores
    if mode == "keypoint":
        return mean
    if mode == "bbox_rle":
        return box_scores + mean + keypoint_scores.amax(-1)
    confident = keypoint_scores > threshold
    return box_scores * (keypoint_scores * confident).sum(-1) / confident.sum(-1).clamp_min(1)


def evaluate_oks(
    ground_truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], sigmas: Sequence[float]
) -> dict[str, float]:
    """COCO's keypoint evaluation; neither argument is changed.

    Args:
        ground_truth: an annotation file's content.
        predictions: COCO results.
        sigmas: K falloff constants.

    Returns:
        Average precision and recall at OKS 0.50:0.95, 0.50 and 0.75 and over 0.50:0.95 for medium (32² to 96² square
        pixels) and large instances; NaN for a figure that has no labelled instance in its range.

    Raises:
        UserError: for image ids or categories that the ground truth lacks, or another number of keypoints.
    """
    return GroundTruth(ground_truth, len(sigmas)).average_precision(predictions, sigmas)
