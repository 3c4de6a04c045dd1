"""Visibility around any head and any codec: whether each keypoint can be seen, beside what the wrapped ones do."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from lightpose.codecs.base import Codec
from lightpose.models.base import Head
from lightpose.structures import Spec, Targets


class SeenHead(Head):
    def __init__(self, in_channels, strides, stages, spec, head):
        super().__init__()
        outputs = {name: shape for name, shape in spec.outputs.items() if name != "visibility"}
        self.head = head(in_channels=in_channels, strides=strides, stages=stages, spec=replace(spec, outputs=outputs))
        self.visible = nn.Linear(in_channels[-1], *spec.outputs["visibility"])

    @property
    def emits(self):
        return self.head.emits | {"visibility"}

    @property
    def needs(self):
        return self.head.needs | {"visibility"}

    def forward(self, features):
        return {**self.head(features), "visibility": self.visible(features[-1].mean((2, 3)))}

    def loss(self, features, targets):
        visibility = self.visible(features[-1].mean((2, 3)))
        return {**self.head.loss(features, targets), "visibility": self.own(visibility, targets)}

    def compare(self, outputs, targets):
        return {**self.head.compare(outputs, targets), "visibility": self.own(outputs["visibility"], targets)}

    @staticmethod
    def own(logits, targets):
        seen, weight = targets.maps["visibility"], targets.weights["visibility"]
        error = F.binary_cross_entropy_with_logits(logits.float(), seen, weight, reduction="sum")
        return error / weight.sum().clamp_min(1)


class SeenCodec(Codec):
    def __init__(self, skeleton, input_hw, grid, codec):
        self.codec = codec(skeleton=skeleton, input_hw=input_hw, grid=grid)
        self.swap = torch.tensor(skeleton.swap)
        outputs = {**self.codec.spec.outputs, "visibility": (skeleton.num_keypoints,)}
        self.spec = Spec(outputs, input_hw, self.codec.spec.target_names | {"visibility"})
        self.mirror_lag = self.codec.mirror_lag

    def encode(self, batch):
        targets, visible = self.codec.encode(batch), batch.instances.visible[:, 0]
        labelled = ((visible > 0) & batch.instances.valid[:, :1]).float()
        maps = {**targets.maps, "visibility": (visible > 1).float()}
        return Targets(maps, {**targets.weights, "visibility": labelled})

    def decode(self, outputs):
        return replace(self.codec.decode(outputs), visibility=outputs["visibility"].float().sigmoid())

    def flip(self, outputs):
        visibility = outputs["visibility"]
        return {**self.codec.flip(outputs), "visibility": visibility[:, self.swap.to(visibility.device)]}

    def merge(self, plain, mirrored):
        return {**super().merge(plain, mirrored), **self.codec.merge(plain, mirrored)}
