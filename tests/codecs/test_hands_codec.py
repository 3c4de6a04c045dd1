"""Two hands in depth: round trip, what counts, mirror images, and which hand is there."""

import pytest
import torch
from codec_samples import batch, instances
from torch import Tensor

from lightpose.codecs.hands import HandsCodec
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton

HW = (64, 96)
SKELETON = Skeleton.build(["right_tip", "right_wrist", "left_tip", "left_wrist"])
R_TIP, R_WRIST, L_TIP, L_WRIST = range(4)
each_grid = pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])


def codec(grid="half_pixel", **options) -> HandsCodec:
    return HandsCodec(SKELETON, HW, grid, **{"depth": 32, **options})


def hands(count: int = 8) -> Tensor:
    """(B, 4, 3): anywhere but in the last pixels, and no two of them more than 190 mm apart in depth."""
    draw = torch.rand(count, 4, 3, generator=torch.Generator().manual_seed(0))
    points = draw * torch.tensor([90.0, 60.0, 190.0])
    points[..., 2] += 800
    return points


@each_grid
def test_round_trip_is_exact_to_half_a_cell_of_each_axis(grid):
    built, points = codec(grid), hands()
    targets = built.encode(batch(instances(points)))
    assert {name: tuple(target.shape[1:]) for name, target in targets.maps.items()} == dict(built.spec.outputs)
    assert min(float(weights.min()) for weights in targets.weights.values()) == 1
    poses = built.decode({**targets.maps, "hands": targets.maps["hands"] * 20})
    cell_px = 95 / 23 if grid == "udp" else 4
    assert (poses.keypoints - points[..., :2]).abs().max() <= cell_px / 2 + 1e-4
    behind = points[..., 2] - points[:, [R_WRIST, R_WRIST, L_WRIST, L_WRIST], 2]
    assert (poses.extras["depth_mm"] - behind).abs().max() <= 400 / 32 / 2 + 1e-3
    torch.testing.assert_close(
        poses.extras["root_depth_mm"], points[:, L_WRIST, 2] - points[:, R_WRIST, 2], atol=1e-3, rtol=0
    )
    assert poses.keypoint_scores.min() > 0.85 and poses.keypoint_scores.max() <= 1


def test_a_volume_is_a_gaussian_around_the_keypoint():
    points = torch.tensor([[[10.0, 22.0, 850.0], [30.0, 30.0, 800.0], [50.0, 22.0, 700.0], [60.0, 30.0, 700.0]]])
    built = codec("stride", sigma=1.5, height=100.0, depth_bound_mm=320.0)
    volume = built.encode(batch(instances(points))).maps["heatmap"][0, R_TIP]
    z, y, x = torch.meshgrid(*(torch.arange(float(side)) for side in volume.shape), indexing="ij")
    squares = (x - 2.5) ** 2 + (y - 5.5) ** 2 + (z - 21) ** 2  # 50 mm are 5 cells behind the middle
    torch.testing.assert_close(volume, 100 * torch.exp(-squares / (2 * 1.5**2)), atol=1e-4, rtol=0)


def weights_of(points: Tensor, visible: list[float]) -> dict[str, list[float]]:
    targets = codec().encode(batch(instances(points, torch.tensor([visible]))))
    assert all(target.isfinite().all() for target in targets.maps.values())
    found = {name: weights[0].tolist() for name, weights in targets.weights.items()}
    return {**found, "there": targets.maps["hands"][0].tolist()}


def test_of_one_hand_the_other_and_the_depth_between_them_do_not_count():
    points = hands(1)
    points[:, L_TIP:] = torch.nan
    found = weights_of(points, [2, 1, 0, 0])
    assert found == {"heatmap": [1, 1, 0, 0], "root_depth": [0], "hands": [1], "there": [1, 0]}


def test_a_hand_without_a_labelled_root_is_there_but_has_no_depth():
    found = weights_of(hands(1), [2, 2, 2, 0])
    assert found == {"heatmap": [1, 1, 0, 0], "root_depth": [0], "hands": [1], "there": [1, 1]}


def test_what_lies_beyond_the_bounds_in_depth_does_not_count():
    points = hands(1)
    points[..., 2] = torch.tensor([1000.0, 795.0, 1200.0, 1005.0])
    found = weights_of(points, [2, 2, 2, 2])
    assert found == {"heatmap": [0, 1, 1, 1], "root_depth": [0], "hands": [1], "there": [1, 1]}


def test_where_nobody_is_there_zeros_count_and_without_labels_nothing_does():
    labels = instances(hands(1))
    labels.valid.zero_()
    targets = codec().encode(batch(labels))
    assert all(target.abs().max() == 0 for target in targets.maps.values())
    assert {name: float(weights.min()) for name, weights in targets.weights.items()} == {
        "heatmap": 1,
        "root_depth": 0,
        "hands": 1,
    }
    assert weights_of(hands(1), [0, 0, 0, 0]) == {
        "heatmap": [0, 0, 0, 0],
        "root_depth": [0],
        "hands": [0],
        "there": [0, 0],
    }


@each_grid
def test_flip_makes_a_right_hand_of_a_left_one(grid):
    built, points = codec(grid), hands()
    visible = torch.tensor([2.0, 2.0, 0.0, 0.0]).expand(8, -1)
    mirrored = points[:, [L_TIP, L_WRIST, R_TIP, R_WRIST]].clone()
    mirrored[..., 0] = 95 - mirrored[..., 0] - built.mirror_lag
    for seen in (torch.full((8, 4), 2.0), visible):
        plain = built.encode(batch(instances(points, seen))).maps
        turned = built.encode(batch(instances(mirrored, seen[:, [2, 3, 0, 1]]))).maps
        for name, output in built.flip(turned).items():
            torch.testing.assert_close(output, plain[name], atol=0.01, rtol=0)  # of 255


def test_keypoints_of_a_hand_that_is_not_there_have_no_score():
    built = codec()
    outputs = built.encode(batch(instances(hands(1)))).maps
    poses = built.decode({**outputs, "hands": torch.tensor([[20.0, -20.0]])})
    scores = poses.keypoint_scores[0]
    assert scores[:L_TIP].min() > 0.85 and scores[L_TIP:].max() < 1e-6
    torch.testing.assert_close(poses.scores[0], scores[:L_TIP].mean())  # of the one that is
    assert poses.extras["right_hand"].item() > 0.99 and poses.extras["left_hand"].item() < 0.01


def test_keypoints_of_neither_hand_count_from_the_middle_of_both_roots():
    skeleton = Skeleton.build(["ball", "right_wrist", "left_wrist"])
    points = torch.tensor([[[20.0, 20.0, 830.0], [10.0, 20.0, 800.0], [40.0, 20.0, 840.0]]])
    built = HandsCodec(skeleton, HW, "half_pixel")
    poses = built.decode(built.encode(batch(instances(points))).maps)
    assert abs(poses.extras["depth_mm"][0, 0].item() - 10) <= 400 / 64 / 2
    targets = built.encode(batch(instances(points, torch.tensor([[2.0, 2.0, 0.0]]))))
    assert targets.weights["heatmap"].tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"depth": 0}, "codec.depth=0 must be positive"), ({"roots": ["wrist", "left_wrist"]}, "has right_tip, right_w")],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        codec(**options)


def test_labels_of_the_plane_are_refused():
    with pytest.raises(UserError, match="the data gives 2 numbers; use a reader that gives depth"):
        codec().encode(batch(instances(hands()[..., :2])))
