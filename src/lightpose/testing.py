"""Checks of the contracts, for parts of your own: call them in a test; a part that breaks one gets an `AssertionError`.

::

    from functools import partial
    from lightpose import testing

    def test_my_parts():
        testing.check_codec(MyCodec, most_px=1.0)
        testing.check(testing.model(partial(MyHead, criterion=MyLoss()), MyCodec))
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightpose.codecs.base import Codec
from lightpose.codecs.base import check_codec as lacks_nothing
from lightpose.data.pixels.device import collate
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.estimators.contracts import check_poses, check_targets
from lightpose.estimators.optim import warmup_cosine
from lightpose.estimators.topdown import TopDown
from lightpose.geometry import Grid
from lightpose.models.base import FeatureModule, Head
from lightpose.models.losses.weighting import expand
from lightpose.models.necks.identity import Identity
from lightpose.models.preprocessors import Normalize
from lightpose.skeleton import Skeleton
from lightpose.structures import Annotations, Batch, Sample, Targets

SKELETON = Skeleton.build(("nose", "left_eye", "right_eye", "left_hand", "right_hand"), name="five points")
GRIDS: tuple[Grid, ...] = ("half_pixel", "stride", "udp")
_SMALL = 1e-4
"""Difference of numbers that differ by rounding, in float32."""


class SmallBackbone(FeatureModule):
    """One map of stride 8."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before in (3, width, width):
            layers += [nn.Conv2d(before, width, 3, 2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.out_channels, self.strides = (width,), (8,)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to (B, width, H / 8, W / 8)."""
        return [self.layers(images)]


def model(
    head: Callable[..., Head],
    codec: Callable[..., Codec],
    input_hw: tuple[int, int] = (64, 96),
    grid: Grid = "half_pixel",
    skeleton: Skeleton = SKELETON,
    kind: Callable[..., PoseEstimator] = TopDown,
    **parts: Any,
) -> PoseEstimator:
    """A small model around a head and a codec, with fresh weights of a fixed seed.

    Args:
        head: builds the head from ``in_channels``, ``strides``, ``stages`` and ``spec``: the class, or a
            `functools.partial` of it with its own options.
        codec: builds the codec from ``skeleton``, ``input_hw`` and ``grid``.
        input_hw: network input size.
        grid: pixel grid.
        skeleton: the keypoints.
        kind: class of the estimator.
        parts: what else the estimator takes, such as a ``backbone`` or a ``neck`` of your own.

    Raises:
        UserError: when the parts don't fit.
    """
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "preprocessor": Normalize((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
        "neck": Identity,
        "optimizer": partial(torch.optim.Adam, lr=1e-3),
        "scheduler": warmup_cosine,
        "metrics": {},
        **parts,
    }
    given.setdefault("backbone", SmallBackbone())
    return kind(skeleton=skeleton, input_hw=input_hw, grid=grid, head=head, codec=codec, **given)


def check(estimator: PoseEstimator) -> None:
    """All checks of a model: it trains, predicts, and undoes its own mirroring.

    Raises:
        AssertionError: naming what is wrong.
    """
    check_training(estimator)
    check_prediction(estimator)
    check_flip(estimator)


def check_training(estimator: PoseEstimator) -> None:
    """One step gives a finite loss, and each parameter a gradient; without a label too, all stays finite.

    Raises:
        AssertionError: naming the target, the loss or the parameters.
    """
    batch = random_batch(estimator)
    _check_encoding(estimator.codec, batch)
    loss = _step(estimator, batch)
    _require(bool(loss > 0), f"the loss of a batch with labels is {float(loss)}; expected more than 0")
    without = [name for name, parameter in _trained(estimator) if parameter.grad is None]
    _require(not without, f"a step gives no gradient to {', '.join(without)}; let the loss depend on all of them")
    people = batch.instances
    unlabelled = replace(people, visible=torch.zeros_like(people.visible))
    for instances in (unlabelled, people.map(torch.zeros_like)):  # the other is padding, with valid=False
        _step(estimator, replace(batch, instances=instances))
    estimator.zero_grad()


def _step(estimator: PoseEstimator, batch: Batch) -> Tensor:
    estimator.train().zero_grad()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are trying to `self.log")  # there is no trainer
        loss: Tensor = estimator.losses(batch)["loss"]
    loss.backward()
    loss = loss.detach()
    labels = "labels" if (batch.instances.visible > 0).any() else "no label"
    _require(bool(loss.isfinite()), f"the loss of a batch with {labels} is {float(loss)}; keep it finite")
    odd = [name for name, each in _trained(estimator) if each.grad is not None and not each.grad.isfinite().all()]
    _require(not odd, f"a batch with {labels} gives {', '.join(odd)} a gradient that is not finite; keep it finite")
    return loss


def _trained(estimator: PoseEstimator) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in estimator.named_parameters() if parameter.requires_grad]


@torch.inference_mode()
def check_prediction(estimator: PoseEstimator) -> None:
    """Outputs have the shapes of the spec, poses those of `Poses`; an input alone gives what it gives in a batch.

    Raises:
        AssertionError: naming the output or the field.
    """
    estimator.eval()
    batch = random_batch(estimator, (1, 1, 1))
    outputs, spec = estimator.outputs(batch.inputs), estimator.codec.spec
    _require(
        outputs.keys() == spec.outputs.keys(), f"outputs are {sorted(outputs)}, the spec has {sorted(spec.outputs)}"
    )
    for name, shape in spec.outputs.items():
        given = tuple(outputs[name].shape[1:])
        fits = shape is None or (
            len(given) == len(shape) and all(b in (None, a) for a, b in zip(given, shape, strict=True))
        )
        _require(fits, f"the output {name} is {given} for each input, the codec's spec says {shape}; let them agree")
    try:
        poses = check_poses(estimator.predict_step(batch, 0), estimator.codec, estimator.skeleton)
    except UserError as error:
        raise AssertionError(str(error)) from error
    for name in ("keypoints", "keypoint_scores", "scores"):
        _require(bool(getattr(poses, name).isfinite().all()), f"decode gives {name} that are not finite")
    _require(set(poses.batch_index.tolist()) <= {0, 1, 2}, "batch_index is no row of the batch; count rows from 0")
    for row in range(3):
        for name, alone in estimator.outputs(batch.inputs[row : row + 1]).items():
            _require_close(alone[0], outputs[name][row], f"{name} of an input depends on the others of its batch")


@torch.inference_mode()
def check_flip(estimator: PoseEstimator) -> None:
    """`Codec.flip` undoes the mirroring of the input, exactly; twice, it does nothing, and it writes into no argument.

    What a network gives for a mirrored input is known from the targets of mirrored labels.

    Raises:
        AssertionError: naming the output.
    """
    codec = estimator.eval().codec
    if not codec.flips:
        try:
            estimator.flip_test = True
        except UserError:
            return
        raise AssertionError(f"{type(codec).__name__} says flips = False, and the flip test isn't refused")
    batch = random_batch(estimator)
    noise = {name: torch.randn_like(output) for name, output in estimator.outputs(batch.inputs).items()}
    _check_twice(codec, noise)
    targets, turned = codec.encode(batch), codec.encode(_mirrored(estimator, batch))
    _check_undone(codec, targets, turned)
    if not codec.mirror_lag and estimator.flip_test:  # the flip test treats an input and its mirror image alike
        joined, plain = estimator.outputs(batch.inputs), estimator.net(batch.inputs)
        undone = codec.flip(estimator.outputs(estimator.mirror(batch.inputs)))
        for name, output in joined.items():
            if output.shape == plain[name].shape:  # others stand side by side, in the order of the two
                _require_close(undone[name], output, f"the flip test of {name} changes when the input is mirrored")


def _check_twice(codec: Codec, outputs: Mapping[str, Tensor]) -> None:
    kept = {name: output.clone() for name, output in outputs.items()}
    once = codec.flip(dict(outputs))
    untouched = {name: torch.equal(outputs[name], output) for name, output in kept.items()}
    twice = codec.flip(once)
    for name, output in kept.items():
        _require(untouched[name], f"flip writes into {name}, which it was given; return new tensors")
        rounding = 1e-6 if name == "keypoints" else 0  # which are not mirrored by negation
        _require_close(twice[name], output, f"flip of flip of {name} is not {name}", rounding, rounding)


def _check_undone(codec: Codec, targets: Targets, turned: Targets) -> None:
    names = codec.spec.outputs.keys() & targets.maps.keys()
    undone = codec.flip({name: turned.maps[name] for name in names}) if names else {}
    for name in names:
        target = targets.maps[name]
        there = (expand(targets.weights[name], target) > 0).expand_as(target)
        error = float(((undone[name] - target).abs() * there).max())
        _require(
            bool(there.any()) and error <= _SMALL * float(target.abs().max()),
            f"flip doesn't undo the mirroring of the input: {name} is off by {error:.3g}; exchange left and right by "
            "the skeleton's swap, and see mirror_lag in lightpose.codecs.base",
        )


def _mirrored(estimator: PoseEstimator, batch: Batch) -> Batch:
    """The labels of the inputs that `PoseEstimator.mirror` makes; where it puts a column is read off the pixels."""
    swap, instances = list(estimator.skeleton.swap), batch.instances
    keypoints, visible = instances.keypoints[:, :, swap].clone(), instances.visible[:, :, swap]
    mirrored, wrong = estimator.mirror(batch.inputs), f"{type(estimator).__name__}.mirror moves inputs and labels apart"
    if estimator.input_hw is None:
        _require_close(mirrored, batch.inputs[:, :, swap] * torch.tensor([-1, 1, 1]), wrong)
        keypoints[..., 0] *= -1
        return replace(batch, instances=replace(instances, keypoints=keypoints, visible=visible))
    width = batch.inputs.shape[-1]
    probe = torch.zeros_like(batch.inputs[:1])
    probe[..., width // 2] = 1
    axis = width // 2 + int(estimator.mirror(probe)[0, 0, 0].nonzero())
    columns = torch.arange(max(0, axis - width + 1), min(width, axis + 1))
    _require(torch.equal(mirrored[..., axis - columns], batch.inputs[..., columns]), wrong)
    keypoints[..., 0] = axis - keypoints[..., 0]
    x1, y1, x2, y2 = instances.boxes_xyxy.unbind(-1)
    boxes = torch.stack([axis - x2, y1, axis - x1, y2], -1)
    return replace(batch, instances=replace(instances, keypoints=keypoints, visible=visible, boxes_xyxy=boxes))


def check_codec(
    codec: Callable[..., Codec],
    most_px: float,
    outputs: Callable[[Targets], dict[str, Tensor]] | None = None,
    input_hw: tuple[int, int] = (64, 96),
    skeleton: Skeleton = SKELETON,
    grids: Sequence[Grid] = GRIDS,
) -> float:
    """Encode → decode gives the keypoints back, up to the borders of the input; flip twice does nothing.

    Args:
        codec: builds the codec of one person per input from ``skeleton``, ``input_hw`` and ``grid``.
        most_px: the resolution that the codec states, in input pixels.
        outputs: what a perfect network gives for targets; None takes the targets of the outputs' names.
        input_hw: network input size.
        skeleton: the keypoints.
        grids: pixel grids.

    Returns:
        The largest distance between a keypoint and where it is decoded, in input pixels; where weights are (B, K, ...),
        keypoints without one are left out.

    Raises:
        AssertionError: naming what is wrong.
    """
    rng, worst = np.random.default_rng(0), 0.0
    last = np.array(input_hw[::-1], np.float32) - 1
    points = rng.uniform(0, last, (8, skeleton.num_keypoints, 2)).astype(np.float32)
    points[0, :, 0], points[1, :, 0], points[2, :, 1], points[3, :, 1] = 0, last[0], 0, last[1]
    batch = collate([_sample(row, points[row : row + 1], np.zeros((*input_hw, 3), np.uint8)) for row in range(8)])
    for grid in grids:
        built = lacks_nothing(codec(skeleton=skeleton, input_hw=input_hw, grid=grid))
        targets = _check_encoding(built, batch)
        missing = sorted(set(built.spec.outputs) - set(targets.maps)) if outputs is None else []
        _require(not missing, f"encode makes no target {', '.join(missing)} to decode; give outputs=, which makes them")
        found = outputs(targets) if outputs else {name: targets.maps[name] for name in built.spec.outputs}
        try:
            poses = check_poses(built.decode(found), built, skeleton)
        except UserError as error:
            raise AssertionError(str(error)) from error
        one_each = poses.batch_index.tolist() == list(range(8))
        _require(one_each, f"decode gives the rows {poses.batch_index.tolist()}; expected one pose for each of 8 rows")
        counted = torch.ones(8, skeleton.num_keypoints, dtype=torch.bool)
        for weight in targets.weights.values():
            if weight.shape[1:2] == counted.shape[1:]:  # of keypoints, and not of cells
                counted &= weight.reshape(*counted.shape, -1).amax(-1) > 0
        errors = (poses.keypoints - batch.instances.keypoints[:, 0]).norm(dim=-1)[counted]
        _require(len(errors) > 0, "no keypoint has a weight; give those inside the input one")
        _require(
            bool((errors <= most_px).all()),
            f"with grid={grid}, keypoints are decoded up to {float(errors.max()):.3g} px from where they were encoded; "
            f"expected {most_px} px at most",
        )
        worst = max(worst, float(errors.max()))
        if built.flips:
            _check_twice(built, {name: torch.randn_like(output.float()) for name, output in found.items()})
    return worst


def _check_encoding(codec: Codec, batch: Batch) -> Targets:
    try:
        targets = check_targets(codec.encode(batch), codec)
    except UserError as error:
        raise AssertionError(str(error)) from error
    names = [sorted(each) for each in (targets.maps, targets.weights, codec.spec.target_names)]
    _require(
        names[0] == names[1] == names[2],
        f"encode gives maps {names[0]} and weights {names[1]}; the spec has {names[2]}",
    )
    for name, target in targets.maps.items():
        weight = targets.weights[name]
        fits = weight.ndim <= target.ndim and all(a in (1, b) for a, b in zip(weight.shape, target.shape, strict=False))
        _require(
            fits,
            f"the weight of {name}, {tuple(weight.shape)}, doesn't broadcast over {tuple(target.shape)} from the left",
        )
    return targets


def random_batch(estimator: PoseEstimator, people: Sequence[int] | None = None) -> Batch:
    """A sample for each entry of ``people``, with so many labelled people well inside the input.

    Args:
        estimator: what takes the batch.
        people: how many are in each sample; None for two samples, the first with several people if it takes them.
    """
    rng, count = np.random.default_rng(0), estimator.skeleton.num_keypoints
    if estimator.codec.every_frame:
        people = (9,) * len(people or (1, 1))
    if people is None:
        people = (1, 1) if estimator.input_hw is None or estimator.one_person or estimator.takes_boxes else (3, 1)
    samples = []
    for index, number in enumerate(people):
        if estimator.input_hw is None:
            keypoints = rng.normal(0, 400, (number, count, 3)) + np.array([0, 0, 4000])
            seen = 1000 * keypoints / keypoints[..., 2:]
            image = (seen / [1, 1, 1000] * np.ones((9, 1, 1))).astype(np.float32)  # (9, K, 3), of confidence 1
        else:
            image = rng.integers(0, 256, (*estimator.input_hw, 3), np.uint8)
            columns = (np.arange(number) + 0.5) * estimator.input_hw[1] / max(number, 1)
            centers = np.stack([columns, rng.uniform(0.4, 0.6, number) * estimator.input_hw[0]], -1)
            keypoints = centers[:, None] + rng.uniform(-12, 12, (number, count, 2))
            if estimator.codec.depth_labels:
                keypoints = np.concatenate([keypoints, rng.uniform(900, 1000, (number, count, 1))], -1)
        visible = rng.integers(0, 3, (number, count)).astype(np.float32)
        samples.append(_sample(index, keypoints.astype(np.float32), image, visible))
    return collate(samples)


def _sample(index: int, keypoints: Any, image: Any, visible: Any = None) -> Sample:
    """Labels with boxes around the keypoints; 3-D keypoints get a camera."""
    count = len(keypoints)
    low, high = keypoints[..., :2].min(1) - 2, keypoints[..., :2].max(1) + 2
    labels = Annotations(
        keypoints=keypoints,
        visible=np.full(keypoints.shape[:2], 2, np.float32) if visible is None else visible,
        boxes_xyxy=np.concatenate([low, high], -1).astype(np.float32),
        areas=np.full(count, 400, np.float32),
        categories=np.zeros(count, np.int64),
        ids=np.arange(count),
        scores=np.ones(count, np.float32),
    )
    camera = None if keypoints.shape[-1] == 2 else np.diag([1000, 1000, 1]).astype(np.float32)
    image_hw = image.shape[:2] if image.dtype == np.uint8 else (1, 1)
    return Sample(image, labels, np.eye(3), index, index, image_hw, camera=camera)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _require_close(found: Tensor, expected: Tensor, message: str, atol: float = _SMALL, rtol: float = _SMALL) -> None:
    try:
        torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)
    except AssertionError as error:
        raise AssertionError(f"{message}: {error}") from error
