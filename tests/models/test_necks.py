"""Necks: what they give, and which features they refuse."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from lightpose.errors import UserError
from lightpose.models.necks.concat import Concat
from lightpose.models.necks.fpn import FPN
from lightpose.models.necks.identity import Identity

CONF = Path(__file__).parents[2] / "conf"
CHANNELS, STRIDES = (8, 16, 32), (4, 8, 16)


def pyramid(sizes: tuple[tuple[int, int], ...] = ((16, 12), (8, 6), (4, 3))) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = [
        torch.randn(2, channels, *size, generator=generator) for channels, size in zip(CHANNELS, sizes, strict=True)
    ]
    return [feature.to(memory_format=torch.channels_last) for feature in maps]


@pytest.mark.parametrize("neck", [Concat(CHANNELS, STRIDES), FPN(CHANNELS, STRIDES, out_channels=24)])
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


def test_identity_passes_one_feature_map_on():
    neck, features = Identity([8], [4]), pyramid()[:1]
    assert (neck.out_channels, neck.strides) == ((8,), (4,))
    assert neck(features)[0] is features[0]
    with pytest.raises(UserError, match=r"gives 3 of strides \[4, 8, 16\]; use neck=fpn or neck=concat"):
        Identity(CHANNELS, STRIDES)


@pytest.mark.parametrize("overrides", [[], ["backbone.out_indices=[1]"]])
def test_select_leaves_no_parameter_without_gradient(overrides):
    groups = ["+backbone=hrnet_w18", "+neck=select", "+input_hw=[64,64]"]
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(overrides=[*groups, *overrides])
    backbone = instantiate(config.backbone)
    neck = instantiate(config.neck)(in_channels=backbone.out_channels, strides=backbone.strides)
    (feature,) = neck(backbone(torch.randn(2, 3, 64, 64)))
    assert 64 // feature.shape[-1] == neck.strides[0] == (8 if overrides else 32)
    feature.square().sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
