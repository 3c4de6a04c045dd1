import contextlib
import io
import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metric_samples import annotation_file, batch_of, noisy_answers, poses_of, skeleton
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lightpose.errors import UserError
from lightpose.metrics.oks import FIGURES, OKS, evaluate_oks, pose_scores
from lightpose.skeleton import Skeleton

SAMPLES = Path(__file__).parents[2] / "../shared/samples"
COCO_SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000


def reference(ground_truth: dict[str, Any], predictions: list[dict[str, Any]], sigmas: Any) -> dict[str, float]:
    """The same figures by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(ground_truth))
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(predictions))), "keypoints")
        evaluation.params.kpt_oks_sigmas = np.array(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: value if value >= 0 else math.nan for name, value in zip(FIGURES, evaluation.stats, strict=True)}


def assert_same(figures: dict[str, float], expected: dict[str, float]) -> None:
    assert list(figures) == list(FIGURES)
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("num_keypoints", [4, 17, 21])
@pytest.mark.parametrize("noise", [0.02, 0.1, 0.5])
def test_figures_equal_pycocotools(num_keypoints: int, noise: float) -> None:
    rng = np.random.default_rng(num_keypoints)
    ground_truth = annotation_file(rng, num_keypoints)
    predictions = noisy_answers(rng, ground_truth, noise)
    sigmas = skeleton(num_keypoints).sigmas
    figures = evaluate_oks(ground_truth, predictions, sigmas)
    assert_same(figures, reference(ground_truth, predictions, sigmas))
    assert 0 < figures["AP"] < 1


def test_arguments_stay_as_they_were() -> None:
    rng = np.random.default_rng(0)
    ground_truth = annotation_file(rng, 5)
    predictions = noisy_answers(rng, ground_truth, 0.1)
    before = json.dumps([ground_truth, predictions])
    evaluate_oks(ground_truth, predictions, skeleton().sigmas)
    assert json.dumps([ground_truth, predictions]) == before


def test_real_annotations() -> None:
    path = SAMPLES / "coco/test_coco.json"
    if not path.exists():
        pytest.skip("needs the COCO sample")
    ground_truth = json.loads(path.read_text())
    exact = [
        {**{key: entry[key] for key in ("image_id", "category_id", "keypoints")}, "score": 1.0}
        for entry in ground_truth["annotations"]
        if entry["num_keypoints"]
    ]
    figures = evaluate_oks(ground_truth, exact, COCO_SIGMAS)
    assert figures == dict.fromkeys(FIGURES, 1.0)
    rng = np.random.default_rng(1)
    for deviation in (2.0, 6.0, 20.0):
        noisy = [
            {**entry, "keypoints": rng.normal(entry["keypoints"], deviation).tolist(), "score": float(rng.random())}
            for entry in exact
        ]
        assert_same(evaluate_oks(ground_truth, noisy, COCO_SIGMAS), reference(ground_truth, noisy, COCO_SIGMAS))


def test_no_predictions_score_zero_and_no_instances_nothing() -> None:
    ground_truth = annotation_file(np.random.default_rng(0), 5)
    assert evaluate_oks(ground_truth, [], skeleton().sigmas) == dict.fromkeys(FIGURES, 0.0)
    for entry in ground_truth["annotations"]:
        entry["area"] = 50.0**2
    figures = evaluate_oks(ground_truth, [], skeleton().sigmas)
    assert figures["APM"] == 0 and math.isnan(figures["APL"]) and math.isnan(figures["ARL"])
    nobody = {**ground_truth, "annotations": []}
    answers = noisy_answers(np.random.default_rng(0), ground_truth, 0.1)
    assert all(math.isnan(value) for value in evaluate_oks(nobody, answers, skeleton().sigmas).values())


def test_predictions_that_do_not_fit_are_refused() -> None:
    rng = np.random.default_rng(0)
    ground_truth = annotation_file(rng, 5)
    answer = noisy_answers(rng, ground_truth, 0.1)[0]
    with pytest.raises(UserError, match=r"1 image ids .*\(77\)"):
        evaluate_oks(ground_truth, [{**answer, "image_id": 77}], skeleton().sigmas)
    with pytest.raises(UserError, match=r"1 category ids .*\(1\)"):
        evaluate_oks(ground_truth, [{**answer, "category_id": 1}], skeleton().sigmas)
    with pytest.raises(UserError, match=r"predictions have 6 keypoint numbers .* skeleton of 5 keypoints makes 15"):
        evaluate_oks(ground_truth, [{**answer, "keypoints": [0] * 6}], skeleton().sigmas)
    with pytest.raises(UserError, match=r"ground truth have 15 keypoint numbers .* skeleton of 17 keypoints makes 51"):
        evaluate_oks(ground_truth, [], COCO_SIGMAS)


def test_categories_without_keypoints_are_left_out() -> None:
    rng = np.random.default_rng(0)
    ground_truth = annotation_file(rng, 5)
    predictions = noisy_answers(rng, ground_truth, 0.1)
    car = {"id": 9999, "image_id": 100, "category_id": 8, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 0}
    mixed = {
        "images": ground_truth["images"],
        "annotations": [car, *ground_truth["annotations"]],
        "categories": [{"id": 8, "name": "car"}, *ground_truth["categories"]],
    }
    sigmas = skeleton().sigmas
    assert evaluate_oks(mixed, predictions, sigmas) == evaluate_oks(ground_truth, predictions, sigmas)


def labels(ground_truth: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Keypoints (N, K, 2), boxes (N, 4) and image ids of the labelled people."""
    people = [entry for entry in ground_truth["annotations"] if entry["num_keypoints"] and not entry["iscrowd"]]
    keypoints = torch.tensor([entry["keypoints"] for entry in people]).unflatten(1, (-1, 3))[..., :2]
    boxes = torch.tensor([entry["bbox"] for entry in people])
    boxes[:, 2:] += boxes[:, :2]
    return keypoints, boxes, [entry["image_id"] for entry in people]


