import math
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler

from lightpose.errors import UserError
from lightpose.estimators.optim import (
    exponential,
    freeze,
    parameter_groups,
    quadratic_warmup_cosines,
    warmup_cosine,
    warmup_multistep,
)
from lightpose.models.backbones.hrnet import HRNet
from lightpose.models.backbones.timm import TimmBackbone
from lightpose.models.backbones.vit import ViT

CONF = Path(__file__).parents[2] / "conf"


class Net(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))


@pytest.fixture(scope="module")
def vit() -> Net:
    return Net(ViT("vit_tiny_patch16_224", (32, 32)))


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        schedule.optimizer.step()
        schedule.step()
    return found


def optimizer() -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=0.5)


def test_norms_biases_and_embeddings_do_not_decay(vit: Net) -> None:
    names = {id(parameter): name for name, parameter in vit.named_parameters()}
    groups = {group["name"]: group for group in parameter_groups(vit, lr=1e-3, weight_decay=0.1)}
    assert {name: group["weight_decay"] for name, group in groups.items()} == {"decay": 0.1, "no_decay": 0.0}
    kept = {names[id(parameter)] for parameter in groups["no_decay"]["params"]}
    decaying = {names[id(parameter)] for parameter in groups["decay"]["params"]}
    assert {"backbone.model.pos_embed", "backbone.model.norm.weight", "head.0.bias", "head.1.weight"} <= kept
    assert {"backbone.model.patch_embed.proj.weight", "head.0.weight"} <= decaying
    assert len(kept) + len(decaying) == len(names)
    assert not [name for name in decaying if "norm" in name or "bias" in name]


def test_on_request_all_but_embeddings_decays(vit: Net) -> None:
    groups = parameter_groups(vit, lr=1e-3, weight_decay=0.1, decay_norm_and_bias=True)
    kept = [parameter for group in groups if not group["weight_decay"] for parameter in group["params"]]
    assert [id(parameter) for parameter in kept] == [id(vit.backbone.model.pos_embed)]


def test_relative_position_biases_do_not_decay() -> None:
    net = Net(TimmBackbone("swin_tiny_patch4_window7_224", out_indices=[0], input_hw=(32, 32)))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    groups = parameter_groups(net, lr=1e-3, weight_decay=0.1)
    decaying = {names[id(parameter)] for group in groups if group["weight_decay"] for parameter in group["params"]}
    assert not [name for name in decaying if "relative_position_bias_table" in name]


def test_layer_decay(vit: Net) -> None:
    groups = parameter_groups(vit, lr=1.0, weight_decay=0.1, layer_decay=0.75)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    model = vit.backbone.model
    assert rate[id(vit.head[0].weight)] == 1
    assert rate[id(model.blocks[11].mlp.fc1.weight)] == rate[id(model.norm.weight)] == pytest.approx(0.75)
    assert rate[id(model.blocks[0].norm1.weight)] == pytest.approx(0.75**12)
    assert rate[id(model.patch_embed.proj.weight)] == rate[id(model.pos_embed)] == pytest.approx(0.75**13)
    assert len({group["name"] for group in groups}) == len(groups) == 2 * 14
    assert sum(len(group["params"]) for group in groups) == len(list(vit.parameters()))


def test_layer_decay_needs_layers() -> None:
    with pytest.raises(UserError, match=r"HRNet doesn't; use .* or set estimator.layer_decay=1"):
        parameter_groups(Net(HRNet(18)), lr=1.0, weight_decay=0.0, layer_decay=0.8)


def test_frozen_parameters_are_left_out() -> None:
    net = Net(nn.Conv2d(3, 8, 1).requires_grad_(False))
    parameters = [parameter for group in parameter_groups(net, 1.0, 0.1) for parameter in group["params"]]
    assert len(parameters) == 4


def test_multistep_closed_form() -> None:
    found = rates(warmup_multistep(optimizer(), 2100, warmup_steps=100), 2100)
    for step, rate in enumerate(found):
        warm = min(1.0, 0.001 + 0.999 * step / 100)
        assert rate == pytest.approx(0.5 * warm * 0.1 ** ((step >= 1700) + (step >= 2000)), rel=1e-9)


def test_cosine_closed_form() -> None:
    found = rates(warmup_cosine(optimizer(), 1000, warmup_steps=50, final=0.05), 1000)
    assert found[0] == pytest.approx(0.5 * 0.001)
    assert found[25] == pytest.approx(0.5 * (0.001 + 0.999 / 2))
    for step in range(50, 1000):
        cosine = (1 + math.cos(math.pi * (step - 50) / 950)) / 2
        assert found[step] == pytest.approx(0.5 * (0.05 + 0.95 * cosine), rel=1e-9)


def test_exponential_closed_form() -> None:
    found = rates(exponential(optimizer(), 160, final=0.975**160), 160)
    assert found == pytest.approx([0.5 * 0.975**step for step in range(160)], rel=1e-9)
    with pytest.raises(UserError, match=r"scheduler.final=0 must be above 0"):
        exponential(optimizer(), 100, final=0)


@pytest.mark.parametrize("schedule", [warmup_multistep, warmup_cosine])
def test_short_runs_warm_up_for_their_share_only(schedule: type) -> None:
    found = rates(schedule(optimizer(), 40, warmup_steps=500, max_warmup_share=0.1), 40)
    assert found[4] == 0.5
    assert found[3] == pytest.approx(0.5 * (0.001 + 0.999 * 3 / 4))
    assert rates(schedule(optimizer(), 3), 1) == [0.5]


