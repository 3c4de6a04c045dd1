from pathlib import Path

import numpy as np
import pytest

from lightpose.metrics.nms import oks_nms, pairwise_oks, soft_oks_nms

RECORD = np.load(Path(__file__).parents[1] / "data_files/parity/oks_nms.npz")
KEYPOINTS = RECORD["keypoints"].reshape(24, 17, 3)[..., :2]
SCORES, AREAS, SIGMAS = RECORD["score"], RECORD["area"], RECORD["sigmas"]


def test_similarity_matches_the_record_and_is_symmetric() -> None:
    oks = pairwise_oks(KEYPOINTS, AREAS, SIGMAS)
    np.testing.assert_allclose(oks[0], RECORD["oks_first_vs_all"], atol=1e-6)
    np.testing.assert_allclose(oks, oks.T, atol=1e-12)
    np.testing.assert_allclose(oks.diagonal(), 1, atol=1e-12)


def test_suppression_matches_the_record() -> None:
    threshold = float(RECORD["thr"])
    assert oks_nms(KEYPOINTS, SCORES, AREAS, SIGMAS, threshold).tolist() == RECORD["keep"].tolist()
    soft = soft_oks_nms(KEYPOINTS, SCORES, AREAS, SIGMAS, threshold, max_poses=20)
    assert soft.tolist() == RECORD["soft_keep"].tolist()


def test_similarity_is_the_mean_over_keypoints() -> None:
    poses = np.array([[[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [1e6, 1e6]]])
    assert pairwise_oks(poses, np.ones(2), np.ones(2))[0, 1] == pytest.approx(0.5)


def test_no_poses_and_equal_poses() -> None:
    none = (np.empty((0, 2, 2)), np.empty(0), np.empty(0), np.ones(2), 0.9)
    assert len(oks_nms(*none)) == 0
    assert len(soft_oks_nms(*none, max_poses=20)) == 0
    same = (np.zeros((3, 2, 2)), np.array([0.1, 0.3, 0.2]), np.zeros(3), np.ones(2), 1e-4)
    assert oks_nms(*same).tolist() == [1]
    assert sorted(soft_oks_nms(*same, max_poses=20).tolist()) == [0, 1, 2]


def test_groups_do_not_meet() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 6, 48)
    keypoints, areas = np.concatenate([KEYPOINTS, KEYPOINTS + 1]), np.concatenate([AREAS, AREAS])
    scores = rng.random(48).round(1)
    hard = oks_nms(keypoints, scores, areas, SIGMAS, 0.5, groups)
    soft = soft_oks_nms(keypoints, scores, areas, SIGMAS, 0.5, 3, groups)
    for group in range(6):
        rows = np.flatnonzero(groups == group)
        one = (keypoints[rows], scores[rows], areas[rows], SIGMAS, 0.5)
        assert hard[groups[hard] == group].tolist() == rows[oks_nms(*one)].tolist()
        assert soft[groups[soft] == group].tolist() == rows[soft_oks_nms(*one, max_poses=3)].tolist()
    assert len(hard) < 48 and (np.diff(groups[hard]) >= 0).all()
