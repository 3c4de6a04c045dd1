"""The checks that users call pass good parts, and name what is wrong with others."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from lightpose import testing
from lightpose.codecs.heatmap import HeatmapCodec
from lightpose.codecs.regression import RegressionCodec
from lightpose.models.heads.heatmap import HeatmapHead
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.structures import Targets

HEAD = partial(HeatmapHead, criterion=KeypointMSE(), channels=8)


class IdleHead(HeatmapHead):
    def __init__(self, **options):
        super().__init__(**options)
        self.idle = nn.Linear(2, 2)


class DividingLoss(nn.Module):
    def forward(self, outputs, targets):
        return {"heatmap": outputs["heatmap"].square().sum() / targets.weights["heatmap"].sum()}


class BatchHead(HeatmapHead):
    def forward(self, features):
        return {name: output + len(output) for name, output in super().forward(features).items()}


class Shifted(HeatmapCodec):
    def decode(self, outputs):
        poses = super().decode(outputs)
        return replace(poses, keypoints=poses.keypoints + 1)


class Unswapped(HeatmapCodec):
    def flip(self, outputs):
        return {"heatmap": outputs["heatmap"].flip(-1)}


class Rolled(HeatmapCodec):
    def flip(self, outputs):
        return {"heatmap": super().flip(outputs)["heatmap"].roll(1, -1)}


class InPlace(HeatmapCodec):
    def flip(self, outputs):
        outputs["heatmap"].copy_(super().flip(outputs)["heatmap"])
        return outputs


class Shapeless(HeatmapCodec):
    def encode(self, batch):
        targets = super().encode(batch)
        return Targets(targets.maps, {"heatmap": targets.weights["heatmap"].mT})


def test_good_parts_pass_and_a_codec_is_as_exact_as_it_says():
    testing.check(testing.model(HEAD, HeatmapCodec))
    assert 0 < testing.check_codec(HeatmapCodec, most_px=0.05) < 0.05
    assert testing.check_codec(RegressionCodec, most_px=1e-4) < 1e-4


@pytest.mark.parametrize(
    ("head", "codec", "said"),
    [
        (partial(IdleHead, criterion=KeypointMSE(), channels=8), HeatmapCodec, "no gradient to net.head.idle.weight"),
        (partial(HeatmapHead, criterion=DividingLoss(), channels=8), HeatmapCodec, "with no label is inf; keep it"),
        (partial(BatchHead, criterion=KeypointMSE(), channels=8), HeatmapCodec, "heatmap of an input depends on the"),
        (HEAD, Unswapped, "flip doesn't undo the mirroring of the input: heatmap is off by .* the skeleton's swap"),
        (HEAD, Rolled, "heatmap is off by"),
        (HEAD, InPlace, "flip writes into heatmap"),
        (HEAD, Shapeless, r"weight of heatmap, \(5, 2\), doesn't broadcast over \(2, 5, 16, 24\)"),
    ],
)
def test_a_model_that_breaks_a_contract_is_named(head, codec, said):
    with pytest.raises(AssertionError, match=said):
        testing.check(testing.model(head, codec))


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        (Shifted, r"decoded up to 1\.41 px from where they were encoded; expected 0\.1 px at most"),
        (InPlace, "flip writes into heatmap"),
        (Shapeless, "doesn't broadcast"),
        (partial(RegressionCodec, sigmas=True), "no target sigmas to decode; give outputs="),
    ],
)
def test_a_codec_that_breaks_its_contract_is_named(codec, said):
    with pytest.raises(AssertionError, match=said):
        testing.check_codec(codec, most_px=0.1)


def test_what_a_perfect_network_gives_may_be_made_of_the_targets():
    def perfect(targets):
        return {**targets.maps, "sigmas": torch.zeros_like(targets.maps["keypoints"])}

    assert testing.check_codec(partial(RegressionCodec, sigmas=True), 1e-4, outputs=perfect) < 1e-4
