"""One-stage losses count who is found over all processes: two learn from a split batch as one does from all of it."""

from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.multiprocessing
from torch import Tensor, distributed

from lightpose import testing
from lightpose.codecs.onestage import OneStageCodec
from lightpose.estimators.base import PoseEstimator
from lightpose.estimators.bottomup import BottomUp
from lightpose.models.backbones.cspdarknet import CSPDarknet
from lightpose.models.heads.assigners.simota import SimOTA
from lightpose.models.heads.rtmo import RTMOHead
from lightpose.models.heads.yoloxpose import YOLOXPoseHead
from lightpose.models.losses.onestage import OneStageLoss
from lightpose.models.necks.hybrid_encoder import HybridEncoder
from lightpose.models.necks.yolox_pafpn import YOLOXPAFPN
from lightpose.runtime.processes import GradientMean
from lightpose.structures import Batch

PEOPLE = (3, 4, 1, 0)
"""In each image. Process 0 gets the first two images, and process 1 the others."""
HEADS = {
    "yoloxpose": (partial(YOLOXPoseHead, criterion=OneStageLoss(SimOTA(), kind="bce", offsets=1.0)), YOLOXPAFPN),
    "rtmo": (
        partial(RTMOHead, criterion=OneStageLoss(SimOTA()), likelihood=5.0, proxy=True),
        partial(HybridEncoder, out_channels=64, hidden=32, feedforward=64),
    ),
}


def gradients(kind: str, rows: slice, split: bool) -> dict[str, Tensor]:
    """Those of a fresh network for some images; of a split batch their mean over processes."""
    torch.manual_seed(0)
    head, neck = HEADS[kind]
    parts = {"backbone": CSPDarknet(0.1, 0.125), "neck": neck, "flip_test": False}
    estimator: PoseEstimator = testing.model(head, OneStageCodec, kind=BottomUp, **parts)
    batch: Batch = testing.random_batch(estimator, PEOPLE)
    for norm in (each for each in estimator.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)):
        norm.momentum = 1.0  # statistics of the whole batch, which stay as they are from then on
    with torch.no_grad():
        estimator.train().net(batch.inputs)
    estimator.eval().losses(batch.map(lambda column: column[rows]))["loss"].backward()
    if split:
        GradientMean(list(estimator.net.parameters()))()
    return {name: each.grad for name, each in estimator.net.named_parameters() if each.grad is not None}


def take_part(rank: int, folder: str) -> dict[str, dict[str, Tensor]]:
    """The gradients of a split batch."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=100)
    )
    try:
        return {kind: gradients(kind, slice(2 * rank, 2 * rank + 2), split=True) for kind in HEADS}
    finally:
        distributed.destroy_process_group()


def other_process(_: int, folder: str) -> None:
    take_part(1, folder)


def test_a_batch_split_over_two_processes_has_the_gradients_of_the_whole(tmp_path: Path) -> None:
    alone = {kind: gradients(kind, slice(4), split=False) for kind in HEADS}
    other = torch.multiprocessing.spawn(other_process, (str(tmp_path),), nprocs=1, join=False)
    found = take_part(0, str(tmp_path))
    assert other is not None and other.join()
    for kind, expected in alone.items():
        assert found[kind].keys() == expected.keys()
        for name, gradient in expected.items():
            assert (found[kind][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6, (kind, name)
