"""Whole images of several proportions in one run: each gives what it gives alone, however they are batched."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny_checkpoint import INPUT_HW, config, save

import lightpose
from lightpose.checkpoint import assemble
from lightpose.cli import eval as eval_command
from lightpose.cli import predict as predict_command
from lightpose.data.coco.boxes import unlabelled
from lightpose.data.coco.results import read_coco_results
from lightpose.data.pixels.device import collate
from lightpose.geometry import whole_image_box
from lightpose.structures import Array, Poses, Sample


def settings() -> dict:
    made = config()
    made["estimator"] |= {
        "_target_": "lightpose.estimators.bottomup.BottomUp",
        "head": {
            "_target_": "lightpose.models.heads.associative_embedding.AssociativeEmbeddingHead",
            "_partial_": True,
            "criterion": {
                "_target_": "lightpose.models.losses.associative_embedding.AssociativeEmbeddingLoss",
                "heatmap": {"_target_": "lightpose.models.losses.heatmap.KeypointMSE"},
            },
        },
        "codec": {
            "_target_": "lightpose.codecs.associative_embedding.AssociativeEmbeddingCodec",
            "_partial_": True,
            "max_people": 4,
        },
        "metrics": {
            "oks": {"_target_": "lightpose.metrics.oks.OKS", "_partial_": True, "score_mode": "bbox", "nms": "none"}
        },
    }
    made["augment"]["eval"]["geometry"]["crop"] = {
        "_target_": "lightpose.data.image_transforms.ResizeImage",
        "input_hw": INPUT_HW,
        "grid": "half_pixel",
    }
    return made


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, whose maps have many peaks."""
    made = settings()
    made["data"] = {
        "_target_": "lightpose.data.datamodule.PoseDataModule",
        "reader": {"_target_": "lightpose.data.coco.dataset.CocoImages", "_partial_": True},
        "transforms": made["augment"],
        "input_hw": INPUT_HW,
        "num_workers": 0,
    }
    return save(tmp_path_factory.mktemp("wide") / "wide.ckpt", made)


@pytest.fixture(scope="module")
def annotations(tmp_path_factory: pytest.TempPathFactory, images: list[Array]) -> Path:
    """The pictures, the first with a labelled person."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    content = {
        "images": [
            {"id": number, "file_name": f"{number}.png", "height": image.shape[0], "width": image.shape[1]}
            for number, image in enumerate(images)
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 0,
                "category_id": 1,
                "bbox": [10, 10, 50, 50],
                "area": 2500,
                "iscrowd": 0,
                "keypoints": [20, 20, 2, 30, 30, 2, 40, 40, 2],
                "num_keypoints": 3,
            }
        ],
        "categories": [{"id": 1, "name": "face", "keypoints": ["nose", "left_eye", "right_eye"]}],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def alone(checkpoint: Path, images: list[Array]) -> list[Poses[Array]]:
    predictor = lightpose.Predictor(checkpoint, device="cpu")
    return [predictor(image)[0] for image in images]


def same(found: Poses[Array], expected: Poses[Array]) -> None:
    assert len(found) == len(expected) > 0
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize("batch_size", [2, 64])
def test_each_image_of_a_call_gives_what_it_gives_alone(checkpoint, images, alone, batch_size):
    predictor = lightpose.Predictor(checkpoint, device="cpu")
    sizes = {predictor.cropper.transforms(sample, np.random.default_rng(0)).image.shape for sample in _samples(images)}
    assert len(sizes) >= 3
    for found, expected in zip(predictor(images, batch_size=batch_size), alone, strict=True):
        same(found, expected)
        assert found.keypoints.shape[1:] == (3, 2)


def _samples(images: list[Array]):
    for image in images:
        labels = unlabelled(whole_image_box(image.shape[:2]), np.ones(1, np.float32), 3)
        yield Sample(image, labels, np.eye(3), 0, 0, image.shape[:2])


def _by_image(path: Path) -> dict[int, list[dict]]:
    found: dict[int, list[dict]] = {}
    for pose in read_coco_results(path):
        found.setdefault(pose["image_id"], []).append(pose)
    return found


def check_file(path: Path, alone: list[Poses[Array]]) -> None:
    found = _by_image(path)
    assert sorted(found) == list(range(len(alone)))
    for image_id, expected in enumerate(alone):
        poses = sorted(found[image_id], key=lambda pose: -pose["score"])
        keypoints = np.array([pose["keypoints"] for pose in poses]).reshape(-1, 3, 3)
        np.testing.assert_allclose(keypoints[..., :2], expected.keypoints, atol=1e-2)


def test_the_predict_command_does(run, checkpoint, annotations, alone, tmp_path):
    given = (f"ckpt={checkpoint}", f"source={annotations}", f"out={tmp_path / 'out'}", "device=cpu", "draw=false")
    assert run(predict_command.main, *given, "batch_size=3")[0] == 0
    check_file(tmp_path / "out/predictions.json", alone)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_eval_command_does(run, checkpoint, annotations, alone, tmp_path, batch_size):
    given = (f"ckpt={checkpoint}", f"annotations={annotations}", f"out={tmp_path / 'out'}", f"batch_size={batch_size}")
    code, _, err = run(eval_command.main, *given)
    assert code == 0, err
    check_file(tmp_path / "out/predictions.json", alone)


def test_a_batch_of_validation_is_of_several_sizes_and_its_poses_are_those_of_its_rows(checkpoint, annotations):
    estimator = lightpose.load(checkpoint, training=True)
    estimator.metrics = torch.nn.ModuleList()
    data = {**estimator.config["data"], "val": str(annotations)}
    dataset = assemble(data, skeleton=estimator.skeleton).dataset("val")
    batch = collate([dataset[index] for index in range(5)])
    assert len(set(batch.input_hw)) >= 3
    with torch.inference_mode():
        poses = estimator.validation_step(batch, 0)["poses"]
        for row in range(5):
            alone = estimator.validation_step(collate([dataset[row]]), 0)["poses"]
            mine = poses.select(poses.batch_index == row)
            torch.testing.assert_close(mine.keypoints, alone.keypoints, atol=1e-3, rtol=0)
    assert estimator.val_loss.compute().isfinite()
