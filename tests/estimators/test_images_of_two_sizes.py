"""Bottom-up models and inputs of each image's own proportion: targets, losses and poses are those of that size."""

from functools import partial

import numpy as np
import pytest
import torch

from lightpose import testing
from lightpose.codecs.associative_embedding import AssociativeEmbeddingCodec
from lightpose.codecs.cid import CIDCodec
from lightpose.codecs.displacement import DisplacementCodec
from lightpose.codecs.onestage import OneStageCodec
from lightpose.data.image_transforms import ResizeImage
from lightpose.data.pixels.crop import Warp
from lightpose.data.pixels.device import collate
from lightpose.estimators.base import PoseEstimator
from lightpose.estimators.bottomup import BottomUp
from lightpose.models.backbones.cspdarknet import CSPDarknet
from lightpose.models.heads.assigners.simota import SimOTA
from lightpose.models.heads.associative_embedding import AssociativeEmbeddingHead
from lightpose.models.heads.cid import CIDHead
from lightpose.models.heads.dekr import DEKRHead
from lightpose.models.heads.rtmo import RTMOHead
from lightpose.models.heads.yoloxpose import YOLOXPoseHead
from lightpose.models.losses.associative_embedding import AssociativeEmbeddingLoss
from lightpose.models.losses.cid import CIDLoss
from lightpose.models.losses.displacement import DisplacementLoss
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.models.losses.onestage import OneStageLoss
from lightpose.models.necks.hybrid_encoder import HybridEncoder
from lightpose.models.necks.yolox_pafpn import YOLOXPAFPN
from lightpose.structures import Annotations, Batch, Sample

HW = (64, 96)
IMAGES = ((80, 200), (130, 80))
"""Their inputs are of 64x160 and 128x64 pixels."""
FAMILIES = {
    "ae": (partial(AssociativeEmbeddingHead, criterion=AssociativeEmbeddingLoss(KeypointMSE())), None),
    "dekr": (partial(DEKRHead, criterion=DisplacementLoss()), None),
    "cid": (partial(CIDHead, criterion=CIDLoss()), None),
    "yoloxpose": (partial(YOLOXPoseHead, criterion=OneStageLoss(SimOTA(), kind="bce")), YOLOXPAFPN),
    "rtmo": (
        partial(RTMOHead, criterion=OneStageLoss(SimOTA())),
        partial(HybridEncoder, out_channels=64, hidden=32, feedforward=64),
    ),
}
CODECS = {
    "ae": AssociativeEmbeddingCodec,
    "dekr": DisplacementCodec,
    "cid": CIDCodec,
    "yoloxpose": partial(OneStageCodec, score_threshold=0.0),
    "rtmo": partial(OneStageCodec, score_threshold=0.0),
}


def model(family: str) -> PoseEstimator:
    head, neck = FAMILIES[family]
    parts = {"neck": neck, "backbone": CSPDarknet(0.1, 0.125), "flip_test": False} if neck else {}
    return testing.model(head, CODECS[family], input_hw=HW, kind=BottomUp, **parts).eval()


def sample(index: int, grid: str) -> Sample:
    """Two people on noise, in an input of the image's own proportion."""
    rng, (height, width) = np.random.default_rng(index), IMAGES[index]
    middles = np.array([[0.3, 0.3], [0.7, 0.7]]) * (width, height)
    points = (middles[:, None] + rng.uniform(-20, 20, (2, 5, 2))).astype(np.float32)
    region = np.array([[0, 0], [width / 4, 0], [width / 4, height / 4]], np.float32)
    labels = Annotations(
        keypoints=points,
        visible=np.full((2, 5), 2, np.float32),
        boxes_xyxy=np.concatenate([points.min(1), points.max(1)], -1),
        areas=np.full(2, 1600, np.float32),
        categories=np.zeros(2, np.int64),
        ids=np.arange(2),
        scores=np.ones(2, np.float32),
    )
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    read = Sample(image, labels, np.eye(3), index, index, (height, width), ignore=[region])
    return Warp(HW)(ResizeImage(HW, grid, "short")(read, rng), rng)


def batch(*rows: int, grid: str = "half_pixel") -> Batch:
    return collate([sample(row, grid) for row in rows])


@pytest.mark.parametrize("grid", testing.GRIDS)
@pytest.mark.parametrize("family", ["ae", "dekr", "cid", "rtmo"])
def test_targets_are_those_of_a_codec_that_was_built_for_the_size(family: str, grid: str):
    given = {"skeleton": testing.SKELETON, "grid": grid}
    codec = CODECS[family](input_hw=HW, **given)
    for row in range(2):
        part = batch(row, grid=grid)
        size = tuple(part.inputs.shape[-2:])
        found, expected = (each.encode(part) for each in (codec, CODECS[family](input_hw=size, **given)))
        for name in codec.spec.target_names:
            assert torch.equal(found.maps[name], expected.maps[name])
            assert torch.equal(found.weights[name], expected.weights[name])
            assert found.weights[name].any()


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_batch_of_two_sizes_is_validated_as_its_images_are_alone(family: str):
    estimator, both = model(family), batch(0, 1)
    assert both.input_hw == ((64, 160), (128, 64))
    poses = estimator.validation_step(both, 0)["poses"]
    together = estimator.val_loss.compute() / estimator.val_samples.compute()
    losses = []
    for row in range(2):
        estimator.on_validation_start()
        alone = estimator.validation_step(batch(row), 0)["poses"]
        losses.append(estimator.val_loss.compute() / estimator.val_samples.compute())
        mine = poses.select(poses.batch_index == row)
        torch.testing.assert_close(mine.keypoints, alone.keypoints, atol=1e-3, rtol=0)
        assert len(mine) or family in ("ae", "dekr")  # whose maps are flat at first
    assert losses[0] != losses[1]
    torch.testing.assert_close(together, torch.stack(losses).mean())
