"""Networks of several stages, and their head: recorded outputs, which target each level learns, gradients."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from recorded import record, recorded_input, relative_error, weight
from torch import Tensor

from lightpose.errors import UserError
from lightpose.models.base import FeatureModule
from lightpose.models.heads.multi_stage import MultiStageHead
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.structures import Spec, Targets

CONF = Path(__file__).parents[2] / "conf"
RECORDS: dict[str, dict[str, Any]] = record("stages")
UNUSED = {"hourglass52": 1180672}
"""Parameters of the recorded network that don't change what it computes, and which ours doesn't have."""
SMALL: dict[str, dict[str, Any]] = {
    "hourglass52": {"stages": 2, "channels": [16, 16, 24], "blocks": [2, 1, 2]},
    "cpm": {"stages": 3, "maps": 5},
    "mspn50": {"stages": 3, "blocks": [1, 1, 2, 1], "width": 16},
    "rsn18": {"stages": 2, "blocks": [1, 2, 1, 1], "width": 16},
}


def from_yaml(group: str, name: str, **options: Any) -> Any:
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(overrides=[f"+{group}={name}"])
    return instantiate(OmegaConf.merge(config, {group: options})[group])


def make_head(name: str, backbone: FeatureModule, spec: Spec, **options: Any) -> MultiStageHead:
    of = {"cpm": {"layers": 0}}.get(name, {}) | options
    head = from_yaml("head", "mspn" if name in ("mspn50", "rsn18") else "multi_stage", **of)
    made: MultiStageHead = head(
        in_channels=backbone.out_channels, strides=backbone.strides, stages=backbone.stages, spec=spec
    )
    return made


def spec_of(shape: list[int], input_hw: list[int], *targets: str) -> Spec:
    return Spec(
        {"heatmap": (shape[0], shape[1], shape[2])}, (input_hw[0], input_hw[1]), frozenset({"heatmap", *targets})
    )


def recorded_name(name: str) -> str:
    """Of a tensor of the head: there, the four levels of a stage stand coarsest first."""
    _, index, leaf = name.split(".", 2)
    if leaf in ("weight", "bias"):
        return f"multi_final_layers.{index}.{leaf}"
    stage, level = divmod(int(index), 4)
    return f"predict_layers.{4 * stage + 3 - level}.conv_layers.{leaf}"


@torch.inference_mode()
@pytest.mark.parametrize(
    "name", [name if name == "rsn18" else pytest.param(name, marks=pytest.mark.slow) for name in RECORDS]
)
def test_every_stage_and_level_matches_the_recorded_network(name: str) -> None:
    case = RECORDS[name]
    backbone = from_yaml("backbone", name, **case["options"]).eval()
    head = make_head(name, backbone, spec_of(case["head"][0]["shape"][1:], case["input"][2:])).eval()
    for part, prefix in ((backbone, "backbone."), (head, "head.")):
        part.load_state_dict(
            {
                key: weight(prefix + (key if part is backbone else recorded_name(key)), tuple(value.shape))
                for key, value in part.state_dict().items()
            }
        )
    features = backbone(recorded_input(case["input"]))
    levels = len(backbone.strides)
    assert len(features) == len(case["head"]) == levels * backbone.stages
    for index, expected in enumerate(case["head"]):
        stage, level = divmod(index, levels)
        assert relative_error(head.maps(features, (stage + 1) * levels - 1 - level), expected) < 1e-5
    assert torch.equal(head(features)["heatmap"], head.maps(features, levels * (backbone.stages - 1)))
    parameters = sum(each.numel() for part in (backbone, head) for each in part.parameters())
    assert parameters == case["params"] - UNUSED.get(name, 0)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("input_hw", [(64, 96), (104, 72)])
def test_any_input_size_fits_and_every_parameter_learns(name: str, input_hw: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = from_yaml("backbone", name, **SMALL[name])
    features = backbone(torch.randn(2, 3, *input_hw))
    declared = list(zip(backbone.out_channels, backbone.strides, strict=True)) * backbone.stages
    shapes = [(channels, *(-(-side // stride) for side in input_hw)) for channels, stride in declared]
    assert [tuple(each.shape[1:]) for each in features] == shapes

    stride = backbone.strides[0]
    map_hw = [side // stride for side in input_hw]
    head = make_head(name, backbone, spec_of([5, *map_hw], list(input_hw), "wider"), **ohkm(name))
    maps = {"heatmap": torch.rand(2, 5, *map_hw), "wider": torch.rand(2, 4, 5, *map_hw)}
    targets = Targets(maps, {"heatmap": torch.ones(2, 5), "wider": torch.ones(2, 4, 5)})
    losses = head.loss(features, targets)
    assert losses.keys() == {"heatmap", "earlier"}
    assert head(features)["heatmap"].shape == maps["heatmap"].shape
    torch.stack(list(losses.values())).sum().backward()
    parts = [*backbone.named_parameters(), *head.named_parameters()]
    assert not [key for key, parameter in parts if parameter.grad is None or not parameter.grad.any()]


def ohkm(name: str) -> dict[str, Any]:
    return {"criterion": {"top_k": 2}} if name in ("mspn50", "rsn18") else {}


class Remembering(KeypointMSE):
    """Notes which targets it is given."""

    def __init__(self, notes: list[tuple[str, float]], name: str) -> None:
        super().__init__()
        self.notes, self.name = notes, name

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        self.notes.append((self.name, float(targets.maps["heatmap"].max())))
        return super().forward(outputs, targets)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_levels_learn_the_widths_of_the_published_recipe(stages: int) -> None:
    """Kernels 15 to 5; recorded recipes give stages 15, 11, 9, 7 coarsest first, and the last one 11, 9, 7, 5."""
    recipe = [7, 9, 11, 15] * (stages - 1) + [5, 7, 9, 11]
    expected = [("coarse" if index % 4 else "fine", taps) for index, taps in enumerate(recipe)]
    notes: list[tuple[str, float]] = []
    head = MultiStageHead(
        (8,) * 4,
        (4, 8, 16, 32),
        spec_of([5, 16, 16], [64, 64], "wider"),
        Remembering(notes, "fine"),
        Remembering(notes, "coarse"),
        stages=stages,
    )
    kernels = torch.tensor([15.0, 11, 9, 7, 5])
    maps = kernels[:, None, None, None].expand(1, 5, 5, 16, 16)
    targets = Targets(
        {"wider": maps[:, :-1], "heatmap": maps[:, -1]}, {"wider": torch.ones(1, 4, 5), "heatmap": torch.ones(1, 5)}
    )
    head.loss([torch.zeros(1, 8, 64 // s, 64 // s) for s in (4, 8, 16, 32)] * stages, targets)
    assert sorted(notes) == sorted(expected)


def two_stages(**options: Any) -> MultiStageHead:
    return MultiStageHead((8,), (8,), spec_of([5, 16, 16], [64, 64]), KeypointMSE(), KeypointMSE(), stages=2, **options)


def test_without_wider_targets_all_stages_learn_the_same_and_losses_add_up() -> None:
    head, features = two_stages(), [torch.randn(2, 8, 8, 8) for _ in range(2)]
    targets = Targets({"heatmap": torch.rand(2, 5, 16, 16)}, {"heatmap": torch.ones(2, 5)})
    assert head.needs == {"heatmap"}
    losses = head.loss(features, targets)
    for name, index in (("earlier", 0), ("heatmap", 1)):
        expected = (head.maps(features, index) - targets.maps["heatmap"]).square().mean()
        torch.testing.assert_close(losses[name], expected)


def test_losses_are_float32_under_autocast_and_finite_where_nothing_is_labelled() -> None:
    head = two_stages(layers=2, refine=True)
    features = [torch.randn(2, 8, 8, 8, requires_grad=True) for _ in range(2)]
    targets = Targets({"heatmap": torch.full((2, 5, 16, 16), 255.0)}, {"heatmap": torch.zeros(2, 5)})
    with torch.autocast("cpu", torch.bfloat16):
        losses = head.loss([each.bfloat16() for each in features], targets)
    assert all(loss.dtype == torch.float32 and loss == 0 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())


def test_refining_changes_the_decoded_maps_alone_and_learns() -> None:
    plain, refined = two_stages(layers=2), two_stages(layers=2, refine=True)
    refined.load_state_dict(plain.state_dict(), strict=False)
    features = [torch.randn(2, 8, 8, 8) for _ in range(2)]
    assert torch.equal(plain.maps(features, 0), refined.maps(features, 0))
    assert not torch.equal(plain(features)["heatmap"], refined(features)["heatmap"])
    gradients = torch.autograd.grad(refined(features)["heatmap"].square().sum(), list(refined.refine.parameters()))
    assert all(gradient.any() for gradient in gradients)


def test_odd_numbers_are_refused() -> None:
    with pytest.raises(UserError, match=r"8 maps as heatmaps, but there are 5 keypoints; set backbone\.maps=5"):
        two_stages(layers=0)
    with pytest.raises(UserError, match=r"head\.layers=3 is unknown"):
        two_stages(layers=3)
    for name, options, message in (
        ("hourglass52", {"blocks": [2, 2]}, "one for each size"),
        ("cpm", {"stages": 1}, "at least 2"),
        ("mspn50", {"stages": 0}, "at least 1"),
    ):
        with pytest.raises(Exception, match=re.escape(message)):
            from_yaml("backbone", name, **options)
