"""Every head with every codec, of the package and of the toys: it keeps the contract, or is refused with a way out."""

import contextlib
import functools
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from composition import TOYS, coco17, compose, options
from hydra.errors import InstantiationException

from lightpose.checkpoint import assemble
from lightpose.cli.setup import make_estimator
from lightpose.data.pixels.device import collate
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.models.losses.weighting import expand
from lightpose.structures import Annotations, Batch, Instances, Sample, Spec

HEADS = [*options("head"), *options("head", TOYS / "conf")]
CODECS = [*options("codec"), *options("codec", TOYS / "conf")]
AROUND = {
    "toy_tags": ("experiment=toy_tags", "input_hw=[64,96]"),
    "toy_people": ("experiment=toy_priors", "input_hw=[64,96]"),
    "toy_lifter": ("experiment=toy_lifter",),
}
"""What stands around a codec; other codecs stand in a small top-down model."""
TOPDOWN = ("estimator=topdown", "backbone=toy_image", "input_hw=[64,96]")


@functools.cache
def head_config(head: str) -> dict[str, Any]:
    config: dict[str, Any] = compose(f"head={head}")["head"]
    return config


def build(head: str, codec: str, *overrides: str) -> PoseEstimator:
    config = compose(*AROUND.get(codec, TOPDOWN), f"codec={codec}", *overrides)
    config["estimator"]["head"] = head_config(head)
    torch.manual_seed(0)
    return make_estimator(config, coco17())


@functools.cache
def spec(codec: str) -> Spec:
    config = compose(*AROUND.get(codec, TOPDOWN), f"codec={codec}")
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


def random_batch(estimator: PoseEstimator, people: tuple[int, ...]) -> Batch:
    """A sample for each entry of ``people``, with so many labelled people well inside the input."""
    rng = np.random.default_rng(0)
    samples = []
    for index, count in enumerate(people):
        if estimator.input_hw is None:
            keypoints = rng.normal(0, 400, (count, 17, 3)).astype(np.float32) + np.array([0, 0, 4000], np.float32)
            image = np.stack([1000 * keypoints[0, :, :2] / keypoints[0, :, 2:]] * 9)
            centers = np.zeros((count, 2))
        else:
            image = rng.integers(0, 256, (*estimator.input_hw, 3), np.uint8)
            columns = (np.arange(count) + 0.5) * estimator.input_hw[1] / max(count, 1)
            centers = np.stack([columns, rng.uniform(24, 40, count)], -1)
            keypoints = centers[:, None] + rng.uniform(-12, 12, (count, 17, 2))
        labels = Annotations(
            keypoints=keypoints.astype(np.float32),
            visible=rng.integers(0, 3, (count, 17)).astype(np.float32),
            boxes_xyxy=np.concatenate([centers - 14, centers + 14], -1).astype(np.float32),
            areas=np.full(count, 400, np.float32),
            categories=np.zeros(count, np.int64),
            ids=np.arange(count),
            scores=np.ones(count, np.float32),
        )
        camera = np.diag([1000, 1000, 1]).astype(np.float32) if estimator.input_hw is None else None
        image_hw = estimator.input_hw or (1, 1)
        samples.append(Sample(image, labels, np.eye(3), index, index, image_hw, camera=camera))
    return collate(samples)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")  # there is no trainer
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("head", HEADS)
def test_a_pair_keeps_its_contract_or_is_refused(head: str, codec: str):
    if head not in fitting(codec):
        check_refusal(head, codec)
        return
    estimator = build(head, codec)
    check_training(estimator)
    check_prediction(estimator.eval())


def check_refusal(head: str, codec: str) -> None:
    """One sentence names both sides and the heads to take instead, be they the package's or the user's."""
    with pytest.raises(UserError) as refusal:
        build(head, codec)
    facts, _, fix = str(refusal.value).partition("; use ")
    outputs = re.escape(str(sorted(spec(codec).outputs)))
    assert re.fullmatch(rf"head (emits \[.*\]|asks for the shape of '\w+') but codec expects {outputs}", facts)
    named = re.findall(r"head=(\w+)", fix)
    assert named
    assert set(named) <= set(fitting(codec))


def check_training(estimator: PoseEstimator) -> None:
    """A step gives a finite loss and every parameter a gradient; without a label too, all stays finite."""
    batch = random_batch(estimator, (1, 1) if estimator.input_hw is None or estimator.takes_boxes else (3, 1))
    targets = estimator.codec.encode(batch)
    assert targets.maps.keys() == targets.weights.keys() == estimator.codec.spec.target_names
    for name, target in targets.maps.items():
        assert torch.broadcast_shapes(expand(targets.weights[name], target).shape, target.shape) == target.shape
    loss = estimator.training_step(batch, 0)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert loss > 0
    without = [name for name, parameter in estimator.named_parameters() if parameter.grad is None]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in estimator.parameters())

    unlabelled = replace(batch.instances, visible=torch.zeros_like(batch.instances.visible))
    padded = unlabelled.map(torch.zeros_like)  # valid=False
    for instances in (unlabelled, padded):
        estimator.zero_grad()
        loss = estimator.training_step(replace(batch, instances=instances), 0)["loss"]
        loss.backward()
        assert loss.isfinite()
        assert all(parameter.grad.isfinite().all() for parameter in estimator.parameters())


