"""Scores against OKS, counted by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from metric_samples import batch_of, poses_of, skeleton

from lightpose.metrics.calibration import Calibration, calibration


def figures(found, labels, scores, visible=None) -> dict[str, float]:
    metric = Calibration(skeleton())
    batch = batch_of(labels, list(range(len(labels))), visible=visible)
    batch = replace(batch, instances=replace(batch.instances, areas=torch.full((len(labels), 1), 1250.0)))
    metric.update(poses_of(found, keypoint_scores=scores), batch)
    return metric.compute()


def test_the_oks_of_a_keypoint_is_that_of_its_definition():
    labels = torch.rand(6, 5, 2) * 100
    shift = torch.rand(6, 5, 2) * 10
    area = 1250 * 4  # square pixels of the image are four times as many
    sigmas = torch.tensor(skeleton().sigmas)
    oks = torch.exp(-(shift**2).sum(-1) / (2 * area * (2 * sigmas) ** 2))
    assert oks.min() < 0.6
    right = figures(labels + shift, labels, oks)
    assert right["calibration_error"] == pytest.approx(0, abs=1e-5)
    assert list(right) == list(Calibration.figures)
    boasting = figures(labels + shift, labels, torch.ones(6, 5))
    assert boasting["OKS_at_score/0.9-1.0"] == pytest.approx(float(oks.mean()), abs=1e-5)
    assert boasting["calibration_error"] == pytest.approx(1 - float(oks.mean()), abs=1e-5)
    assert math.isnan(boasting["OKS_at_score/0.0-0.1"])


def test_only_what_is_labelled_counts_and_what_is_lost_gets_nothing():
    labels = torch.rand(2, 5, 2) * 100
    found, visible = labels.clone(), torch.tensor([[2.0, 1.0, 0.0, 2.0, 2.0]] * 2)
    found[:, 2], found[:, 3] = 1e6, float("nan")
    scores = torch.tensor([[1.0, 1.0, 0.5, 0.25, 1.0]] * 2)
    got = figures(found, labels, scores, visible)
    assert got["OKS_at_score/0.9-1.0"] == pytest.approx(1) and got["OKS_at_score/0.2-0.3"] == 0
    assert got["calibration_error"] == pytest.approx(0.25 / 4)
    assert math.isnan(figures(found, labels, scores, torch.zeros(2, 5))["calibration_error"])


def test_bins_hold_each_score_once():
    scores = np.array([-1.0, 0.0, 0.05, 0.1, 0.95, 1.0, 7.0])
    bins = calibration(scores, np.arange(7.0))
    assert [each.count for each in bins] == [3, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    assert bins[0].oks == 1 and bins[9].oks == 5 and bins[1].score == pytest.approx(0.1)
