from typing import Any

import numpy as np
import pytest
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


def test_images_of_crowdpose_are_scored_by_how_crowded_they_are() -> None:
    rng = np.random.default_rng(0)
    ground_truth = annotation_file(rng, 5, images=30)
    answers, sigmas = noisy_answers(rng, ground_truth, 0.1), skeleton().sigmas
    plain = evaluate_oks(ground_truth, answers, sigmas)
    crowding = dict(zip(range(100, 130), [0.0, 0.1, 0.11, 0.8, 0.81, 1.0] * 5, strict=True))
    for image in ground_truth["images"]:
        image["crowdIndex"] = crowding[image["id"]]
    figures = evaluate_oks(ground_truth, answers, sigmas)
    assert {name: figures[name] for name in plain} == plain
    assert figures.keys() - plain.keys() == {"AP_E", "AP_M", "AP_H"}
    for name, some in (("AP_E", (0.0, 0.1)), ("AP_M", (0.11, 0.8)), ("AP_H", (0.81, 1.0))):
        alone = {
            **ground_truth,
            "images": [image for image in ground_truth["images"] if image["crowdIndex"] in some],
            "annotations": [entry for entry in ground_truth["annotations"] if crowding[entry["image_id"]] in some],
        }
        mine = [answer for answer in answers if crowding[answer["image_id"]] in some]
        assert figures[name] == pytest.approx(evaluate_oks(alone, mine, sigmas)["AP"])
    assert len({figures[name] for name in ("AP", "AP_E", "AP_M", "AP_H")}) == 4
    for image in ground_truth["images"]:
        image["crowdIndex"] = 0.05
    figures = evaluate_oks(ground_truth, answers, sigmas)
    assert figures["AP_E"] == figures["AP"]
    assert np.isnan([figures["AP_M"], figures["AP_H"]]).all()


def test_poses_in_images_without_people_cost_precision() -> None:
    rng = np.random.default_rng(0)
    ground_truth = annotation_file(rng, 5)
    answers, sigmas = noisy_answers(rng, ground_truth, 0.05), skeleton().sigmas
    before = evaluate_oks(ground_truth, answers, sigmas)["AP"]
    ground_truth["images"] += [{"id": 500 + number, "width": 640, "height": 480} for number in range(20)]
    imagined = [{**answers[0], "image_id": 500 + number, "score": 2.0} for number in range(20)]
    assert evaluate_oks(ground_truth, answers, sigmas)["AP"] == before
    assert evaluate_oks(ground_truth, answers + imagined, sigmas)["AP"] < before - 0.1
