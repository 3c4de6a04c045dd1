import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metric_samples import batch_of, poses_of, skeleton

from lightpose.errors import UserError
from lightpose.metrics.base import format_figure, ordinals
from lightpose.metrics.keypoints import AUC, EPE, NME, PCK, auc, mean_distance, pck, pck_per_joint

PARITY = Path(__file__).parents[1] / "data_files/parity"


def record(name: str) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """Everything recorded, distances (N, K) in pixels, and which count."""
    data = dict(np.load(PARITY / f"{name}.npz"))
    distances = torch.from_numpy(data["pred"] - data["gt"]).norm(dim=-1)
    return data, distances, torch.from_numpy(data["mask"])


def test_functions_match_the_records() -> None:
    data, distances, mask = record("pck")
    distances = distances / torch.from_numpy(data["norm"][:, :1])
    threshold = float(data["thr"])
    np.testing.assert_allclose(pck_per_joint(distances, mask, threshold), data["per_joint"], atol=1e-6)
    assert float(pck(distances, mask, threshold)) == pytest.approx(float(data["average"]), abs=1e-6)

    data, distances, mask = record("auc")
    assert float(auc(distances / float(data["norm_factor"]), mask)) == pytest.approx(float(data["auc"]), abs=1e-6)

    data, distances, mask = record("epe")
    assert float(mean_distance(distances, mask)) == pytest.approx(float(data["epe"]), abs=1e-6)

    data, distances, mask = record("nme")
    distances = distances / torch.from_numpy(data["norm"][:, :1])
    assert float(mean_distance(distances, mask)) == pytest.approx(float(data["nme"]), abs=1e-6)


def test_a_joint_without_data_is_no_zero() -> None:
    distances = torch.tensor([[0.1, 9.0], [0.3, 9.0]])
    mask = torch.tensor([[True, False], [True, False]])
    assert float(pck(distances, mask, 0.2)) == 0.5


def test_metrics_measure_in_image_pixels() -> None:
    truth = torch.rand(4, 5, 2) * 100
    offset = torch.tensor([3.0, 4.0])  # 5 px
    visible = torch.ones(4, 5)
    visible[:, 4] = 0
    predicted = truth + offset
    predicted[:, 4] = 1e6  # not labelled, so not counted
    boxes = torch.tensor([[0.0, 0.0, 50.0, 20.0]]).repeat(4, 1)
    poses, batch = poses_of(predicted), batch_of(truth, [0, 1, 2, 3], visible=visible, boxes_xyxy=boxes)

    def figure(metric: Any) -> dict[str, float]:
        metric.update(poses, batch)
        return {name: float(value) for name, value in metric.compute().items()}

    errors = figure(EPE(skeleton()))
    assert math.isnan(errors.pop("EPE_px/joint4"))
    each = [f"EPE_px/joint{number}" for number in range(4)]
    expected = dict.fromkeys(["EPE_px", "EPE_px_median", "EPE_px_p90", *each], pytest.approx(5, abs=1e-4))
    assert errors == expected
    assert figure(NME(skeleton())) == {"NME_bbox": pytest.approx(0.1, abs=1e-5)}
    assert figure(PCK(skeleton(), threshold=0.11)) == {"PCK@0.11_bbox": 1.0}
    assert figure(PCK(skeleton(), threshold=0.09)) == {"PCK@0.09_bbox": 0.0}
    assert figure(AUC(skeleton(), limit_px=19)) == {"AUC@19px": pytest.approx(14 / 20)}  # from 6/20 of 19 px on
    spans = (truth[:, 0] - truth[:, 1]).norm(dim=-1)
    expected = {"NME_joint0-joint1": pytest.approx(float((5 / spans).mean()), rel=1e-4)}
    assert figure(NME(skeleton(), normalizer=["joint0", "joint1"])) == expected


def test_errors_are_spread_as_they_are_over_keypoints_and_poses() -> None:
    truth = torch.rand(20, 5, 2, dtype=torch.float64) * 100
    errors = torch.arange(100.0).reshape(20, 5)
    visible = (torch.arange(100) % 7 > 0).float().reshape(20, 5)
    poses = poses_of((truth + torch.stack([errors, torch.zeros(20, 5)], -1)).float())
    metric = EPE(skeleton())
    metric.update(poses, batch_of(truth.float(), list(range(20)), visible=visible))
    found = {name: float(value) for name, value in metric.compute().items()}
    counted = errors[visible > 0].numpy()
    assert found["EPE_px"] == pytest.approx(counted.mean(), rel=1e-4)
    assert found["EPE_px_median"] == pytest.approx(np.median(counted), rel=1e-4)
    assert found["EPE_px_p90"] == pytest.approx(np.quantile(counted, 0.9), rel=1e-4)
    for number in range(5):
        of_one = errors[:, number][visible[:, number] > 0].mean()
        assert found[f"EPE_px/joint{number}"] == pytest.approx(float(of_one), rel=1e-4)
    assert tuple(found) == metric.figures


