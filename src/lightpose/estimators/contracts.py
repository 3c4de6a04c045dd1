"""What the parts of a run owe each other, and the sentences for those that break it."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from lightpose.codecs.base import Codec
from lightpose.data.base import PoseDataset
from lightpose.data.coco.results import check_extras
from lightpose.data.pixels.decode import EncodedImage
from lightpose.errors import UserError
from lightpose.metrics.base import NamesFigures
from lightpose.skeleton import Skeleton
from lightpose.structures import Annotations, Poses, Sample, Targets


class LeftOut:
    """Stands for a part that only training uses, in an estimator that was loaded to predict.

    Args:
        target: the part's path.
    """

    keywords: ClassVar = {"lr": 0.0}
    """As of any optimizer, so that the sentence below comes first."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Be used.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"{self.target} was left out, as the checkpoint was loaded to predict; load it with "
            f"lightpose.load(path, trust={self.target.split('.')[0]!r}, training=True)"
        )


def total(losses: Any, of: str) -> Tensor:
    """The sum of named losses.

    Args:
        losses: what a head or a criterion returned.
        of: its name, for messages.

    Raises:
        UserError: for anything but a mapping from names to tensors of one number each, none of them called ``loss``.
    """
    if not isinstance(losses, Mapping) or not losses:
        came = "an empty mapping" if isinstance(losses, Mapping) else kind_of(losses)
        raise UserError(f"the loss of {of} is {came}; return a mapping of named losses, such as {{'heatmap': loss}}")
    for name, value in losses.items():
        if not isinstance(value, Tensor) or value.ndim:
            raise UserError(
                f"the loss {name!r} of {of} is {kind_of(value)}; return a tensor of one number, as .mean() gives"
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
        raise UserError(f"{of} gives {kind_of(poses)}; return lightpose.structures.Poses")
    if not isinstance(poses.keypoints, Tensor) or poses.keypoints.ndim != 3:
        raise UserError(f"{of} gives keypoints that are {kind_of(poses.keypoints)}; expected (N, K, 2) or (N, K, 3)")
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
            raise UserError(f"{of} gives {name} that are {kind_of(column)}; expected a tensor of shape {expected}")
    if poses.batch_index.dtype != torch.int64:
        raise UserError(f"{of} gives batch_index of {poses.batch_index.dtype}; expected torch.int64")
    for name, column in poses.extras.items():
        if not isinstance(column, Tensor) or column.shape[:1] != (count,):
            raise UserError(
                f"{of} gives the extra {name!r}, which is {kind_of(column)}; expected a tensor of {count} rows, one "
                "for each pose"
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
        raise UserError(f"{name}.compute gives {kind_of(computed)}; return a mapping of figures, such as {{'AP': 0.5}}")
    if isinstance(metric, NamesFigures) and set(metric.figures) - set(computed):
        raise UserError(
            f"{name} declares the figures {', '.join(metric.figures)}, but computes {', '.join(computed) or 'none'}; "
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
            f"{of} gives {kind_of(sample)}; return lightpose.structures.Sample, with Annotations as instances"
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
                f"{of} gives {each.name} that are {kind_of(column)}; expected an array of shape {expected} for {count} "
                f"instances of {num_keypoints} keypoints"
            )
    if dataset.one_person and not dataset.sequences and count != 1:
        raise UserError(
            f"{of} gives a sample of {count} instances, but {type(dataset).__name__} says that a sample is one person; "
            "give one, or set one_person = False"
        )
    pixels = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if of_images and not pixels and not isinstance(image, EncodedImage):
        raise UserError(
            f"{of} gives an image that is {kind_of(image)}; expected an array (H, W, 3) of uint8, or "
            "lightpose.data.pixels.decode.EncodedImage(path)"
        )
    return sample


def check_targets(targets: Any, codec: Codec) -> Targets:
    """The same targets, if they are all that the codec's spec promises.

    Raises:
        UserError: naming those that are missing.
    """
    of, expected = f"{type(codec).__name__}.encode", codec.spec.target_names
    if not isinstance(targets, Targets):
        raise UserError(f"{of} gives {kind_of(targets)}; return lightpose.structures.Targets")
    if missing := sorted(expected - targets.maps.keys()):
        raise UserError(
            f"{of} makes no target {' or '.join(missing)}, which its spec promises; make it, or say in "
            "Spec(targets=...) what it makes"
        )
    return targets


def kind_of(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and {value.dtype}"
    return (
        f"a mapping of {', '.join(map(str, value)) or 'nothing'}"
        if isinstance(value, Mapping)
        else ("None" if value is None else f"a {type(value).__name__}")
    )
