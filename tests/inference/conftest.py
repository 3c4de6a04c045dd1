"""A tiny trained-looking checkpoint, and pictures."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from lightpose.checkpoint import build
from lightpose.skeleton import Skeleton

SKELETON = Skeleton.build(["nose", "left_eye", "right_eye"], name="face", links=[("nose", "left_eye")])
INPUT_HW = [64, 48]


def config() -> dict[str, Any]:
    """A resolved configuration, as lightpose-train writes it."""
    geometry = {"input_hw": INPUT_HW, "grid": "half_pixel"}
    transforms = "lightpose.data.transforms"
    return {
        "estimator": {
            "_target_": "lightpose.estimators.topdown.TopDown",
            **geometry,
            "preprocessor": {
                "_target_": "lightpose.models.preprocessors.Normalize",
                "mean": [120.0, 120.0, 120.0],
                "std": [60.0, 60.0, 60.0],
            },
            "backbone": {
                "_target_": "lightpose.models.backbones.timm.TimmBackbone",
                "model": "resnet18",
                "pretrained": True,
                "out_indices": [1],
            },
            "neck": {"_target_": "lightpose.models.necks.identity.Identity", "_partial_": True},
            "head": {
                "_target_": "lightpose.models.heads.heatmap.HeatmapHead",
                "_partial_": True,
                "criterion": {"_target_": "lightpose.models.losses.heatmap.KeypointMSE"},
            },
            "codec": {"_target_": "lightpose.codecs.heatmap.HeatmapCodec", "_partial_": True},
            "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.001},
            "scheduler": {"_target_": "torch.optim.lr_scheduler.LinearLR", "_partial_": True},
            "metrics": {},
        },
        "augment": {
            "eval": {
                "crop": {"_target_": f"{transforms}.CropBox", **geometry, "padding": 1.25},
                "warp": {"_target_": f"{transforms}.Warp", "input_hw": INPUT_HW},
            }
        },
    }


def save(path: Path, settings: dict[str, Any], trust: tuple[str, ...] = ()) -> Path:
    """A checkpoint with random weights, large enough in the last layer for the maps to differ."""
    torch.manual_seed(0)
    estimator = build(settings, SKELETON, trust)
    torch.nn.init.normal_(estimator.net.head.final.weight, std=0.3)
    content: dict[str, Any] = {"state_dict": estimator.state_dict()}
    estimator.on_save_checkpoint(content)
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("checkpoint") / "tiny.ckpt", config())


@pytest.fixture(scope="session")
def images() -> list[np.ndarray]:
    """Five pictures of different sizes, smooth enough to survive JPEG."""
    rng = np.random.default_rng(0)
    sizes = [(90, 120), (100, 80), (64, 64), (150, 90), (70, 200)]
    return [
        cv2.resize(rng.integers(0, 256, (8, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
        for height, width in sizes
    ]


@pytest.fixture()
def folder(tmp_path: Path, images: list[np.ndarray]) -> Path:
    """The pictures as PNG files 0.png to 4.png, next to a file that is no picture."""
    path = tmp_path / "photos"
    path.mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(path / f"{number}.png"), image[..., ::-1])
    (path / "notes.txt").write_text("no picture")
    return path


@pytest.fixture()
def video(tmp_path: Path) -> Path:
    """Forty frames of 64 x 48 at 12 frames per second; frame n is grey 5 n."""
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12, (64, 48))
    for number in range(40):
        writer.write(np.full((48, 64, 3), 5 * number, np.uint8))
    writer.release()
    return path
