"""Moving people before cameras, without pictures: what `lightpose.data.sequences.PoseSequences` reads."""

import json
from pathlib import Path

import numpy as np

from lightpose.data.synthetic.body import HEAD, HEAD_RADII, NECK, Body, sample_body, turn
from lightpose.errors import UserError
from lightpose.structures import Array

PARENTS = (0, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15)
"""Of the 17 joints of Human3.6M (``skeleton=h36m``)."""
FRAMES = 100
"""Of a clip, fifty in a second."""
_POSE_FRAMES = 25
_IMAGE_HW = 1000, 1000


def generate_sequences(out: Path, sequences: int, seed: int) -> Path:
    """Write ``out/sequences.npz`` and ``out/cameras.json``.

    Each clip is a person of one build before a camera of its own, who goes from one natural pose to the next, and in
    every other clip turns around: the actions are called Facing and Turning. Keypoints are where the camera sees the
    joints.

    Args:
        out: a folder that doesn't exist yet or is empty.
        sequences: how many clips, of `FRAMES` frames each.
        seed: clip i depends on the seed and i alone.

    Returns:
        The path of the file of sequences.

    Raises:
        UserError: for fewer than one clip, or a folder that holds something.
    """
    if sequences < 1:
        raise UserError(f"sequences={sequences}, but a data set has at least one; give e.g. sequences=100")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={out} exists and isn't an empty folder; choose another folder or delete it")
    out.mkdir(parents=True, exist_ok=True)
    names, points, joints, cameras = [], [], [], {}
    for index in range(sequences):
        rng = np.random.default_rng([seed, index])
        focal, center = rng.uniform(1000, 1300), rng.uniform(490, 510, 2)
        action = ("Facing", "Turning")[index % 2]
        moving = clip_mm(rng, turning=index % 2 == 1)
        names += [f"S{index}_{action}.1_{frame:06d}.jpg" for frame in range(FRAMES)]
        points.append(focal * moving[..., :2] / moving[..., 2:] + center)
        joints.append(np.concatenate([moving / 1000, np.ones_like(moving[..., :1])], -1))
        cameras[f"S{index}.1"] = {
            "f": [focal, focal],
            "c": center.tolist(),
            "w": _IMAGE_HW[1],
            "h": _IMAGE_HW[0],
        }
    path = out / "sequences.npz"
    part, space = (np.concatenate(arrays).astype(np.float32) for arrays in (points, joints))
    np.savez_compressed(path, imgname=np.array(names), part=part, S=space)
    (out / "cameras.json").write_text(json.dumps(cameras))
    return path


def clip_mm(rng: np.random.Generator, turning: bool) -> Array:
    """(FRAMES, 17, 3) joints in mm: x right, y down, z away from the camera.

    Args:
        rng: source of build, poses and path.
        turning: whether the person turns around, or looks more or less into the camera.
    """
    keys = np.stack([_bones(sample_body(rng)) for _ in range(FRAMES // _POSE_FRAMES + 2)])  # (poses, 17, 3)
    lengths = np.linalg.norm(keys[0], axis=-1, keepdims=True)
    place = np.arange(FRAMES) / _POSE_FRAMES + rng.random()
    number, share = place.astype(int), (place % 1)[:, None, None]
    share = share * share * (3 - 2 * share)  # comes to rest at each pose
    directions = keys / np.linalg.norm(keys, axis=-1, keepdims=True).clip(1e-9)
    mixed = directions[number] * (1 - share) + directions[number + 1] * share
    bones = mixed / np.linalg.norm(mixed, axis=-1, keepdims=True).clip(1e-9) * lengths
    joints = np.zeros_like(bones)
    for joint, parent in list(enumerate(PARENTS))[1:]:
        joints[:, joint] = joints[:, parent] + bones[:, joint]

    heading = rng.uniform(-180, 180) if turning else rng.normal(0, 25)
    headings = heading + (rng.choice([-1, 1]) * rng.uniform(60, 180) if turning else 0) * np.linspace(0, 1, FRAMES)
    tilt = turn(2, rng.normal(0, 3)) @ turn(0, 180 + np.clip(rng.normal(8, 6), -10, 25))
    turned = np.stack([joints_now @ (tilt @ turn(1, now)).T for joints_now, now in zip(joints, headings, strict=True)])
    start, step = rng.uniform([-600, -200, 3500], [600, 200, 5500]), rng.normal(0, 300, 3) * [1, 0.1, 1]
    path: Array = turned + (start + step * np.linspace(0, 1, FRAMES)[:, None])[:, None]
    return path


def _bones(body: Body) -> Array:
    """(17, 3) mm, from the parent of each joint to the joint."""
    points = body.points
    trunk = [points[NECK] / 2, points[NECK], (points[NECK] + points[HEAD]) / 2]
    top = points[HEAD] + HEAD_RADII[1] * body.head[:, 1]
    joints = np.stack([np.zeros(3), *points[[12, 14, 16, 11, 13, 15]], *trunk, top, *points[[5, 7, 9, 6, 8, 10]]])
    bones: Array = joints - joints[list(PARENTS)]
    return bones
