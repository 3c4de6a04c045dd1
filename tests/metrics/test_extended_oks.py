"""Ex-OKS against its definition written out, and against OKS where everything lies inside."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from metric_samples import annotation_file, batch_of, noisy_answers, poses_of, skeleton

from lightpose.metrics.extended_oks import ExtendedOKS
from lightpose.metrics.oks import evaluate_oks
from lightpose.skeleton import Skeleton

AREA = 5000.0


def truth(points: torch.Tensor, visible: torch.Tensor) -> dict:
    """An annotation file of one instance in each image."""
    annotations = [
        {
            "id": number,
            "image_id": number,
            "category_id": 1,
            "bbox": [0, 0, 100, 100],
            "area": AREA,
            "iscrowd": 0,
            "num_keypoints": int((seen > 0).sum()),
            "keypoints": torch.cat([row, seen[:, None]], -1).flatten().tolist(),
        }
        for number, (row, seen) in enumerate(zip(points, visible, strict=True))
    ]
    category = {"id": 1, "name": "thing", "keypoints": [f"joint{i}" for i in range(points.shape[1])]}
    images = [{"id": number, "width": 640, "height": 480} for number in range(len(points))]
    return {"images": images, "annotations": annotations, "categories": [category]}


def on(batch):
    """The batch with inputs of 60x40 pixels: the window is x 29 to 149, y -11 to 69 in image pixels."""
    return replace(batch, inputs=torch.zeros(len(batch), 3, 40, 60, dtype=torch.uint8))


def figures(found, labels, visible=None, presence=None) -> dict[str, float]:
    count = len(labels)
    visible = torch.full(labels.shape[:2], 2.0) if visible is None else visible
    metric = ExtendedOKS(skeleton(labels.shape[1]))
    metric.set_ground_truth(truth(labels, visible))
    for rows in (slice(count // 2), slice(count // 2, None)):
        extras = {} if presence is None else {"presence": presence[rows]}
        batch = batch_of(labels[rows], list(range(count))[rows], visible=visible[rows])
        metric.update(poses_of(found[rows], extras=extras), on(batch))
    return metric.compute()


def distance(found, label, presence) -> float:
    """Of a pose of one keypoint, by the sigma at which its similarity is 0.5."""
    labels, places = torch.tensor([[label]]).float(), torch.tensor([[found]]).float()
    metric = ExtendedOKS(skeleton(1))
    metric.set_ground_truth(truth(labels, torch.full((1, 1), 2.0)))
    metric.update(poses_of(places, extras={"presence": torch.tensor([[presence]])}), on(batch_of(labels, [0])))
    low, high = 1e-3, 10.0
    for _ in range(30):
        middle = (low + high) / 2
        metric.skeleton, metric._computed = Skeleton.build(["it"], sigmas=[middle]), None
        low, high = (low, middle) if metric.compute()["ExAP50"] > 0.5 else (middle, high)
    return high * 2 * math.sqrt(2 * AREA * math.log(2))


@pytest.mark.parametrize(
    "found, label, presence, expected",
    [
        ([60, 20], [63, 24], 1.0, 5.0),  # both inside
        ([60, 20], [20, 20], 1.0, 60 - 29),  # one that isn't there, found 31 pixels from the border
        ([140, 20], [20, 20], 1.0, 149 - 140),  # the nearest border counts
        ([60, 20], [60, 60], 0.2, 69 - 60),  # one that is there, said to be outside
        ([160, 20], [60, 60], 1.0, 69 - 60),  # likewise, by its place
    ],
)
def test_the_distance_is_that_of_the_definition(found, label, presence, expected):
    assert distance(found, label, presence) == pytest.approx(expected, rel=1e-4)


def test_what_lies_outside_and_is_said_to_costs_nothing():
    labels = torch.tensor([[[50.0, 10.0], [60.0, 12.0], [200.0, 10.0]]] * 4)
    wrong = labels.clone()
    wrong[:, 2] = torch.tensor([90.0, 30.0])
    present = torch.tensor([[0.9, 0.8, 0.1]] * 4)
    assert figures(wrong, labels, presence=present)["ExAP"] == pytest.approx(1)
    assert figures(wrong, labels, presence=present)["outside_AP"] == pytest.approx(1)
    without = figures(wrong, labels)
    assert without["ExAP50"] == pytest.approx(1) and without["ExAP75"] == 0  # two of three are right
    assert without["outside_AP"] == pytest.approx(1 / 3)  # by chance
    hidden = torch.tensor([[2.0, 1.0, 0.0]] * 4)
    unlabelled = figures(wrong, labels, hidden)
    assert unlabelled["ExAP"] == pytest.approx(1) and math.isnan(unlabelled["outside_AP"])


def test_inside_the_figures_are_those_of_oks():
    rng = np.random.default_rng(0)
    ground_truth = annotation_file(rng, 5)
    answers = noisy_answers(rng, ground_truth, 0.1)
    expected = evaluate_oks(ground_truth, answers, skeleton().sigmas)
    metric = ExtendedOKS(skeleton(), keypoint_threshold=0)
    metric.set_ground_truth(ground_truth)
    for index, answer in enumerate(answers):
        points = torch.tensor(answer["keypoints"]).view(1, 5, 3)[..., :2]
        batch = batch_of(points, [index], [answer["image_id"]])
        far = torch.tensor([[1.0, 0, -5000], [0, 1, -5000], [0, 0, 1]])  # a window around everything
        batch = replace(batch, image_from_input=far[None], inputs=torch.zeros(1, 1, 1, 1).expand(1, 3, 20000, 20000))
        score = torch.full((1, 5), answer["score"])
        metric.update(poses_of(points, keypoint_scores=score, box_scores=torch.ones(1)), batch)
    found = metric.compute()
    assert 0.1 < found["ExAP"] < 0.9
    for name in ("AP", "AP50", "AP75", "AR"):
        assert found[f"Ex{name}"] == pytest.approx(expected[name], abs=1e-9), name


def test_poses_that_are_not_finite_are_missing():
    labels = torch.rand(2, 5, 2)
    assert figures(labels * float("nan"), labels)["ExAP"] == 0
