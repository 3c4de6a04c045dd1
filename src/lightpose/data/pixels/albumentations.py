"""Albumentations pipelines on the warped input: photometric ones and spatial ones alike."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lightpose.data.transforms import mirror_labels
from lightpose.errors import UserError
from lightpose.geometry import transform_points
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Sample

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for a newer version at import
import albumentations


class Albumentations:
    """Run a user's albumentations pipeline on the input.

    Three probe points travel with the keypoints and tell which affine map the pipeline applied. The map enters
    ``input_from_image``, so boxes and back-projection follow; what a pipeline does beyond it (elastic, perspective)
    moves the keypoints alone. If the map mirrors, left and right keypoints are exchanged. A keypoint that the pipeline
    dropped, moved out of the input or into it (where its pixels are not) is no longer labelled.

    Args:
        skeleton: says which keypoints are each other's mirror image.
        transforms: albumentations transforms, in order; a mapping may hold None for those switched off.

    Raises:
        UserError: when called, if the pipeline changes the size of the input.
    """

    def __init__(self, skeleton: Skeleton, transforms: Mapping[str, Any] | Sequence[Any]) -> None:
        self.skeleton = skeleton
        steps = list(transforms.values()) if isinstance(transforms, Mapping) else list(transforms)
        keypoint_params = albumentations.KeypointParams(format="xy", label_fields=["index"], remove_invisible=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Got processor for keypoints")  # photometric ones don't need them
            self.pipeline = albumentations.Compose([step for step in steps if step], keypoint_params=keypoint_params)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Replace image, keypoints and visibility, and multiply ``input_from_image``."""
        self.pipeline.set_random_seed(int(rng.integers(2**31)))
        labels = sample.instances
        height, width = sample.image.shape[:2]
        probes = np.array([[0.25 * width, 0.25 * height], [0.75 * width, 0.25 * height], [0.25 * width, 0.75 * height]])
        before = transform_points(sample.input_from_image, labels.keypoints[..., :2].astype(np.float64)).reshape(-1, 2)
        points = np.concatenate([probes, before])
        result = self.pipeline(image=sample.image, keypoints=points, index=np.arange(len(points)))
        image: Array = result["image"]
        if image.shape != sample.image.shape:
            raise UserError(
                f"the albumentations pipeline turned an input of {sample.image.shape} into {image.shape}; "
                "end it with a transform that restores the size, or leave the one out that changes it"
            )
        moved = np.full_like(points, np.nan)
        moved[np.asarray(result["index"], np.int64)] = np.asarray(result["keypoints"], np.float64).reshape(-1, 2)
        change = _affine(probes, moved[:3])
        matrix = change @ sample.input_from_image
        after = moved[3:]
        inside = ((after > -0.5) & (after < np.array([width, height]) - 0.5)).all(-1)
        was_inside = ((before > -0.5) & (before < np.array([width, height]) - 0.5)).all(-1)
        lost = (was_inside != inside).reshape(labels.visible.shape)
        kept = np.isfinite(after).all(-1, keepdims=True)
        xy = transform_points(np.linalg.inv(matrix), np.where(kept, after, transform_points(change, before)))
        keypoints = labels.keypoints.copy()
        keypoints[..., :2] = xy.reshape(*labels.visible.shape, 2)
        labels = replace(labels, keypoints=keypoints, visible=np.where(lost, 0, labels.visible).astype(np.float32))
        if np.linalg.det(change[:2, :2]) < 0:
            labels = mirror_labels(labels, self.skeleton)
        return replace(sample, image=image, instances=labels, input_from_image=matrix)


def _affine(before: Array, after: Array) -> Array:
    """(3, 3) map of three points (3, 2) to three others; the identity where they are lost or fall into a line."""
    matrix = np.eye(3)
    solution = np.linalg.solve(np.column_stack([before, np.ones(3)]), after).T  # (2, 3)
    if abs(np.linalg.det(solution[:, :2])) > 1e-6:  # false for NaN too
        matrix[:2] = solution
    return matrix
