"""Between poses and the columns that an exported file gives: arrays by name, as long as the batch."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from lightpose.estimators.base import PoseEstimator
from lightpose.structures import Poses

_NOT_OF_A_CROP = ("batch_index", "boxes_xyxy", "box_scores", "track_ids", "extras")


def finds_many(estimator: PoseEstimator) -> bool:
    """Whether an input may show any number of people."""
    return not (estimator.one_person or estimator.takes_sequences)


def columns_of(outputs: dict[str, Tensor], estimator: PoseEstimator) -> dict[str, Tensor]:
    """What a graph gives of the outputs of its head: rows of `Poses`, or the codec's candidates, by name.

    Of sequences with a pose for each frame, columns are (B, T, ...).
    """
    codec: Any = estimator.codec
    if finds_many(estimator):
        candidates: dict[str, Tensor] = codec.candidates(outputs)
        return candidates
    poses = codec.decode(outputs)
    names = [each.name for each in fields(poses) if each.name not in _NOT_OF_A_CROP]
    columns = {name: getattr(poses, name) for name in names if getattr(poses, name) is not None} | {**poses.extras}
    if codec.every_frame:
        del columns["frame"]
        count = next(iter(outputs.values())).shape[0]
        columns = {name: column.unflatten(0, (count, -1)) for name, column in columns.items()}
    return columns


def poses_of(columns: Mapping[str, Tensor], estimator: PoseEstimator) -> Poses:
    """The poses in columns, where the codec would put them."""
    if finds_many(estimator):
        codec: Any = estimator.codec
        poses: Poses = codec.chosen(dict(columns))
        return poses
    columns, count = dict(columns), len(columns["keypoints"])
    rows = torch.arange(count)
    if estimator.takes_sequences and estimator.codec.every_frame:
        frames = columns["keypoints"].shape[1]
        columns = {name: column.flatten(0, 1) for name, column in columns.items()}
        columns["frame"], rows = torch.arange(frames).repeat(count), rows.repeat_interleave(frames)
    known = {each.name: columns.pop(each.name) for each in fields(Poses) if each.name in columns}
    return Poses(**known, batch_index=rows, extras=columns)
