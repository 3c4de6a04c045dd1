from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from recorded import record, recorded_input, relative_error, weight

from lightpose.errors import UserError
from lightpose.models.backbones.timm import TimmBackbone
from lightpose.models.backbones.vit import ViT

CONF = Path(__file__).parents[2] / "conf" / "backbone"
SMALL = ["timm/resnet18", "timm/resnet50", "timm/mobilenetv3", "timm/convnext_tiny", "timm/swin_tiny", "vit_small"]


def from_yaml(name: str, input_hw: tuple[int, int], **options: Any) -> TimmBackbone:
    config = OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), options)
    return instantiate(OmegaConf.create({"input_hw": list(input_hw), "backbone": config}).backbone)


def vit_name(published: str) -> str:
    """timm's name of a tensor of published pose weights."""
    renames = {
        "patch_embed.projection": "patch_embed.proj",
        "layers.": "blocks.",
        "ffn.blocks.0.0": "mlp.fc1",
        "ffn.blocks.1": "mlp.fc2",
        ".ln": ".norm",
    }
    for old, new in renames.items():
        published = published.replace(old, new)
    return published


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("out_indices", [[-1], None])
def test_shapes_and_no_unused_parameter(name: str, out_indices: list[int] | None) -> None:
    net = from_yaml(name, (64, 96), out_indices=out_indices, drop_path_rate=0.0)
    maps = net(torch.randn(2, 3, 64, 96))
    shapes = [tuple(feature.shape[1:]) for feature in maps]
    assert shapes == [(c, 64 // s, 96 // s) for c, s in zip(net.out_channels, net.strides, strict=True)]
    if out_indices is None:
        assert net.strides == ((16,) if name.startswith("vit") else (4, 8, 16, 32))
    sum(feature.sin().sum() for feature in maps).backward()
    assert not [parameter_name for parameter_name, value in net.named_parameters() if value.grad is None]


@pytest.mark.parametrize("name", ["timm/swin_tiny", "vit_small"])
@pytest.mark.parametrize("input_hw", [(256, 192), (128, 96), (384, 288)])
def test_transformers_take_any_input_size(name: str, input_hw: tuple[int, int]) -> None:
    net = from_yaml(name, input_hw).eval()
    with torch.inference_mode():
        (features,) = net(torch.randn(1, 3, *input_hw))
    assert tuple(features.shape[2:]) == tuple(side // net.strides[0] for side in input_hw)


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_option_builds(path: Path) -> None:
    name = str(path.relative_to(CONF).with_suffix(""))
    model = {"model": "resnet10t"} if path.stem == "any" else {}
    with torch.device("meta"):
        net = from_yaml(name, (64, 64), **model)
    assert len(net.out_channels) == len(net.strides) == 1
