from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoint import INPUT_HW, SKELETON, config, save

import lightpose
from lightpose.data.transforms import RandomAffine, RandomFlip
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.geometry import apply_affine
from lightpose.inference.sources import Frame
from lightpose.structures import Batch, Poses

BOXES = [
    np.array([[10, 10, 60, 80], [50.5, 5, 100, 60]]),
    np.zeros((0, 4)),
    np.array([[0, 0, 64, 64]]),
    np.array([[-10, 20, 60, 100], [5, 5, 30, 140], [40, 40, 80, 60]]),
    np.array([[20, 0, 190, 70]]),
]


class Bright(PoseEstimator):
    """Toy that takes whole images and finds two poses in each bright one, at its corners."""

    def predict_step(self, batch: Batch, batch_idx: int) -> Poses:
        bright = batch.inputs.float().flatten(1).mean(1) > 100
        rows = bright.nonzero()[:, 0].repeat_interleave(2)
        height, width = INPUT_HW
        corners = torch.tensor([[0.0, 0.0], [width - 1.0, 0.0], [0.0, height - 1.0]]).expand(len(rows), -1, -1)
        scores = torch.tensor([0.9, 0.4]).repeat(int(bright.sum()))
        return Poses(apply_affine(batch.image_from_input[rows], corners), torch.ones(len(rows), 3) * 0.7, scores, rows)


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> lightpose.Predictor:
    return lightpose.Predictor(checkpoint, device="cpu")


def test_batched_equals_one_by_one(predictor, images):
    scores = [np.linspace(0.2, 0.9, len(boxes)) for boxes in BOXES]
    pooled = predictor(images, BOXES, batch_size=4, box_scores=scores)
    for image, boxes, image_scores, poses in zip(images, BOXES, scores, pooled, strict=True):
        assert len(poses) == len(boxes)
        for row in range(len(boxes)):
            alone = predictor(image, boxes[row : row + 1], batch_size=1, box_scores=image_scores[row : row + 1])[0]
            assert np.abs(alone.keypoints - poses.keypoints[row]).max() < 1e-4
            assert np.abs(alone.keypoint_scores - poses.keypoint_scores[row]).max() < 1e-4
            assert np.abs(alone.scores - poses.scores[row]).max() < 1e-4


def test_people_of_all_images_share_batches(predictor, images, monkeypatch):
    sizes = []
    step = predictor.estimator.predict_step
    monkeypatch.setattr(
        predictor.estimator, "predict_step", lambda batch, number: sizes.append(len(batch)) or step(batch, number)
    )
    predictor(images, BOXES, batch_size=3)
    assert sizes == [3, 3, 1]


def test_boxes_are_the_users_and_none_give_none(predictor, images):
    poses = predictor(images, BOXES)
    for boxes, found in zip(BOXES, poses, strict=True):
        assert np.array_equal(found.boxes_xyxy, boxes.astype(np.float32))
        assert np.array_equal(found.box_scores, np.ones(len(boxes)))
    assert poses[1].keypoints.shape == (0, 3, 2)
    assert poses[1].keypoint_scores.shape == (0, 3)
    assert [len(found) for found in predictor(images[:2], [[], []])] == [0, 0]
    assert predictor([]) == []


def test_score_is_box_score_times_mean_keypoint_score(predictor, images):
    (found,) = predictor(images[0], BOXES[0], box_scores=[0.5, 0.25])
    assert np.allclose(found.scores, [0.5, 0.25] * found.keypoint_scores.mean(1), atol=1e-6)
    assert found.keypoint_scores.max() > 0


def test_images_as_paths_arrays_or_one_of_them(predictor, images, folder):
    paths = [folder / f"{number}.png" for number in range(5)]
    from_arrays, from_paths = predictor(images), predictor([str(paths[0]), *paths[1:]])
    for expected, actual in zip(from_arrays, from_paths, strict=True):
        assert np.array_equal(expected.keypoints, actual.keypoints)
    assert np.array_equal(predictor(paths[2])[0].keypoints, from_arrays[2].keypoints)
    assert np.array_equal(predictor(images[2])[0].keypoints, from_arrays[2].keypoints)
    assert np.array_equal(from_arrays[0].boxes_xyxy, [[0, 0, 120, 90]])


