"""OKS extended to keypoints outside of what the network saw: Ex-OKS (ProbPose, arXiv:2412.02254)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCOeval_faster

from lightpose.errors import UserError
from lightpose.metrics.average_precision import GroundTruth
from lightpose.metrics.base import PoseMetric
from lightpose.metrics.oks import pose_scores
from lightpose.metrics.visibility import average_precision
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Batch, Poses

_OF = {"ExAP": "AP", "ExAP50": "AP50", "ExAP75": "AP75", "ExAR": "AR"}


class ExtendedOKS(PoseMetric):
    """COCO's average precision and recall with another distance of keypoints, for one person per input.

    The window of a pose is the input that it was predicted from. A label is inside the window or not; a prediction is
    inside if its place is, and its ``presence`` (`Poses.extras`) is high enough; without such an extra only its place
    counts. The distance is that between the two if both are inside, that of the inner one from the window's border if
    only one is, and 0 if none is. So a keypoint costs something that is found where there is none, as does one that is
    said to be outside. Where all is inside, the figures are those of OKS. No near-duplicate is suppressed.

    Labels may lie outside of the picture (CropCOCO has v=3 there): any v > 0 is a label. The figures:

    - ``ExAP``, ``ExAP50``, ``ExAP75`` and ``ExAR``: as COCO's of these names.
    - ``outside_AP``: average precision of finding the labels outside of their windows, the least present first; by
      chance it is their share. NaN without any.

    Args:
        skeleton: the keypoints; its sigmas scale the similarity.
        presence_threshold: probability from which a keypoint counts as inside.
        keypoint_threshold: keypoints must score above it to count in the score of a pose.
    """

    figures = (*_OF, "outside_AP")

    def __init__(self, skeleton: Skeleton, presence_threshold: float = 0.5, keypoint_threshold: float = 0.2) -> None:
        count = skeleton.num_keypoints
        whole, points = torch.empty(0, dtype=torch.int64), torch.empty(0, count, 2)
        super().__init__(
            image_ids=whole,
            categories=whole,
            keypoints=points,
            presence=torch.empty(0, count),
            scores=torch.empty(0),
            labels=points,
            labelled=torch.empty(0, count, dtype=torch.bool),
            image_from_input=torch.empty(0, 3, 3),
            input_wh=torch.empty(0, 2),
        )
        self.skeleton = skeleton
        self.presence_threshold, self.keypoint_threshold = presence_threshold, keypoint_threshold
        self._ground_truth: GroundTruth | None = None

    def set_ground_truth(self, coco: Mapping[str, Any]) -> None:
        """Score against this content of an annotation file from now on.

        Raises:
            UserError: when annotations have another number of keypoints than the skeleton.
        """
        self._ground_truth = GroundTruth(coco, self.skeleton.num_keypoints)

    def update(self, poses: Poses, batch: Batch) -> None:
        """Add poses, in image pixels.

        Raises:
            UserError: when samples hold several instances.
        """
        labels, rows = batch.instances, poses.batch_index
        if labels.keypoints.shape[1] != 1:
            raise UserError(
                f"metric=exoks is of one person per input, but samples hold up to {labels.keypoints.shape[1]}; use "
                "metric=oks"
            )
        boxes = torch.ones_like(poses.scores) if poses.box_scores is None else poses.box_scores
        height, width = batch.inputs.shape[-2:]
        self.append(
            poses,
            batch,
            image_ids=batch.image_ids[rows],
            categories=labels.categories[rows, 0] if poses.categories is None else poses.categories,
            keypoints=poses.keypoints[..., :2],
            presence=poses.extras.get("presence", torch.ones_like(poses.keypoint_scores)),
            scores=pose_scores(boxes, poses.keypoint_scores, "bbox_keypoint", self.keypoint_threshold),
            labels=labels.keypoints[rows, 0, :, :2],
            labelled=(labels.visible[rows, 0] > 0) & labels.valid[rows],
            image_from_input=batch.image_from_input[rows],
            input_wh=poses.scores.new_tensor([width, height]).expand(len(poses), 2),
        )

    def compute(self) -> dict[str, float]:
        """The figures; NaN without labelled instances.

        Raises:
            UserError: when no ground truth was set, or it doesn't fit the poses.
        """
        if self._ground_truth is None:
            raise UserError("metric=exoks needs the content of an annotation file; validate on a data set that has one")
        rows = self.rows()
        finite = rows["scores"].isfinite() & rows["keypoints"].flatten(1).isfinite().all(1)
        rows = {name: column[finite] for name, column in rows.items()}
        keypoints, scores = rows["keypoints"].double().numpy(), rows["scores"].tolist()
        triples = np.concatenate([keypoints, np.ones_like(keypoints[..., :1])], -1).reshape(
            len(keypoints), 3 * keypoints.shape[1]
        )
        category_ids = self._ground_truth.category_ids
        predictions = [
            {"image_id": image_id, "category_id": category_ids[category], "keypoints": triple, "score": score}
            for image_id, category, triple, score in zip(
                rows["image_ids"].tolist(), rows["categories"].tolist(), triples.tolist(), scores, strict=True
            )
        ]
        wh = rows["input_wh"].double().numpy()
        image_from_input = rows["image_from_input"].double().numpy()
        evaluation = partial(
            _Evaluation,
            input_from_image=np.linalg.inv(image_from_input),
            input_wh=wh,
            present=(rows["presence"] >= self.presence_threshold).numpy(),
        )
        found = self._ground_truth.average_precision(predictions, self.skeleton.sigmas, evaluation)
        outside = torch.from_numpy(depths(rows["labels"].double().numpy(), np.eye(3), wh[:, None]) < 0)
        labelled = rows["labelled"]
        missed = average_precision(-rows["presence"][labelled], outside[labelled])
        return {**{name: found[of] for name, of in _OF.items()}, "outside_AP": float(missed)}


class _Evaluation(COCOeval_faster):
    """COCO's evaluation, with the similarity of `ExtendedOKS`.

    Args:
        arguments: of the evaluation.
        input_from_image: (N, 3, 3), of the predictions in their order.
        input_wh: (N, 2), likewise.
        present: (N, K) bool, likewise.
        options: of the evaluation.
    """

    def __init__(
        self, *arguments: Any, input_from_image: Array, input_wh: Array, present: Array, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.input_from_image, self.input_wh, self.present = input_from_image, input_wh, present

    def computeOks(self, imgId: int, catId: int) -> Any:
        """(predictions, labelled instances) of one image, the predictions with the highest scores first."""
        similarities = super().computeOks(imgId, catId)
        if not len(similarities):
            return similarities
        poses = sorted(self.dt_dataset.get(imgId, catId), key=lambda pose: -pose["score"])[: len(similarities)]
        rows = np.array([pose["id"] - 1 for pose in poses])  # numbered from 1 in their order
        instances = self.gt_dataset.get(imgId, catId)
        found, truth = (
            np.array([each["keypoints"] for each in some], np.float64).reshape(len(some), -1, 3)
            for some in (poses, instances)
        )
        matrices, wh = self.input_from_image[rows], self.input_wh[rows]
        found_depth = depths(found[..., :2], matrices, wh[:, None])[:, None]  # (D, 1, K)
        truth_depth = depths(truth[..., :2], matrices[:, None], wh[:, None, None])  # (D, G, K)
        found_inside, truth_inside = (found_depth >= 0) & self.present[rows][:, None], truth_depth >= 0
        apart = np.linalg.norm(found[:, None, :, :2] - truth[..., :2], axis=-1)
        one_inside = np.where(found_inside, found_depth, np.where(truth_inside, truth_depth, 0.0))
        distances = np.where(found_inside & truth_inside, apart, one_inside)
        areas = np.array([instance["area"] for instance in instances]) + np.spacing(1)
        spreads = 2 * areas[:, None] * (2 * self.params.kpt_oks_sigmas) ** 2  # (G, K)
        labelled = truth[..., 2] > 0
        counts = labelled.sum(-1)
        means = (np.exp(-(distances**2) / spreads) * labelled).sum(-1) / np.maximum(counts, 1)
        return np.where(counts > 0, means, similarities)  # without a label, an instance is a region to ignore


def depths(points: Array, input_from_image: Array, input_wh: Array) -> Array:
    """(...): how far points (..., K, 2) lie inside their window, in their own pixels; negative outside.

    Args:
        points: image pixels.
        input_from_image: (..., 3, 3), of the window; a turn, a scale and a shift.
        input_wh: (..., 1, 2), its size in input pixels; its border is half a pixel around the outermost centres.
    """
    linear, shift = input_from_image[..., :2, :2], input_from_image[..., None, :2, 2]
    inner = points @ np.swapaxes(linear, -1, -2) + shift
    scale = np.sqrt(np.abs(np.linalg.det(linear)))[..., None]
    depth: Array = np.minimum(inner + 0.5, input_wh - 0.5 - inner).min(-1) / scale
    return depth
