"""Generated poses, batches and annotation files, shared by the metric tests."""

from typing import Any

import numpy as np
import torch

from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Instances, Poses

IMAGE_FROM_INPUT = torch.tensor([[2.0, 0.0, 30.0], [0.0, 2.0, -10.0], [0.0, 0.0, 1.0]])


def skeleton(count: int = 5) -> Skeleton:
    return Skeleton.build([f"joint{i}" for i in range(count)], sigmas=[0.03 + 0.02 * (i % 5) for i in range(count)])


def batch_of(
    keypoints: torch.Tensor,
    indices: list[int],
    image_ids: list[int] | None = None,
    visible: torch.Tensor | None = None,
    boxes_xyxy: torch.Tensor | None = None,
) -> Batch:
    """One instance a sample; keypoints (B, K, 2) and boxes in image pixels, input pixels are half as fine."""
    count = len(keypoints)
    scale, shift = IMAGE_FROM_INPUT[0, 0], IMAGE_FROM_INPUT[:2, 2]
    boxes = torch.tensor([0.0, 0.0, 100.0, 200.0]).expand(count, 4) if boxes_xyxy is None else boxes_xyxy
    instances = Instances(
        keypoints=((keypoints - shift) / scale)[:, None],
        visible=(torch.full(keypoints.shape[:2], 2.0) if visible is None else visible)[:, None],
        boxes_xyxy=((boxes - shift.repeat(2)) / scale)[:, None],
        areas=torch.full((count, 1), 5000.0),
        categories=torch.zeros(count, 1, dtype=torch.int64),
        ids=torch.tensor(indices)[:, None],
        scores=torch.ones(count, 1),
        valid=torch.ones(count, 1, dtype=torch.bool),
    )
    return Batch(
        inputs=torch.zeros(count, 3, 4, 4, dtype=torch.uint8),
        instances=instances,
        image_from_input=IMAGE_FROM_INPUT.expand(count, 3, 3),
        image_ids=torch.tensor(indices if image_ids is None else image_ids),
        indices=torch.tensor(indices),
        image_hw=torch.tensor([[480, 640]]).expand(count, 2),
    )


def poses_of(keypoints: torch.Tensor, batch_index: list[int] | None = None, **fields: torch.Tensor) -> Poses:
    count = len(keypoints)
    defaults: dict[str, torch.Tensor] = {
        "keypoint_scores": torch.ones(keypoints.shape[:2]),
        "scores": torch.ones(count),
        "batch_index": torch.arange(count) if batch_index is None else torch.tensor(batch_index, dtype=torch.int64),
    }
    return Poses(keypoints=keypoints, **{**defaults, **fields})


def annotation_file(rng: np.random.Generator, num_keypoints: int, images: int = 12) -> dict[str, Any]:
    """People of all sizes: some crowds, some without a labelled keypoint, one image without anybody."""
    annotations = []
    for image in range(images - 1):
        for _ in range(rng.integers(1, 8)):
            side = float(rng.choice([20.0, 60.0, 150.0, 300.0]))
            corner = rng.uniform(0, 400, 2)
            points = corner + rng.uniform(0, side, (num_keypoints, 2))
            seen = rng.integers(0, 3, num_keypoints) * (rng.random() > 0.15)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + image,
                    "category_id": 3,
                    "bbox": [*corner.tolist(), side, side],
                    "area": side * side * 0.6,
                    "iscrowd": int(rng.random() < 0.1),
                    "num_keypoints": int((seen > 0).sum()),
                    "keypoints": np.c_[points, seen].ravel().tolist(),
                }
            )
    return {
        "images": [{"id": 100 + image, "width": 640, "height": 480} for image in range(images)],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "thing", "keypoints": [f"joint{i}" for i in range(num_keypoints)]}],
    }


def noisy_answers(rng: np.random.Generator, ground_truth: dict[str, Any], noise: float) -> list[dict[str, Any]]:
    """Predictions off by noise, with some missing, some twice, some false."""
    answers = []
    for entry in ground_truth["annotations"]:
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            points = np.array(entry["keypoints"]).reshape(-1, 3)
            points[:, :2] += rng.normal(0, noise * entry["bbox"][2] * rng.random(), points[:, :2].shape)
            answers.append(
                {
                    "image_id": entry["image_id"],
                    "category_id": entry["category_id"],
                    "keypoints": points.ravel().tolist(),
                    "score": float(rng.random()),
                }
            )
    empty = ground_truth["images"][-1]["id"]
    return [*answers, {**answers[0], "image_id": empty, "keypoints": list(answers[0]["keypoints"])}]
