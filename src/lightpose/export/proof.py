"""Whether an exported file gives what the estimator gives, on people."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.export.precision import Loss
from lightpose.inference.lifting import unlabelled
from lightpose.interop.onnx.columns import columns_of, finds_many, poses_of
from lightpose.interop.onnx.graph import HEAD, FromInputs, input_of
from lightpose.structures import Array, Poses

BATCHES = (1, 2, 7)
SCORE_TOLERANCE = 1e-3
"""Of scores and probabilities, which are all about 1."""
HEAD_TOLERANCE = 1e-4
"""Of a head's outputs, as a share of the largest."""
MOST_UNDECIDED = 0.05
"""Share of keypoints that rounding may decide."""
PLACES = ("keypoints", "boxes_xyxy")

Columns = Mapping[str, Array]
"""Name → what a graph gives under it."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far an exported file is from the estimator.

    Attributes:
        largest: name of an output → largest difference; of keypoints in input pixels or mm, without those undecided.
        mean: likewise.
        undecided: how many keypoints rounding decides.
        keypoints: how many there are.
        unit: of places.
        loss: of lower precision; None in float32.
    """

    largest: dict[str, float]
    mean: dict[str, float]
    undecided: int
    keypoints: int
    unit: str = "px"
    loss: Loss | None = None


def prove(estimator: PoseEstimator, run: Callable[[Columns], Columns], inputs: Array, tolerance: float) -> Difference:
    """Compare the estimator with an exported graph, at each of the batch sizes.

    Args:
        estimator: on the CPU, in evaluation mode.
        run: gives the graph's outputs of inputs by name, those of the head included.
        inputs: as `inputs_to_prove` gives them.
        tolerance: most input pixels, or mm of a lifter, between two keypoints.

    Raises:
        UserError: naming the output that differs by more.
    """
    module, (name, _), start = FromInputs(estimator).eval(), input_of(estimator), 0
    expected: list[Columns] = []
    found: list[Columns] = []
    for size in BATCHES:
        batch = np.ascontiguousarray(inputs[start : start + size])
        start += size
        with torch.inference_mode():
            expected.append({key: each.numpy() for key, each in module(torch.from_numpy(batch)).items()})
        found.append(run({name: batch}))

    def poses(columns: Columns) -> Poses[Array]:
        return _poses({key: torch.from_numpy(each) for key, each in columns.items() if not key.startswith(HEAD)})

    def decoded(columns: Columns) -> Poses[Array]:
        heads = {
            key.removeprefix(HEAD): torch.from_numpy(each) for key, each in columns.items() if key.startswith(HEAD)
        }
        with torch.inference_mode():
            return _poses(columns_of(heads, estimator))

    def _poses(columns: dict[str, torch.Tensor]) -> Poses[Array]:
        found = poses_of(columns, estimator)
        if estimator.takes_sequences:
            seen = torch.from_numpy(inputs[: sum(BATCHES)])
            found = estimator.to_image(found, unlabelled(seen, np.array([1, 1])))
        return found.numpy()

    unit = "mm" if estimator.takes_sequences else "px"
    return compare(_joined(expected), _joined(found), poses, decoded, tolerance, finds_many(estimator), unit)


