"""CSPNeXt: agreement with the published network, sizes, levels and weights from files."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from recorded import record, recorded_input, relative_error, weight

from lightpose.errors import UserError
from lightpose.models.backbones.cspnext import CSPNeXt

CONF = Path(__file__).parents[2] / "conf" / "backbone"


def from_yaml(size: str) -> CSPNeXt:
    config = OmegaConf.merge(*(OmegaConf.load(CONF / f"cspnext_{each}.yaml") for each in ("m", size)))
    config.pop("defaults", None)
    return instantiate(config)


@pytest.mark.parametrize("size", ["tiny", "m"])
def test_matches_the_published_network(size: str) -> None:
    case = record(f"rtmpose_{size}")
    net = from_yaml(size).eval()
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    net.load_state_dict({name: weight(f"backbone.{name}", shape) for name, shape in shapes.items()})
    with torch.inference_mode():
        (features,) = net(recorded_input(case["input"]))
    assert relative_error(features, case["features"][0]) < 1e-5


@pytest.mark.parametrize(
    ("size", "count"), [("tiny", 2348700), ("s", 4378320), ("m", 12279432), ("l", 26138912), ("x", 47569560)]
)
def test_every_size_has_as_many_parameters_as_published(size: str, count: int) -> None:
    with torch.device("meta"):
        net = from_yaml(size)
    assert sum(parameter.numel() for parameter in net.parameters()) == count


@pytest.mark.parametrize("out_indices", [(0,), (-1,), (1, 2), None])
def test_shapes_and_no_unused_parameter(out_indices: tuple[int, ...] | None) -> None:
    net = CSPNeXt(0.167, 0.25, out_indices)
    maps = net(torch.randn(2, 3, 64, 80))  # 80 / 32 is rounded up
    shapes = [tuple(feature.shape[1:]) for feature in maps]
    assert shapes == [(c, -(-64 // s), -(-80 // s)) for c, s in zip(net.out_channels, net.strides, strict=True)]
    assert len(maps) == (4 if out_indices is None else len(out_indices))
    sum(feature.sin().sum() for feature in maps).backward()
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]


def test_takes_every_tensor_from_a_published_pose_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = {f"backbone.{name}": value for name, value in CSPNeXt(0.167, 0.25).state_dict().items()}
    torch.save({"state_dict": {**source, "head.final_layer.bias": torch.ones(17)}}, tmp_path / "pose.pth")
    loaded = CSPNeXt(0.167, 0.25, weights=tmp_path / "pose.pth").state_dict()
    assert all(torch.equal(source[f"backbone.{name}"], value) for name, value in loaded.items())


def test_refuses_an_index_that_is_not_there_and_factors_that_build_nothing() -> None:
    with pytest.raises(UserError, match=r"there are 4 maps with strides \[4, 8, 16, 32\]"):
        CSPNeXt(out_indices=(4,))
    with pytest.raises(UserError, match=r"positive factors, got deepen=1 and widen=0"):
        CSPNeXt(deepen=1, widen=0)
