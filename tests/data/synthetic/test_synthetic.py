import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lightpose.data.synthetic.body import NECK, sample_body, turn
from lightpose.data.synthetic.generate import generate
from lightpose.data.synthetic.paint import Camera, Look, Painting, paint_background, paint_person, visibility
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton

COCO17 = Path(__file__).parents[3] / "conf/skeleton/coco17.yaml"
IMAGES = 60


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("people") / "train", IMAGES, seed=0)


@pytest.fixture(scope="module")
def data(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def columns(data: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """keypoints (N, 17, 2), visible (N, 17), boxes_xywh (N, 4)."""
    keypoints = np.array([entry["keypoints"] for entry in data["annotations"]]).reshape(-1, 17, 3)
    return keypoints[..., :2], keypoints[..., 2], np.array([entry["bbox"] for entry in data["annotations"]])


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    roots = [generate(tmp_path / name, 3, seed).parent for name, seed in (("a", 7), ("b", 7), ("c", 8))]
    files = [
        {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()} for root in roots
    ]
    assert files[0] == files[1]
    assert files[0]["images/000001.jpg"] != files[2]["images/000001.jpg"]
    assert set(files[0]) == {"annotations.json", *(f"images/{i:06d}.jpg" for i in range(3))}


def test_a_larger_set_starts_with_the_smaller_one(path: Path, tmp_path: Path) -> None:
    small = generate(tmp_path / "small", 2, seed=0)
    for name in ("images/000000.jpg", "images/000001.jpg"):
        assert (small.parent / name).read_bytes() == (path.parent / name).read_bytes()


@pytest.mark.parametrize(("people", "least"), [(1, 1), (6, 3.5)])
def test_as_many_people_as_asked_for_and_find_room(tmp_path: Path, people: int, least: float) -> None:
    images = 20
    data = json.loads(generate(tmp_path / "crowds", images, seed=0, people=people).read_text())
    counts = np.bincount([entry["image_id"] for entry in data["annotations"]], minlength=images + 1)[1:]
    assert counts.max() == people
    assert counts.mean() >= least


@pytest.mark.parametrize("people", [0, 16])
def test_a_number_of_people_that_no_picture_shows(tmp_path: Path, people: int) -> None:
    with pytest.raises(UserError, match=f"people={people}, but a picture shows 1 to 15"):
        generate(tmp_path / "crowds", 1, seed=0, people=people)


def test_category_is_the_coco_skeleton(data: dict[str, Any]) -> None:
    config = yaml.safe_load(COCO17.read_text())
    config.pop("_target_")
    expected = Skeleton.build(**config)
    found = Skeleton.from_coco_category(data["categories"][0])
    assert (found.keypoints, found.links, found.swap) == (expected.keypoints, expected.links, expected.swap)


def test_joints_are_the_projected_3d_joints(data: dict[str, Any]) -> None:
    cameras = {entry["id"]: entry["cam_param"] for entry in data["images"]}
    keypoints, visible, _ = columns(data)
    points = np.array([entry["keypoints_3d"] for entry in data["annotations"]])
    focal = np.array([cameras[entry["image_id"]]["focal"] for entry in data["annotations"]])[:, None]
    center = np.array([cameras[entry["image_id"]]["princpt"] for entry in data["annotations"]])[:, None]
    projected = points[..., :2] / points[..., 2:] * focal + center
    assert np.abs(projected - keypoints)[visible > 0].max() < 1e-2
    inside = ((projected >= 0) & (projected <= (319, 239))).all(-1)
    np.testing.assert_array_equal(inside, visible > 0)
    assert (keypoints[visible == 0] == 0).all()


def test_fields(data: dict[str, Any]) -> None:
    keypoints, visible, boxes_xywh = columns(data)
    low, high = boxes_xywh[:, None, :2], boxes_xywh[:, None, :2] + boxes_xywh[:, None, 2:]
    contained = ((keypoints >= low) & (keypoints <= high)).all(-1)
    assert contained[visible == 2].all()
    assert (boxes_xywh[:, :2] >= 0).all() and (high <= (319, 239)).all()
    per_image = np.bincount([entry["image_id"] for entry in data["annotations"]], minlength=IMAGES + 1)[1:]
    assert per_image.min() >= 1 and per_image.max() <= 6
    assert [entry["id"] for entry in data["annotations"]] == list(range(1, len(visible) + 1))
    for entry, shown in zip(data["annotations"], visible, strict=True):
        assert entry["num_keypoints"] == (shown > 0).sum()
        assert 0 < entry["area"] <= (entry["bbox"][2] + 1) * (entry["bbox"][3] + 1)
        assert (entry["iscrowd"], entry["category_id"], entry["segmentation"]) == (0, 1, [])
    shares = [(visible == value).mean() for value in (0, 1, 2)]
    assert shares[0] > 0.01 and shares[1] > 0.1 and shares[2] > 0.6
    assert np.median(boxes_xywh[:, 3]) > 100 and (boxes_xywh[:, 3] > 60).mean() > 0.95


def test_left_is_right_in_the_picture_of_who_faces_the_camera(data: dict[str, Any]) -> None:
    keypoints, visible, _ = columns(data)
    both_eyes = (visible[:, 1:3] == 2).all(1)
    assert both_eyes.sum() > 20
    assert (keypoints[both_eyes, 1, 0] > keypoints[both_eyes, 2, 0]).mean() > 0.95
    # Who shows neither eye nor nose inside the picture, and no ear is hidden, is seen from behind.
    behind = (visible[:, :3] == 1).all(1) & (visible[:, 3:5] == 2).all(1)
    assert behind.sum() >= 3
    assert (keypoints[behind, 3, 0] < keypoints[behind, 4, 0]).all()


def test_bodies_are_anatomical() -> None:
    rng = np.random.default_rng(0)
    points = np.stack([sample_body(rng).points for _ in range(200)])
    bones = {(5, 7): 285, (6, 8): 285, (7, 9): 255, (11, 13): 425, (12, 14): 425, (14, 16): 415}
    for (start, end), length_mm in bones.items():
        measured = np.linalg.norm(points[:, start] - points[:, end], axis=-1)
        assert (np.abs(measured / length_mm - 1) < 0.2).all()
    # Knees bend backwards only: the shin never points further forwards than the thigh.
    thigh, shin = points[:, 13] - points[:, 11], points[:, 15] - points[:, 13]
    side = np.cross(thigh, shin)[:, 0]
    assert (side >= -1e-6 * 425**2).mean() > 0.95
    assert (points[:, NECK, 1] > 0).all()


def test_an_object_in_front_hides_joints() -> None:
    rng = np.random.default_rng(0)
    camera = Camera(400.0, (159.5, 119.5))
    body = sample_body(rng).moved(turn(0, 180), np.array([0, 0, 4000.0]))
    canvas = Painting(paint_background(rng, (240, 320)))
    paint_person(canvas, body, Look.sample(rng), camera, person=2)
    before = visibility(canvas, body, camera, person=2)
    assert (before[[0, 5, 6, 13, 14]] == 2).all()
    knee = camera.project(body.points[13])
    canvas.hull(knee + 5 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]), (0, 0, 0), label=0)
    after = visibility(canvas, body, camera, person=2)
    assert (before[13], after[13]) == (2, 1)
    far = body.moved(np.eye(3), np.array([3000.0, 0, 0]))
    assert (visibility(canvas, far, camera, person=2) == 0).all()


