"""Errors in space: recorded figures, what alignments forgive, actions and clips."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_samples import batch_of, poses_of, skeleton
from scipy.spatial.transform import Rotation

from lightpose.errors import UserError
from lightpose.metrics.mpjpe import MPJPE, procrustes, scaled

RECORD = dict(np.load(Path(__file__).parents[1] / "data_files/parity/metrics/mpjpe.npz"))


def batch_mm(truth, indices=None, visible=None):
    """Labels as they come: `batch_of` takes them for image pixels."""
    batch = batch_of(truth[..., :2], list(range(len(truth))) if indices is None else indices, visible=visible)
    return batch.map(lambda tensor: truth[:, None] if tensor is batch.instances.keypoints else tensor)


def figures(predicted, truth, images=(), visible=None, root=None):
    metric = MPJPE(skeleton(truth.shape[1]), root)
    metric.set_ground_truth({"images": list(images)})
    metric.update(poses_of(predicted), batch_mm(truth, visible=visible))
    return {name: float(value) for name, value in metric.compute().items()}


def people(rows=12, count=5):
    draw = torch.Generator().manual_seed(0)
    return 300 * torch.randn(rows, count, 3, generator=draw)


def test_functions_match_the_record():
    predicted, truth = torch.from_numpy(RECORD["pred"]), torch.from_numpy(RECORD["gt"])
    mask, everything = torch.from_numpy(RECORD["mask"]), torch.ones(20, 17, dtype=torch.bool)
    aligned = {  # recorded with all joints aligning, and the masked ones measured
        "mpjpe": predicted,
        "p_mpjpe": procrustes(predicted, truth, everything),
        "n_mpjpe": scaled(predicted, truth, everything),
    }
    for name, poses in aligned.items():
        error = (poses - truth).norm(dim=-1)[mask].mean()
        assert float(error) == pytest.approx(float(RECORD[name]), rel=1e-6), name


def test_each_alignment_forgives_what_it_says():
    truth = people()
    turn = torch.from_numpy(Rotation.random(rng=np.random.default_rng(0)).as_matrix()).float()
    moved = figures(truth + torch.tensor([50.0, -20.0, 3000.0]), truth)
    assert moved["MPJPE_mm"] < 1e-3
    larger = figures(1.3 * truth, truth)
    assert larger["MPJPE_mm"] > 50
    assert larger["N-MPJPE_mm"] < 1e-3
    turned = figures(0.7 * truth @ turn + 100, truth)
    assert turned["N-MPJPE_mm"] > 50
    assert turned["P-MPJPE_mm"] < 1e-2
    mirrored = figures(truth * torch.tensor([-1.0, 1.0, 1.0]), truth)
    assert mirrored["P-MPJPE_mm"] > 20


def test_the_error_is_the_mean_distance_from_the_root():
    truth = people()
    predicted = truth.clone()
    predicted[:, 3, 0] += 30  # one joint of five
    predicted += torch.arange(12.0)[:, None, None]
    assert figures(predicted, truth)["MPJPE_mm"] == pytest.approx(6, abs=1e-3)
    rooted = figures(predicted, truth, root=["joint3"])
    assert rooted["MPJPE_mm"] == pytest.approx(24, abs=1e-3)


def test_joints_without_a_label_neither_count_nor_align():
    truth, visible = people(), torch.full((12, 5), 2.0)
    predicted = truth + 0
    visible[:, 2] = 0
    visible[3, 0] = 0  # the root: nothing of this pose counts
    predicted[:, 2] += 1e4
    predicted[3] += torch.randn(5, 3, generator=torch.Generator().manual_seed(1)) * 100
    unlabelled = truth.clone()
    unlabelled[:, 2] = float("nan")
    found = figures(predicted, unlabelled, visible=visible)
    assert max(found[name] for name in ("MPJPE_mm", "P-MPJPE_mm", "N-MPJPE_mm")) < 1e-2


def test_velocity_compares_frames_of_one_clip():
    truth, step = people(), 7.0
    clips = [{"id": index, "clip": "ab"[index // 6]} for index in range(12)]
    drift = step * torch.arange(6.0).repeat(2)[:, None, None] * torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0])[:, None]
    predicted = truth + drift * torch.tensor([1.0, 0.0, 0.0])
    assert figures(predicted, truth, clips)["MPJVE_mm"] == pytest.approx(step * 4 / 5, abs=1e-3)
    assert math.isnan(figures(predicted, truth)["MPJVE_mm"])


def test_each_action_has_its_figures():
    truth = people()
    images = [{"id": index, "action": "Walking" if index < 3 else "Eating", "clip": "a"} for index in range(12)]
    predicted = truth.clone()
    predicted[:3, 1, 2] += 50
    found = figures(predicted, truth, images)
    assert found["MPJPE_mm/Walking"] == pytest.approx(10, abs=1e-3)
    assert found["MPJPE_mm/Eating"] == pytest.approx(0, abs=1e-3)
    assert found["MPJPE_mm"] == pytest.approx(2.5, abs=1e-3)
    assert found["MPJVE_mm/Walking"] == pytest.approx(0, abs=1e-3)
    assert found["MPJVE_mm/Eating"] == pytest.approx(10 / 9, abs=1e-3)  # one of nine steps


def test_a_model_that_diverged_has_figures_that_are_not_numbers():
    predicted = people()
    predicted[0, 1] = float("nan")
    assert math.isnan(figures(predicted, people())["P-MPJPE_mm"])


def test_without_poses_there_is_nothing_to_measure():
    found = MPJPE(skeleton()).compute()
    assert len(found) == 4
    assert all(math.isnan(value) for value in found.values())


def test_poses_of_the_plane_are_refused():
    with pytest.raises(UserError, match="use metric=epe"):
        figures(people()[..., :2], people())
