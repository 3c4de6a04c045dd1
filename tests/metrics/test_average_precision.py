from typing import Any

import numpy as np
from metric_samples import annotation_file, noisy_answers, skeleton

from lightpose.metrics.oks import evaluate_oks


def crowded(rng: np.random.Generator, num_keypoints: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Two categories, equal scores, and an image with more poses than count."""
    ground_truth = annotation_file(rng, num_keypoints, images=30)
    ground_truth["categories"].append({**ground_truth["categories"][0], "id": 1})
    for entry in ground_truth["annotations"]:
        entry["category_id"] = int(rng.choice([1, 3]))
    answers = noisy_answers(rng, ground_truth, 0.05)
    for answer in answers:
        answer["score"] = round(answer["score"], 1)
    return ground_truth, answers + [{**answers[0], "score": score / 50} for score in range(50)]


def test_annotation_ids_do_not_matter() -> None:
    ground_truth, answers = crowded(np.random.default_rng(0), 5)
    figures = evaluate_oks(ground_truth, answers, skeleton().sigmas)
    for entry in ground_truth["annotations"]:
        entry["id"] -= 1  # 0 stands for "none" in COCO's own evaluation
    assert evaluate_oks(ground_truth, answers, skeleton().sigmas) == figures
