"""MobileNetV2, ShuffleNetV2, VGG, AlexNet and both PVT, each from its YAML: recorded networks, sizes and levels."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from configured import from_yaml
from hydra.errors import InstantiationException
from recorded import record, recorded_input, relative_error, weight
from torch import Tensor

from lightpose.errors import UserError
from lightpose.interop.mmpose.names import BACKBONES, Family
from lightpose.models.backbones.torchvision import TorchvisionBackbone
from lightpose.models.base import FeatureModule
from lightpose.models.heads.heatmap import HeatmapHead
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.structures import Spec

CONF = Path(__file__).parents[2] / "conf"
RECORDS: dict[str, dict[str, Any]] = record("classic_backbones")
HALVING = ("alexnet", "vgg16")
"""Those whose inputs must divide by 32."""
LARGE = ("vgg16", "timm/pvt_v2_b2")
ALL = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in RECORDS]
KINDS = {
    "mobilenetv2": "MobileNetV2",
    "shufflenetv2": "ShuffleNetV2",
    "vgg16": "VGG",
    "timm/pvt_v2_b2": "PyramidVisionTransformerV2",
}


def recorded_weight(name: str, key: str, shape: tuple[int, ...]) -> Tensor:
    family = BACKBONES[KINDS[name]] if name in KINDS else Family()
    published = f"backbone.{family.published(key)}"
    if match := re.search(r"\.attn\.(q|kv)\.", key):  # one tensor in the record
        width = shape[0] if match[1] == "q" else shape[0] // 2
        return family.ours(key, weight(published, (3 * width, *shape[1:])))
    if ".ffn.layers." in published and published.endswith("weight") and len(shape) == 2:
        return weight(published, (*shape, 1, 1)).flatten(1)
    return weight(published, shape)


def load_record(name: str, net: FeatureModule) -> None:
    part = net.model if hasattr(net, "model") else net
    assert isinstance(part, torch.nn.Module)
    part.load_state_dict(
        {key: recorded_weight(name, key, tuple(value.shape)) for key, value in part.state_dict().items()}
    )


@torch.inference_mode()
@pytest.mark.parametrize("name", [name for name in ALL if name != "alexnet"])
def test_matches_the_recorded_network(name: str) -> None:
    case = RECORDS[name]
    net = from_yaml(name, tuple(case["input"][2:])).eval()
    load_record(name, net)
    (features,) = net(recorded_input(case["input"]))
    assert relative_error(features, case["features"]) < 1e-4
    assert sum(parameter.numel() for parameter in net.parameters()) == case["params"]


@torch.inference_mode()
def test_alexnet_matches_the_recorded_network_that_has_no_padding() -> None:
    """Recorded are maps of 7x5 cells, and the heatmaps made of them."""
    case = RECORDS["alexnet"]
    net = from_yaml("alexnet", tuple(case["input"][2:])).eval()
    load_record("alexnet", net)
    net.padding = [0, 0, 0, 0]  # type: ignore[assignment]
    head = HeatmapHead((256,), (32,), Spec({"heatmap": (17, 64, 48)}, (256, 192)), KeypointMSE()).eval()
    renamed = {"upsample.": "head.deconv_layers.", "final.": "head.final_layer."}
    state = {}
    for key, value in head.state_dict().items():
        start = next(each for each in renamed if key.startswith(each))
        state[key] = weight(key.replace(start, renamed[start]), tuple(value.shape))
    head.load_state_dict(state)
    maps = head(net(recorded_input(case["input"])))["heatmap"]
    assert relative_error(maps, case["head"]) < 1e-4
    assert sum(each.numel() for part in (net, head) for each in part.parameters()) == case["params"]


@pytest.mark.parametrize("name", ALL)
def test_shapes_and_no_unused_parameter(name: str) -> None:
    for out_indices in ([-1], None):
        net = from_yaml(name, out_indices=out_indices)
        maps = net(torch.randn(2, 3, 64, 96).to(memory_format=torch.channels_last))
        shapes = [tuple(feature.shape[1:]) for feature in maps]
        assert shapes == [(c, 64 // s, 96 // s) for c, s in zip(net.out_channels, net.strides, strict=True)]
        sum(feature.sin().sum() for feature in maps).backward()
        assert not [key for key, parameter in net.named_parameters() if parameter.grad is None]
    assert net.strides == ((32,) if name == "alexnet" else (4, 8, 16, 32))


@pytest.mark.parametrize("name", RECORDS)
def test_any_input_size_fits_or_the_nearest_are_named(name: str) -> None:
    if name in HALVING:
        sizes = r"must divide by 32; set input_hw=\[96,64\] or input_hw=\[128,96\]"
        with pytest.raises(InstantiationException, match=sizes):
            from_yaml(name, (100, 66))
        return
    with torch.device("meta"):  # nothing may depend on values
        net = from_yaml(name, (100, 66), out_indices=None).eval()
        maps = net(torch.empty(1, 3, 100, 66))
    for feature, channels, stride in zip(maps, net.out_channels, net.strides, strict=True):
        assert tuple(feature.shape[1:]) == (channels, -(-100 // stride), -(-66 // stride))

    with pytest.raises(InstantiationException, match=r"choose from 0 to 3"):
        from_yaml(name, out_indices=[7])


def test_alexnet_sees_the_whole_input_around_each_cell() -> None:
    """A cell's middle is that of its 32x32 pixels, so that heatmaps of any input lie where the codec says."""
    net, images = from_yaml("alexnet", (160, 160)).eval(), torch.zeros(1, 3, 160, 160, requires_grad=True)
    torch.nn.init.constant_(net.get_submodule("model.features.0").bias, 1.0)
    net(images + 0.5)[0][0, :, 2, 2].sum().backward()
    seen = images.grad.abs().sum((0, 1)) > 0
    rows = seen.any(1).nonzero()
    assert abs(float(rows.min() + rows.max()) / 2 - (2.5 * 32 - 0.5)) <= 16


def test_weights_of_torchvision_load_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = torchvision.models.mobilenet_v2(num_classes=3)
    torch.save(source.state_dict(), tmp_path / "net.pth")
    loaded = from_yaml("mobilenetv2", weights=str(tmp_path / "net.pth")).get_submodule("model").state_dict()
    assert loaded.keys() == {key for key in source.state_dict() if key.startswith("features")}
    assert all(torch.equal(source.state_dict()[key], value) for key, value in loaded.items())


def test_other_models_and_failed_downloads_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"'resnet50' is none of alexnet, mobilenet_v2, .*backbone=timm/any"):
        TorchvisionBackbone("resnet50")

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(UserError, match=r"alexnet.*no route to host.*backbone\.weights=FILE"):
        TorchvisionBackbone("alexnet", pretrained=True)
