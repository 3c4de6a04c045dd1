"""Poses of every frame on the screen: recorded targets, the round trip, mirror images, what labels don't tell."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from codec_samples import skeleton

from lightpose.codecs.motionbert import MotionBertCodec
from lightpose.data.pixels.device import collate
from lightpose.errors import UserError
from lightpose.geometry import screen_from_image
from lightpose.structures import Annotations, Batch, Poses, Sample

RECORD = dict(np.load(Path(__file__).parents[1] / "data_files/parity/motionbert.npz"))
WIDTH, HEIGHT = RECORD["width_height"].tolist()
CAMERA = np.eye(3, dtype=np.float32)
CAMERA[[0, 1], [0, 1]], CAMERA[:2, 2] = RECORD["focal"].ravel(), RECORD["principal_point"].ravel()


def codec(**options) -> MotionBertCodec:
    return MotionBertCodec(skeleton(17), None, "stride", **options)


def batch(joints_mm: np.ndarray, visible: np.ndarray | None = None, camera: np.ndarray | None = CAMERA) -> Batch:
    """Rows (B, T, 17, 3) as the reader of sequences would give them."""
    samples = []
    for row, frames in enumerate(joints_mm.astype(np.float32)):
        seen = CAMERA[[0, 1], [0, 1]] * frames[..., :2] / frames[..., 2:] + CAMERA[:2, 2]
        screen = screen_from_image(seen, (HEIGHT, WIDTH))
        count = len(frames)
        labels = Annotations(
            keypoints=frames,
            visible=np.full(frames.shape[:2], 2, np.float32) if visible is None else visible[row],
            boxes_xyxy=np.zeros((count, 4), np.float32),
            areas=np.ones(count, np.float32),
            categories=np.zeros(count, np.int64),
            ids=np.arange(count),
            scores=np.ones(count, np.float32),
        )
        image = np.concatenate([screen, np.ones_like(screen[..., :1])], -1, dtype=np.float32)
        samples.append(Sample(image, labels, np.eye(3), row, row, (HEIGHT, WIDTH), camera=camera))
    return collate(samples)


def people_mm(rows: int = 2, frames: int = 5) -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.normal(0, 300, (rows, frames, 17, 3)) + draw.uniform([-500, -500, 3000], [500, 500, 6000])


def test_matches_the_recorded_figures():
    target = 1000 * RECORD["target"][None]  # (1, 27, 17, 3)
    given = batch(target)
    labels = screen_from_image(RECORD["keypoints"], (HEIGHT, WIDTH))
    np.testing.assert_allclose(labels, RECORD["encoded_labels"][..., :2], atol=1e-6)
    coder = codec()
    motion = coder.encode(given).maps["motion"]
    in_mm = coder.to_mm(coder.decode({"motion": motion}), given).keypoints
    np.testing.assert_allclose(in_mm / 1000, RECORD["encoded_target"], atol=2e-5)
    np.testing.assert_allclose(coder._factor(given)[0, :, None], RECORD["encoded_factor"], rtol=1e-5)
    decoded = coder.decode({"motion": torch.from_numpy(RECORD["decode_input"])[None]})
    scale_mm = float(RECORD["decode_factor"]) * WIDTH / 2
    np.testing.assert_allclose(decoded.keypoints * scale_mm / 1000, RECORD["decoded_keypoints"], atol=1e-5)
    assert decoded.batch_index.tolist() == [0] * 27 and decoded.extras["frame"].tolist() == list(range(27))


def test_a_rooted_codec_takes_joints_as_they_are_and_the_root_as_zero():
    motion = torch.randn(2, 5, 17, 3)
    poses = codec(rooted=True).decode({"motion": motion}).keypoints
    assert torch.equal(poses[:, 1:], motion.flatten(0, 1)[:, 1:]) and not poses[:, 0].any()
    with pytest.raises(UserError, match=r"rooted=true sets one joint to zero, but codec\.root=\[.* has 2"):
        codec(rooted=True, root=["point0", "point1"])


def test_a_round_trip_keeps_depths_and_where_joints_are_seen():
    """Across they are as wide as they look: a person as deep as a mm is as wide as the label."""
    joints, coder = people_mm(), codec(root=["point2", "point3"])
    given = batch(joints)
    poses = coder.to_mm(coder.decode(coder.encode(given).maps), given)
    relative = torch.from_numpy(joints - joints[:, :, 2:4].mean(2, keepdims=True)).flatten(0, 1)
    depth = poses.keypoints[..., 2]
    factors = (coder._factor(given) / (given.instances.keypoints[:, :, 2:4, 2].mean(2) / CAMERA[0, 0])).flatten()
    torch.testing.assert_close(depth, relative[..., 2].float(), atol=1e-2, rtol=1e-4)
    assert ((factors > 0.98) & (factors < 1)).all()  # one pixel more than a square of 2 m has
    flat = joints.copy()
    flat[..., 2] = 4000
    given = batch(flat)
    poses = coder.to_mm(coder.decode(coder.encode(given).maps), given)
    relative = torch.from_numpy(flat - flat[:, :, 2:4].mean(2, keepdims=True)).flatten(0, 1).float()
    torch.testing.assert_close(poses.keypoints, relative, atol=1e-2, rtol=2e-2)


def test_a_mirrored_person_has_a_mirrored_target():
    joints, coder = people_mm(), codec()
    turned = joints[:, :, [1, 0, *range(2, 17)]] * [-1, 1, 1]
    coder = codec(root=["point0", "point1"])
    plain, mirrored = (coder.encode(batch(points)).maps for points in (joints, turned))
    torch.testing.assert_close(coder.flip(mirrored)["motion"], plain["motion"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(coder.flip(coder.flip(plain)), plain)


def test_what_is_not_labelled_has_no_weight_and_the_scale_of_others():
    joints, visible = people_mm(), np.full((2, 5, 17), 2, np.float32)
    visible[0, 1, 4], visible[0, 2, 0] = 0, 0
    given, coder = batch(joints, visible), codec(screen_mm=1500)
    targets = coder.encode(given)
    assert targets.weights["motion"].sum(2).tolist() == [[17, 16, 0, 17, 17], [17] * 5]
    assert targets.maps["motion"].isfinite().all() and not targets.maps["motion"][0, 2].any()
    poses = coder.decode({"motion": torch.ones(2, 5, 17, 3).cumsum(2)})
    scales = coder.to_mm(poses, given).keypoints[:, 1, 0]
    assert scales[2] == 1500 and (scales[[0, 1, 3]] != 1500).all()


def test_without_a_camera_the_scale_is_the_given_one():
    coder, given = codec(screen_mm=1500), batch(people_mm(), camera=None)
    poses = coder.decode({"motion": torch.randn(2, 5, 17, 3)})
    torch.testing.assert_close(coder.to_mm(poses, given).keypoints, 1500 * poses.keypoints)


def test_labels_of_other_frames_are_refused():
    given = batch(people_mm())
    few = replace(given, instances=given.instances.map(lambda column: column[:, :1]))
    for odd, message in (
        (few, "of the 5 frames .* but 1 are labelled"),
        (replace(given, cameras=None), "is no camera"),
    ):
        with pytest.raises(UserError, match=rf"codec=motionbert needs .*{message}.*; give reader.stride"):
            codec().encode(odd)


def test_poses_know_their_frames():
    poses = codec().decode({"motion": torch.zeros(3, 4, 17, 3)})
    assert isinstance(poses, Poses) and len(poses) == 12
    assert poses.batch_index.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert poses.extras["frame"].tolist() == [0, 1, 2, 3] * 3
