"""InterHand2.6M: what the camera of an image sees of joints in space."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lightpose.data.interhand import InterHand
from lightpose.data.pipeline import Pipeline
from lightpose.data.pixels.crop import Warp
from lightpose.data.pixels.device import collate
from lightpose.data.transforms import CropBox, RandomFlip
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT.parent / "shared/samples/interhand2.6m/test_interhand2.6m_data.json"
HANDS: Skeleton = instantiate(OmegaConf.load(ROOT / "conf/skeleton/interhand3d.yaml"))
TURN = [[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
"""The camera looks along the x axis of the world, whose z axis points to its left."""


def write(folder: Path, **changes: Any) -> Path:
    """Two annotations of one image: a right hand 1 m away, and nothing."""
    world = np.zeros((42, 3))
    world[:, 0] = 1000 + np.arange(42)
    world[:, 1], world[:, 2] = 50, np.arange(42) * 2 - 20
    image = {"id": 7, "file_name": "a.png", "width": 80, "height": 60, "capture": 0, "camera": "c1", "frame_idx": 3}
    entry = {"image_id": 7, "bbox": [20, 10, 40, 30], "hand_type": "right"}
    right = [[1]] * 21 + [[0]] * 21
    entries = [{**entry, "id": 1, "joint_valid": right}, {**entry, "id": 2, "joint_valid": [[0]] * 42}]
    camera = {"campos": {"c1": [0, 0, 10]}, "camrot": {"c1": TURN}, "focal": {"c1": [500, 400]}}
    files = {
        "data": {"images": [image], "annotations": entries},
        "camera": {"0": {**camera, "princpt": {"c1": [40, 30]}}},
        "joint_3d": {"0": {"3": {"world_coord": world.tolist()}}},
        **changes,
    }
    for part, content in files.items():
        (folder / f"x_{part}.json").write_text(json.dumps(content))
    cv2.imwrite(str(folder / "a.png"), np.zeros((60, 80, 3), np.uint8))
    return folder / "x_data.json"


def test_joints_stand_where_the_camera_sees_them(tmp_path: Path):
    dataset = InterHand(write(tmp_path), skeleton=HANDS)
    assert len(dataset) == 1  # the other has no labelled joint
    labels = dataset.load(0, np.random.default_rng(0)).instances
    place = np.arange(42)
    across, down, depth = 30 - place * 2, 50, 1000.0 + place
    points = np.stack([500 * across / depth + 40, 400 * down / depth + 30, depth], -1)
    np.testing.assert_allclose(labels.keypoints[0, :21], points[:21].astype(np.float32), rtol=1e-6)
    assert labels.visible[0].tolist() == [2] * 21 + [0] * 21
    assert labels.boxes_xyxy.tolist() == [[20, 10, 60, 40]] and labels.ids.tolist() == [1]
    truth = dataset.ground_truth()
    assert truth["annotations"][0]["num_keypoints"] == 21 and truth["images"][0]["id"] == 7


def test_depth_goes_through_crop_and_mirror(tmp_path: Path):
    """A right hand in a mirrored picture is a left one, as far away."""
    steps = [CropBox((32, 32), "half_pixel"), RandomFlip(HANDS, (32, 32), 1.0)]
    dataset = InterHand(write(tmp_path), skeleton=HANDS, transforms=Pipeline(steps, Warp((32, 32))))
    labels = collate([dataset[0]]).instances
    assert labels.visible[0, 0].tolist() == [0] * 21 + [2] * 21
    np.testing.assert_allclose(labels.keypoints[0, 0, 21:, 2], 1000 + np.arange(21))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joint_3d": {"0": {}}}, "not as InterHand2.6M publishes them"),
        ({"camera": []}, "not as InterHand2.6M publishes them"),
        ({"data": {"images": [], "annotations": []}}, "no annotation with a box and a labelled joint"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        InterHand(write(tmp_path, **changes), skeleton=HANDS)


def test_other_names_and_skeletons_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="set skeleton=interhand3d"):
        InterHand(write(tmp_path), skeleton=Skeleton.build(["a"]))
    with pytest.raises(UserError, match="a file whose name ends in"):
        InterHand(tmp_path / "x_camera.json", skeleton=HANDS)


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the sample of the data set is not here")
def test_joints_of_the_data_set_lie_in_their_boxes():
    dataset = InterHand(SAMPLE, skeleton=HANDS)
    assert len(dataset) == 4
    for index in range(4):
        labels = dataset.load(index, np.random.default_rng(0)).instances
        points = labels.keypoints[0, labels.visible[0] > 0]
        assert (points[:, :2] >= labels.boxes_xyxy[0, :2]).all() and (points[:, :2] <= labels.boxes_xyxy[0, 2:]).all()
        assert ((points[:, 2] > 900) & (points[:, 2] < 1300)).all()
