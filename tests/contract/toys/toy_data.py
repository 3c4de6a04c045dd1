"""What the toys need around them: a backbone for images, and bodies that turn."""

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
    """Strided convolutions and a dilated one: maps of stride 8, and as many coarser ones as are asked for."""

    def __init__(self, width=32, levels=1):
        super().__init__()
        layers = [self.block(before, width, 2, 1) for before in (3, width, width)]
        self.stem = nn.Sequential(*layers, self.block(width, width, 1, 3))
        self.further = nn.ModuleList(self.block(width, width, 2, 1) for _ in range(levels - 1))
        self.out_channels, self.strides = (width,) * levels, tuple(8 * 2**level for level in range(levels))

    @staticmethod
    def block(before, width, stride, dilation):
        conv = nn.Conv2d(before, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, images):
        maps = [self.stem(images)]
        for block in self.further:
            maps.append(block(maps[-1]))
        return maps


class EveryLevel(FeatureModule):
    """A neck that passes all maps on."""

    def __init__(self, in_channels, strides):
        super().__init__()
        self.out_channels, self.strides = in_channels, strides

    def forward(self, features):
        return list(features)


class SequenceNet(FeatureModule):
    """(B, T, K, 3) to one map (B, width, T)."""

    def __init__(self, keypoints, width=64):
        super().__init__()
        first, second = nn.Conv1d(2 * keypoints, width, 3, padding=1), nn.Conv1d(width, width, 3, padding=1)
        self.layers = nn.Sequential(first, nn.GELU(), second, nn.GELU())
        self.out_channels, self.strides = (width,), (1,)

    def forward(self, sequences):
        return [self.layers(sequences[..., :2].flatten(2).mT / 500)]


class TurningPeople(PoseDataset):
    """The 3-D people of a synthetic annotation file, each turned about its vertical axis before a camera of its own."""

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
        distance_mm, focal_px = 3000 + 200 * (index % 10), 1000 + 50 * (index % 7)
        cos, sin = np.cos(self.angles)[:, None], np.sin(self.angles)[:, None]
        x, y, z = joints.T
        turned = np.stack([x * cos + z * sin, y + 0 * cos, z * cos - x * sin + distance_mm], -1)  # (T, K, 3)
        camera = np.diag([focal_px, focal_px, 1.0]).astype(np.float32)  # pixels count from the principal point
        seen_px = focal_px * turned[..., :2] / turned[..., 2:]
        labels = Annotations(
            keypoints=turned[len(turned) // 2][None].astype(np.float32),
            visible=np.full((1, len(joints)), 2, np.float32),
            boxes_xyxy=np.zeros((1, 4), np.float32),
            areas=np.ones(1, np.float32),
            categories=np.zeros(1, np.int64),
            ids=np.array([index]),
            scores=np.ones(1, np.float32),
        )
        seen_px = np.concatenate([seen_px, np.ones_like(seen_px[..., :1])], -1)  # certain
        return Sample(seen_px.astype(np.float32), labels, np.eye(3), index, index, (1, 1), camera=camera)


class MPJPE(Metric):
    """Mean distance of the joints in mm, where the camera sees them."""

    def __init__(self, skeleton):
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, poses, batch):
        error = (poses.keypoints - batch.instances.keypoints[poses.batch_index, 0]).norm(dim=-1)
        self.total += error.sum()
        self.count += error.numel()

    def compute(self):
        return {"MPJPE": self.total / self.count}