def compare(
    expected: Columns,
    found: Columns,
    poses: Callable[[Columns], Poses[Array]],
    decoded: Callable[[Columns], Poses[Array]],
    tolerance: float,
    many: bool = False,
    unit: str = "px",
) -> Difference:
    """How far apart two graphs' outputs are.

    Two cells of a map may be so nearly equal that the rounding of float32, which no two programs share, decides which
    of them is the highest; the keypoint then jumps. Likewise it may decide whether somebody is there at all. That says
    nothing of the export: the heads' outputs are the same up to rounding, and what the file found there is what the
    codec itself decodes from the file's outputs. A keypoint that fulfils both is undecided, and counted; any other one
    past the tolerance is a fault.

    Args:
        expected: of the estimator, with the head's outputs.
        found: of the file, likewise.
        poses: what the columns say.
        decoded: poses of the head's outputs among some columns.
        tolerance: most input pixels, or mm, between two keypoints.
        many: any number of people may be in an input, in whatever order. Heads that choose candidates themselves put
            them in an order that rounding decides; their outputs are then compared person by person, and may differ if
            all poses agree.
        unit: of places.

    Raises:
        UserError: naming the output that differs by more than it may.
    """
    faults = _faults(expected, found)
    if faults and not many:
        raise faults[0]
    one, other = poses(expected), poses(found)
    pairs = _pairs(one, other) if many else np.arange(len(one))
    there = pairs >= 0
    if faults:
        faults = _faults(*_of_people(expected, found, pairs))
    distances = np.full(one.keypoints.shape[:2], np.inf)
    distances[there] = _distances(one.keypoints[there], other.keypoints[pairs[there]])  # (N, K)
    undecided = distances > tolerance
    counts = [np.bincount(each.batch_index, minlength=sum(BATCHES)) for each in (one, other)]
    more = int((counts[1] - counts[0]).clip(0).sum()) * undecided.shape[1]
    if faults and (undecided.any() or more or not len(one)):
        raise faults[0]
    if undecided.any() or more:
        again = decoded(found)
        same = _pairs(other, again) if many else np.arange(len(other))
        strange = len(again) != len(other) or (same < 0).any()
        off = None if strange else _distances(other.keypoints, again.keypoints[same])  # (M, K)
        if off is None or (more and (off > tolerance).any()):
            raise UserError(
                f"keypoints of the exported file are of {len(other)} people, and of others than its own maps show; "
                "nothing was written, and another codec may do"
            )
        undecided[there] &= off[pairs[there]] <= tolerance
        if (undecided.sum() + more) / max(undecided.size, 1) > MOST_UNDECIDED:
            raise UserError(
                f"keypoints: for {int(undecided.sum()) + more} of {undecided.size} the highest values of the maps are "
                "equal up to rounding, so that nothing can be compared; train further, or give other people in "
                "annotations="
            )
    of_pose = undecided.any(1)  # their scores may come from another cell
    largest, mean = {}, {}
    for name, values in _numbers(one).items():
        if name == "keypoints":
            differences = np.where(undecided, 0.0, distances)
        else:
            differences = np.abs(_numbers(other)[name][pairs[there & ~of_pose]] - values[there & ~of_pose])
        largest[name] = float(differences.max(initial=0))
        mean[name] = float(differences.mean()) if differences.size else 0.0
        _require(name, largest[name], *((tolerance, unit) if name in PLACES else (SCORE_TOLERANCE, "")))
    return Difference(largest, mean, int(undecided.sum()) + more, undecided.size, unit)


def _faults(expected: Columns, found: Columns) -> list[UserError]:
    """What the head's outputs differ by; shapes and numbers that aren't finite are refused at once."""
    faults = []
    for name, values in expected.items():
        if found[name].shape != values.shape:
            raise UserError(f"{name} of the exported file is {found[name].shape}, but should be {values.shape}")
        if not np.isfinite(values).all() or not np.isfinite(found[name]).all():
            raise UserError(f"{name} holds NaN or infinity, which can't be compared; export another checkpoint")
    for name in (name for name in expected if name.startswith(HEAD)):
        scale = float(np.abs(expected[name]).max()) or 1.0
        difference = float(np.abs(found[name] - expected[name]).max()) / scale
        try:
            _require(name, difference, HEAD_TOLERANCE, "of its largest value")
        except UserError as fault:
            faults.append(fault)
    return faults


def _of_people(expected: Columns, found: Columns, pairs: Array) -> tuple[Columns, Columns]:
    """The same columns, but of a head that has a row for each candidate only those of people, in one order.

    Args:
        expected: of the estimator.
        found: of the file.
        pairs: of `_pairs`.
    """
    valid, other = (each.get("valid", np.zeros(0)) for each in (expected, found))
    if valid.ndim != 2 or valid.sum() != len(pairs):  # people are not the candidates that are valid
        return expected, found
    there = pairs >= 0
    mine, theirs = np.argwhere(valid)[there].T, np.argwhere(other)[pairs[there]].T
    of_candidates = {name for name in expected if name.startswith(HEAD) and expected[name].shape[:2] == valid.shape}
    return (
        {name: values[tuple(mine)] if name in of_candidates else values for name, values in expected.items()},
        {name: values[tuple(theirs)] if name in of_candidates else values for name, values in found.items()},
    )


def _pairs(one: Poses[Array], other: Poses[Array]) -> Array:
    """(N,) for each of some poses its own of others in the same input, -1 where there are too few.

    Of all ways to pair them one to one, that of the least distances; the score tells people in one place apart.
    """
    pairs = np.full(len(one), -1)
    points = [
        np.column_stack([each.keypoints.reshape(len(each), math.prod(each.keypoints.shape[1:])), each.scores])
        for each in (one, other)
    ]
    for row in np.unique(one.batch_index):
        mine, theirs = (np.flatnonzero(each.batch_index == row) for each in (one, other))
        taken, given = linear_sum_assignment(cdist(points[0][mine], points[1][theirs]))
        pairs[mine[taken]] = theirs[given]
    return pairs


def _numbers(poses: Poses[Array]) -> dict[str, Array]:
    """All but what says which input a pose is of."""
    names = [each.name for each in fields(poses) if each.name not in ("batch_index", "extras")]
    columns = {name: getattr(poses, name) for name in names if getattr(poses, name) is not None}
    return columns | {name: values for name, values in poses.extras.items() if name != "frame"}


def _distances(one: Array, other: Array) -> Array:
    distances: Array = np.linalg.norm(one.astype(np.float64) - other, axis=-1)
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
