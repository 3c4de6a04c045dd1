"""Every head with every codec, of the package and of the toys: it keeps the contract, or is refused with a way out."""

import contextlib
import copy
import functools
import re
from typing import Any

import pytest
import torch
from composition import TOYS, coco17, compose, options
from hydra.errors import InstantiationException

from lightpose import testing
from lightpose.checkpoint import assemble
from lightpose.cli.setup import make_estimator
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.models.net import PairError
from lightpose.structures import Spec

HEADS = [*options("head"), *options("head", TOYS / "conf")]
CODECS = [*options("codec"), *options("codec", TOYS / "conf")]
AROUND = {
    "associative_embedding": ("experiment=toy_tags", "input_hw=[64,96]"),
    "onestage": ("experiment=toy_priors", "input_hw=[64,96]"),
    "toy_tags": ("experiment=toy_tags", "input_hw=[64,96]"),
    "toy_people": ("experiment=toy_priors", "input_hw=[64,96]"),
    "displacement": ("experiment=toy_tags", "input_hw=[64,96]"),
    "cid": ("experiment=toy_tags", "input_hw=[64,96]"),
    "toy_lifter": ("experiment=toy_lifter",),
    "lifting": ("experiment=quickstart_lifting", "codec.root=[left_hip,right_hip]"),
    "trajectory": (
        *("experiment=lifting_videopose3d_semi", "reader.frames=9", "codec.root=[left_hip,right_hip]"),
        "backbone.width=32",
    ),
    "motionbert": ("experiment=lifting_motionbert", "codec.root=[left_hip,right_hip]", "backbone.width=32"),
}
"""What stands around a codec; other codecs stand in a small top-down model."""
TOPDOWN = ("estimator=topdown", "backbone=toy_image", "input_hw=[64,96]")


@functools.cache
def head_config(head: str) -> dict[str, Any]:
    config: dict[str, Any] = compose(f"head={head}")["head"]
    return config


@functools.cache
def around(codec: str, *overrides: str) -> dict[str, Any]:
    return compose(*AROUND.get(codec, TOPDOWN), f"codec={codec}", *overrides)


def configured(head: str, codec: str, *overrides: str) -> dict[str, Any]:
    config = copy.deepcopy(around(codec, *overrides))
    config["estimator"]["head"] = head_config(head)
    return config


def build(head: str, codec: str, *overrides: str) -> PoseEstimator:
    torch.manual_seed(0)
    return make_estimator(configured(head, codec, *overrides), coco17())


@functools.cache
def spec(codec: str) -> Spec:
    config = around(codec)
    built = assemble(config["codec"], skeleton=coco17(), input_hw=config["input_hw"], grid=config["grid"])
    found: Spec = built.spec
    return found


@functools.cache
def fitting(codec: str) -> list[str]:
    """Heads that can be built for a codec and emit what it decodes."""
    found = []
    for head in HEADS:
        with contextlib.suppress(UserError, InstantiationException, KeyError, ValueError):
            given = {"in_channels": (8,), "strides": (8,), "stages": 1, "spec": spec(codec)}
            if assemble(head_config(head), **given).emits == frozenset(spec(codec).outputs):
                found.append(head)
    return found


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("head", HEADS)
def test_a_pair_keeps_its_contract_or_is_refused(head: str, codec: str):
    if head not in fitting(codec):
        check_refusal(head, codec)
        return
    testing.check(build(head, codec))


def check_refusal(head: str, codec: str) -> None:
    """One sentence names both sides."""
    with pytest.raises(PairError) as refusal:
        assemble(configured(head, codec)["estimator"], skeleton=coco17())
    outputs = re.escape(str(sorted(spec(codec).outputs)))
    said = rf"head (emits \[.*\]|asks for the shape of '\w+') but codec expects {outputs}"
    assert re.fullmatch(said, str(refusal.value))


@pytest.mark.parametrize("codec", CODECS)
def test_a_refusal_names_the_heads_to_take_instead(codec: str):
    with pytest.raises(UserError) as refusal:
        build(next(head for head in HEADS if head not in fitting(codec)), codec)
    fix = str(refusal.value).partition("; use ")[2]
    named = re.findall(r"(?<![.\w])head=(\w+)", fix)
    assert named
    assert set(named) <= set(fitting(codec))


@pytest.mark.parametrize("grid", testing.GRIDS)
@pytest.mark.parametrize("codec", CODECS)
def test_flip_undoes_the_mirror_of_the_estimator_on_each_grid(codec: str, grid: str):
    testing.check_flip(build(fitting(codec)[0], codec, f"grid={grid}"))
