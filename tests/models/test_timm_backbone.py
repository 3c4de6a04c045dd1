from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from recorded import record, recorded_input, relative_error, weight

from lightpose.errors import UserError
from lightpose.models.backbones.timm import TimmBackbone
from lightpose.models.backbones.vit import ViT

CONF = Path(__file__).parents[2] / "conf" / "backbone"
SMALL = ["timm/resnet18", "timm/mobilenetv3", "timm/convnext_tiny", "timm/swin_tiny", "vit_small"]


def from_yaml(name: str, input_hw: tuple[int, int], **options: Any) -> TimmBackbone:
    with initialize_config_dir(str(CONF.parent), version_base=None):
        config = compose(overrides=[f"+backbone={name}", f"+input_hw={list(input_hw)}"])
    return instantiate(OmegaConf.merge(config, {"backbone": options}).backbone)


def vit_name(published: str) -> str:
    """timm's name of a tensor of published pose weights."""
    renames = {
        "patch_embed.projection": "patch_embed.proj",
        "layers.": "blocks.",
        "ffn.blocks.0.0": "mlp.fc1",
        "ffn.blocks.1": "mlp.fc2",
        ".ln": ".norm",
    }
    if published.startswith("ln1."):
        return published.replace("ln1", "norm")
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


OF_SEQUENCES = ("dstformer", "motionagformer", "simplebaseline3d", "videopose3d")
LEVELS = {"mspn": 4, "rsn": 4, "cspdarknet": 3}


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(CONF.rglob("*.yaml")) if not path.stem.startswith(OF_SEQUENCES)],
    ids=lambda path: path.stem,
)
def test_every_option_builds(path: Path) -> None:
    name = str(path.relative_to(CONF).with_suffix(""))
    model = {"model": "resnet10t"} if path.stem == "any" else {}
    with torch.device("meta"):
        net = from_yaml(name, (64, 64), **model)
    levels = [count for family, count in LEVELS.items() if path.stem.startswith(family)]
    assert len(net.out_channels) == len(net.strides) == (levels[0] if levels else 1)


@pytest.mark.parametrize("name", ["resnet50", "vit_small"])
def test_matches_the_published_network(name: str) -> None:
    case = record(name)
    input_hw = (case["input"][2], case["input"][3])
    net = from_yaml(name if name.startswith("vit") else f"timm/{name}", input_hw).eval()
    shapes = {key: tuple(value.shape) for key, value in net.model.state_dict().items()}
    published = (
        {vit_name(key): key for key in case["names"]} if name.startswith("vit") else {key: key for key in shapes}
    )
    net.model.load_state_dict({key: weight(f"backbone.{published[key]}", shape) for key, shape in shapes.items()})
    with torch.inference_mode():
        (features,) = net(recorded_input(case["input"]))
    assert relative_error(features, case["features"][0]) < 1e-5
    assert sum(parameter.numel() for parameter in net.parameters()) == case["params"]


def test_vit_takes_weights_with_a_class_token_other_patches_and_another_size(tmp_path: Path) -> None:
    source = timm.create_model("vit_tiny_patch16_224", patch_size=14, img_size=112, num_classes=7, depth=2)
    torch.save({"model": source.state_dict()}, tmp_path / "vit.pth")
    net = ViT("vit_tiny_patch16_224", (64, 96))
    state = {key: value.clone() for key, value in net.model.state_dict().items()}
    filled = ViT("vit_tiny_patch16_224", (64, 96), weights=tmp_path / "vit.pth").model.state_dict()
    assert torch.equal(filled["blocks.1.attn.qkv.weight"], source.blocks[1].attn.qkv.weight)
    grid = source.pos_embed[0, 1:].reshape(8, 8, -1)
    resampled = filled["pos_embed"].reshape(4, 6, -1)
    assert (resampled[:, 0].mean(0) - grid[:, 0].mean(0)).abs().max() < 0.02
    assert filled["patch_embed.proj.weight"].shape == state["patch_embed.proj.weight"].shape
    assert not torch.equal(filled["patch_embed.proj.weight"], state["patch_embed.proj.weight"])


def test_weights_survive_a_change_of_input_size(tmp_path: Path) -> None:
    small, large = ViT("vit_tiny_patch16_224", (64, 48)), (128, 96)
    torch.save(small.state_dict(), tmp_path / "pose.pth")
    positions = ViT("vit_tiny_patch16_224", large, weights=tmp_path / "pose.pth").model.pos_embed
    coarse = torch.nn.functional.avg_pool2d(positions[0].T.reshape(1, -1, 8, 6), 2)
    expected = small.model.pos_embed[0].T.reshape(1, -1, 4, 3)
    assert torch.nn.functional.cosine_similarity(coarse.flatten(), expected.flatten(), dim=0) > 0.95


def test_an_unknown_model_gets_the_nearest_names() -> None:
    with pytest.raises(UserError, match=r"no model 'resnet51'.*resnet50"):
        TimmBackbone("resnet51", input_hw=(64, 64))


def test_an_option_the_model_does_not_have_is_named() -> None:
    with pytest.raises(UserError, match=r"refuses.*drop_path_rate"):
        TimmBackbone("vgg11", drop_path_rate=0.1)


def test_an_index_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"there are 5 maps with strides \[2, 4, 8, 16, 32\]"):
        TimmBackbone("resnet10t", out_indices=[5])


def test_a_size_that_does_not_divide() -> None:
    with pytest.raises(UserError, match="must divide by the ViT's patch of 16"):
        ViT("vit_tiny_patch16_224", (250, 192))


def test_a_failed_download_says_what_else_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        UserError, match=r"resnet18.*no route to host.*backbone.weights=FILE.*backbone.pretrained=false"
    ):
        TimmBackbone("resnet18", pretrained=True)


def test_pretrained_weights_need_their_number_of_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda model, pretrained, **options: create(model, **options))
    with pytest.raises(UserError, match="need 3 attention heads, but the model has 6"):
        ViT("vit_tiny_patch16_224", (32, 32), pretrained=True, num_heads=6)
    ViT("vit_tiny_patch16_224", (32, 32), pretrained=True)