@torch.inference_mode()
def check_prediction(estimator: PoseEstimator) -> None:
    """Outputs and poses have their shapes, single equals batched, and flipping is undone."""
    batch = random_batch(estimator, (1, 1, 1))
    outputs = estimator.outputs(batch.inputs)
    for name, shape in estimator.codec.spec.outputs.items():
        given = outputs[name].shape[1:]
        assert len(given) == len(shape)
        assert all(length in (None, side) for side, length in zip(given, shape, strict=True))
    poses = estimator.predict_step(batch, 0)
    assert poses.keypoints.shape[1:] in ((17, 2), (17, 3))
    assert poses.keypoint_scores.shape == (len(poses), 17)
    assert poses.scores.shape == poses.batch_index.shape == (len(poses),)
    assert all(tensor.isfinite().all() for tensor in (poses.keypoints, poses.keypoint_scores, poses.scores))
    assert set(poses.batch_index.tolist()) <= {0, 1, 2}
    for row in range(3):
        single = estimator.outputs(batch.inputs[row : row + 1])
        for name, output in outputs.items():
            torch.testing.assert_close(single[name][0], output[row], atol=1e-4, rtol=1e-4)
    if not estimator.codec.flips:
        with pytest.raises(UserError, match=r"can't join .* set estimator\.flip_test=false"):
            estimator.flip_test = True
        return
    if not estimator.codec.mirror_lag:
        mirrored = estimator.codec.flip(estimator.outputs(estimator.mirror(batch.inputs)))
        plain = estimator.net(batch.inputs)
        for name, output in outputs.items():  # the flip test treats an input and its mirror image alike
            if output.shape == plain[name].shape:  # others stand side by side, in the order of the two
                torch.testing.assert_close(mirrored[name], output, atol=1e-4, rtol=1e-4)
    noise = {name: torch.randn_like(output) for name, output in outputs.items()}
    kept = {name: output.clone() for name, output in noise.items()}
    twice = estimator.codec.flip(estimator.codec.flip(noise))
    assert all(torch.equal(noise[name], kept[name]) for name in kept)
    for name in kept:
        rounding = 1e-6 if name == "keypoints" else 0  # which are not mirrored by negation
        torch.testing.assert_close(twice[name], kept[name], atol=rounding, rtol=0)


@pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])
@pytest.mark.parametrize("codec", [codec for codec in CODECS if codec != "toy_people"])
def test_flip_undoes_the_mirror_of_the_estimator(codec: str, grid: str):
    """Targets stand for the outputs of a network that treats left and right alike."""
    head = fitting(codec)[0]
    estimator = build(head, codec, f"grid={grid}")
    batch = random_batch(estimator, (1, 1) if estimator.input_hw is None or estimator.takes_boxes else (3, 1))
    mirrored = mirror_by_hand(estimator, batch)
    targets, turned = (estimator.codec.encode(each) for each in (batch, replace(batch, instances=mirrored)))
    outputs = estimator.codec.spec.outputs.keys() & targets.maps.keys()
    undone = estimator.codec.flip({name: turned.maps[name] for name in outputs})
    for name, target in ((name, targets.maps[name]) for name in outputs):
        weights = expand(targets.weights[name], target)
        assert (weights > 0).any()
        error = ((undone[name] - target).abs() * (weights > 0)).max()
        assert error <= 1e-4 * target.abs().max(), name


def mirror_by_hand(estimator: PoseEstimator, batch: Batch) -> Instances:
    """Labels of the inputs that `PoseEstimator.mirror` makes; where it puts a column is read off the pixels."""
    swap, instances = list(coco17().swap), batch.instances
    keypoints, visible = instances.keypoints[:, :, swap].clone(), instances.visible[:, :, swap]
    mirrored = estimator.mirror(batch.inputs)
    if estimator.input_hw is None:
        torch.testing.assert_close(mirrored, batch.inputs[:, :, swap] * torch.tensor([-1, 1]))
        keypoints[..., 0] *= -1
        return replace(instances, keypoints=keypoints, visible=visible)
    width = batch.inputs.shape[-1]
    probe = torch.zeros_like(batch.inputs[:1])
    probe[..., width // 2] = 1
    axis = width // 2 + int(estimator.mirror(probe)[0, 0, 0].nonzero())
    columns = torch.arange(max(0, axis - width + 1), min(width, axis + 1))
    assert torch.equal(mirrored[..., axis - columns], batch.inputs[..., columns])
    keypoints[..., 0] = axis - keypoints[..., 0]
    x1, y1, x2, y2 = instances.boxes_xyxy.unbind(-1)
    boxes = torch.stack([axis - x2, y1, axis - x1, y2], -1)
    return replace(instances, keypoints=keypoints, visible=visible, boxes_xyxy=boxes)
