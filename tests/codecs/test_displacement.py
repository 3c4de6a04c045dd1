"""Centres and displacements: recorded figures, round trips of crowds, who counts where people overlap, duplicates."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from codec_samples import skeleton
from crowd_samples import HW, crowd, scattered

from lightpose.codecs.displacement import DisplacementCodec
from lightpose.codecs.people import better_than_neighbours, between_cells
from lightpose.errors import UserError
from lightpose.testing import check_codec

PARITY = Path(__file__).parents[1] / "data_files/parity"


@pytest.fixture(scope="module")
def figures() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in np.load(PARITY / "spr.npz").items()}


def recorded_outputs(figures: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    displacement = figures["decode_displacements"].unflatten(0, (17, 2))
    return {"heatmap": figures["decode_heatmaps"][None], "displacement": displacement[None]}


def test_encodes_the_recorded_figures(figures):
    codec = DisplacementCodec(skeleton(17), (512, 512), "stride", published=True, smallest=5.0)
    targets = codec.encode(crowd(figures["keypoints"][None], figures["visible"][None], input_hw=(512, 512)))
    torch.testing.assert_close(targets.maps["heatmap"][0], figures["encoded_heatmaps"], atol=1e-4, rtol=0)
    torch.testing.assert_close(targets.weights["heatmap"][0], figures["encoded_heatmap_weights"], atol=0, rtol=0)
    weights = figures["encoded_displacement_weights"].unflatten(0, (17, 2))
    ours = targets.weights["displacement"][0].expand_as(weights)
    same = (ours - weights).abs() < 1e-6
    expected = figures["encoded_displacements"].unflatten(0, (17, 2))
    torch.testing.assert_close(targets.maps["displacement"][0][same], expected[same], atol=1e-4, rtol=0)
    # What was recorded remembers the size of who owns a cell for all keypoints together. Where somebody larger has a
    # keypoint that the owner lacks, those after it go to the larger one, too: 4 keypoints of 12 cells.
    assert (~same).sum() == 2 * 4 * 12
    assert (ours[~same] > weights[~same]).all()


def test_decodes_the_recorded_figures(figures):
    codec = DisplacementCodec(skeleton(17), (512, 512), "stride", published=True, nms_distance=0)
    poses = codec.decode(recorded_outputs(figures))
    torch.testing.assert_close(poses.keypoints, figures["decoded_keypoints"], atol=1e-4, rtol=0)
    scores = figures["decoded_keypoint_scores"].clamp_min(0) * figures["decoded_root_scores"][:, None]
    torch.testing.assert_close(poses.keypoint_scores, scores, atol=1e-4, rtol=0)
    assert poses.batch_index.tolist() == [0, 0, 0, 0]


def test_scores_are_read_where_the_keypoints_are_unless_as_published():
    maps = torch.arange(8.0).expand(6, 8)[None, None] + 10 * torch.arange(6.0)[:, None]
    points = torch.tensor([[0.0, 0.0], [3.25, 2.5], [7.0, 5.0], [8.0, 1.0]])[None, :, None]
    assert between_cells(maps, points).flatten().tolist() == pytest.approx([0, 28.25, 57, 0], abs=1e-4)


@pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])
@pytest.mark.parametrize("published", [False, True])
def test_round_trip_of_crowds_is_exact(grid, published):
    people = scattered(HW)
    codec = DisplacementCodec(skeleton(17), HW, grid, published=published)
    found = codec.decode(codec.encode(crowd(people)).maps)
    assert found.batch_index.tolist() == sorted([*range(6)] * 6)
    apart = (found.keypoints.view(6, 6, 1, 17, 2) - people[:, None]).norm(dim=-1).amax(-1)  # (B, found, people)
    error, who = apart.min(-1)
    assert error.max() < 1e-3
    assert who.sort().values.tolist() == [[*range(6)]] * 6


def test_round_trip_of_one_person_is_exact_up_to_the_borders():
    assert check_codec(DisplacementCodec, 0.001) < 0.001


def test_the_smaller_of_two_people_counts_for_each_keypoint_that_it_has():
    middle, steps = torch.tensor([100.0, 100.0]), torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    people = torch.stack([middle + 20 * steps, middle + 60 * steps])[None]
    visible = torch.tensor([[[2.0, 2.0, 0.0], [1.0, 1.0, 1.0]]])
    codec = DisplacementCodec(skeleton(3), HW, "stride")
    for order in ([0, 1], [1, 0]):
        targets = codec.encode(crowd(people[:, order], visible[:, order]))
        displacement, weights = targets.maps["displacement"][0, :, :, 25, 25], targets.weights["displacement"]
        assert displacement.tolist() == [[-5, -5], [5, 5], [0, 0]]
        diagonals = 1 / weights[0, :, 0, 25, 25]
        torch.testing.assert_close(diagonals, torch.tensor([10.0, 10.0, 30.0]) * 2**0.5)
        assert (weights > 0).sum((-2, -1)).flatten().tolist() == [81, 81, 81]


def test_who_is_too_small_teaches_no_displacement_and_finite_numbers_come_of_one_keypoint():
    people = torch.full((1, 1, 3, 2), 50.0)
    targets = DisplacementCodec(skeleton(3), HW, "stride", smallest=0.5).encode(crowd(people))
    assert not targets.weights["displacement"].any()
    assert targets.maps["displacement"].isfinite().all()
    assert targets.maps["heatmap"].amax((-2, -1)).tolist() == [[1, 1, 1, 1]]


def test_ignored_pixels_and_padding_teach_nothing_and_nobody_is_found_in_an_empty_input():
    people = scattered(HW, 2)
    codec = DisplacementCodec(skeleton(17), HW, "half_pixel")
    ignore = torch.zeros(2, *HW, dtype=torch.bool)
    ignore[:, :128] = True
    given = crowd(people, valid=torch.tensor([[True] * 6, [False] * 6]))
    targets = codec.encode(replace(given, ignore=ignore))
    for weights in targets.weights.values():
        assert not weights[..., :32, :].any()
        assert weights[0, ..., 32:, :].any()
    assert (targets.weights["heatmap"][1, :, 32:] == torch.tensor(0.1)).all()
    assert not targets.weights["displacement"][1].any()
    assert set(codec.decode(targets.maps).batch_index.tolist()) == {0}
    empty = codec.decode({name: maps[1:] for name, maps in targets.maps.items()})
    assert empty.keypoints.shape == (0, 17, 2)


def test_maps_of_another_size_decode_on_the_same_grid():
    people = scattered(HW, 2)
    maps = DisplacementCodec(skeleton(17), HW, "stride").encode(crowd(people)).maps
    other = DisplacementCodec(skeleton(17), (64, 96), "stride").decode(maps)
    apart = (other.keypoints[:, None] - people.flatten(0, 1)).norm(dim=-1).amax(-1)
    assert len(other) == 12
    assert apart.amin(-1).max() < 1e-3


def test_near_duplicates_go_as_in_a_loop_over_people():
    draw = torch.Generator().manual_seed(1)
    poses = 100 * torch.rand(3, 12, 5, 2, generator=draw)
    poses[:, 4:] = poses[:, torch.tensor([0, 1, 0, 4, 3, 3, 2, 2])] + 6 * torch.randn(3, 8, 5, 2, generator=draw)
    scores = torch.rand(3, 12, generator=draw)
    stays = better_than_neighbours(poses, scores, 0.1, 2)
    for row in range(3):
        kept: list[int] = []
        for index in scores[row].argsort(descending=True).tolist():
            close = 0
            for better in kept:
                reach = 0.1 * (poses[row, better].amax(0) - poses[row, better].amin(0)).norm()
                near = ((poses[row, better] - poses[row, index]).norm(dim=-1) < reach).sum()
                close = max(close, int(near))
            if close <= 2:
                kept.append(index)
        assert stays[row].nonzero().flatten().tolist() == sorted(kept)
        assert 4 < len(kept) < 12


def test_a_duplicate_of_a_person_is_dropped_in_its_own_image_only():
    codec = DisplacementCodec(skeleton(17), HW, "stride")
    maps = codec.encode(crowd(scattered(HW, 1)[:, :1])).maps
    doubled = {name: each.clone().repeat(2, *[1] * (each.ndim - 1)) for name, each in maps.items()}
    y, x = (int(each) for each in (maps["heatmap"][0, -1] == 1).nonzero()[0])
    doubled["heatmap"][:, -1, y, x + 3] = 1  # a second peak that leads to the same keypoints
    assert codec.decode(doubled).batch_index.tolist() == [0, 1]
    codec.nms_distance = 0
    assert codec.decode(doubled).batch_index.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"peak_kernel": 4}, r"codec\.peak_kernel=4 must be odd"), ({"sigma": 0}, "positive"), ({"max_people": 0}, "30")],
)
def test_options_that_can_not_be_used_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        DisplacementCodec(skeleton(3), HW, "udp", **options)
