"""A network that doesn't give what its parts declare is refused when it is built."""

import pytest
import torch
from torch import nn

from lightpose.errors import UserError
from lightpose.models.base import FeatureModule, Head
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.models.necks.identity import Identity
from lightpose.models.net import PoseNet
from lightpose.structures import Spec

SPEC = Spec({"heatmap": (5, 8, 6)}, (32, 24))


class Backbone(FeatureModule):
    """Convolution of stride 4 that may say something else of itself."""

    def __init__(self, out_channels=(8,), strides=(4,)):
        super().__init__()
        self.out_channels, self.strides = out_channels, strides
        self.conv = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(8).eval()  # a frozen one

    def forward(self, images):
        return [self.norm(self.conv(images.float()))]


class MapHead(Head):
    """Maps of any shape."""

    emits = frozenset({"heatmap"})

    def __init__(self, in_channels, strides, stages, spec, shape=(5, 8, 6)):
        super().__init__()
        self.shape = shape
        self.final = nn.Conv2d(in_channels[0], 5, 1)
        self.criterion = KeypointMSE()

    def forward(self, features):
        return {"heatmap": nn.functional.adaptive_avg_pool2d(self.final(features[0]), self.shape[-2:])}


def net(backbone=None, head=MapHead, neck=Identity):
    return PoseNet(nn.Identity(), backbone or Backbone(), neck, head, SPEC)


def test_modes_and_statistics_are_as_before():
    built = net()
    assert built.training and built.head.training and not built.backbone.norm.training
    assert built.backbone.norm.num_batches_tracked == 0


@pytest.mark.parametrize(
    ("backbone", "gives"),
    [
        (Backbone(strides=(8,)), "8 channels at stride 8, but gives 8 channels of 8x6"),
        (Backbone(strides=(2,)), "stride 2"),
        (Backbone(out_channels=(16,)), "16 channels"),
    ],
)
def test_a_backbone_that_is_not_what_it_says(backbone, gives):
    with pytest.raises(UserError, match=f"backbone Backbone declares .*{gives}.*out_channels and strides"):
        net(backbone)


def test_a_neck_that_is_not_what_it_says():
    with pytest.raises(UserError, match="neck Neck declares 8 channels at stride 8"):
        net(neck=Neck)


class Neck(Identity):
    """Passes its features on, and declares twice their stride."""

    def __init__(self, in_channels, strides):
        super().__init__(in_channels, tuple(2 * stride for stride in strides))


def test_a_map_that_would_broadcast():
    class OneRow(MapHead):
        def __init__(self, **given):
            super().__init__(**given, shape=(5, 1, 6))

    with pytest.raises(UserError, match=r"gives {'heatmap': \(5, 1, 6\)}.*expects {'heatmap': \(5, 8, 6\)}"):
        net(head=OneRow)


def test_what_can_not_run_at_all():
    class Crash(MapHead):
        def forward(self, features):
            return {"heatmap": self.final(features[0][:, :3])}

    with pytest.raises(UserError, match=r"can't be run on images of 32x24 \(h x w\) \(RuntimeError"):
        net(head=Crash)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(9), nn.BatchNorm1d(8)])
def test_a_norm_that_does_not_fit_its_input(norm):
    backbone = Backbone()
    backbone.norm = norm
    with pytest.raises(UserError, match=r"can't be run on images of 32x24 \(h x w\)"):
        net(backbone)


def test_a_part_that_reads_its_numbers_is_run_once():
    class Reads(MapHead):
        def forward(self, features):
            scale = float(features[0].mean())
            return {"heatmap": super().forward(features)["heatmap"] * scale + torch.zeros(1)}

    assert net(head=Reads).training
