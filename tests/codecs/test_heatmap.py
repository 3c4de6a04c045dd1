"""Heatmap codec: round trips at its stated resolution, agreement with recorded figures, robustness."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from codec_samples import batch, instances, points_everywhere, skeleton
from torch import Tensor

from lightpose.codecs.heatmap import HeatmapCodec
from lightpose.errors import UserError
from lightpose.geometry import Grid
from lightpose.skeleton import Skeleton

PARITY = Path(__file__).parents[1] / "data_files/parity"
GRIDS: tuple[Grid, ...] = ("stride", "udp", "half_pixel")
HW = (256, 192)


def round_trip_error(codec: HeatmapCodec, points: Tensor) -> Tensor:
    """(B, K, 2) absolute error in input pixels."""
    targets = codec.encode(batch(instances(points)))
    assert (targets.weights["heatmap"] > 0).all()
    return (codec.decode(targets.maps).keypoints - points).abs()


@pytest.mark.parametrize(
    ("grid", "sigma", "input_hw"), [*product(GRIDS, (1.5, 2.0, 3.0), [HW]), *product(GRIDS, (2.0, 3.0), [(384, 288)])]
)
def test_dark_round_trip_is_exact_to_a_twentieth_of_a_pixel(grid, sigma, input_hw):
    for dark_step in (1, 2):
        codec = HeatmapCodec(
            skeleton(17), input_hw, grid, sigma=sigma, blur_kernel=17 if sigma == 3 else 11, dark_step=dark_step
        )
        assert round_trip_error(codec, points_everywhere(input_hw)).max() <= 0.05


@pytest.mark.parametrize("grid", GRIDS)
def test_quarter_and_argmax_keep_their_resolution(grid):
    """A quarter and half a cell; up to half a cell more in the last pixels of the stride grid, beyond its last cell."""
    points = points_everywhere(HW, batch=64)
    inside = points <= torch.tensor([190.0, 254.0]) if grid == "stride" else torch.ones_like(points, dtype=torch.bool)
    for refine, cells in (("quarter", 0.25), ("none", 0.5)):
        codec = HeatmapCodec(skeleton(17), HW, grid, refine=refine)
        error = round_trip_error(codec, points)
        pixels = cells * (191 / 47 if grid == "udp" else 4)
        assert error[inside].max() <= pixels + 1e-3
        assert error.max() <= pixels + (1 + 1e-3 if grid == "stride" else 1e-3)


def record(name: str) -> dict[str, Tensor]:
    """Arrays recorded from published code: 17 keypoints, input 256x192, map 64x48; decoding from the same maps."""
    arrays = {**np.load(PARITY / "msra.npz"), **np.load(PARITY / f"{name}.npz")}
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


@pytest.mark.parametrize(
    ("name", "grid", "options"),
    [
        ("msra", "stride", {"centers": "rounded", "truncate": 3, "refine": "quarter"}),
        ("msra_dark", "stride", {"blur_border": "zero", "dark_step": 2}),
        ("udp", "udp", {"truncate": 3, "blur_border": "zero"}),
    ],
)
def test_matches_recorded_figures(name, grid, options):
    """All recorded arrays, with the options that reproduce published code.

    Two differences are on purpose. Published code takes the integer part of cell + 0.5 as the nearest cell, so keypoint
    3 at x = -4, one cell left of the map, counts as on it: "msra" draws the Gaussian of x = 0, "udp" cuts one column
    later. And the record "udp" decodes with input / (map - 1), the inverse of its encoding times input / (input - 1),
    which its own way back to the image undoes; ours is the inverse, so it is smaller by (input - 1) / input.
    """
    figures = record(name)
    codec = HeatmapCodec(skeleton(17), HW, grid, **options)
    keypoints, columns = figures["keypoints"].clone(), torch.ones(17, 1, 48)
    if name == "msra":
        keypoints[0, 3, 0] = 0
    elif name == "udp":
        columns[3, :, 6] = 0
    targets = codec.encode(batch(instances(keypoints, figures["visible"])))
    encoded = figures["encoded_heatmaps"] * columns
    torch.testing.assert_close(targets.maps["heatmap"][0], encoded, atol=1e-4, rtol=0)
    torch.testing.assert_close(targets.weights["heatmap"], figures["encoded_weights"], atol=0, rtol=0)
    poses = codec.decode({"heatmap": figures["decode_input"][None]})
    size = torch.tensor([192, 256])
    expected = (figures["decoded_keypoints"] * ((size - 1) / size if name == "udp" else 1)).float()
    torch.testing.assert_close(poses.keypoints, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(poses.keypoint_scores, figures["decoded_scores"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "grid", "dark_step"), [("msra_dark", "stride", 2), ("udp", "udp", 1)])
def test_default_border_differs_from_the_record_only_near_the_border(name, grid, dark_step):
    figures = record(name)
    maps = {"heatmap": figures["decode_input"][None]}
    ours, published = (
        HeatmapCodec(skeleton(17), HW, grid, dark_step=dark_step, blur_border=border).decode(maps).keypoints
        for border in ("shrink", "zero")
    )
    cells = published / 4
    inside = ((cells > 9) & (cells < torch.tensor([38, 54]))).all(-1)
    assert inside.sum() >= 5
    torch.testing.assert_close(ours[inside], published[inside], atol=1e-4, rtol=0)


def test_default_blur_does_not_move_peaks_near_the_border():
    """The published blur pulls a keypoint on the border inward by more than a cell; ours by nothing, noise included."""
    points = points_everywhere(HW, batch=60)
    noise = torch.randn(60, 17, 16, 12, generator=torch.Generator().manual_seed(1))
    noise = 0.02 * torch.nn.functional.interpolate(noise, scale_factor=4, mode="bicubic")

    def errors(border: str, maps_noise: Tensor | float) -> Tensor:
        codec = HeatmapCodec(skeleton(17), HW, "half_pixel", blur_border=border)
        maps = codec.encode(batch(instances(points))).maps["heatmap"] + maps_noise
        return (codec.decode({"heatmap": maps}).keypoints - points).abs()

    on_border = (points == 0) | (points == torch.tensor([191.0, 255.0]))
    near = ((points < 20) | (points > torch.tensor([171.0, 235.0]))).any(-1)
    assert errors("zero", 0.0)[on_border].min() > 4
    assert errors("shrink", 0.0)[on_border].max() < 0.05
    noisy = errors("shrink", noise)
    assert noisy[near].mean() < 1.2 * noisy[~near].mean()
    assert noisy.max() < 4


def test_truncation_and_rounding_relate_to_the_default_in_closed_form():
    points = points_everywhere(HW)
    full, cut, rounded = (
        HeatmapCodec(skeleton(17), HW, "stride", **options).encode(batch(instances(points))).maps["heatmap"]
        for options in ({}, {"truncate": 3}, {"centers": "rounded"})
    )
    nearest = (points / 4 + 0.5).floor()
    near_x = (torch.arange(48) - nearest[..., :1]).abs() <= 6
    near_y = (torch.arange(64) - nearest[..., 1:]).abs() <= 6
    torch.testing.assert_close(cut, full * near_x[..., None, :] * near_y[..., :, None])
    on_cell = HeatmapCodec(skeleton(17), HW, "stride").encode(batch(instances(nearest * 4))).maps["heatmap"]
    torch.testing.assert_close(rounded, on_cell)


def test_weights_follow_labels_reach_and_skeleton():
    built = Skeleton.build(["a", "b", "c", "d", "e"], weights=[1, 2, 1, 1, 1])
    points = torch.tensor([[[50.0, 50.0], [50.0, 50.0], [50.0, 50.0], [-23.0, 50.0], [-25.0, 50.0]]])
    targets = HeatmapCodec(built, HW, "stride").encode(
        batch(instances(points, torch.tensor([[1.0, 2.0, 0.0, 2.0, 2.0]])))
    )
    assert targets.weights["heatmap"].tolist() == [[1, 2, 0, 1, 0]]
    assert targets.maps["heatmap"][0, [2, 4]].abs().max() == 0


def test_unlabelled_coordinates_leave_no_trace():
    points = torch.full((1, 3, 2), torch.nan)
    targets = HeatmapCodec(skeleton(3), HW, "half_pixel").encode(batch(instances(points, torch.zeros(1, 3))))
    assert targets.maps["heatmap"].abs().max() == 0
    assert targets.weights["heatmap"].max() == 0


def test_where_nobody_is_there_empty_maps_count():
    labels = instances(torch.full((2, 3, 2), 50.0), torch.tensor([[2.0, 2.0, 0.0], [2.0, 2.0, 0.0]]))
    labels.valid[1] = False
    codec = HeatmapCodec(Skeleton.build(list("abc"), weights=[1, 2, 1]), HW, "half_pixel")
    targets = codec.encode(batch(labels))
    assert targets.weights["heatmap"].tolist() == [[1, 2, 0], [1, 2, 1]]
    assert targets.maps["heatmap"][0, :2].amax((-2, -1)).min() > 0.9
    assert targets.maps["heatmap"][1].abs().max() == 0


@pytest.mark.parametrize("grid", GRIDS)
def test_flip_of_the_mirrored_input_gives_the_same_pose(grid):
    codec = HeatmapCodec(skeleton(3), HW, grid)
    points = points_everywhere(HW)[:, :3] * 0.9 + 8
    mirrored = points[:, [1, 0, 2]].clone()
    mirrored[..., 0] = 191 - mirrored[..., 0] - codec.mirror_lag
    maps = codec.encode(batch(instances(mirrored))).maps
    torch.testing.assert_close(codec.decode(codec.flip(maps)).keypoints, points, atol=0.05, rtol=0)
    assert torch.equal(codec.flip(codec.flip(maps))["heatmap"], maps["heatmap"])
    assert codec.mirror_lag == (3 if grid == "stride" else 0)


@pytest.mark.parametrize("refine", ["dark", "quarter", "none"])
def test_maps_without_a_peak_stay_finite_and_inside(refine):
    codec = HeatmapCodec(skeleton(3), HW, "half_pixel", refine=refine)
    generator = torch.Generator().manual_seed(0)
    flat, noise = torch.zeros(1, 3, 64, 48), torch.randn(4, 3, 64, 48, generator=generator)
    saddle = torch.zeros(1, 3, 64, 48)
    saddle[..., 20, :] = 1
    for maps in (flat, flat - 1, flat + 1e-30, noise, 1e4 * noise, saddle, noise.half()):
        before = maps.clone()
        poses = codec.decode({"heatmap": maps})
        assert torch.equal(maps, before)
        assert poses.keypoints.dtype == torch.float32
        assert torch.isfinite(poses.keypoints).all()
        assert (poses.keypoints >= -4).all()
        assert (poses.keypoints <= torch.tensor([195, 259])).all()
        assert (poses.keypoint_scores >= 0).all()
    negative = codec.decode({"heatmap": flat - 1 - noise.square()})
    assert negative.keypoint_scores.max() == 0


def test_scores_scale_with_the_map_and_places_do_not():
    codec = HeatmapCodec(skeleton(17), HW, "half_pixel")
    maps = codec.encode(batch(instances(points_everywhere(HW)))).maps["heatmap"]
    whole, faint = codec.decode({"heatmap": maps}), codec.decode({"heatmap": maps / 1000})
    torch.testing.assert_close(whole.keypoints, faint.keypoints, atol=1e-3, rtol=0)
    torch.testing.assert_close(whole.keypoint_scores, faint.keypoint_scores * 1000)
    torch.testing.assert_close(whole.scores, whole.keypoint_scores.mean(-1))
    assert whole.batch_index.tolist() == list(range(8))


def test_batch_equals_one_by_one():
    codec = HeatmapCodec(skeleton(17), HW, "half_pixel")
    maps = torch.rand(6, 17, 64, 48, generator=torch.Generator().manual_seed(0))
    singles = torch.cat([codec.decode({"heatmap": row[None]}).keypoints for row in maps])
    torch.testing.assert_close(codec.decode({"heatmap": maps}).keypoints, singles, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 5}, "must divide"),
        ({"refine": "darkk"}, "dark, quarter, none"),
        ({"centers": "round"}, "continuous, rounded"),
        ({"blur_border": "same"}, "shrink, zero"),
        ({"dark_step": 3}, "1, 2"),
        ({"blur_kernel": 10}, "try 11"),
        ({"sigma": 0}, "positive"),
        ({"grid": "plain"}, "half_pixel"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        HeatmapCodec(**{"skeleton": skeleton(3), "input_hw": HW, "grid": "stride", **options})


@pytest.mark.parametrize("refine", ["dark", "quarter", "none"])
def test_decoding_exports_with_a_dynamic_batch(refine):
    codec = HeatmapCodec(skeleton(3), HW, "half_pixel", refine=refine)

    class Decode(torch.nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return codec.decode({"heatmap": maps}).keypoints

    exported = torch.export.export(Decode(), (torch.rand(4, 3, 64, 48),), dynamic_shapes=({0: torch.export.Dim("b")},))
    maps = torch.rand(5, 3, 64, 48)
    torch.testing.assert_close(exported.module()(maps), codec.decode({"heatmap": maps}).keypoints)


@pytest.mark.parametrize("refine", ["dark", "quarter", "none"])
def test_decoding_is_as_exact_under_autocast(refine):
    codec = HeatmapCodec(skeleton(17), HW, "half_pixel", refine=refine)
    maps = codec.encode(batch(instances(points_everywhere(HW)))).maps
    expected = codec.decode(maps)
    with torch.autocast("cpu", torch.bfloat16):
        poses = codec.decode(maps)
    torch.testing.assert_close(poses.keypoints, expected.keypoints, atol=1e-4, rtol=0)
    torch.testing.assert_close(poses.keypoint_scores, expected.keypoint_scores)
