"""Joints in space: recorded targets, the round trip, mirror images, statistics."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from codec_samples import batch, instances, skeleton

from lightpose.codecs.lifting import LiftingCodec
from lightpose.errors import UserError
from lightpose.geometry import image_from_screen, screen_from_image

PARITY = Path(__file__).parents[1] / "data_files/parity"
RECORD = dict(np.load(PARITY / "video_pose_lifting.npz"))
NUMBERS = np.random.default_rng(0)
MEAN, STD = NUMBERS.normal(0, 0.3, (17, 3)).tolist(), NUMBERS.uniform(0.05, 0.3, (17, 3)).tolist()
STATISTICS = pytest.mark.parametrize("statistics", [{}, {"mean": MEAN, "std": STD}], ids=["metres", "standardised"])


def codec(count: int = 17, **options) -> LiftingCodec:
    return LiftingCodec(skeleton(count), None, "stride", **options)


def people_mm(rows: int = 4, count: int = 17) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return 400 * torch.randn(rows, count, 3, generator=draw) + torch.tensor([0.0, 0.0, 4000.0])


def test_matches_the_recorded_figures():
    width, height = RECORD["width_height"].tolist()
    screen = screen_from_image(RECORD["keypoints"], (height, width))  # (T, K, 2)
    np.testing.assert_allclose(screen.reshape(len(screen), -1).T, RECORD["encoded_labels"], atol=1e-6)
    target = torch.from_numpy(RECORD["target"])
    encoded = codec().encode(batch(instances(1000 * target)))
    np.testing.assert_allclose(encoded.maps["joints"], RECORD["encoded_target"], atol=1e-5)
    np.testing.assert_allclose(encoded.weights["joints"], RECORD["encoded_trajectory_weights"])
    decoded = codec().decode({"joints": torch.from_numpy(RECORD["decode_input"])})
    in_space = decoded.keypoints.numpy() / 1000 + RECORD["target_root"][:, None]
    np.testing.assert_allclose(in_space, RECORD["decoded_keypoints"], atol=1e-5)


def test_the_screen_is_undone_for_each_size():
    pixels = NUMBERS.uniform(0, 1000, (2, 5, 17, 2))
    sizes = [(1002, 1000), (480, 640)]
    screen = torch.from_numpy(np.stack([screen_from_image(*each) for each in zip(pixels, sizes, strict=True)]))
    np.testing.assert_allclose(image_from_screen(screen, torch.tensor(sizes)), pixels, atol=1e-9)
    np.testing.assert_allclose(screen_from_image(np.array([[640.0, 240.0]]), (480, 640)), [[1, 0]])


@STATISTICS
def test_a_round_trip_keeps_joints_to_a_thousandth_of_a_mm(statistics):
    joints, coder = people_mm(), codec(root=["point2", "point3"], **statistics)
    decoded = coder.decode(coder.encode(batch(instances(joints))).maps)
    torch.testing.assert_close(decoded.keypoints, joints - joints[:, 2:4].mean(1, keepdim=True), atol=1e-3, rtol=0)
    assert decoded.batch_index.tolist() == [0, 1, 2, 3]


@STATISTICS
def test_a_mirrored_person_has_mirrored_targets(statistics):
    joints, coder = people_mm(), codec(root=["point0", "point1"], **statistics)
    turned = joints[:, [1, 0, *range(2, 17)]] * torch.tensor([-1.0, 1.0, 1.0])
    plain, mirrored = (coder.encode(batch(instances(points))).maps for points in (joints, turned))
    torch.testing.assert_close(coder.flip(mirrored), plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(coder.flip(coder.flip(plain)), plain, atol=1e-5, rtol=1e-5)


def test_statistics_standardise_the_targets():
    coder = codec(2, mean=[[0, 0, 0], [0.5, 0, 0]], std=[[1, 1, 1], [0.25, 1, 2]])
    joints = torch.tensor([[[100.0, 200.0, 3000.0], [1100.0, 200.0, 3500.0]]])
    expected = torch.tensor([[[0.0, 0.0, 0.0], [2.0, 0.0, 0.25]]])
    torch.testing.assert_close(coder.encode(batch(instances(joints))).maps["joints"], expected)


def test_what_is_not_labelled_has_no_weight_and_without_a_root_nothing_has():
    joints, visible = people_mm(3), torch.full((3, 17), 2.0)
    visible[0, 5], visible[1, 0] = 0, 0
    joints[0, 5] = float("nan")
    labels = instances(joints, visible)
    labels = replace(labels, valid=torch.tensor([[True], [True], [False]]))
    targets = codec().encode(batch(labels))
    assert targets.weights["joints"].sum(1).tolist() == [16, 0, 0]
    assert targets.weights["joints"][0, 5] == 0
    assert targets.maps["joints"].isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": ["hip"]}, "no keypoint hip; it has point0, point1"),
        ({"mean": [[0, 0, 0]]}, r"codec.mean is \(1, 3\); give three numbers for each of the 17"),
        ({"std": [[0, 1, 1]] * 17}, "codec.std must be positive"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        codec(**options)


def test_labels_of_the_plane_are_refused():
    with pytest.raises(UserError, match=r"needs labels in space, but the data gives 2 numbers .* data=sequences"):
        codec().encode(batch(instances(torch.zeros(1, 17, 2))))
