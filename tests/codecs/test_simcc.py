"""SimCC codec: round trips at its stated resolution, agreement with recorded figures, mirror images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from codec_samples import batch, instances, points_everywhere, skeleton
from torch import Tensor

from lightpose.codecs.simcc import SimCCCodec
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton

PARITY = Path(__file__).parents[1] / "data_files/parity"
GRIDS = ("stride", "udp", "half_pixel")
HW = (256, 192)
TARGETS = {
    "plain": {},
    "normalized": {"normalize": True, "sigma": [6, 6]},
    "one_hot": {"target": "one_hot"},
    "dark": {"refine": "dark"},
}


@pytest.mark.parametrize("split", [1, 2, 3])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", TARGETS)
def test_round_trip_to_half_a_bin(name, grid, split):
    codec = SimCCCodec(skeleton(17), HW, grid, split=split, **TARGETS[name])
    points = points_everywhere(HW)
    targets = codec.encode(batch(instances(points)))
    assert all((weights > 0).all() for weights in targets.weights.values())
    assert {name: target.shape[1:] for name, target in targets.maps.items()} == codec.spec.outputs
    error = (codec.decode(targets.maps).keypoints - points).abs()
    slack = 0.01 if name == "dark" else 1e-4
    assert error.max() <= 0.5 / split + slack


def test_dark_finds_the_middle_of_a_profile_between_bins():
    """Up to the ends; without it the error is half a bin."""
    codec = SimCCCodec(skeleton(17), HW, "half_pixel", refine="dark")
    points = points_everywhere(HW)
    maps = {}
    for axis, (name, bins, sigma) in enumerate(zip("xy", (384, 512), codec.sigma, strict=True)):
        distance = torch.arange(bins) - (points[..., axis, None] * 2 + 0.5)
        maps[name] = torch.exp(-(distance**2) / (2 * sigma**2))
    assert (codec.decode(maps).keypoints - points).abs().max() < 0.01


def test_default_sigma_is_the_published_one():
    sizes = {(256, 192): [4.9, 5.66], (384, 288): [6, 6.93], (256, 256): [5.66, 5.66]}
    for input_hw, sigma in sizes.items():
        assert SimCCCodec(skeleton(2), input_hw, "stride").sigma == pytest.approx(sigma, abs=0.005)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("simcc", {"sigma": [4.9, 5.66]}),
        ("simcc_dark", {"sigma": [4.9, 5.66], "refine": "dark"}),
        ("simcc_label_smooth", {"target": "one_hot", "split": 3}),
        ("simcc_normalized", {"sigma": [6, 6], "normalize": True}),
    ],
)
def test_matches_recorded_figures(name, options):
    """All recorded arrays.

    One difference is on purpose: keypoints 3 and 5 lie outside the input, 4 pixels beyond its edge, where our
    refinement moves further out than the published one, by its limit of two bins.
    """
    figures = {key: torch.from_numpy(array) for key, array in np.load(PARITY / f"{name}.npz").items()}
    codec = SimCCCodec(skeleton(17), HW, "stride", **options)
    targets = codec.encode(batch(instances(figures["keypoints"], figures["visible"])))
    for axis in "xy":
        torch.testing.assert_close(targets.maps[axis], figures[f"encoded_{axis}"], atol=1e-6, rtol=0)
        torch.testing.assert_close(targets.weights[axis], figures["encoded_weights"], atol=0, rtol=0)
    poses = codec.decode({axis: figures[f"decode_{axis}"] for axis in "xy"})
    expected = figures["decoded_keypoints"].float()
    if name == "simcc_dark":
        assert (poses.keypoints - expected)[0, [3, 5], 0].abs().max() < 0.1
        expected[0, 3, 0], expected[0, 5, 0] = -1, 192.5
    torch.testing.assert_close(poses.keypoints, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(poses.keypoint_scores, figures["decoded_scores"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("split", [1, 2, 3])
@pytest.mark.parametrize("grid", GRIDS)
def test_flip_of_the_mirrored_input_gives_the_same_pose(grid, split):
    codec = SimCCCodec(skeleton(3), HW, grid, split=split)
    points = points_everywhere(HW)[:, :3] * 0.99 + 0.3  # no point is as near to two bins
    mirrored = points[:, [1, 0, 2]].clone()
    mirrored[..., 0] = 191 - mirrored[..., 0]
    plain, turned = (codec.encode(batch(instances(each))).maps for each in (points, mirrored))
    undone = codec.flip(turned)
    images = slice(0, 192 * split - (split - 1 if grid == "stride" else 0))  # the bins that have a mirror image
    torch.testing.assert_close(undone["x"][..., images], plain["x"][..., images], atol=1e-5, rtol=0)
    torch.testing.assert_close(undone["y"], plain["y"])
    assert codec.mirror_lag == 0
    noise = {name: torch.randn_like(target) for name, target in plain.items()}
    twice = codec.flip(codec.flip(noise))
    assert all(torch.equal(twice[name], noise[name]) for name in "xy")
    merged = codec.merge(noise, plain)
    torch.testing.assert_close(merged["x"], (noise["x"] + plain["x"]) / 2)


def test_weights_follow_labels_reach_and_skeleton():
    built = Skeleton.build(list("abcde"), weights=[1, 2, 1, 1, 1])
    points = torch.tensor([[[50.0, 50.0], [50.0, 50.0], [torch.nan, torch.nan], [-7.0, 50.0], [50.0, 265.0]]])
    labels = instances(points, torch.tensor([[1.0, 2.0, 0.0, 2.0, 2.0]]))
    targets = SimCCCodec(built, HW, "stride").encode(batch(labels))
    assert targets.weights["x"].tolist() == targets.weights["y"].tolist() == [[1, 2, 0, 1, 0]]
    assert all(target[0, [2, 4]].abs().max() == 0 for target in targets.maps.values())
    one_hot = SimCCCodec(built, HW, "stride", target="one_hot").encode(batch(labels))
    assert one_hot.weights["x"].tolist() == [[1, 2, 0, 0, 0]]


@pytest.mark.parametrize("name", TARGETS)
def test_where_nobody_is_there_no_bin_stands_out_and_that_counts(name):
    labels = instances(torch.full((1, 3, 2), 50.0))
    labels.valid.zero_()
    codec = SimCCCodec(skeleton(3), HW, "stride", **TARGETS[name])
    targets = codec.encode(batch(labels))
    for axis, target in targets.maps.items():
        assert targets.weights[axis].tolist() == [[1, 1, 1]]
        assert target.max() == target.min()
        if name in ("normalized", "one_hot"):
            torch.testing.assert_close(target.sum(-1), torch.ones(1, 3))


@pytest.mark.parametrize("refine", ["dark", "none"])
def test_profiles_without_a_peak_stay_finite_and_near(refine):
    codec = SimCCCodec(skeleton(3), HW, "half_pixel", refine=refine)
    generator = torch.Generator().manual_seed(0)
    noise = {axis: torch.randn(4, 3, bins, generator=generator) for axis, bins in (("x", 384), ("y", 512))}
    for change in (torch.zeros_like, lambda x: -x.square(), lambda x: 1e4 * x, Tensor.half, lambda x: x):
        poses = codec.decode({axis: change(profile) for axis, profile in noise.items()})
        assert poses.keypoints.dtype == torch.float32
        assert poses.keypoints.isfinite().all()
        assert (poses.keypoints >= -1.25).all()
        assert (poses.keypoints <= torch.tensor([192.25, 256.25])).all()
        assert (poses.keypoint_scores >= 0).all()


@pytest.mark.parametrize("refine", ["dark", "none"])
def test_decoding_exports_with_a_dynamic_batch_and_is_as_exact_under_autocast(refine):
    codec = SimCCCodec(skeleton(3), HW, "half_pixel", refine=refine)

    class Decode(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return codec.decode({"x": x, "y": y}).keypoints

    dynamic = {0: torch.export.Dim("b")}
    given = (torch.rand(4, 3, 384), torch.rand(4, 3, 512))
    exported = torch.export.export(Decode(), given, dynamic_shapes=(dynamic, dynamic))
    maps = codec.encode(batch(instances(points_everywhere(HW)[:5, :3]))).maps
    expected = codec.decode(maps).keypoints
    torch.testing.assert_close(exported.module()(maps["x"], maps["y"]), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(codec.decode(maps).keypoints, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": 0}, "at least 1"),
        ({"target": "onehot"}, "gaussian or one_hot"),
        ({"refine": "quarter"}, "dark or none"),
        ({"sigma": [6, 0]}, "two positive"),
        ({"sigma": [6]}, "two positive"),
        ({"label_smoothing": 1}, "below 1"),
        ({"grid": "plain"}, "half_pixel"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        SimCCCodec(**{"skeleton": skeleton(3), "input_hw": HW, "grid": "stride", **options})