def test_a_resumed_schedule_goes_on_where_it_was() -> None:
    whole = rates(warmup_cosine(optimizer(), 100), 100)
    first = warmup_cosine(optimizer(), 100)
    rates(first, 60)
    second = warmup_cosine(optimizer(), 100)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    assert rates(second, 40) == whole[60:]


def test_milestones_are_shares() -> None:
    with pytest.raises(UserError, match=r"scheduler.milestones is \[170, 200\], but counts in shares"):
        warmup_multistep(optimizer(), 100, milestones=[170, 200])


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["multistep", "cosine"])
def test_every_option_builds(name: str, schedule: str) -> None:
    build = instantiate(OmegaConf.load(CONF / "optimizer" / f"{name}.yaml"))
    groups = parameter_groups(Net(nn.Conv2d(3, 8, 1)), build.keywords["lr"], build.keywords["weight_decay"])
    built = instantiate(OmegaConf.load(CONF / "scheduler" / f"{schedule}.yaml"))(build(groups), total_steps=210_000)
    assert built.get_last_lr()[0] == pytest.approx(build.keywords["lr"] * 0.001)


def test_factors_by_pattern(vit: Net) -> None:
    factors = {"backbone": 0.1, "backbone.model.patch_embed": 0.5, "*.bias": 2.0}
    groups = parameter_groups(vit, lr=1.0, weight_decay=0.1, lr_factors=factors)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    model = vit.backbone.model
    assert rate[id(vit.head[0].weight)] == 1
    assert rate[id(model.blocks[3].mlp.fc1.weight)] == rate[id(model.pos_embed)] == pytest.approx(0.1)
    assert rate[id(model.patch_embed.proj.weight)] == 0.5  # the last pattern counts
    assert rate[id(model.patch_embed.proj.bias)] == rate[id(vit.head[0].bias)] == 2
    assert len({group["name"] for group in groups}) == len(groups)
    both = parameter_groups(vit, lr=1.0, weight_decay=0.1, layer_decay=0.75, lr_factors={"backbone": 0.1})
    rate = {id(parameter): group["lr"] for group in both for parameter in group["params"]}
    assert rate[id(model.blocks[11].mlp.fc1.weight)] == pytest.approx(0.075) and rate[id(vit.head[0].weight)] == 1


def test_a_frozen_part_keeps_weights_and_statistics() -> None:
    net = Net(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout()))
    assert freeze(net, {"backbone": 0}) == ["backbone", "backbone.0", "backbone.1", "backbone.2"]
    assert not any(part.training for part in net.backbone.modules()) and net.head[1].training
    groups = parameter_groups(net, lr=1.0, weight_decay=0.0, lr_factors={"backbone": 0})
    assert {id(each) for group in groups for each in group["params"]} == {id(each) for each in net.head.parameters()}


def test_a_part_without_weights_may_be_frozen() -> None:
    net = Net(nn.Sequential(nn.Conv2d(3, 8, 3)))
    net.neck = nn.Identity()
    assert freeze(net, {"backbone": 0, "neck": 0}) == ["backbone", "backbone.0", "neck"]


def test_a_part_of_a_frozen_part_may_train() -> None:
    net = Net(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    assert freeze(net, {"backbone": 0, "backbone.0": 0.1}) == ["backbone.1"]
    assert [name for name, each in net.backbone.named_parameters() if each.requires_grad] == ["0.weight", "0.bias"]
    assert net.backbone.training and net.backbone[0].training and not net.backbone[1].training


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ({"bakbone": 0.1}, "bakbone names no weight; the network's begin with backbone.0, backbone.1, head.0, head.1"),
        ({"backbone": -1}, "gives backbone the factor -1; give 0 or more"),
        ({"backbone": 0, "head": 0}, "no weight is left to train; give fewer parts the factor 0"),
    ],
)
def test_factors_that_cannot_be_used_are_refused(factors: dict[str, float], said: str) -> None:
    net = Net(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))
    with pytest.raises(UserError, match=said):
        freeze(net, factors)
        parameter_groups(net, lr=1.0, weight_decay=0.0, lr_factors=factors)


def test_cosines_follow_a_quadratic_warm_up() -> None:
    found = rates(quadratic_warmup_cosines(optimizer(), 1000, 0.1, (0.5, 0.9), (1.0, 0.2), 0.05), 1000)
    assert found[:100] == pytest.approx([0.5 * ((step + 1) / 100) ** 2 for step in range(100)])
    assert found[100] == pytest.approx(0.5)
    assert found[300] == pytest.approx(0.5 * (0.05 + 0.95 / 2))  # half of the way from step 100 to step 500
    assert found[499] == pytest.approx(0.025, abs=1e-4)
    assert found[500] == pytest.approx(0.1)
    assert found[700] == pytest.approx(0.5 * (0.05 + 0.15 / 2))
    assert found[900:] == pytest.approx([0.025] * 100)


def test_cosines_without_a_peak_each_are_refused() -> None:
    for ends, peaks in (((0.5, 0.9), (1.0,)), ((0.9, 0.5), (1.0, 1.0))):
        with pytest.raises(UserError, match=r"scheduler\.ends="):
            quadratic_warmup_cosines(optimizer(), 100, 0.1, ends, peaks)
    with pytest.raises(UserError, match=r"scheduler\.warmup"):
        quadratic_warmup_cosines(optimizer(), 100, 5)
