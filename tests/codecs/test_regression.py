"""Coordinates as shares of the input: round trip, agreement with recorded figures, flips."""

from pathlib import Path

import numpy as np
import pytest
import torch
from codec_samples import batch, instances, points_everywhere, skeleton

from lightpose.codecs.regression import RegressionCodec

PARITY = Path(__file__).parents[1] / "data_files/parity"
HW = (256, 192)


@pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])
@pytest.mark.parametrize("input_hw", [HW, (384, 288)])
def test_round_trip_is_exact_up_to_the_border(grid, input_hw):
    points = points_everywhere(input_hw)
    codec = RegressionCodec(skeleton(17), input_hw, grid)
    targets = codec.encode(batch(instances(points)))
    assert targets.weights["keypoints"].min() == 1
    poses = codec.decode(targets.maps)
    torch.testing.assert_close(poses.keypoints, points, atol=1e-4, rtol=0)
    assert poses.keypoint_scores.min() == poses.scores.min() == 1


def test_matches_recorded_figures():
    figures = {key: torch.from_numpy(array) for key, array in np.load(PARITY / "regression.npz").items()}
    codec = RegressionCodec(skeleton(17), HW, "stride", sigmas=True)
    targets = codec.encode(batch(instances(figures["keypoints"], figures["visible"])))
    counted = figures["encoded_weights"] > 0
    assert torch.equal(targets.weights["keypoints"], figures["encoded_weights"])
    torch.testing.assert_close(
        targets.maps["keypoints"][counted], figures["encoded_labels"][counted], atol=1e-4, rtol=0
    )
    keypoints, sigmas = figures["decode_input_xy_sigma"].split(2, -1)
    poses = codec.decode({"keypoints": keypoints, "sigmas": sigmas})
    torch.testing.assert_close(poses.keypoints, figures["decoded_keypoints"].float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(poses.keypoint_scores, figures["decoded_scores"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])
def test_flip_of_the_mirrored_input_gives_the_same_pose(grid):
    codec = RegressionCodec(skeleton(3), HW, grid)
    points = points_everywhere(HW)[:, :3]
    mirrored = points[:, [1, 0, 2]].clone()
    mirrored[..., 0] = 191 - mirrored[..., 0] - codec.mirror_lag
    outputs = codec.encode(batch(instances(mirrored))).maps
    torch.testing.assert_close(codec.decode(codec.flip(outputs)).keypoints, points, atol=1e-4, rtol=0)


def test_flip_exchanges_deviations_and_twice_is_nothing():
    codec = RegressionCodec(skeleton(3), HW, "stride", sigmas=True)
    outputs = {"keypoints": torch.rand(2, 3, 2), "sigmas": torch.rand(2, 3, 2)}
    once = codec.flip(outputs)
    assert torch.equal(once["sigmas"], outputs["sigmas"][:, [1, 0, 2]])
    twice = codec.flip(once)
    assert torch.equal(twice["sigmas"], outputs["sigmas"])
    torch.testing.assert_close(twice["keypoints"], outputs["keypoints"], atol=1e-6, rtol=0)
    merged = codec.merge(outputs, once)
    torch.testing.assert_close(merged["keypoints"], (outputs["keypoints"] + once["keypoints"]) / 2)
    torch.testing.assert_close(merged["sigmas"], (outputs["sigmas"] + once["sigmas"]) / 2)


def test_keypoints_outside_or_unlabelled_have_weight_zero_and_so_has_nobody():
    codec = RegressionCodec(skeleton(4), HW, "stride")
    points = torch.tensor([[[50.0, 50.0], [191.5, 50.0], [torch.nan, torch.nan], [50.0, -0.5]]])
    labels = instances(points, torch.tensor([[1.0, 2.0, 0.0, 2.0]]))
    targets = codec.encode(batch(labels))
    assert targets.weights["keypoints"].tolist() == [[1, 0, 0, 0]]
    assert targets.maps["keypoints"][0, 1:].abs().max() == 0
    labels.valid.zero_()
    assert codec.encode(batch(labels)).weights["keypoints"].abs().max() == 0


def test_scores_fall_with_deviations():
    codec = RegressionCodec(skeleton(2), HW, "stride", sigmas=True)
    sigmas = torch.tensor([[[0.1, 0.3], [0.8, 1.0]]])
    poses = codec.decode({"keypoints": torch.zeros(1, 2, 2), "sigmas": sigmas})
    torch.testing.assert_close(poses.keypoint_scores, torch.tensor([[0.8, 0.1]]))
    torch.testing.assert_close(poses.scores, torch.tensor([0.45]))