def test_labels_as_poses_score_one() -> None:
    ground_truth = annotation_file(np.random.default_rng(3), 5)
    keypoints, boxes, image_ids = labels(ground_truth)
    metric = OKS(skeleton())
    metric.set_ground_truth(ground_truth)
    for start in range(0, len(keypoints), 4):
        part = slice(start, start + 4)
        indices = list(range(len(keypoints)))[part]
        metric.update(
            poses_of(keypoints[part], boxes_xyxy=boxes[part], box_scores=torch.ones(len(indices))),
            batch_of(keypoints[part], indices, image_ids[part]),
        )
    assert metric.compute() == dict.fromkeys(FIGURES, 1.0)
    assert [entry["image_id"] for entry in metric.predictions()] == sorted(image_ids)
    assert {entry["category_id"] for entry in metric.predictions()} == {3}


def test_predictions_score_what_the_metric_says() -> None:
    ground_truth = annotation_file(np.random.default_rng(3), 5)
    keypoints, _, image_ids = labels(ground_truth)
    generator = torch.Generator().manual_seed(0)
    noisy = keypoints + torch.randn(keypoints.shape, generator=generator) * 6
    metric = OKS(skeleton(), score_mode="keypoint", nms="none")
    metric.set_ground_truth(ground_truth)
    poses = poses_of(noisy, keypoint_scores=torch.rand(noisy.shape[:2], generator=generator))
    metric.update(poses, batch_of(keypoints, list(range(len(noisy))), image_ids))
    figures = metric.compute()
    metric.reset()
    assert_same(figures, evaluate_oks(ground_truth, metric.predictions(), skeleton().sigmas))
    assert_same(figures, reference(ground_truth, metric.predictions(), skeleton().sigmas))


def test_repeated_samples_count_once_and_several_poses_of_a_sample_all() -> None:
    ground_truth = annotation_file(np.random.default_rng(3), 5)
    keypoints = torch.rand(3, 5, 2) * 100
    metric = OKS(skeleton(), nms="none")
    metric.set_ground_truth(ground_truth)
    batch = batch_of(keypoints[:2], [0, 1], [100, 101])
    for _ in range(2):
        metric.update(poses_of(keypoints, [0, 1, 0]), batch)
    metric.compute()
    poses, image_ids, _ = metric.poses()
    assert sorted(zip(poses.batch_index.tolist(), image_ids.tolist(), strict=True)) == [(0, 100), (0, 100), (1, 101)]


