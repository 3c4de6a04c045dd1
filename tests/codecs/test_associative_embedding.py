"""Associative embedding: round trips of crowds, agreement with recorded figures, odd maps, any size."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from codec_samples import skeleton
from torch import Tensor

from lightpose.codecs.associative_embedding import FROM_THE_TRUNK, AssociativeEmbeddingCodec
from lightpose.codecs.people import gaussians
from lightpose.data.pixels.device import collate
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton
from lightpose.structures import Annotations, Batch, Poses, Sample, Targets

PARITY = Path(__file__).parents[1] / "data_files/parity/codecs"
GRIDS = ("stride", "udp", "half_pixel")
HW = (256, 320)
COCO = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    "right_ankle",
)


def codec(count: int = 5, input_hw=HW, grid="half_pixel", **options) -> AssociativeEmbeddingCodec:
    return AssociativeEmbeddingCodec(skeleton(count), input_hw, grid, **options)


def crowd(people: int, count: int = 5, input_hw=HW, seed: int = 0) -> np.ndarray:
    """(M, K, 2): keypoints of the same kind are 56 pixels apart or more; they reach the borders of the input."""
    rng, points = np.random.default_rng(seed), np.zeros((people, count, 2), np.float32)
    last = np.array(input_hw[::-1], np.float32) - 1
    for joint in range(count):
        taken: list[np.ndarray] = [last * joint / (count - 1)]
        while len(taken) < people:
            drawn = rng.uniform(0, last)
            if all(np.linalg.norm(drawn - other) > 56 for other in taken):
                taken.append(drawn)
        points[:, joint] = taken
    return points


def batch_of(*people: np.ndarray, visible=None, input_hw=HW, ignore=None) -> Batch:
    samples = []
    for index, points in enumerate(people):
        count = len(points)
        labels = Annotations(
            keypoints=points,
            visible=np.full(points.shape[:2], 2, np.float32) if visible is None else visible[index],
            boxes_xyxy=np.zeros((count, 4), np.float32),
            areas=np.ones(count, np.float32),
            categories=np.zeros(count, np.int64),
            ids=np.arange(count),
            scores=np.ones(count, np.float32),
        )
        image = np.zeros((*input_hw, 3), np.uint8)
        samples.append(Sample(image, labels, np.eye(3), index, index, input_hw, ignore=ignore))
    return collate(samples)


def perfect(targets: Targets, tags: int = 1) -> dict[str, Tensor]:
    """What a perfect network gives: tag 3 m for person m, around the keypoints."""
    maps, cells = targets.maps["heatmap"], targets.maps["cells"]
    tag = torch.zeros(*maps.shape, tags).flatten(2, 3)  # (B, K, h * w, L)
    for person in range(cells.shape[1]):
        here = (targets.weights["cells"][:, person, :, None, None] > 0).expand(-1, -1, 1, tags)
        own = cells[:, person, :, None, None].expand(-1, -1, 1, tags)
        tag.scatter_(2, own, torch.where(here, 3.0 * person, tag.gather(2, own)))
    return {"heatmap": maps, "tag": tag.view(*maps.shape, tags)}


def matched(poses: Poses, row: int, truth: np.ndarray) -> Tensor:
    """Errors (M, K) in pixels of the poses of a row, each with the person that it is."""
    found = poses.keypoints[poses.batch_index == row]
    distances = (found[None] - torch.from_numpy(truth)[:, None]).norm(dim=-1)  # (M, N, K)
    nearest = distances.mean(-1).argmin(1)
    assert sorted(nearest.tolist()) == list(range(len(truth)))
    return distances[torch.arange(len(truth)), nearest]


@pytest.mark.parametrize("grid", GRIDS)
def test_everyone_comes_back_up_to_the_borders(grid: str):
    people = [crowd(4), crowd(1, seed=1), np.zeros((0, 5, 2), np.float32), crowd(6, seed=2)]
    for options, cells in (({}, 0.0125), ({"refine": "quarter"}, 0.25)):
        built = codec(grid=grid, **options)
        poses = built.decode(perfect(built.encode(batch_of(*people))))
        assert poses.batch_index.tolist() == [0] * 4 + [1] + [3] * 6
        last = (built.map_grid.map_hw[1] - 1) * 4, (built.map_grid.map_hw[0] - 1) * 4  # the stride grid's last cell
        for row, truth in enumerate(people):
            if len(truth):
                inside = np.all(truth <= last, -1) if grid == "stride" else np.ones(truth.shape[:2], bool)
                largest = 4.2 * cells * 2**0.5 + 1e-3  # a cell of the udp grid is a little larger
                assert matched(poses, row, truth)[torch.from_numpy(inside)].max() < largest


def test_agrees_with_the_recorded_encoding_and_decoding():
    case = {name: torch.from_numpy(array) for name, array in np.load(PARITY / "associative_embedding.npz").items()}
    published = AssociativeEmbeddingCodec(
        Skeleton.build(COCO), (512, 512), "stride", centers="rounded", refine="quarter"
    )
    people = case["keypoints"].numpy(), case["visible"].numpy()
    targets = published.encode(batch_of(people[0], visible=people[1:], input_hw=(512, 512)))
    torch.testing.assert_close(targets.maps["heatmap"][0], case["encoded_heatmaps"], atol=1e-6, rtol=0)
    cells, here = case["encoded_indices"].unbind(-1)
    assert torch.equal(targets.weights["cells"][0], here.float())
    assert torch.equal(targets.maps["cells"][0][here > 0], cells[here > 0])

    poses = published.decode({"heatmap": case["decode_heatmaps"], "tag": case["decode_tags"][..., None]})
    order = case["decoded_instance_scores"].argsort(descending=True)
    torch.testing.assert_close(poses.keypoints, case["decoded_keypoints"][order], atol=1e-4, rtol=0)
    torch.testing.assert_close(poses.keypoint_scores, case["decoded_scores"][order], atol=1e-4, rtol=0)
    torch.testing.assert_close(poses.scores, case["decoded_instance_scores"][order], atol=1e-4, rtol=0)


def test_a_map_is_the_highest_gaussian_of_everyone():
    points = np.array([[[40, 40]], [[52, 40]]], np.float32)
    built = AssociativeEmbeddingCodec(Skeleton.build(["a"]), HW, "stride")
    maps = built.encode(batch_of(points)).maps["heatmap"][0, 0]
    x = torch.arange(80.0)
    expected = torch.maximum(*(torch.exp(-((x - at) ** 2) / 8) * ((x - at).abs() <= 6) for at in (10.0, 13.0)))
    torch.testing.assert_close(maps[10], expected)


def test_what_is_ignored_or_not_labelled_or_outside_teaches_nothing():
    points, visible = crowd(2), np.full((2, 5), 2, np.float32)
    points[0, 0], visible[1, 1] = (-30, 20), 0
    region = np.array([[0, 0], [63, 0], [63, 63], [0, 63]], np.float32)
    targets = codec().encode(batch_of(points, visible=[visible], ignore=[region]))
    assert targets.weights["cells"][0].tolist() == [[0, 1, 1, 1, 1], [1, 0, 1, 1, 1]]
    assert not targets.weights["heatmap"][0, :, :16, :16].any()
    assert targets.weights["heatmap"][0, :, 17:, 17:].all()
    seen = targets.maps["heatmap"][0].flatten(1).amax(-1)
    assert (seen > 0.7).all()  # the other person's
    assert targets.maps["heatmap"][0, 1].sum() == pytest.approx(float(targets.maps["heatmap"][0, 2].sum()) / 2, rel=0.3)


def test_a_keypoint_that_nothing_shows_is_put_where_tag_and_map_agree():
    truth = crowd(2)
    built = codec()
    outputs = perfect(built.encode(batch_of(truth)))
    x, y = (7, 9)
    outputs["heatmap"][0, 3] = 0
    outputs["heatmap"][0, 3, y, x] = 0.09  # below the threshold of peaks
    outputs["tag"][0, 3, ..., 0] = 50.0
    outputs["tag"][0, 3, y, x] = 3.0  # the second person's
    poses = built.decode(outputs)
    second = matched(poses, 0, truth)[:, 0] < 1  # whoever is whose
    assert second.all()
    person = int((poses.keypoints[:, 0] - torch.from_numpy(truth[1, 0])).norm(dim=-1).argmin())
    torch.testing.assert_close(poses.keypoints[person, 3], torch.tensor([x * 4 + 1.5, y * 4 + 1.5]))
    assert poses.keypoint_scores[person, 3] == pytest.approx(0.09)
    measured = poses.keypoint_scores[person][[0, 1, 2, 4]].sum() / 5  # what was put counts as 0
    assert float(poses.scores[person]) == pytest.approx(float(measured))


def test_peaks_with_unlike_tags_are_two_people_and_no_peak_is_none():
    built = codec(2)
    maps, tags = torch.zeros(2, 2, 64, 80), torch.zeros(2, 2, 64, 80, 1)
    maps[0, 0, 8, 8], maps[0, 1, 8, 16], tags[0, 1, 8, 16] = 0.9, 0.8, 0.9
    maps[1] = 0.05
    assert built.decode({"heatmap": maps, "tag": tags}).batch_index.tolist() == [0]
    tags[0, 1, 8, 16] = 1.1
    poses = built.decode({"heatmap": maps, "tag": tags})
    assert poses.batch_index.tolist() == [0, 0]
    torch.testing.assert_close(poses.scores, torch.tensor([0.45, 0.4]))
    empty = built.decode({"heatmap": maps[1:], "tag": tags[1:]})
    assert empty.keypoints.shape == (0, 2, 2)
    assert AssociativeEmbeddingCodec(skeleton(2), HW, "udp", max_people=1).decode(
        {"heatmap": maps, "tag": tags}
    ).scores.tolist() == pytest.approx([0.45])


def test_of_equal_neighbours_one_is_a_peak():
    built = codec(2)
    maps = torch.zeros(1, 2, 64, 80)
    maps[0, 0, 30:32, 40:42] = maps[0, 1, 10, 20:24] = 0.75
    poses = built.decode({"heatmap": maps, "tag": torch.arange(80.0).expand(1, 2, 64, 80)[..., None]})
    assert len(poses) == 2


@pytest.mark.parametrize("enlarge", [False, True])
def test_an_image_in_a_batch_is_decoded_as_alone_whatever_is_in_the_maps(enlarge: bool):
    generator = torch.Generator().manual_seed(0)
    built = codec(max_people=8, enlarge=enlarge)
    maps = torch.rand(3, 5, 64, 80, generator=generator)
    tags = torch.randn(3, 5, 64, 80, 2, generator=generator) * 3
    maps[1], tags[2, 0, 0] = 0, float("nan")
    poses = built.decode({"heatmap": maps, "tag": tags})
    assert poses.keypoints.isfinite().all()
    for row in range(3):
        alone = built.decode({"heatmap": maps[row : row + 1], "tag": tags[row : row + 1]})
        mine = poses.select(poses.batch_index == row)
        assert len(alone) == len(mine) == (0 if row == 1 else 8)
        assert torch.equal(alone.keypoints, mine.keypoints)
        assert torch.equal(alone.scores, mine.scores)


@pytest.mark.parametrize("grid", GRIDS)
def test_inputs_of_another_size_are_encoded_and_decoded_as_well(grid: str):
    input_hw = (320, 192)
    truth = crowd(3, input_hw=input_hw) * 0.97
    small, own = codec(grid=grid), codec(grid=grid, input_hw=input_hw)
    targets = small.encode(batch_of(truth, input_hw=input_hw))
    assert torch.equal(targets.maps["heatmap"], own.encode(batch_of(truth, input_hw=input_hw)).maps["heatmap"])
    assert matched(small.decode(perfect(targets)), 0, truth).max() < 0.1


def test_tags_of_a_mirrored_input_stand_beside():
    built = codec()
    targets = built.encode(batch_of(crowd(3)))
    plain = perfect(targets)
    mirrored = built.flip({name: maps.clone() for name, maps in plain.items()})
    torch.testing.assert_close(built.flip(mirrored), plain)
    other = {"heatmap": plain["heatmap"], "tag": torch.where(plain["tag"] == 3, 6.0, plain["tag"])}  # as of person 2
    alike = matched(built.decode(other), 0, crowd(3))
    assert alike[1:].max() > 8
    joined = built.merge(plain, other)
    assert joined["tag"].shape[-1] == 2
    assert matched(built.decode(joined), 0, crowd(3)).max() < 0.1


def test_peaks_are_given_away_from_the_trunk_or_in_the_order_that_is_given():
    body = AssociativeEmbeddingCodec(Skeleton.build([*COCO, "tail"]), HW, "udp")
    assert body.order == [0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16, 17]
    assert set(FROM_THE_TRUNK) == set(COCO)
    assert codec(3).order == [0, 1, 2]
    assert codec(3, order=["point2", "point0", "point1"]).order == [2, 0, 1]
    with pytest.raises(UserError, match=r"codec\.order names 1 of the skeleton's 3 keypoints"):
        codec(3, order=["point2"])


def test_refuses_options_that_mean_nothing():
    for options, said in (
        ({"refine": "none"}, "codec.refine='none' is unknown; use one of dark, quarter"),
        ({"centers": "left"}, "codec.centers='left' is unknown"),
        ({"nms_kernel": 4}, "codec.nms_kernel=4 must be odd"),
        ({"sigma": 0}, "codec.sigma=0 must be a positive number"),
    ):
        with pytest.raises(UserError, match=said.replace(".", r"\.")):
            codec(**options)


def test_one_without_labels_is_as_nobody():
    unlabelled = batch_of(crowd(2), visible=[np.zeros((2, 5), np.float32)])
    targets = codec().encode(unlabelled)
    assert not targets.maps["heatmap"].any()
    assert not targets.weights["cells"].any()
    invalid = replace(unlabelled, instances=replace(unlabelled.instances, valid=torch.zeros(1, 2, dtype=torch.bool)))
    assert not codec().encode(invalid).maps["heatmap"].any()


@pytest.mark.parametrize("grid", GRIDS)
def test_enlarged_maps_give_keypoints_where_they_are(grid: str):
    truth = torch.rand(20, 1, 1, 2, generator=torch.Generator().manual_seed(0)) * 200 + 20
    for refine, worst, mean in (("quarter", 1.3, 0.35), ("dark", 0.52, 0.15)):
        built = AssociativeEmbeddingCodec(Skeleton.build(["a"]), HW, grid, refine=refine, offset=0.25, enlarge=True)
        rows, columns = gaussians(built.map_grid.to_map(truth), torch.tensor([2.0]), built.map_grid.map_hw, False)
        maps = (rows[..., None] * columns[..., None, :])[:, 0]
        poses = built.decode({"heatmap": maps, "tag": torch.zeros(*maps.shape, 1)})
        assert poses.batch_index.tolist() == list(range(20))
        errors = poses.keypoints[:, 0] - truth[:, 0, 0]
        assert errors.abs().max() < worst and errors.mean(0).abs().max() < mean


def test_enlarged_maps_are_decoded_as_published():
    """A peak of MMPose lies half a pixel, its ``decode_center_shift``, behind its place in maps of the input's size."""
    built = AssociativeEmbeddingCodec(
        skeleton(2), (64, 96), "stride", centers="rounded", refine="quarter", offset=0.5, enlarge=True
    )
    maps, tags = torch.zeros(1, 2, 16, 24), torch.full((1, 2, 16, 24, 1), 9.0)
    maps[0, 0, 5, 7:9], tags[0, 0, 5, 7:9] = torch.tensor([0.8, 0.5]), torch.tensor([[3.0], [3.8]])
    maps[0, 1, 3, 11], tags[0, 1, 3, 11] = 0.05, 3.1  # too low for a peak
    fine, fine_tags = (F.interpolate(each, size=(64, 96), mode="bilinear") for each in (maps, tags[..., 0]))
    y, x = divmod(int(fine[0, 0].argmax()), 96)
    assert (x, y) == (30, 21)  # the cell's middle is 29.5, 21.5
    found = built.candidates({"heatmap": maps, "tag": tags})
    around = fine[0, 0, y - 1 : y + 2, x - 1 : x + 2]
    shift = 0.25 * torch.stack([around[1, 2] - around[1, 0], around[2, 1] - around[0, 1]]).sign()
    assert shift.tolist() == [-0.25, 0.25]
    torch.testing.assert_close(found["peaks"][0, 0, 0], torch.tensor([x + 0.5, y + 0.5]) + shift)
    torch.testing.assert_close(found["peak_tags"][0, 0, 0], fine_tags[0, 0, y, x, None])
    poses = built.decode({"heatmap": maps, "tag": tags})
    cost = fine[0, 1] - (fine_tags[0, 1] - fine_tags[0, 0, y, x]).abs().round()
    y, x = divmod(int(cost.argmax()), 96)
    torch.testing.assert_close(poses.keypoints[0, 1], torch.tensor([x + 0.5, y + 0.5]))
    torch.testing.assert_close(poses.keypoint_scores[0, 1], fine[0, 1, y, x])
    assert built.mirror_lag == -1


def test_keypoints_are_rounded_down_to_a_cell_half_a_cell_before_them_as_published():
    built = AssociativeEmbeddingCodec(
        Skeleton.build(["a"]), HW, "stride", centers="rounded", refine="quarter", offset=0.5
    )
    targets = built.encode(batch_of(np.array([[[40, 41]], [[103, 102]]], np.float32)))
    assert targets.maps["cells"][0, :, 0].tolist() == [10 * 80 + 10, 25 * 80 + 25]
    assert torch.equal(built.map_grid.to_input(torch.tensor([10.0, 25.0]), HW), torch.tensor([42.0, 102.0]))
