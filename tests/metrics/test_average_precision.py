from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from metric_samples import annotation_file, noisy_answers, skeleton

from lightpose.metrics import average_precision
from lightpose.metrics.average_precision import GroundTruth
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


def test_similarities_equal_the_evaluators_to_the_last_bit(monkeypatch) -> None:
    monkeypatch.setattr(average_precision, "PAIRS_AT_ONCE", 100)
    for count in (1, 5, 17, 133):
        ground_truth, answers = crowded(np.random.default_rng(count), count)
        sigmas = skeleton(count).sigmas
        truth = COCO(ground_truth)
        evaluation = COCOeval_faster(
            truth, truth.loadRes([dict(answer) for answer in answers]), "keypoints", kpt_oks_sigmas=list(sigmas)
        )
        evaluation.evaluate()
        expected = {pair: oks for pair, oks in evaluation.ious.items() if len(oks)}
        found = GroundTruth(ground_truth, count).similarities(
            [answer["image_id"] for answer in answers],
            [answer["category_id"] for answer in answers],
            np.array([answer["keypoints"] for answer in answers]).reshape(-1, count, 3)[..., :2],
            np.array([answer["score"] for answer in answers]),
            sigmas,
        )
        assert found.keys() == expected.keys() and len(found) > 20
        for pair, oks in expected.items():
            np.testing.assert_array_equal(found[pair], oks)


def test_annotation_ids_do_not_matter() -> None:
    ground_truth, answers = crowded(np.random.default_rng(0), 5)
    figures = evaluate_oks(ground_truth, answers, skeleton().sigmas)
    for entry in ground_truth["annotations"]:
        entry["id"] -= 1  # 0 stands for "none" in COCO's own evaluation
    assert evaluate_oks(ground_truth, answers, skeleton().sigmas) == figures