def test_all_that_was_predicted_is_kept_if_asked_and_drops_with_its_pose() -> None:
    keypoints = torch.rand(6, 5, 3, generator=torch.Generator().manual_seed(0)) * 200
    keypoints[3] = keypoints[0]  # a duplicate
    keypoint_scores = torch.ones(6, 5)
    keypoint_scores[1] = math.nan
    number = torch.arange(6.0)
    further = {"reach": number[:, None].expand(6, 5), "age": number, "shape": number.view(6, 1, 1).expand(6, 2, 3)}
    poses = poses_of(keypoints, [2, 0, 1, 2, 1, 0], keypoint_scores=keypoint_scores, scores=1 - number / 10)
    poses = replace(poses, visibility=further["reach"] / 10, track_ids=torch.arange(6) + 40, extras=further)
    batch = batch_of(keypoints[:3, :, :2], [7, 8, 9], [100, 100, 100])
    for keeps_all in (False, True):
        metric = OKS(skeleton())
        metric.keeps_all = keeps_all
        metric.set_ground_truth(annotation_file(np.random.default_rng(3), 5))
        for _ in range(2):  # the second time are repeats
            metric.update(poses, batch)
        metric.compute()
        kept, _, _ = metric.poses()
        if not keeps_all:
            assert kept.visibility is None and not kept.extras
            continue
        assert kept.track_ids.tolist() == [40, 42, 44, 45]
        assert kept.batch_index.tolist() == [9, 8, 8, 7]
        np.testing.assert_array_equal(kept.keypoints, keypoints.numpy()[kept.track_ids - 40])
        for entry, place in zip(metric.predictions(), (0, 2, 4, 5), strict=True):
            assert (entry["track_id"], entry["age"]) == (40 + place, place)
            assert (entry["reach"], entry["shape"]) == ([place] * 5, [[place] * 3] * 2)
            assert entry["visibility"] == [place / 10] * 5


@pytest.mark.parametrize(("nms", "expected"), [("oks", [0, 2]), ("soft_oks", [0, 2, 1]), ("none", [0, 1, 2])])
def test_duplicates_of_an_image_are_suppressed(nms: Any, expected: list[int]) -> None:
    first = torch.rand(5, 2, generator=torch.Generator().manual_seed(0)) * 200
    keypoints = torch.stack([first, first + 0.5, first + 300, first])
    ground_truth = annotation_file(np.random.default_rng(3), 5)
    metric = OKS(skeleton(), nms=nms)
    metric.set_ground_truth(ground_truth)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    metric.update(poses_of(keypoints, box_scores=scores), batch_of(keypoints, [0, 1, 2, 3], [100, 100, 100, 101]))
    metric.compute()
    poses, image_ids, _ = metric.poses()
    assert poses.batch_index[image_ids == 100].tolist() == expected
    assert poses.batch_index[image_ids == 101].tolist() == [3]


def test_the_best_poses_of_an_image_stay() -> None:
    keypoints = torch.rand(6, 5, 2) * 1e4
    metric = OKS(skeleton(), nms="oks", max_poses=2)
    metric.set_ground_truth(annotation_file(np.random.default_rng(3), 5))
    poses = poses_of(keypoints, [0] * 6, scores=torch.arange(6) / 6)
    metric.update(poses, batch_of(keypoints[:1], [0], [100]))
    metric.compute()
    assert [entry["score"] for entry in metric.predictions()] == pytest.approx([5 / 6, 4 / 6])


def test_score_modes() -> None:
    boxes = torch.tensor([0.5, 0.5])
    keypoints = torch.tensor([[0.1, 0.4, 0.8], [0.1, 0.0, 0.2]])
    expected = {
        "bbox": [0.5, 0.5],
        "keypoint": [1.3 / 3, 0.1],
        "bbox_keypoint": [0.5 * 0.6, 0.0],
        "bbox_rle": [0.5 + 1.3 / 3 + 0.8, 0.5 + 0.1 + 0.2],
    }
    for mode, scores in expected.items():
        assert pose_scores(boxes, keypoints, mode, 0.2).tolist() == pytest.approx(scores)  # type: ignore[arg-type]


