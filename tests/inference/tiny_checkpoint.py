"""A checkpoint of a tiny net with random weights."""

from pathlib import Path
from typing import Any

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
                "geometry": {"crop": {"_target_": f"{transforms}.CropBox", **geometry, "padding": 1.25}},
                "pixels": {},
            }
        },
    }


def save(path: Path, settings: dict[str, Any], trust: tuple[str, ...] = (), skeleton: Skeleton = SKELETON) -> Path:
    """A checkpoint with random weights, large enough in the last layer for the maps to differ."""
    torch.manual_seed(0)
    estimator = build(settings, skeleton, trust)
    torch.nn.init.normal_(estimator.net.head.final.weight, std=0.3)
    content: dict[str, Any] = {"state_dict": estimator.state_dict()}
    estimator.on_save_checkpoint(content)
    torch.save(content, path)
    return path
