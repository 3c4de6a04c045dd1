"""A tiny checkpoint with a codec of choice, and its export."""

from pathlib import Path
from typing import Any

import torch

from lightpose.checkpoint import build
from lightpose.skeleton import Skeleton

SKELETON = Skeleton.build(["nose", "left_eye", "right_eye"], name="face", links=[("nose", "left_eye")])
INPUT_HW = [64, 48]
HEADS = "lightpose.models.heads"
LOSSES = "lightpose.models.losses"


def part(target: str, **options: Any) -> dict[str, Any]:
    return {"_target_": target, "_partial_": True, **options}


def heatmap_head() -> dict[str, Any]:
    return part(f"{HEADS}.heatmap.HeatmapHead", criterion={"_target_": f"{LOSSES}.heatmap.KeypointMSE"})


SMALL = {"_target_": "lightpose.testing.SmallBackbone"}
"""A third of the nodes of the default, so that exports take less time."""
TRUST = "lightpose.testing"


def config(
    head: dict[str, Any],
    codec: dict[str, Any],
    grid: str = "half_pixel",
    kind: str = "TopDown",
    backbone: dict[str, Any] | None = None,
) -> Any:
    """A resolved configuration, as lightpose-train writes it."""
    geometry = {"input_hw": INPUT_HW, "grid": grid}
    crop = {"_target_": "lightpose.data.transforms.CropBox", **geometry, "padding": 1.25}
    if kind != "TopDown":
        crop = {"_target_": "lightpose.data.transforms.CropImage", **geometry}
    return {
        "estimator": {
            "_target_": f"lightpose.estimators.{'bottomup' if kind == 'BottomUp' else 'topdown'}.{kind}",
            **geometry,
            "preprocessor": {
                "_target_": "lightpose.models.preprocessors.Normalize",
                "mean": [120.0, 110.0, 100.0],
                "std": [60.0, 50.0, 55.0],
            },
            "backbone": backbone
            or {
                "_target_": "lightpose.models.backbones.timm.TimmBackbone",
                "model": "test_resnet",
                "pretrained": False,
                "out_indices": [3],
            },
            "neck": part("lightpose.models.necks.identity.Identity"),
            "head": head,
            "codec": codec,
            "optimizer": part("torch.optim.Adam", lr=0.001),
            "scheduler": part("torch.optim.lr_scheduler.LinearLR"),
            "metrics": {},
            "flip_test": kind != "BottomUp",
        },
        "augment": {"eval": {"geometry": {"crop": crop}, "pixels": {}}},
    }


def save(path: Path, settings: dict[str, Any], skeleton: Skeleton = SKELETON, std: float = 0.1) -> Path:
    """A checkpoint with random weights, large enough in the last layers for the outputs to differ."""
    torch.manual_seed(0)
    estimator = build(settings, skeleton, TRUST)
    for parameter in estimator.net.head.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std if parameter.requires_grad else 0.1)  # as they come, when frozen
    content: dict[str, Any] = {"state_dict": estimator.state_dict()}
    estimator.on_save_checkpoint(content)
    torch.save(content, path)
    return path