def test_no_poses_at_all() -> None:
    metric = OKS(skeleton())
    metric.set_ground_truth(annotation_file(np.random.default_rng(3), 5))
    metric.update(poses_of(torch.empty(0, 5, 2)), batch_of(torch.rand(2, 5, 2), [0, 1], [100, 101]))
    assert metric.compute() == dict.fromkeys(FIGURES, 0.0)
    assert metric.predictions() == []


def test_several_categories_follow_the_instances() -> None:
    ground_truth = annotation_file(np.random.default_rng(3), 5)
    ground_truth["categories"].append({**ground_truth["categories"][0], "id": 8})
    keypoints = torch.rand(2, 5, 2) * 100
    batch = batch_of(keypoints, [0, 1], [100, 101])
    batch.instances.categories[1, 0] = 1
    metric = OKS(skeleton())
    metric.set_ground_truth(ground_truth)
    metric.update(poses_of(keypoints), batch)
    metric.compute()
    assert [entry["category_id"] for entry in metric.predictions()] == [3, 8]
    metric.reset()
    metric.update(poses_of(keypoints, categories=torch.tensor([1, 0])), batch)
    metric.compute()
    assert [entry["category_id"] for entry in metric.predictions()] == [8, 3]
    metric.reset()
    metric.update(poses_of(keypoints, categories=torch.tensor([1, 2])), batch)
    with pytest.raises(UserError, match=r"poses of category 2, counted from 0, .* 2 categories"):
        metric.compute()


def test_each_category_is_scored_by_its_own_keypoints_beside_the_total() -> None:
    rng = np.random.default_rng(3)
    ground_truth = annotation_file(rng, 5)
    cats = {"id": 8, "name": "cat", "keypoints": ["Joint 3", "joint0"]}
    ground_truth["categories"] += [cats, {**cats, "id": 9, "name": "dog"}]
    for entry in ground_truth["annotations"][::2]:
        labels_of = np.array(entry["keypoints"]).reshape(5, 3)
        labels_of[[1, 2, 4]] = 0
        entry |= {
            "category_id": 8,
            "keypoints": labels_of.ravel().tolist(),
            "num_keypoints": int((labels_of[:, 2] > 0).sum()),
        }
    keypoints, boxes, image_ids = labels(ground_truth)
    people = [entry for entry in ground_truth["annotations"] if entry["num_keypoints"] and not entry["iscrowd"]]
    is_cat = torch.tensor([entry["category_id"] == 8 for entry in people])
    noisy = keypoints + torch.from_numpy(rng.normal(0, 4, keypoints.shape)).float()
    scores = torch.rand(len(noisy), 5, generator=torch.Generator().manual_seed(0))
    figures = []
    for wild in (0.0, 500.0):  # where a model puts the keypoints that a cat lacks makes no difference
        metric = OKS(skeleton(), score_mode="bbox_rle")
        metric.keeps_all = True
        metric.set_ground_truth(ground_truth)
        batch = batch_of(keypoints, list(range(len(noisy))), image_ids)
        batch.instances.categories[:, 0] = is_cat.long()
        found, sure = noisy.clone(), scores.clone()
        for joint in (1, 2, 4):
            found[is_cat, joint], sure[is_cat, joint] = torch.tensor([wild, -wild]), wild / 1000
        answers = poses_of(found, keypoint_scores=sure, boxes_xyxy=boxes, box_scores=torch.ones(len(noisy)))
        metric.update(answers, batch)
        figures.append(metric.compute())
        answered = metric.predictions()
        assert {tuple(entry["keypoints"][5::3][:2]) for entry in answered if entry["category_id"] == 8} == {(0.0, 0.0)}
    assert figures[0] == figures[1]
    assert list(figures[0]) == [*FIGURES, "AP/thing", "AP/cat"]  # no dog is labelled
    for name, number in (("thing", 3), ("cat", 8)):
        one = {**ground_truth, "categories": [{"id": number}]}
        one["annotations"] = [entry for entry in ground_truth["annotations"] if entry["category_id"] == number]
        own = reference(one, [entry for entry in answered if entry["category_id"] == number], skeleton().sigmas)
        assert figures[0][f"AP/{name}"] == pytest.approx(own["AP"], abs=1e-6)
        assert 0 < own["AP"] < 1
    assert figures[0]["AP"] == pytest.approx((figures[0]["AP/thing"] + figures[0]["AP/cat"]) / 2)


