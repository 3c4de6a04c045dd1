"""Figures of predicted visibility, against scikit-learn's definition written out."""

import math

import numpy as np
import pytest
import torch
from metric_samples import batch_of, poses_of, skeleton

from lightpose.errors import UserError
from lightpose.metrics.visibility import Visibility


def average_precision(ranks: np.ndarray, wanted: np.ndarray) -> float:
    """Sum of precision times the step in recall, over distinct thresholds from high to low."""
    total, before = 0.0, 0.0
    for threshold in np.unique(ranks)[::-1]:
        found = ranks >= threshold
        recall = (wanted & found).sum() / wanted.sum()
        total += (recall - before) * (wanted & found).sum() / found.sum()
        before = recall
    return total


def figures(visibility, visible, scores=None) -> dict[str, float]:
    count = len(visible)
    points = torch.rand(count, 5, 2) * 100
    given = {} if scores is None else {"keypoint_scores": scores}
    metric = Visibility(skeleton())
    half = count // 2
    for rows in (slice(half), slice(half, None)):
        poses = poses_of(
            points[rows], visibility=visibility[rows], **{name: each[rows] for name, each in given.items()}
        )
        metric.update(poses, batch_of(points[rows], list(range(count))[rows], visible=visible[rows]))
    return {name: float(value) for name, value in metric.compute().items()}


def test_figures_are_those_of_the_labelled_keypoints():
    generator = torch.Generator().manual_seed(0)
    visible = torch.randint(0, 3, (40, 5), generator=generator).float()
    visibility = (torch.rand(40, 5, generator=generator) + 0.2 * visible).mul(10).round() / 14  # with ties
    scores = torch.randn(40, 5, generator=generator)  # logits, say
    found = figures(visibility, visible, scores)
    counted = visible > 0
    seen, probability, score = (each[counted].numpy() for each in (visible > 1, visibility, scores))
    assert found == {
        "occlusion_AP": pytest.approx(average_precision(-probability, ~seen), abs=1e-6),
        "occlusion_AP_of_scores": pytest.approx(average_precision(-score, ~seen), abs=1e-6),
        "visibility_AP": pytest.approx(average_precision(probability, seen), abs=1e-6),
        "visibility_accuracy": pytest.approx(((probability >= 0.5) == seen).mean(), abs=1e-6),
    }
    assert Visibility.figures == tuple(found)


def test_right_and_wrong_predictions():
    visible = torch.tensor([[2.0, 2.0, 1.0, 1.0, 0.0]] * 4)
    right = torch.where(visible > 1, 0.9, 0.1)
    right[:, 4] = float("nan")  # not labelled, so not counted
    assert list(figures(right, visible).values())[::2] == [1, 1]
    assert figures(right, visible)["visibility_accuracy"] == 1
    assert figures(right, visible)["occlusion_AP_of_scores"] == 0.5  # all scores alike: the share of the hidden
    assert figures(1 - right, visible)["visibility_accuracy"] == 0


def test_without_hidden_keypoints_there_is_nothing_to_find():
    found = figures(torch.rand(4, 5), torch.full((4, 5), 2.0))
    assert math.isnan(found["occlusion_AP"]) and found["visibility_AP"] == 1


def test_poses_without_visibility_are_refused():
    points = torch.rand(2, 5, 2)
    with pytest.raises(UserError, match="head=visibility codec=visibility, or leave the metric out"):
        Visibility(skeleton()).update(poses_of(points), batch_of(points, [0, 1]))
