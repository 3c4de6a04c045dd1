"""A run in small, before its first step: what is wrong with data, codec, loss, poses or metrics shows here at once."""

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lightpose.codecs.base import Codec
from lightpose.data.base import PoseDataset
from lightpose.data.coco.ground_truth import ground_truth_of
from lightpose.data.coco.results import check_extras
from lightpose.data.pixels.decode import EncodedImage
from lightpose.data.pixels.device import collate
from lightpose.errors import UserError
from lightpose.models.base import Head
from lightpose.skeleton import Skeleton
from lightpose.structures import Annotations, Batch, Poses, Sample, Targets

_LIBRARIES = str(Path(torch.__file__).parents[1])
"""Where other people's packages are."""


def total(losses: Any, of: str) -> Tensor:
    """The sum of named losses.

    Args:
        losses: what a head or a criterion returned.
        of: its name, for messages.

    Raises:
        UserError: for anything but a mapping from names to tensors of one number each, none of them called ``loss``.
    """
    if not isinstance(losses, Mapping) or not losses:
        came = "an empty mapping" if isinstance(losses, Mapping) else _kind(losses)
        raise UserError(f"the loss of {of} is {came}; return a mapping of named losses, such as {{'heatmap': loss}}")
    for name, value in losses.items():
        if not isinstance(value, Tensor) or value.ndim:
            raise UserError(
                f"the loss {name!r} of {of} is {_kind(value)}; return a tensor of one number, as .mean() gives"
            )
    if "loss" in losses:
        raise UserError(f"a loss of {of} is called 'loss', the name of the sum of all losses; give it another name")
    return torch.stack(list(losses.values())).sum()


def check_poses(poses: Any, codec: Codec, skeleton: Skeleton) -> Poses:
    """The same poses, if they keep the shapes that `Poses` describes. Waits for no device.

    Raises:
        UserError: naming the field, what it should be and what it is.
    """
    of = f"{type(codec).__name__}.decode"
    if not isinstance(poses, Poses):
        raise UserError(f"{of} gives {_kind(poses)}; return lightpose.structures.Poses")
    if not isinstance(poses.keypoints, Tensor) or poses.keypoints.ndim != 3:
        raise UserError(f"{of} gives keypoints that are {_kind(poses.keypoints)}; expected (N, K, 2) or (N, K, 3)")
    count, joints = len(poses), skeleton.num_keypoints
    shapes = {
        "keypoints": (count, joints, poses.keypoints.shape[2]),
        "keypoint_scores": (count, joints),
        "visibility": (count, joints),
        "boxes_xyxy": (count, 4),
    }
    columns = {each.name: getattr(poses, each.name) for each in fields(poses) if each.name != "extras"}
    for name, column in columns.items():
        expected = shapes.get(name, (count,))
        optional = column is None and name in ("visibility", "boxes_xyxy", "box_scores", "categories", "track_ids")
        if not optional and (not isinstance(column, Tensor) or column.shape != expected):
            raise UserError(f"{of} gives {name} that are {_kind(column)}; expected a tensor of shape {expected}")
    if poses.batch_index.dtype != torch.int64:
        raise UserError(f"{of} gives batch_index of {poses.batch_index.dtype}; expected torch.int64")
    for name, column in poses.extras.items():
        if not isinstance(column, Tensor) or column.shape[:1] != (count,):
            raise UserError(
                f"{of} gives the extra {name!r}, which is {_kind(column)}; expected a tensor of {count} rows, one for "
                "each pose"
            )
    check_extras(poses.extras, skeleton.keypoints)
    return poses


def figures_of(metric: Metric) -> dict[str, Any]:
    """What a metric computes.

    Raises:
        UserError: unless it is a mapping with all figures that the metric declares.
    """
    name, computed = type(metric).__name__, metric.compute()
    if not isinstance(computed, Mapping):
        raise UserError(f"{name}.compute gives {_kind(computed)}; return a mapping of figures, such as {{'AP': 0.5}}")
    missing = sorted(set(getattr(metric, "figures", ())) - set(computed))
    if missing:
        raise UserError(
            f"{name} declares the figures {', '.join(metric.figures)}, but computes {', '.join(computed) or 'none'}; "  # type: ignore[arg-type]
            "let the two agree"
        )
    return dict(computed)


def check_sample(sample: Any, dataset: PoseDataset, num_keypoints: int, of_images: bool) -> Sample:
    """The same sample, if it keeps the shapes that `Sample` and `Annotations` describe.

    Raises:
        UserError: naming what should be and what is.
    """
    of = f"{type(dataset).__name__}.load"
    if not isinstance(sample, Sample) or not isinstance(sample.instances, Annotations):
        raise UserError(
            f"{of} gives {_kind(sample)}; return lightpose.structures.Sample, with Annotations as instances"
        )
    labels, image = sample.instances, sample.image
    count, size = len(labels.ids), labels.keypoints.shape[-1] if np.ndim(labels.keypoints) == 3 else 2
    shapes = {
        "keypoints": (count, num_keypoints, size),
        "visible": (count, num_keypoints),
        "boxes_xyxy": (count, 4),
    }
    for each in fields(labels):
        column, expected = getattr(labels, each.name), shapes.get(each.name, (count,))
        if not isinstance(column, np.ndarray) or column.shape != expected:
            raise UserError(
                f"{of} gives {each.name} that are {_kind(column)}; expected an array of shape {expected} for {count} "
                f"instances of {num_keypoints} keypoints"
            )
    if dataset.one_person and count != 1:
        raise UserError(
            f"{of} gives a sample of {count} instances, but {type(dataset).__name__} says that a sample is one person; "
            "give one, or set one_person = False"
        )
    pixels = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if of_images and not pixels and not isinstance(image, EncodedImage):
        raise UserError(
            f"{of} gives an image that is {_kind(image)}; expected an array (H, W, 3) of uint8, or "
            "lightpose.data.pixels.decode.EncodedImage(path)"
        )
    return sample


