"""Maps of each person: round trips of crowds, widths, what counts, flips of some outputs."""

from dataclasses import replace

import pytest
import torch
from codec_samples import skeleton
from crowd_samples import HW, crowd, scattered
from torch import Tensor

from lightpose.codecs.cid import CIDCodec
from lightpose.codecs.people import gaussians
from lightpose.errors import UserError
from lightpose.structures import Targets


def perfect(codec: CIDCodec, targets: Targets) -> dict[str, Tensor]:
    """What a network gives that finds exactly those who are labelled, and leaves the other places empty."""
    people, labels = targets.maps["people"], targets.weights["people"]
    found = labels[..., -1]
    rows, columns = gaussians(people[:, :, :-1], targets.maps["sigmas"][..., None], codec.map_grid.map_hw)
    maps = rows[..., :, None] * columns[..., None, :] * labels[:, :, :-1, None, None]
    return {"heatmap": targets.maps["heatmap"], "instance_heatmap": maps, "score": found}


@pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])
def test_round_trip_of_crowds_is_exact_to_three_quarters_of_a_cell_up_to_the_borders(grid):
    people = scattered(HW)
    people[0, 0], people[0, 5] = 0, torch.tensor([HW[1] - 1.0, HW[0] - 1.0])  # in two corners
    codec = CIDCodec(skeleton(17), HW, grid)
    poses = codec.decode(perfect(codec, codec.encode(crowd(people))))
    assert poses.batch_index.tolist() == sorted([*range(6)] * 6)
    error = (poses.keypoints.view_as(people) - people).abs()
    cell = 319 / 79 if grid == "udp" else 4
    reached = (codec.map_grid.to_map(people) < torch.tensor([79.5, 63.5])).all(-1)
    assert error[reached].max() <= 0.75 * cell + 1e-3
    assert error.max() <= cell + 1e-3


def test_maps_of_everyone_are_the_highest_of_all_and_end_with_centres():
    people = scattered(HW, 2)
    codec = CIDCodec(skeleton(17), HW, "half_pixel")
    targets = codec.encode(crowd(people))
    outputs = perfect(codec, targets)
    torch.testing.assert_close(outputs["instance_heatmap"].amax(1), targets.maps["heatmap"][:, :-1])
    centers = codec.map_grid.to_map(people).mean(2)  # (B, M, 2)
    peaks = (targets.maps["heatmap"][:, -1] == 1).nonzero()
    expected = {
        (row, *cell)
        for row in range(2)
        for cell in (centers[row].flip(-1) + 0.5).int().tolist()
        for cell in [tuple(cell)]
    }
    assert {tuple(each) for each in peaks.tolist()} == expected


def test_gaussians_are_as_wide_as_those_of_published_code():
    """A third of CornerNet's radius, in which CenterNet's code divides by 2 alone: 9.11 cells for a box of 100."""
    people = torch.tensor([[[[0.0, 0.0], [400.0, 400.0]], [[0.0, 0.0], [80.0, 160.0]]]])
    codec = CIDCodec(skeleton(2), (512, 512), "half_pixel")
    sigmas = codec.encode(crowd(people, input_hw=(512, 512))).maps["sigmas"]
    torch.testing.assert_close(sigmas, torch.tensor([[9.1097, 2.4526]]), atol=1e-3, rtol=0)


def test_only_what_is_labelled_has_a_target_and_ignored_pixels_do_not_count():
    people = scattered(HW, 2)
    visible = torch.full((2, 6, 17), 2.0)
    visible[:, :, 3] = 0
    valid = torch.tensor([[True] * 6, [False] * 6])
    ignore = torch.zeros(2, *HW, dtype=torch.bool)
    ignore[:, :, 160:] = True
    codec = CIDCodec(skeleton(17), HW, "half_pixel")
    targets = codec.encode(replace(crowd(people, visible, valid), ignore=ignore))
    assert targets.weights["people"][0].amin(0).tolist() == [index != 3 for index in range(18)]
    assert not targets.weights["people"][1].any()
    assert not targets.maps["heatmap"][1].any()
    assert not targets.maps["heatmap"][:, 3].any()
    assert targets.weights["heatmap"][..., :40].all()
    assert not targets.weights["heatmap"][..., 40:].any()
    poses = codec.decode(perfect(codec, targets))
    assert poses.batch_index.tolist() == [0] * 6
    assert not poses.keypoint_scores[:, 3].any()
    empty = codec.decode({name: maps[1:] for name, maps in perfect(codec, targets).items()})
    assert empty.keypoints.shape == (0, 17, 2)


def test_maps_of_another_size_decode_on_the_same_grid():
    codec, smaller = CIDCodec(skeleton(17), HW, "stride"), CIDCodec(skeleton(17), (64, 96), "stride")
    outputs = perfect(codec, codec.encode(crowd(scattered(HW, 2))))
    torch.testing.assert_close(smaller.decode(outputs).keypoints, codec.decode(outputs).keypoints)


def test_a_keypoint_scores_its_peak_times_the_person():
    maps = torch.zeros(1, 2, 1, 16, 16)
    maps[..., 5, 7] = 0.9
    codec = CIDCodec(skeleton(2), (64, 64), "stride", threshold=0.1)
    poses = codec.decode({"instance_heatmap": maps, "score": torch.tensor([[0.5, 0.05]])})
    assert poses.keypoints.tolist() == [[[28, 20]]]
    assert poses.keypoint_scores.item() == pytest.approx(0.5 * 0.9 * (1 + 1 / 9) / 2)


def test_a_small_input_has_no_more_people_than_cells():
    assert CIDCodec(skeleton(2), (16, 16), "stride").spec.outputs["score"] == (16,)


@pytest.mark.parametrize(("options", "message"), [({"overlap": 1.0}, "between 0 and 1"), ({"max_people": 0}, "30")])
def test_options_that_can_not_be_used_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        CIDCodec(skeleton(3), HW, "udp", **options)
