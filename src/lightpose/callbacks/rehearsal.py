"""A run in small, before its first step: what is wrong with data, codec, loss, poses or metrics shows here at once."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lightpose.data.base import PoseDataset
from lightpose.data.coco.ground_truth import ground_truth_of
from lightpose.data.datamodule import PoseDataModule
from lightpose.data.pixels.device import collate
from lightpose.errors import UserError, in_short, place_in_own_code
from lightpose.estimators.base import PoseEstimator
from lightpose.estimators.contracts import check_poses, check_sample, check_targets, figures_of, kind_of, total
from lightpose.metrics.base import NeedsGroundTruth
from lightpose.models.base import Head
from lightpose.runtime.timeline import mark
from lightpose.structures import Targets


class Rehearsal(L.Callback):
    """Refuses parts that break their contracts, before anything is computed."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: PoseEstimator) -> None:  # type: ignore[override]
        """Rehearse with the data that is trained on, and with the data that is validated on."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, PoseDataModule):
            return
        devices = [pl_module.device] if pl_module.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            rehearse(pl_module, data.dataset("train"))
            if data.annotations["val"]:
                rehearse(pl_module, data.dataset("val"), pl_module.metrics)
        mark("rehearsal")


def rehearse(estimator: PoseEstimator, dataset: PoseDataset, metrics: Iterable[Any] = ()) -> None:
    """Take the labels of one sample from the reader to the metrics, with zeros in place of the network's outputs.

    No pixel is read and the network isn't run, so that it takes no time.

    Args:
        estimator: on the device of the run.
        dataset: whose first sample is taken.
        metrics: those to rehearse; they are reset at the end.

    Raises:
        UserError: naming the part and its fault.
    """
    codec, head, skeleton = estimator.codec, estimator.net.head, estimator.skeleton
    coder = type(codec).__name__
    with _naming(f"reader {type(dataset).__name__}"):
        if not len(dataset):
            raise UserError(f"{type(dataset).__name__} has no samples; look at its annotation file and its __len__")
        found = dataset.load(0, np.random.default_rng(0))
        sample = check_sample(found, dataset, skeleton.num_keypoints, estimator.input_hw is not None)
    if estimator.input_hw is not None:
        (height, width), (image_height, image_width) = estimator.input_hw, sample.image_hw
        whole = np.diag([width / image_width, height / image_height, 1.0])  # every label is in the input
        blank = np.zeros((height, width, 3), np.uint8)
        sample = replace(sample, image=blank, ignore=None, input_from_image=whole)
    batch = collate([sample]).to(estimator.device)
    people = batch.instances
    unseen = replace(batch, instances=replace(people, visible=torch.zeros_like(people.visible)))
    shapes = estimator.net.output_shapes or {}
    outputs = {name: torch.zeros(1, *shape, device=estimator.device) for name, shape in shapes.items()}
    for labels, given in (("the labels of a sample", batch), ("a sample of which nothing is visible", unseen)):
        with _naming(f"codec {coder}, which encodes {labels},"):
            targets = check_targets(codec.encode(given), codec)
        if outputs:
            _check_loss(head, outputs, targets, labels)
    if not outputs:
        return
    with torch.inference_mode():
        with _naming(f"codec {coder}, which decodes outputs of zeros,"):
            if estimator.flip_test and type(head).flip_tested is Head.flip_tested:
                merged: Any = codec.merge(outputs, codec.flip(outputs))
                if not isinstance(merged, Mapping) or merged.keys() != outputs.keys():
                    names = ", ".join(outputs)
                    raise UserError(f"{coder}.flip and {coder}.merge give {kind_of(merged)}; return all of {names}")
                outputs = dict(merged)
            poses = check_poses(codec.decode(outputs), codec, skeleton)
        with _naming(f"{type(estimator).__name__}.to_image"):
            poses = check_poses(estimator.to_image(poses, batch), codec, skeleton)
        for metric in metrics:
            with _naming(f"metric {type(metric).__name__}"):
                if isinstance(metric, NeedsGroundTruth):
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


@contextmanager
def _naming(part: str) -> Iterator[None]:
    """Say of any exception in which part, file and line it arose."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {in_short(error)}"
        raise UserError(
            f"{part} fails before the first step ({reason}{place_in_own_code(error)}); mend it "
            "(LIGHTPOSE_DEBUG=1 shows how it came there)"
        ) from error
