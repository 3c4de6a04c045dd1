"""What the toys need around them: backbones, turning skeletons with their 2-D views, and an error in mm."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchmetrics import Metric

from lightpose.data.base import PoseDataset
from lightpose.data.coco.dataset import skeleton_of
from lightpose.models.base import FeatureModule
from lightpose.structures import Annotations, Sample


class ImageNet(FeatureModule):
    """Three strided convolutions and a dilated one: a map of stride 8."""

    def __init__(self, width=32):
        super().__init__()
        layers = []
        for before, stride, dilation in ((3, 2, 1), (width, 2, 1), (width, 2, 1), (width, 1, 3)):
            conv = nn.Conv2d(before, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.out_channels, self.strides = (width,), (8,)

    def forward(self, images):
        return [self.layers(images)]


class SequenceNet(FeatureModule):
    """(B, T, K, 2) to one map (B, width, T)."""

    def __init__(self, keypoints, width=64):
        super().__init__()
        first, second = nn.Conv1d(2 * keypoints, width, 3, padding=1), nn.Conv1d(width, width, 3, padding=1)
        self.layers = nn.Sequential(first, nn.GELU(), second, nn.GELU())
        self.out_channels, self.strides = (width,), (1,)

    def forward(self, sequences):
        return [self.layers(sequences.flatten(2).mT)]


class TurningPeople(PoseDataset):
    """The 3-D people of a synthetic annotation file, each turned about its vertical axis and seen from far away."""

    def __init__(self, annotations, images=None, frames=9, turn_degrees=40.0, **shared):
        super().__init__(**shared)
        people = json.loads(Path(annotations).read_text())["annotations"]
        self.people_mm = np.array([person["keypoints_3d"] for person in people], np.float32)
        self.angles = np.radians(np.linspace(-turn_degrees, turn_degrees, frames))

    @classmethod
    def read_skeleton(cls, annotations, sigmas=None):
        return skeleton_of(annotations, sigmas)

    def __len__(self):
        return len(self.people_mm)

    def load(self, index, rng):
        joints = self.people_mm[index] - self.people_mm[index].mean(0)
        cos, sin = np.cos(self.angles)[:, None], np.sin(self.angles)[:, None]
        x, y, z = joints.T
        seen = np.stack([x * cos + z * sin, y + 0 * cos], -1)  # (T, K, 2)
        labels = Annotations(
            keypoints=joints[None],
            visible=np.full((1, len(joints)), 2, np.float32),
            boxes_xyxy=np.zeros((1, 4), np.float32),
            areas=np.ones(1, np.float32),
            categories=np.zeros(1, np.int64),
            ids=np.array([index]),
            scores=np.ones(1, np.float32),
        )
        return Sample((seen / 1000).astype(np.float32), labels, np.eye(3), index, index, (1, 1))


class MPJPE(Metric):
    """Mean distance of the joints, both bodies centred on their mean, in mm."""

    def __init__(self, skeleton):
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, poses, batch):
        truth = batch.instances.keypoints[poses.batch_index, 0]
        error = (poses.keypoints - truth + truth.mean(1, keepdim=True)).norm(dim=-1)
        self.total += error.sum()
        self.count += error.numel()

    def compute(self):
        return {"MPJPE": self.total / self.count}
