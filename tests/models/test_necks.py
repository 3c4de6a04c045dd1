"""Necks: what they give, and which features they refuse."""

import pytest
import torch
from torch import Tensor

from lightpose.errors import UserError
from lightpose.models.necks.fpn import FPN
from lightpose.models.necks.identity import Identity
from lightpose.models.necks.select import Concat, Select

CHANNELS, STRIDES = (8, 16, 32), (4, 8, 16)


def pyramid(sizes: tuple[tuple[int, int], ...] = ((16, 12), (8, 6), (4, 3))) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(2, channels, *size, generator=generator) for channels, size in zip(CHANNELS, sizes, strict=True)
    ]
    return [feature.to(memory_format=torch.channels_last) for feature in maps]


@pytest.mark.parametrize(
    "neck",
    [
        Identity(CHANNELS, STRIDES),
        Select(CHANNELS, STRIDES, index=1),
        Select(CHANNELS, STRIDES, index=-1),
        Concat(CHANNELS, STRIDES),
        FPN(CHANNELS, STRIDES, out_channels=24),
    ],
    ids=["identity", "select", "select_last", "concat", "fpn"],
)
def test_gives_what_it_announces_and_uses_every_parameter(neck):
    outputs = neck(pyramid())
    assert [output.shape[1] for output in outputs] == list(neck.out_channels)
    assert [64 // output.shape[-2] for output in outputs] == list(neck.strides)
    if parameters := list(neck.parameters()):
        gradients = torch.autograd.grad(outputs[0].square().sum(), parameters)
        assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_concat_keeps_the_finest_map_and_resizes_the_others():
    features = pyramid()
    (merged,) = Concat(CHANNELS, STRIDES)(features)
    assert torch.equal(merged[:, :8], features[0])
    resized = torch.nn.functional.interpolate(features[2], scale_factor=4, mode="bilinear", align_corners=False)
    torch.testing.assert_close(merged[:, 24:], resized)


def test_fpn_equals_its_formula():
    neck, features = FPN(CHANNELS, STRIDES, out_channels=24), pyramid()
    top, middle, fine = (
        conv(feature) for conv, feature in zip(reversed(neck.lateral), reversed(features), strict=True)
    )

    def doubled(maps: Tensor) -> Tensor:
        return maps.repeat_interleave(2, -1).repeat_interleave(2, -2)

    torch.testing.assert_close(neck(features)[0], neck.output(fine + doubled(middle + doubled(top))))


@pytest.mark.parametrize("neck", [Concat, FPN])
def test_sizes_that_do_not_halve_evenly_fit(neck):
    assert neck(CHANNELS, STRIDES)(pyramid(((15, 11), (8, 6), (4, 3))))[0].shape[-2:] == (15, 11)


@pytest.mark.parametrize("neck", [Concat, FPN])
@pytest.mark.parametrize("strides", [(16,), (16, 16), (8, 4)])
def test_features_that_are_no_pyramid_are_refused(neck, strides):
    with pytest.raises(UserError, match="neck=identity"):
        neck(CHANNELS[: len(strides)], strides)


@pytest.mark.parametrize("index", [3, -4])
def test_an_index_past_the_features_is_refused(index):
    with pytest.raises(UserError, match="3 feature maps"):
        Select(CHANNELS, STRIDES, index=index)
