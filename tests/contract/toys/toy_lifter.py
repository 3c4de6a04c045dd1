"""Lifting in one file: a sequence of 2-D keypoints in, the 3-D pose of its middle frame out."""

import torch
from torch import nn

from lightpose.codecs.base import Codec
from lightpose.estimators.base import PoseEstimator
from lightpose.models.base import Head
from lightpose.structures import Poses, Spec, Targets


class LiftHead(Head):
    emits = frozenset({"pose"})

    def __init__(self, in_channels, strides, stages, spec):
        super().__init__()
        self.shape = spec.outputs["pose"]
        self.final = nn.Linear(in_channels[0], self.shape[0] * self.shape[1])

    def forward(self, features):
        return {"pose": self.final(features[0].mean(-1)).unflatten(-1, self.shape)}

    def criterion(self, outputs, targets):
        error, weight = (outputs["pose"] - targets.maps["pose"]).abs().sum(-1), targets.weights["pose"]
        return {"pose": (error * weight).sum() / weight.sum().clamp_min(1)}


class LiftCodec(Codec):
    """Joints relative to their mean, in units of ``scale_mm``; there is one pose a sequence."""

    def __init__(self, skeleton, input_hw, grid, scale_mm=500.0):
        self.spec = Spec({"pose": (skeleton.num_keypoints, 3)}, input_hw)
        self.scale_mm = scale_mm
        self.swap = torch.tensor(skeleton.swap)

    def encode(self, batch):
        instances = batch.instances
        joints = instances.keypoints[:, 0]
        labelled = (instances.visible[:, 0] > 0) & instances.valid[:, :1]
        return Targets({"pose": (joints - joints.mean(1, keepdim=True)) / self.scale_mm}, {"pose": labelled.float()})

    def decode(self, outputs):
        joints = outputs["pose"].float() * self.scale_mm
        certain = joints.new_ones(joints.shape[:2])
        return Poses(joints, certain, certain[:, 0], torch.arange(len(joints), device=joints.device))

    def flip(self, outputs):
        joints = outputs["pose"][:, self.swap.to(outputs["pose"].device)]
        return {"pose": joints * joints.new_tensor([-1, 1, 1])}


class Lifter(PoseEstimator):
    """The backbone is a builder here: it learns the number of keypoints from the skeleton."""

    def __init__(self, skeleton, backbone, **options):
        super().__init__(skeleton=skeleton, backbone=backbone(keypoints=skeleton.num_keypoints), **options)
        self.register_buffer("swap", torch.tensor(skeleton.swap), persistent=False)

    def to_image(self, poses, batch):
        return poses  # mm around the body's middle: where a lifter's user wants them

    def mirror(self, inputs):
        return inputs[:, :, self.swap] * inputs.new_tensor([-1, 1])
