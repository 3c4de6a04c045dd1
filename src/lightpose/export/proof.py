"""Whether an exported file gives what the estimator gives, on crops of people."""

import logging
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightpose.data.synthetic.generate import generate
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.export.precision import Loss
from lightpose.inference.crops import Cropper, Job
from lightpose.inference.detections import NO_BOXES
from lightpose.inference.sources import ImageFiles, open_source
from lightpose.interop.onnx.graph import HEAD, FromPixels, columns_of
from lightpose.interop.onnx.packages import INPUT
from lightpose.structures import Array

log = logging.getLogger(__name__)

BATCHES = (1, 2, 7)
SCORE_TOLERANCE = 1e-3
"""Of scores and probabilities, which are all about 1."""
HEAD_TOLERANCE = 1e-4
"""Of a head's outputs, as a share of the largest."""
MOST_UNDECIDED = 0.05
"""Share of keypoints that rounding may decide."""
DRAWN_IMAGES = 10

Columns = Mapping[str, Array]
"""Name → what a graph gives under it."""


def crops(cropper: Cropper, annotations: str | None, images: str | None) -> Array:
    """(10, H, W, 3) uint8: what the network sees of people, of as many as the batches hold; fewer come again.

    Args:
        cropper: of the estimator.
        annotations: COCO JSON; None for drawn people.
        images: folder of its images.

    Raises:
        UserError: for a file without people.
    """
    if annotations is not None:
        return _crops_of(cropper, annotations, images)
    with tempfile.TemporaryDirectory() as folder:
        return _crops_of(cropper, str(generate(Path(folder) / "people", images=DRAWN_IMAGES, seed=0)), None)


def _crops_of(cropper: Cropper, annotations: str, images: str | None) -> Array:
    source, most = open_source(annotations, images), sum(BATCHES)
    if not isinstance(source, ImageFiles) or not source.has_ids:
        raise UserError(f"annotations={annotations} is no COCO JSON; give one, or leave it out for drawn people")
    boxes = source.boxes or {}
    found: list[Array] = []
    for number, (image_id, name) in enumerate(source.names.items()):
        if len(found) < most:
            job = Job(source.files[name], boxes.get(image_id, NO_BOXES), number)
            found += [sample.image for sample in cropper.samples(job)]
    if not found:
        raise UserError(
            f"annotations={annotations} has no boxes of people to prove the export on; give a file with people, or "
            "leave it out for drawn ones"
        )
    return np.stack([found[row % len(found)] for row in range(most)])


@dataclass(frozen=True, slots=True)
class Difference:
    """How far an exported file is from the estimator.

    Attributes:
        largest: name of an output → largest difference; of keypoints in input pixels, without those undecided.
        mean: likewise.
        undecided: how many keypoints rounding decides.
        keypoints: how many there are.
        loss: of lower precision; None in float32.
    """

    largest: dict[str, float]
    mean: dict[str, float]
    undecided: int
    keypoints: int
    loss: Loss | None = None


def prove(
    estimator: PoseEstimator, run: Callable[[Columns], Columns], pixels: Array, tolerance_px: float
) -> Difference:
    """Compare the estimator with an exported graph, at each of the batch sizes.

    Args:
        estimator: on the CPU, in evaluation mode.
        run: gives the graph's outputs of inputs by name, those of the head included.
        pixels: as `crops` gives them.
        tolerance_px: most input pixels between two keypoints.

    Raises:
        UserError: naming the output that differs by more.
    """
    module, start = FromPixels(estimator).eval(), 0
    expected: list[Columns] = []
    found: list[Columns] = []
    for size in BATCHES:
        batch = np.ascontiguousarray(pixels[start : start + size])
        start += size
        with torch.inference_mode():
            expected.append({name: each.numpy() for name, each in module(torch.from_numpy(batch)).items()})
        found.append(run({INPUT: batch}))

    def decode(outputs: Columns) -> Columns:
        heads = {
            name.removeprefix(HEAD): torch.from_numpy(each) for name, each in outputs.items() if name.startswith(HEAD)
        }
        return {name: each.numpy() for name, each in columns_of(estimator.codec.decode(heads)).items()}

    return compare(_joined(expected), _joined(found), decode, tolerance_px)


def compare(expected: Columns, found: Columns, decode: Callable[[Columns], Columns], tolerance_px: float) -> Difference:
    """How far apart two graphs' outputs are.

    Two cells of a map may be so nearly equal that the rounding of float32, which no two programs share, decides which
    of them is the highest; the keypoint then jumps. Such a keypoint says nothing of the export: the heads' outputs are
    the same up to rounding, and what the file found there is what the codec itself decodes from the file's outputs. A
    keypoint that fulfils both is undecided, and counted; any other one past the tolerance is a fault.

    Args:
        expected: of the estimator, with the head's outputs.
        found: of the file, likewise.
        decode: columns of poses of the head's outputs among some columns.
        tolerance_px: most input pixels between two keypoints.

    Raises:
        UserError: naming the output that differs by more than it may.
    """
    for name, values in expected.items():
        if found[name].shape != values.shape:
            raise UserError(f"{name} of the exported file is {found[name].shape}, but should be {values.shape}")
        if not np.isfinite(values).all() or not np.isfinite(found[name]).all():
            raise UserError(f"{name} holds NaN or infinity, which can't be compared; export another checkpoint")
    for name in (name for name in expected if name.startswith(HEAD)):
        scale = float(np.abs(expected[name]).max()) or 1.0
        _require(
            name, float(np.abs(found[name] - expected[name]).max()) / scale, HEAD_TOLERANCE, "of its largest value"
        )
    distances = _distances(expected, found)  # (B, K)
    undecided = distances > tolerance_px
    if undecided.any():
        again = _distances(decode(found), found)
        undecided &= again <= tolerance_px
        if undecided.mean() > MOST_UNDECIDED:
            raise UserError(
                f"keypoints: for {int(undecided.sum())} of {undecided.size} the highest values of the maps are equal "
                "up to rounding, so that nothing can be compared; train further, or give other people in annotations="
            )
    of_pose = undecided.any(1)  # their scores may come from another cell
    largest, mean = {}, {}
    for name in (name for name in expected if not name.startswith(HEAD)):
        if name == "keypoints":
            differences, most, unit = np.where(undecided, 0.0, distances), tolerance_px, "px"
        else:
            differences, most, unit = np.abs(found[name] - expected[name])[~of_pose], SCORE_TOLERANCE, ""
        largest[name] = float(differences.max(initial=0))
        mean[name] = float(differences.mean()) if differences.size else 0.0
        _require(name, largest[name], most, unit)
    return Difference(largest, mean, int(undecided.sum()), undecided.size)


def _distances(one: Columns, other: Columns) -> Array:
    distances: Array = np.linalg.norm(one["keypoints"].astype(np.float64) - other["keypoints"], axis=-1)
    return distances


def _require(name: str, difference: float, most: float, unit: str) -> None:
    if not difference <= most:
        option = "tolerance_px=" if name == "keypoints" else "another part"
        raise UserError(
            f"{name} of the exported file differs by {difference:.3g} {unit}".rstrip()
            + f" from the checkpoint's, more than {most:g}; nothing was written (a larger deviation needs {option})"
        )


def _joined(parts: list[Columns]) -> dict[str, Any]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
