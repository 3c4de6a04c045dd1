"""Windows of frames through codec, estimator and metric: every frame is placed and scored once."""

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from lightpose import testing
from lightpose.codecs.motionbert import MotionBertCodec
from lightpose.data.pixels.device import collate
from lightpose.data.sequences import PoseSequences
from lightpose.data.synthetic.sequences import generate_sequences
from lightpose.estimators.lifter import PoseLifter
from lightpose.metrics.mpjpe import MPJPE
from lightpose.models.backbones.dstformer import DSTFormer
from lightpose.models.heads.motion import MotionHead
from lightpose.models.losses.lifting import MotionLoss

H36M = instantiate(OmegaConf.load(Path(__file__).parents[2] / "conf/skeleton/h36m.yaml"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = generate_sequences(tmp_path_factory.mktemp("moving") / "data", 2, seed=0)
    made = PoseSequences(path, frames=27, stride=9, skeleton=H36M)
    made.training = False
    return made


@pytest.fixture(scope="module")
def lifter():
    return testing.model(
        partial(MotionHead, criterion=MotionLoss(), representation=8),
        MotionBertCodec,
        input_hw=None,
        skeleton=H36M,
        kind=PoseLifter,
        backbone=partial(DSTFormer, frames=27, width=16, depth=1, heads=2),
        preprocessor=nn.Identity(),
    ).eval()


@torch.inference_mode()
def test_the_poses_of_targets_are_placed_at_the_labels_and_scored_once(dataset, lifter):
    metric = MPJPE(H36M)
    metric.set_ground_truth(dataset.ground_truth())
    for first in range(0, len(dataset), 3):
        batch = collate([dataset[index] for index in range(first, min(first + 3, len(dataset)))])
        poses = lifter.to_image(lifter.codec.decode(lifter.codec.encode(batch).maps), batch)
        truth = batch.instances.keypoints[poses.batch_index, poses.extras["frame"]]
        labelled = (batch.instances.visible > 0).all(2)[poses.batch_index, poses.extras["frame"]]
        off = (poses.keypoints - truth).mean(1)[labelled]
        assert off.norm(dim=-1).max() < 250  # what perspective does to depth
        metric.update(poses, batch)
    rows = metric.rows()
    assert rows["mask"].sum(0).tolist() == [200] * 17
    assert sorted(rows["image_ids"][rows["mask"][:, 0]].tolist()) == list(range(200))
    figures = metric.compute()
    assert figures["MPJPE_mm"] < 40  # the screen shows near limbs larger than they are
    assert figures["MPJVE_mm"] < 3
    assert {"MPJPE_mm/Facing", "MPJPE_mm/Turning"} < set(figures)


@torch.inference_mode()
def test_the_flip_test_treats_both_sides_alike(dataset, lifter):
    batch = collate([dataset[0], dataset[5]])
    lifter.flip_test = True
    plain, mirrored = lifter.outputs(batch.inputs), lifter.outputs(lifter.mirror(batch.inputs))
    torch.testing.assert_close(lifter.codec.flip(mirrored)["motion"], plain["motion"], atol=1e-5, rtol=1e-5)