def test_back_projection_is_exact_under_rotation_and_flip(checkpoint, images, monkeypatch):
    """Keypoints that a perfect network finds in turned and mirrored crops come back to where they were."""
    predictor = lightpose.Predictor(checkpoint, device="cpu")
    crop, warp = predictor.transforms
    predictor.transforms = [
        crop,
        RandomAffine(INPUT_HW, rotate_probability=1.0, shift_probability=1.0),
        RandomFlip(SKELETON, INPUT_HW, probability=1.0),
        warp,
    ]
    truth = np.array([[[12.3, 33.1], [71.9, 4.4], [-3.2, 65.7]]], np.float32)
    transform = predictor._transform
    monkeypatch.setattr(
        predictor, "_transform", lambda s: transform(replace(s, instances=replace(s.instances, keypoints=truth)))
    )

    def perfect(batch: Batch, number: int) -> Poses:
        keypoints = batch.instances.keypoints[:, 0]
        ones = torch.ones(keypoints.shape[:2])
        return predictor.estimator.to_image(Poses(keypoints, ones, ones[:, 0], torch.arange(len(batch))), batch)

    monkeypatch.setattr(predictor.estimator, "predict_step", perfect)
    for found in predictor(images, BOXES):
        assert np.abs(found.keypoints[:, list(SKELETON.swap)] - truth).max(initial=0) < 1e-3


def test_estimator_of_whole_images(tmp_path, images):
    settings = config()
    settings["estimator"]["_target_"] = "test_predictor.Bright"
    settings["augment"]["eval"]["crop"] = {
        "_target_": "lightpose.data.transforms.CropImage",
        "input_hw": INPUT_HW,
        "grid": "half_pixel",
    }
    path = save(tmp_path / "bright.ckpt", settings, trust=("test_predictor.",))
    with pytest.raises(UserError, match=r"test_predictor\.Bright"):
        lightpose.Predictor(path)
    predictor = lightpose.Predictor(path, device="cpu", trust=("test_predictor.",))
    white, black = np.full((64, 48, 3), 255, np.uint8), np.zeros((64, 48, 3), np.uint8)
    found = predictor([white, black, white], batch_size=2)
    assert [len(poses) for poses in found] == [2, 0, 2]
    assert np.allclose(found[2].scores, [0.9, 0.4])
    assert np.allclose(found[2].boxes_xyxy, [[0, 0, 47, 63]] * 2, atol=0.6)
    with pytest.raises(UserError, match="leave boxes out"):
        predictor(white, [[0, 0, 5, 5]])


def test_stream_keeps_order_and_memory(predictor, images):
    drawn = 0

    def frames():
        nonlocal drawn
        for number in range(20):
            drawn += 1
            yield Frame(f"{number}", images[number % 5], number)

    def find(chunk):
        return [
            (BOXES[frame.image_id % 5].astype(np.float32), np.ones(len(BOXES[frame.image_id % 5]))) for frame in chunk
        ]

    expected = predictor(images, BOXES)
    for number, (frame, poses) in enumerate(predictor.stream(frames(), find, batch_size=4)):
        assert frame.image_id == number
        assert np.abs(poses.keypoints - expected[number % 5].keypoints).max(initial=0) < 1e-4
        assert drawn - number <= 4


def test_transforms_need_trust(tmp_path):
    settings = config()
    settings["augment"]["eval"]["own"] = {"_target_": "strangers.Transform"}
    path = save(tmp_path / "strange.ckpt", settings)
    with pytest.raises(UserError, match=r"strangers\.Transform"):
        lightpose.Predictor(path)


@pytest.mark.parametrize(
    ("images", "boxes", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), None, r"image 0 is float32 of shape \(8, 8, 3\)"),
        ([np.zeros((8, 8), np.uint8)], None, r"uint8 of shape \(8, 8\)"),
        ([None], None, "NoneType"),
        ("no/such.jpg", None, "no/such.jpg"),
        ([np.zeros((8, 8, 3), np.uint8)] * 2, [[[0, 0, 4, 4]]], "2 images come with 1 arrays"),
        (np.zeros((8, 8, 3), np.uint8), [[0, 0, 4]], r"shape \(1, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), [[0, 0, 4, 4], [4, 4, 4, 9]], "box 1 of image 0"),
        (np.zeros((8, 8, 3), np.uint8), [[0, 0, np.nan, 4]], "box 0 of image 0"),
    ],
)
def test_bad_images_and_boxes_are_named(predictor, images, boxes, message):
    with pytest.raises(UserError, match=message):
        predictor(images, boxes)


def test_bad_batch_size_and_device(checkpoint, predictor, images):
    with pytest.raises(UserError, match="batch_size=0"):
        predictor(images, batch_size=0)
    with pytest.raises(UserError, match="device=nonsense"):
        lightpose.Predictor(checkpoint, device="nonsense")
