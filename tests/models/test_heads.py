"""Heatmap heads: sizes that follow from strides, agreement with published heads, gradients."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.backbones.timm import TimmBackbone
from lightpose.models.heads.heatmap import HeatmapHead, HeatmapOffsetHead
from lightpose.models.losses.heatmap import HeatmapOffsetMSE, KeypointMSE
from lightpose.structures import Spec, Targets

PARITY = Path(__file__).parents[1] / "data_files/parity"


def spec(input_hw: tuple[int, int] = (64, 48), stride: int = 4, offset: bool = False, count: int = 5) -> Spec:
    map_hw = (input_hw[0] // stride, input_hw[1] // stride)
    outputs: dict[str, tuple[int, ...]] = {"heatmap": (count, *map_hw)}
    return Spec(outputs | ({"offset": (count, 2, *map_hw)} if offset else {}), input_hw)


def features(strides: Sequence[int], channels: int = 8, input_hw: tuple[int, int] = (64, 48)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, channels, -(-input_hw[0] // stride), -(-input_hw[1] // stride)) for stride in strides]
    return [torch.randn(shape, generator=generator).to(memory_format=torch.channels_last) for shape in shapes]


@pytest.mark.parametrize("upsample", ["deconv", "bilinear"])
@pytest.mark.parametrize("stride", [4, 8, 16, 32])
@pytest.mark.parametrize("input_hw", [(64, 48), (128, 96), (64, 56)])
def test_maps_have_the_size_that_the_codec_expects(upsample, stride, input_hw):
    head = HeatmapHead((8,), (stride,), spec(input_hw), KeypointMSE(), upsample=upsample, channels=12)
    maps = head(features((stride,), input_hw=input_hw))["heatmap"]
    assert maps.shape == (2, 5, input_hw[0] // 4, input_hw[1] // 4)
    steps = sum(isinstance(module, nn.ConvTranspose2d) for module in head.modules())
    assert 2**steps == (stride // 4 if upsample == "deconv" else 1)


def test_features_at_the_maps_stride_need_one_convolution():
    """HRNet's head."""
    head = HeatmapHead((32,), (4,), spec(count=17), KeypointMSE())
    assert {name: tuple(parameter.shape) for name, parameter in head.named_parameters()} == {
        "final.weight": (17, 32, 1, 1),
        "final.bias": (17,),
    }


def test_bilinear_head_resizes_rectified_features_then_convolves():
    """The simple decoder of ViTPose; its factor need not be a power of two."""
    head = HeatmapHead((8,), (12,), spec((96, 72)), KeypointMSE(), upsample="bilinear")
    inputs = features((12,), input_hw=(96, 72))
    resized = nn.functional.interpolate(inputs[0].relu(), scale_factor=3, mode="bilinear", align_corners=False)
    expected = nn.functional.conv2d(resized, head.final.weight, head.final.bias, padding=1)
    torch.testing.assert_close(head(inputs)["heatmap"], expected)


def test_only_the_finest_features_are_used():
    head = HeatmapHead((6, 8, 9), (16, 8, 32), spec(), KeypointMSE())
    inputs = [torch.randn(2, 6, 4, 3), torch.randn(2, 8, 8, 6), torch.randn(2, 9, 2, 2)]
    inputs[1].requires_grad_()
    maps = head(inputs)["heatmap"]
    assert maps.shape == (2, 5, 16, 12)
    parameters = [inputs[1], *head.parameters()]
    assert all(gradient is not None for gradient in torch.autograd.grad(maps.square().sum(), parameters))


def test_starts_small():
    torch.manual_seed(0)
    head = HeatmapHead((64,), (16,), spec(), KeypointMSE())
    for module in head.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            assert 0.0008 < module.weight.std() < 0.0012
            assert module.bias is None or module.bias.abs().max() == 0


def test_offset_head_trains_with_its_loss_under_autocast():
    expected = spec(offset=True)
    head = HeatmapOffsetHead((8,), (8,), expected, HeatmapOffsetMSE(), channels=12)
    inputs = features((8,))
    outputs = head(inputs)
    assert {name: tuple(output.shape[1:]) for name, output in outputs.items()} == expected.outputs
    targets = Targets(
        {name: torch.rand(2, *shape) for name, shape in expected.outputs.items()},
        {name: torch.ones(2, 5) for name in expected.outputs},
    )
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.loss(inputs, targets)
    assert set(losses) == {"heatmap", "offset"}
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    gradients = torch.autograd.grad(torch.stack(list(losses.values())).sum(), list(head.parameters()))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def recorded_weight(name: str, shape: Sequence[int]) -> Tensor:
    """The value that the record gives to the tensor of that name: seeded by the name, scaled by its role."""
    random = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return torch.tensor(0)
    if leaf == "running_var":
        values = random.uniform(0.5, 1.5, shape)
    elif leaf in ("running_mean", "bias"):
        values = 0.1 * random.standard_normal(shape)
    elif len(shape) >= 2:
        values = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    else:
        values = random.uniform(0.8, 1.2, shape)
    return torch.from_numpy(values.astype(np.float32))


@torch.inference_mode()
def test_simple_baseline_computes_the_recorded_maps():
    """ResNet-50 with three transposed convolutions, the network of arXiv:1804.06208, whole."""
    record = json.loads((PARITY / "simple_baseline_resnet50.json").read_text())
    _, _, *input_hw = record["input"]
    backbone = TimmBackbone("resnet50")
    head = HeatmapHead(
        backbone.out_channels, backbone.strides, spec((input_hw[0], input_hw[1]), count=17), KeypointMSE()
    )
    assert sum(parameter.numel() for parameter in head.parameters()) == record["head_params"]
    for module, prefix, renamed in (
        (backbone.model, "backbone.", {}),
        (head, "head.", {"upsample.": "deconv_layers.", "final.": "final_layer."}),
    ):
        state = {}
        for name, tensor in module.state_dict().items():
            recorded = name
            for ours, theirs in renamed.items():
                recorded = recorded.replace(ours, theirs)
            state[name] = recorded_weight(prefix + recorded, tensor.shape)
        module.load_state_dict(state)
    seed = zlib.crc32(b"input:x")
    images = np.random.Generator(np.random.PCG64(seed)).standard_normal(record["input"]).astype(np.float32)
    maps = head.eval()(backbone.eval()(torch.from_numpy(images)))["heatmap"]
    output = record["output"]
    assert list(maps.shape) == output["shape"]
    sampled = maps.flatten()[output["index"]]
    torch.testing.assert_close(sampled, torch.tensor(output["value"]), atol=1e-4 * output["std"], rtol=1e-4)


@pytest.mark.parametrize(
    ("strides", "options", "map_stride", "message"),
    [
        ((4,), {}, 8, "codec.stride=4"),
        ((12,), {}, 4, "head.upsample=bilinear"),
        ((8,), {"upsample": "nearest"}, 4, "deconv or bilinear"),
    ],
)
def test_features_that_do_not_lead_to_the_map_are_refused(strides, options, map_stride, message):
    with pytest.raises(UserError, match=message):
        HeatmapHead((8,), strides, spec((96, 48), map_stride), KeypointMSE(), **options)


def test_a_codec_without_images_is_refused():
    with pytest.raises(UserError, match="input_hw"):
        HeatmapHead((8,), (4,), Spec({"heatmap": (5, 16, 12)}, None), KeypointMSE())