def test_misuse_is_explained(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match=r"score_mode='box' .* bbox_keypoint"):
        OKS(skeleton(), score_mode="box")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"nms='hard' .* soft_oks"):
        OKS(skeleton(), nms="hard")  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        metric = OKS(Skeleton.build(["a", "b"]))
        assert "no sigmas" not in caplog.text  # as nothing may be scored, in a prediction
        for _ in range(2):
            metric.update(poses_of(torch.zeros(1, 2, 2)), batch_of(torch.zeros(1, 2, 2), [0]))
    assert caplog.text.count("no sigmas") == 1
    with pytest.raises(UserError, match="annotation file"):
        metric.compute()


@pytest.mark.parametrize("nms", ["oks", "soft_oks", "none"])
@pytest.mark.parametrize("num_keypoints", [1, 3])
@pytest.mark.parametrize("people", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:.*was called before")
def test_few_poses_of_few_keypoints_have_figures(nms: Any, num_keypoints: int, people: int) -> None:
    """One pose in all is where an index of torch makes a number of a NumPy array of one."""
    points = np.arange(people * num_keypoints * 2, dtype=np.float64).reshape(people, num_keypoints, 2) * 10 + 5
    labels = np.concatenate([points, np.full((people, num_keypoints, 1), 2.0)], -1)
    boxes = [[0.0, 0.0, 60.0, 60.0]] * people
    truth = {
        "images": [{"id": 5, "width": 99, "height": 99}],
        "categories": [{"id": 3, "keypoints": [f"p{number}" for number in range(num_keypoints)]}],
        "annotations": [
            {"id": n, "image_id": 5, "category_id": 3, "bbox": box, "area": 3000.0, "iscrowd": 0}
            | {"keypoints": labels[n].ravel().tolist(), "num_keypoints": num_keypoints}
            for n, box in enumerate(boxes)
        ],
    }
    metric = OKS(skeleton(num_keypoints), nms=nms)
    if people:
        keypoints = torch.from_numpy(points).float()
        batch = batch_of(keypoints, list(range(people)), image_ids=[5] * people)
        metric.update(poses_of(keypoints), batch)
    metric.set_ground_truth(truth)
    figures = metric.compute()
    assert (figures["AP"] == pytest.approx(1.0)) if people else math.isnan(figures["AP"])
    assert [(entry["image_id"], entry["category_id"]) for entry in metric.predictions()] == [(5, 3)] * people
    assert_same(evaluate_oks(truth, metric.predictions(), metric.skeleton.sigmas), figures)


@pytest.mark.parametrize("lost", [1, 2])
def test_poses_that_are_not_finite_count_as_missing(lost: int, caplog: pytest.LogCaptureFixture) -> None:
    ground_truth = annotation_file(np.random.default_rng(3), 3)
    keypoints = torch.tensor([[[5.0, 6.0], [7.0, 8.0], [9.0, 1.0]]] * 2)
    batch = batch_of(keypoints, [0, 1], image_ids=[100, 101])
    scores = torch.ones(2, 3)
    scores[:lost] = math.nan
    metric = OKS(skeleton(3))
    metric.update(poses_of(keypoints, keypoint_scores=scores), batch)
    metric.set_ground_truth(ground_truth)
    assert metric.compute()["AP"] == 0
    assert [entry["image_id"] for entry in metric.predictions()] == [101] * (2 - lost)
    assert f"{lost} of 2 poses are not finite" in caplog.text
