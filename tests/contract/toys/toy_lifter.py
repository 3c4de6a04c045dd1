"""Lifting in one file: 2-D keypoints of a sequence in, out the 3-D pose of its middle frame before a known camera."""

from dataclasses import replace

import torch

from lightpose.codecs.base import Codec
from lightpose.estimators.base import PoseEstimator
from lightpose.models.base import Head
from lightpose.models.losses.weighting import expand
from lightpose.structures import Poses, Spec, Targets


class LiftHead(Head):
    emits = frozenset({"pose", "distance"})

    def __init__(self, in_channels, strides, stages, spec):
        super().__init__()
        self.shape = spec.outputs["pose"]
        self.final = torch.nn.Linear(in_channels[0], self.shape[0] * self.shape[1] + 1)

    def forward(self, features):
        numbers = self.final(features[0].mean(-1))
        return {"pose": numbers[:, 1:].unflatten(-1, self.shape), "distance": numbers[:, 0]}

    def criterion(self, outputs, targets):
        losses = {}
        for name, output in outputs.items():
            weight = expand(targets.weights[name], output).expand_as(output)
            losses[name] = ((output - targets.maps[name]).abs() * weight).sum() / weight.sum().clamp_min(1)
        return losses


class LiftCodec(Codec):
    """Where the camera sees each joint, its depth beside the body's middle, and how far that is."""

    def __init__(self, skeleton, input_hw, grid, scale_px=500.0, scale_mm=500.0):
        self.spec = Spec({"pose": (skeleton.num_keypoints, 3), "distance": ()}, input_hw)
        self.scale_px, self.scale_mm = scale_px, scale_mm
        self.swap = torch.tensor(skeleton.swap)

    def encode(self, batch):
        joints_mm = batch.instances.keypoints[:, 0]  # (B, K, 3)
        middle_mm = joints_mm[..., 2].mean(1).clamp_min(1)
        projected = joints_mm @ batch.cameras.mT
        seen_px, depth_mm = projected[..., :2] / projected[..., 2:].clamp_min(1), joints_mm[..., 2] - middle_mm[:, None]
        pose = torch.cat([seen_px / self.scale_px, depth_mm[..., None] / self.scale_mm], -1)
        labelled = ((batch.instances.visible[:, 0] > 0) & batch.instances.valid[:, :1]).float()
        weights = {"pose": labelled, "distance": labelled.amax(1)}
        return Targets({"pose": pose, "distance": (middle_mm / 1000).log()}, weights)

    def decode(self, outputs):
        seen, depth = outputs["pose"].float().split([2, 1], -1)
        depth_mm = depth * self.scale_mm + 1000 * outputs["distance"].float().exp()[:, None, None]
        certain = torch.ones_like(depth[..., 0])
        keypoints = torch.cat([seen * self.scale_px, depth_mm], -1)
        return Poses(keypoints, certain, certain[:, 0], torch.arange(len(certain), device=certain.device))

    def flip(self, outputs):
        pose = outputs["pose"][:, self.swap.to(outputs["pose"].device)]
        return {**outputs, "pose": pose * pose.new_tensor([-1, 1, 1])}


class RayLifter(PoseEstimator):
    """The backbone is a builder here: it learns the number of keypoints from the skeleton."""

    def __init__(self, skeleton, backbone, **options):
        super().__init__(skeleton=skeleton, backbone=backbone(keypoints=skeleton.num_keypoints), **options)
        self.register_buffer("swap", torch.tensor(skeleton.swap), persistent=False)

    def to_image(self, poses, batch):
        seen_px, depth_mm = poses.keypoints.split([2, 1], -1)
        rays = (
            torch.cat([seen_px, torch.ones_like(depth_mm)], -1) @ torch.linalg.inv(batch.cameras)[poses.batch_index].mT
        )
        return replace(poses, keypoints=rays * depth_mm)  # mm before the camera

    def mirror(self, inputs):
        return inputs[:, :, self.swap] * inputs.new_tensor([-1, 1, 1])