def test_mean_pose_fails(path: Path, data: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    keypoints, visible, boxes_xywh = columns(data)
    weight = (visible > 0)[..., None]
    relative = (keypoints - boxes_xywh[:, None, :2]) / boxes_xywh[:, None, 2:]
    mean = (relative * weight).sum(0) / weight.sum(0)
    guesses = boxes_xywh[:, None, :2] + mean * boxes_xywh[:, None, 2:]

    def average_precision(poses: np.ndarray) -> float:
        truth = COCO(str(path))
        results = [
            {
                **{"image_id": entry["image_id"], "category_id": 1, "score": 1.0},
                "keypoints": np.concatenate([pose, np.ones((17, 1))], 1).ravel().tolist(),
            }
            for entry, pose in zip(data["annotations"], poses, strict=True)
        ]
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return float(evaluation.stats[0])

    assert average_precision(keypoints) == 1.0
    assert average_precision(guesses) < 0.1


def test_refuses(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one"):
        generate(tmp_path / "new", 0, seed=0)
    assert not (tmp_path / "new").exists()
    (tmp_path / "note.txt").touch()
    with pytest.raises(UserError, match="choose another folder or delete it"):
        generate(tmp_path, 1, seed=0)
    with pytest.raises(UserError, match="isn't an empty folder"):
        generate(tmp_path / "note.txt", 1, seed=0)
    assert generate(tmp_path / "small", 1, seed=0, image_hw=(64, 48)).exists()