def test_errors_leave_out_images_of_several_people_or_poses(caplog: pytest.LogCaptureFixture) -> None:
    truth = torch.rand(4, 5, 2) * 100
    batch = batch_of(truth, [0, 1, 2, 3])
    two = batch.instances.map(lambda column: torch.cat([column, column], 1))
    lone = torch.tensor([[True, False], [True, True], [True, False], [False, False]])
    poses = poses_of(truth[[0, 1, 2, 2, 3]] + torch.tensor([3.0, 4.0]), [0, 1, 2, 2, 3])
    metric = EPE(skeleton())
    metric.update(poses, replace(batch, instances=replace(two, valid=lone)))
    with caplog.at_level(logging.WARNING):
        found = metric.compute()
    assert float(found["EPE_px"]) == pytest.approx(5, abs=1e-4)
    assert "EPE leaves out 2 of 4 images" in caplog.text


def test_poses_find_their_sample() -> None:
    truth = torch.rand(3, 5, 2) * 100
    metric = EPE(skeleton())
    metric.update(poses_of(truth.flip(0), [2, 1, 0]), batch_of(truth, [5, 6, 7]))
    assert float(metric.compute()["EPE_px"]) == pytest.approx(0, abs=1e-4)


def test_repeated_samples_count_once() -> None:
    truth = torch.rand(2, 5, 2) * 100
    metric = EPE(skeleton())
    moved = truth + torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]])
    metric.update(poses_of(moved), batch_of(truth, [0, 1]))
    metric.update(poses_of(moved[:1]), batch_of(truth[:1], [0]))
    assert float(metric.compute()["EPE_px"]) == pytest.approx(2.5, abs=1e-4)
    metric.reset()
    metric.update(poses_of(truth), batch_of(truth, [0, 1]))
    assert float(metric.compute()["EPE_px"]) == pytest.approx(0, abs=1e-4)


def test_instances_without_a_normaliser_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    truth = torch.rand(4, 5, 2) * 100
    truth[0, 1] = truth[0, 0]  # no distance
    visible = torch.ones(4, 5)
    visible[1, 1] = 0  # an end not labelled
    visible[3] = 0  # nothing labelled: no instance at all
    metric = NME(skeleton(), normalizer=["joint0", "joint1"])
    metric.update(poses_of(truth + 3), batch_of(truth, [0, 1, 2, 3], visible=visible))
    with caplog.at_level(logging.WARNING):
        (value,) = metric.compute().values()
    expected = 3 * math.sqrt(2) / float((truth[2, 0] - truth[2, 1]).norm())
    assert float(value) == pytest.approx(expected, rel=1e-4)
    assert metric.left_out == 2
    assert "2 of 3 instances" in caplog.text


def test_nothing_labelled_is_not_a_number() -> None:
    for metric in (PCK(skeleton()), AUC(skeleton()), EPE(skeleton()), NME(skeleton())):
        metric.update(poses_of(torch.empty(0, 5, 2)), batch_of(torch.rand(2, 5, 2), [0, 1]))
        for value in metric.compute().values():
            assert format_figure(float(value)) == "n/a (0 instances)"
    assert format_figure(0.5) == "0.5000"


def test_misuse_is_explained() -> None:
    with pytest.raises(UserError, match="has no head_top; set `normalizer` to bbox or to two of joint0"):
        PCK(skeleton(), normalizer=["head_top", "joint0"])
    with pytest.raises(UserError, match="'torso' is neither bbox nor two keypoint names"):
        PCK(skeleton(), normalizer="torso")
    several = poses_of(torch.rand(2, 5, 2), [0, 0])
    metric = PCK(skeleton())
    metric.update(several, batch_of(torch.rand(1, 5, 2), [0]))
    with pytest.raises(UserError, match="one pose for each sample"):
        metric.compute()


def test_ordinals() -> None:
    assert ordinals(torch.tensor([4, 7, 4, 4, 7])).tolist() == [0, 0, 1, 2, 1]
    assert ordinals(torch.tensor([], dtype=torch.int64)).tolist() == []


def test_figures_are_the_same_under_autocast() -> None:
    truth = torch.rand(4, 5, 2, generator=torch.Generator().manual_seed(0)) * 1000
    poses, batch = poses_of(truth + 3), batch_of(truth, [0, 1, 2, 3])
    metrics = [EPE(skeleton()), NME(skeleton()), PCK(skeleton(), 0.03, ["joint0", "joint1"])]

    def figures() -> list[float]:
        for metric in metrics:
            metric.reset()
            metric.update(poses, batch)
        return [float(value) for metric in metrics for value in metric.compute().values()]

    expected = figures()
    assert expected[0] == pytest.approx(3 * math.sqrt(2), rel=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert figures() == expected
