"""Backbones of recorded architectures, each from its YAML."""

from pathlib import Path
from typing import Any

import pytest
import torch
from configured import from_yaml
from hydra.errors import InstantiationException
from recorded import record, recorded_input, relative_error, weight

from lightpose.estimators.optim import parameter_groups
from lightpose.interop.mmpose.names import BACKBONES, Family

CONF = Path(__file__).parents[2] / "conf"
RECORDS: dict[str, dict[str, Any]] = record("backbones")
LARGE_RESNETS = (
    *("seresnet101", "seresnet152", "resnext101", "resnext152"),
    *("resnet101d", "resnet152d", "resnest101"),
)
HALVING = ("litehrnet", "hrformer")
"""Families whose input must divide by 32."""
LARGE = ("scnet101", "hrformer_base", *(f"timm/{name}" for name in LARGE_RESNETS))


def slowly(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name


ALL = [slowly(name) for name in RECORDS]


@pytest.mark.parametrize("name", ALL)
def test_matches_the_recorded_network(name: str) -> None:
    case = RECORDS[name]
    net = from_yaml(name, tuple(case["input"][2:])).eval()
    named = net.model if name.startswith("timm/") else net
    shapes = {key: tuple(value.shape) for key, value in named.state_dict().items()}
    resnet = BACKBONES["ResNetV1d" if "conv1.0.weight" in shapes else "ResNet"]  # with and without a deep stem
    family = resnet if name.startswith("timm/") else Family()
    named.load_state_dict({key: weight(f"backbone.{family.published(key)}", shape) for key, shape in shapes.items()})
    net.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        (features,) = net(recorded_input(case["input"]).to(memory_format=torch.channels_last))
    assert relative_error(features, case["features"]) < 1e-4
    assert sum(parameter.numel() for parameter in net.parameters()) == case["params"]


@pytest.mark.parametrize("name", ALL)
def test_shapes_and_no_unused_parameter(name: str) -> None:
    net = from_yaml(name)
    maps = net(torch.randn(2, 3, 64, 96).to(memory_format=torch.channels_last))
    shapes = [tuple(feature.shape[1:]) for feature in maps]
    assert shapes == [(c, 64 // s, 96 // s) for c, s in zip(net.out_channels, net.strides, strict=True)]
    sum(feature.sin().sum() for feature in maps).backward()
    assert not [key for key, parameter in net.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("name", ALL)
def test_any_input_size_fits_or_the_nearest_are_named(name: str) -> None:
    if name.startswith(HALVING):
        with pytest.raises(
            InstantiationException, match=r"must divide by 32; set input_hw=\[96,64\] or input_hw=\[128,96\]"
        ):
            from_yaml(name, (100, 66))
        return
    with torch.device("meta"):  # nothing may depend on values
        net = from_yaml(name, (100, 66)).eval()
        maps = net(torch.empty(1, 3, 100, 66))
    for feature, channels, stride in zip(maps, net.out_channels, net.strides, strict=True):
        assert tuple(feature.shape[1:]) == (channels, -(-100 // stride), -(-66 // stride))


@pytest.mark.parametrize("name", ["shufflenetv1", "vipnas_resnet50", "mobilenetv2", "pvt_small"])
def test_chosen_maps_are_those_of_all(name: str) -> None:
    torch.manual_seed(0)
    net, images = from_yaml(name, out_indices=None).eval(), torch.randn(1, 3, 64, 96)
    fewer = from_yaml(name, out_indices=[1]).eval()
    state = net.state_dict()
    fewer.load_state_dict({key: state[key] for key in fewer.state_dict()})
    assert len(fewer.state_dict()) < len(state)
    with torch.inference_mode():
        torch.testing.assert_close(fewer(images)[0], net(images)[1])
    with pytest.raises(InstantiationException, match=r"choose from 0 to"):
        from_yaml(name, out_indices=[7])


def test_depth_is_dropped_ever_more_often_and_biases_of_positions_never_decay() -> None:
    net = from_yaml("hrformer_small", drop_path_rate=0.26)
    rates = [
        [block.drop_path.drop_prob for block in module.branches[-1]]
        for module in (*net.stage2, *net.stage3, *net.stage4)
    ]
    assert [round(rate, 2) for each in rates for rate in each] == [round(0.02 * i, 2) for i in range(14)]
    groups = parameter_groups(net, 1e-3, 0.1, decay_norm_and_bias=True)
    frozen = {id(parameter) for group in groups if not group["weight_decay"] for parameter in group["params"]}
    names = {name for name, parameter in net.named_parameters() if id(parameter) in frozen}
    assert names == {name for name in net.state_dict() if name.endswith("relative_position_bias_table")}
