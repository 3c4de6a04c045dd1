"""Coordinates as means of maps: round trip, agreement with recorded figures, flips."""

from pathlib import Path

import numpy as np
import pytest
import torch
from codec_samples import batch, instances, points_everywhere, skeleton
from torch import Tensor

from lightpose.codecs.integral import IntegralCodec

PARITY = Path(__file__).parents[1] / "data_files/parity"
HW = (256, 192)
each_grid = pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])


def means(maps: Tensor) -> Tensor:
    """Mean cell (x, y) of each map, as shares of its size."""
    height, width = maps.shape[-2:]
    x = (maps.sum(-2) * torch.arange(width)).sum(-1) / width
    y = (maps.sum(-1) * torch.arange(height)).sum(-1) / height
    return torch.stack([x, y], -1)


@each_grid
@pytest.mark.parametrize("input_hw", [HW, (384, 288)])
def test_round_trip_is_exact_up_to_the_border(grid, input_hw):
    points = points_everywhere(input_hw)
    codec = IntegralCodec(skeleton(17), input_hw, grid)
    targets = codec.encode(batch(instances(points)))
    assert {name: tuple(shape) for name, shape in codec.spec.outputs.items()} == {
        name: tuple(target.shape[1:]) for name, target in targets.maps.items()
    }
    assert min(float(weights.min()) for weights in targets.weights.values()) == 1
    poses = codec.decode(targets.maps)
    torch.testing.assert_close(poses.keypoints, points, atol=1e-4, rtol=0)
    assert poses.keypoint_scores[5:].min() > 0.9
    assert poses.keypoint_scores.max() <= 1


@each_grid
def test_a_target_map_has_its_mean_at_the_keypoint(grid):
    codec = IntegralCodec(skeleton(17), HW, grid, sigma=1.5)
    points = points_everywhere(HW) * 0.7 + 30  # 5 sigma from a border
    maps = codec.encode(batch(instances(points))).maps
    torch.testing.assert_close(maps["heatmap"].sum((-2, -1)), torch.ones(8, 17))
    torch.testing.assert_close(means(maps["heatmap"]), maps["keypoints"], atol=1e-5, rtol=0)


def test_matches_recorded_figures():
    figures = {key: torch.from_numpy(array) for key, array in np.load(PARITY / "integral.npz").items()}
    codec = IntegralCodec(skeleton(17), (256, 256), "stride", centers="rounded", truncate=3.0)
    targets = codec.encode(batch(instances(figures["keypoints"], figures["visible"])))
    counted = figures["encoded_weights"] > 0
    for name, recorded in (("keypoints", figures["encoded_labels"]), ("heatmap", figures["encoded_heatmaps"][None])):
        assert torch.equal(targets.weights[name], figures["encoded_weights"])
        torch.testing.assert_close(targets.maps[name][counted], recorded[counted], atol=1e-6, rtol=0)


@each_grid
def test_flip_of_the_mirrored_input_gives_the_same_pose(grid):
    codec = IntegralCodec(skeleton(3), HW, grid)
    points = points_everywhere(HW)[:, :3] * 0.9 + 8
    mirrored = points[:, [1, 0, 2]].clone()
    mirrored[..., 0] = 191 - mirrored[..., 0] - codec.mirror_lag
    plain, turned = (codec.encode(batch(instances(each))).maps for each in (points, mirrored))
    flipped = codec.flip(turned)
    for name in plain:
        torch.testing.assert_close(flipped[name], plain[name], atol=1e-5, rtol=0)
    twice = codec.flip(codec.flip(turned))
    assert torch.equal(twice["heatmap"], turned["heatmap"])
    torch.testing.assert_close(twice["keypoints"], turned["keypoints"], atol=1e-6, rtol=0)


def test_maps_of_another_size_decode():
    small, large = (IntegralCodec(skeleton(3), input_hw, "stride") for input_hw in (HW, (384, 288)))
    points = points_everywhere((384, 288))[:, :3]
    outputs = large.encode(batch(instances(points))).maps
    torch.testing.assert_close(small.decode(outputs).keypoints, points, atol=1e-4, rtol=0)


def test_keypoints_outside_or_unlabelled_have_weight_zero():
    codec = IntegralCodec(skeleton(3), HW, "stride")
    points = torch.tensor([[[50.0, 50.0], [-4.0, 50.0], [torch.nan, torch.nan]]])
    targets = codec.encode(batch(instances(points, torch.tensor([[2.0, 2.0, 0.0]]))))
    assert targets.weights["heatmap"].tolist() == targets.weights["keypoints"].tolist() == [[1, 0, 0]]
    assert all(target.isfinite().all() for target in targets.maps.values())


def test_where_nobody_is_there_even_maps_count():
    codec = IntegralCodec(skeleton(3), HW, "stride")
    labels = instances(torch.full((1, 3, 2), 50.0))
    labels.valid.zero_()
    targets = codec.encode(batch(labels))
    assert targets.weights["heatmap"].tolist() == [[1, 1, 1]]
    assert targets.weights["keypoints"].abs().max() == 0
    torch.testing.assert_close(targets.maps["heatmap"], torch.full((1, 3, 64, 48), 1 / (64 * 48)))
    assert codec.decode(targets.maps).keypoint_scores.max() < 0.01
