"""Heatmaps of several widths: recorded figures, round trips on every grid, what each width is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from codec_samples import batch, instances, points_everywhere, skeleton

from lightpose.codecs.megvii import MegviiCodec
from lightpose.errors import UserError

PARITY = Path(__file__).parents[1] / "data_files/parity"
HW = (256, 192)


def test_matches_recorded_figures():
    """Scores are recorded with a half added."""
    figures = {name: torch.from_numpy(array) for name, array in np.load(PARITY / "megvii.npz").items()}
    codec = MegviiCodec(skeleton(17), HW, "stride", kernels=[11])
    targets = codec.encode(batch(instances(figures["keypoints"], figures["visible"])))
    torch.testing.assert_close(targets.maps["heatmap"][0], figures["encoded_heatmaps"], atol=1e-4, rtol=0)
    torch.testing.assert_close(targets.weights["heatmap"], figures["encoded_weights"], atol=0, rtol=0)
    poses = codec.decode({"heatmap": figures["decode_input"][None]})
    torch.testing.assert_close(poses.keypoints, figures["decoded_keypoints"], atol=1e-4, rtol=0)
    torch.testing.assert_close(poses.keypoint_scores + 0.5, figures["decoded_scores"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])
def test_round_trip_is_exact_to_three_quarters_of_a_cell_up_to_the_borders(grid):
    codec, points = MegviiCodec(skeleton(17), HW, grid), points_everywhere(HW, batch=64)
    targets = codec.encode(batch(instances(points)))
    assert (targets.weights["heatmap"] == 1).all()
    poses = codec.decode(targets.maps)
    cell = 191 / 47 if grid == "udp" else 4
    assert (poses.keypoints - points).abs().max() <= 0.75 * cell + 1e-3
    cells = codec.map_grid.to_map(points)
    inner = ((cells > 2) & (cells < torch.tensor([45.0, 61.0]))).all(-1)
    torch.testing.assert_close(poses.keypoint_scores[inner], torch.ones(int(inner.sum())))


def test_maps_of_another_size_decode_on_the_same_grid():
    maps = torch.zeros(1, 17, 32, 24)
    maps[..., 20, 10] = 255
    codec = MegviiCodec(skeleton(17), HW, "stride")
    torch.testing.assert_close(
        codec.decode({"heatmap": maps}).keypoints[0, 0], torch.tensor([42.0, 82.0]), atol=1, rtol=0
    )


def test_each_kernel_draws_a_wider_peak_and_the_narrowest_is_decoded():
    codec = MegviiCodec(skeleton(17), HW, "half_pixel")
    targets = codec.encode(batch(instances(torch.full((1, 17, 2), 97.6))))
    maps = torch.cat([targets.maps["wider"][0], targets.maps["heatmap"]])  # (5, 17, 64, 48)
    assert (maps.amax((-2, -1)) == 255).all()
    sums = maps.sum((-2, -1))[:, 0]
    assert (sums[:-1] > 1.3 * sums[1:]).all()
    for taps, of_kernel in zip((15, 11, 9, 7, 5), maps, strict=True):
        assert (of_kernel[0] > 0).sum() == taps**2


def test_nothing_counts_but_what_is_labelled_on_the_map_and_an_empty_sample_counts_as_empty():
    points = torch.tensor([[[50.0, 60.0], [-1.0, 60.0], [192.0, 60.0], [191.4, 255.4], [50.0, 60.0]]])
    visible = torch.tensor([[2.0, 2.0, 2.0, 1.0, 0.0]])
    codec = MegviiCodec(skeleton(5), HW, "half_pixel")
    targets = codec.encode(batch(instances(points, visible)))
    assert targets.weights["heatmap"].tolist() == [[1, 0, 0, 1, 0]]
    assert targets.weights["wider"].tolist() == [[[1, 0, 0, 1, 0]] * 4]
    for maps in targets.maps.values():
        assert (maps.amax((-2, -1)).reshape(-1, 5) == torch.tensor([255, 0, 0, 255, 0])).all()
    labels = instances(points, visible)
    empty = codec.encode(batch(replace(labels, valid=torch.zeros_like(labels.valid))))
    assert all((weights == 1).all() for weights in empty.weights.values())
    assert all((maps == 0).all() for maps in empty.maps.values())


def test_one_kernel_makes_one_target():
    codec = MegviiCodec(skeleton(3), HW, "udp", kernels=[7])
    assert codec.spec.target_names == {"heatmap"}
    assert codec.encode(batch(instances(torch.ones(1, 3, 2)))).maps.keys() == {"heatmap"}


@pytest.mark.parametrize(("kernels", "message"), [([], "wide to narrow"), ([5, 7], "wide to narrow"), ([8], "odd")])
def test_kernels_that_can_not_be_used_are_refused(kernels, message):
    with pytest.raises(UserError, match=message):
        MegviiCodec(skeleton(3), HW, "udp", kernels=kernels)