def rehearse(
    dataset: PoseDataset,
    codec: Codec,
    head: Head,
    shapes: Mapping[str, tuple[int, ...]] | None,
    to_image: Callable[[Poses, Batch], Poses],
    flip_test: bool,
    metrics: Iterable[Any],
    skeleton: Skeleton,
    input_hw: tuple[int, int] | None,
    device: torch.device,
) -> None:
    """Take the labels of one sample from the reader to the metrics, with zeros in place of the network's outputs.

    No pixel is read and the network isn't run, so that it takes no time; the metrics are reset at the end.

    Args:
        dataset: whose first sample is taken.
        codec: of the run.
        head: of the run.
        shapes: of the outputs, for each sample; None ends the rehearsal with the targets.
        to_image: of the estimator.
        flip_test: whether outputs are joined with those of mirror images.
        metrics: those to rehearse.
        skeleton: the keypoints.
        input_hw: network input size; None for inputs that are not images.
        device: where the run computes.

    Raises:
        UserError: naming the part and its fault.
    """
    coder = type(codec).__name__
    with _naming(f"reader {type(dataset).__name__}"):
        if not len(dataset):
            raise UserError(f"{type(dataset).__name__} has no samples; look at its annotation file and its __len__")
        found = dataset.load(0, np.random.default_rng(0))
        sample = check_sample(found, dataset, skeleton.num_keypoints, input_hw is not None)
    if input_hw is not None:
        blank = np.zeros((*input_hw, 3), np.uint8)
        sample = replace(sample, image=blank, ignore=None, input_from_image=np.eye(3))
    batch = collate([sample]).to(device)
    people = batch.instances
    unseen = replace(batch, instances=replace(people, visible=torch.zeros_like(people.visible)))
    outputs = {name: torch.zeros(1, *shape, device=device) for name, shape in (shapes or {}).items()}
    for labels, given in (("the labels of a sample", batch), ("a sample of which nothing is visible", unseen)):
        with _naming(f"codec {coder}, which encodes {labels},"):
            targets = _checked_targets(codec.encode(given), codec)
        if outputs:
            _check_loss(head, outputs, targets, labels)
    if not outputs:
        return
    with torch.inference_mode(), _naming(f"codec {coder}, which decodes outputs of zeros,"):
        joined = codec.merge(outputs, codec.flip(outputs)) if flip_test else outputs
        if not isinstance(joined, Mapping) or joined.keys() != outputs.keys():
            raise UserError(f"{coder}.flip and {coder}.merge give {_kind(joined)}; return all of {', '.join(outputs)}")
        poses = check_poses(codec.decode(joined), codec, skeleton)
    with torch.inference_mode(), _naming("the estimator's to_image"):
        poses = check_poses(to_image(poses, batch), codec, skeleton)
    for metric in metrics:
        with torch.inference_mode(), _naming(f"metric {type(metric).__name__}"):
            if hasattr(metric, "set_ground_truth"):
                metric.set_ground_truth(ground_truth_of([found], skeleton))
            metric.update(poses, batch)
            figures_of(metric)
            metric.reset()


def _check_loss(head: Head, outputs: dict[str, Tensor], targets: Targets, labels: str) -> None:
    of = f"head {type(head).__name__}"
    with _naming(f"the loss of {of}, given outputs of zeros and {labels},"):
        losses = head.compare(outputs, targets)
        total(losses, of)
    odd = [f"{name} is {float(value)}" for name, value in losses.items() if not value.isfinite()]
    if odd:
        raise UserError(
            f"of the losses of {of}, given outputs of zeros and {labels}, {', '.join(odd)}; keep them finite, such as "
            "by dividing by weights.sum().clamp_min(1)"
        )


def _checked_targets(targets: Any, codec: Codec) -> Targets:
    of, expected = f"{type(codec).__name__}.encode", codec.spec.target_names
    if not isinstance(targets, Targets):
        raise UserError(f"{of} gives {_kind(targets)}; return lightpose.structures.Targets")
    if missing := sorted(expected - targets.maps.keys()):
        raise UserError(
            f"{of} makes no target {' or '.join(missing)}, which its spec promises; make it, or say in "
            "Spec(targets=...) what it makes"
        )
    return targets


@contextmanager
def _naming(part: str) -> Iterator[None]:
    """Say of any exception in which part, file and line it arose."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        frame = next((each for each in reversed(frames) if not each.filename.startswith(_LIBRARIES)), frames[-1])
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(
            f"{part} fails before the first step ({reason}, in {frame.filename}, line {frame.lineno}); mend it "
            "(LIGHTPOSE_DEBUG=1 shows how it came there)"
        ) from error


def _kind(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and {value.dtype}"
    return (
        f"a mapping of {', '.join(map(str, value)) or 'nothing'}"
        if isinstance(value, Mapping)
        else ("None" if value is None else f"a {type(value).__name__}")
    )
