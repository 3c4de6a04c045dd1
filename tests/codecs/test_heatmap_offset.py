"""Disks and offsets: exact round trip, agreement with recorded figures, flips."""

from pathlib import Path

import numpy as np
import pytest
import torch
from codec_samples import batch, instances, points_everywhere, skeleton

from lightpose.codecs.heatmap_offset import HeatmapOffsetCodec
from lightpose.errors import UserError

PARITY = Path(__file__).parents[1] / "data_files/parity"
HW = (256, 192)


@pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])
@pytest.mark.parametrize("input_hw", [HW, (384, 288)])
def test_round_trip_is_exact(grid, input_hw):
    points = points_everywhere(input_hw)
    codec = HeatmapOffsetCodec(skeleton(17), input_hw, grid)
    targets = codec.encode(batch(instances(points)))
    assert {name: tuple(shape) for name, shape in codec.spec.outputs.items()} == {
        name: tuple(target.shape[1:]) for name, target in targets.maps.items()
    }
    poses = codec.decode(targets.maps)
    torch.testing.assert_close(poses.keypoints, points, atol=1e-3, rtol=0)
    assert poses.keypoint_scores.min() > 0.6  # in a corner of the stride grid, which cuts most of the disk
    assert poses.keypoint_scores[5:].min() > 0.9
    assert poses.keypoint_scores.max() <= 1


def test_matches_recorded_figures():
    """All recorded arrays of 8 of the 17 keypoints, which published code interleaves as (disk, dx, dy).

    The record decodes with input / (map - 1), ours is smaller by (input - 1) / input (see the heatmap codec's test).
    Its score is the blurred peak, 0.34 for a perfect map; ours is relative to that, and at most 1.
    """
    figures = {key: torch.from_numpy(array) for key, array in np.load(PARITY / "udp_combined.npz").items()}
    codec = HeatmapOffsetCodec(skeleton(8), HW, "udp")
    targets = codec.encode(batch(instances(figures["keypoints"], figures["visible"])))
    torch.testing.assert_close(targets.maps["heatmap"][0], figures["encoded_heatmaps"][:, 0], atol=0, rtol=0)
    torch.testing.assert_close(targets.maps["offset"][0], figures["encoded_heatmaps"][:, 1:], atol=1e-4, rtol=0)
    torch.testing.assert_close(targets.weights["heatmap"], figures["encoded_weights"], atol=0, rtol=0)
    maps = figures["decode_input"][None]
    poses = codec.decode({"heatmap": maps[:, :, 0], "offset": maps[:, :, 1:]})
    expected = figures["decoded_keypoints"] * (torch.tensor([192, 256]) - 1) / torch.tensor([192, 256])
    torch.testing.assert_close(poses.keypoints, expected.float(), atol=1e-4, rtol=0)
    scores = (figures["decoded_scores"] / codec.full_score).clamp(0, 1)
    torch.testing.assert_close(poses.keypoint_scores, scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])
def test_flip_of_the_mirrored_input_gives_the_same_pose(grid):
    codec = HeatmapOffsetCodec(skeleton(3), HW, grid)
    points = points_everywhere(HW)[:, :3] * 0.9 + 8
    mirrored = points[:, [1, 0, 2]].clone()
    mirrored[..., 0] = 191 - mirrored[..., 0] - codec.mirror_lag
    maps = codec.encode(batch(instances(mirrored))).maps
    torch.testing.assert_close(codec.decode(codec.flip(maps)).keypoints, points, atol=1e-3, rtol=0)
    twice = codec.flip(codec.flip(maps))
    assert all(torch.equal(twice[name], maps[name]) for name in maps)


def test_keypoints_out_of_reach_or_unlabelled_have_weight_zero():
    codec = HeatmapOffsetCodec(skeleton(3), HW, "stride")
    points = torch.tensor([[[50.0, 50.0], [-20.0, 50.0], [torch.nan, torch.nan]]])
    targets = codec.encode(batch(instances(points, torch.tensor([[2.0, 2.0, 0.0]]))))
    assert targets.weights["heatmap"].tolist() == targets.weights["offset"].tolist() == [[1, 0, 0]]
    assert all(target[0, 1:].abs().max() == 0 for target in targets.maps.values())


def test_where_nobody_is_there_empty_disks_count():
    labels = instances(torch.full((1, 3, 2), 50.0))
    labels.valid.zero_()
    targets = HeatmapOffsetCodec(skeleton(3), HW, "stride").encode(batch(labels))
    assert targets.weights["heatmap"].tolist() == [[1, 1, 1]]
    assert targets.maps["heatmap"].abs().max() == 0


@pytest.mark.parametrize(("options", "message"), [({"radius_factor": 0}, "positive"), ({"blur_kernel": 4}, "try 5")])
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        HeatmapOffsetCodec(skeleton(3), HW, "udp", **options)


def test_decoding_is_as_exact_under_autocast():
    codec = HeatmapOffsetCodec(skeleton(17), HW, "half_pixel")
    maps = codec.encode(batch(instances(points_everywhere(HW)))).maps
    noise = torch.randn(maps["heatmap"].shape, generator=torch.Generator().manual_seed(0))
    maps = {**maps, "heatmap": maps["heatmap"] + 0.01 * noise}
    expected = codec.decode(maps)
    with torch.autocast("cpu", torch.bfloat16):
        poses = codec.decode(maps)
    torch.testing.assert_close(poses.keypoints, expected.keypoints, atol=1e-4, rtol=0)
    torch.testing.assert_close(poses.keypoint_scores, expected.keypoint_scores)
