"""Two hourglasses, one after the other, and a head with a loss for each (arXiv:1603.06937)."""

import torch.nn.functional as F
from torch import nn

from lightpose.models.base import FeatureModule, Head


class TwoHourglasses(FeatureModule):
    """One map of stride 8 from each of two stages."""

    stages = 2

    def __init__(self, width=32):
        super().__init__()
        self.stem = nn.Sequential(self.block(3, width, 2), self.block(width, width, 2), self.block(width, width, 2))
        self.down = nn.ModuleList(self.block(width, width, 2) for _ in range(2))
        self.out = nn.ModuleList(self.block(width, width, 1) for _ in range(2))
        self.out_channels, self.strides = (width,), (8,)

    @staticmethod
    def block(before, width, stride):
        conv = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, images):
        maps, stages = self.stem(images), []
        for down, out in zip(self.down, self.out, strict=True):
            maps = out(maps + F.interpolate(down(maps), size=maps.shape[-2:]))
            stages.append(maps)
        return stages


class EveryStageHead(Head):
    """A head for each stage; the last one's outputs are decoded."""

    def __init__(self, in_channels, strides, stages, spec, head):
        super().__init__()
        self.count = len(strides)
        self.heads = nn.ModuleList(head(in_channels=in_channels, strides=strides, spec=spec) for _ in range(stages))

    @property
    def emits(self):
        return self.heads[-1].emits

    def forward(self, features):
        return self.heads[-1](features[-self.count :])

    def loss(self, features, targets):
        losses = {}
        for stage, head in enumerate(self.heads):
            here = features[stage * self.count : (stage + 1) * self.count]
            losses |= {f"{name}_{stage}": loss for name, loss in head.loss(here, targets).items()}
        return losses

    def compare(self, outputs, targets):
        return self.heads[-1].compare(outputs, targets)
