"""A stranger's head that predicts one more number for each keypoint: how far it is from the middle of the box."""

from dataclasses import replace

import torch
from torch import nn

from lightpose.codecs.base import Codec
from lightpose.models.base import Head
from lightpose.structures import Spec, Targets


class ReachHead(Head):
    emits = frozenset({"heatmap", "reach"})

    def __init__(self, in_channels, strides, stages, spec, head):
        super().__init__()
        maps = replace(spec, outputs={"heatmap": spec.outputs["heatmap"]})
        self.head = head(in_channels=in_channels, strides=strides, stages=stages, spec=maps)
        self.reach = nn.Linear(in_channels[-1], *spec.outputs["reach"])

    def forward(self, features):
        return {**self.head(features), "reach": self.reach(features[-1].mean((2, 3)))}

    def criterion(self, outputs, targets):
        error = (outputs["reach"] - targets.maps["reach"]).abs() * targets.weights["reach"]
        return {**self.head.criterion(outputs, targets), "reach": error.mean()}


class ReachCodec(Codec):
    """Any codec of heatmaps, and the reach as a share of the input's height."""

    def __init__(self, skeleton, input_hw, grid, codec):
        self.codec = codec(skeleton=skeleton, input_hw=input_hw, grid=grid)
        self.spec = Spec({**self.codec.spec.outputs, "reach": (skeleton.num_keypoints,)}, input_hw)
        self.mirror_lag, self.swap = self.codec.mirror_lag, torch.tensor(skeleton.swap)

    def encode(self, batch):
        targets, people = self.codec.encode(batch), batch.instances
        middle = people.boxes_xyxy[:, 0].unflatten(-1, (2, 2)).mean(1)
        reach = (people.keypoints[:, 0] - middle[:, None]).norm(dim=-1) / self.spec.input_hw[0]
        labelled = (people.visible[:, 0] > 0).float()
        return Targets({**targets.maps, "reach": reach}, {**targets.weights, "reach": labelled})

    def decode(self, outputs):
        return replace(self.codec.decode(outputs), extras={"reach": outputs["reach"]})

    def flip(self, outputs):
        reach = outputs["reach"]
        return {**self.codec.flip(outputs), "reach": reach[:, self.swap.to(reach.device)]}
