"""From keypoints in the frames of a video to joints in space."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightpose.checkpoint import load, section
from lightpose.data.sequences import filled, window_starts
from lightpose.errors import UserError
from lightpose.geometry import screen_from_image
from lightpose.inference.predictor import find_device
from lightpose.interop.onnx.model import load_onnx
from lightpose.interop.onnx.packages import is_onnx
from lightpose.names import match
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Batch, Instances, Poses
from lightpose.trust import Trust

log = logging.getLogger(__name__)

_HIPS, _SHOULDERS = ("left_hip", "right_hip"), ("left_shoulder", "right_shoulder")
DERIVED: Mapping[str, Sequence[str]] = {
    "root": _HIPS,
    "pelvis": _HIPS,
    "spine": (*_HIPS, *_SHOULDERS),
    "thorax": _SHOULDERS,
    "neck": _SHOULDERS,
    "neck_base": ("nose",),
    "head": ("left_eye", "right_eye"),
    "head_top": ("left_eye", "right_eye"),
    "left_foot": ("left_ankle",),
    "right_foot": ("right_ankle",),
    "left_ankle": ("left_foot",),
    "right_ankle": ("right_foot",),
}
"""Joint that a file of keypoints lacks → those whose middle is taken for it. Data sets put them in the same places."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a person's keypoints are in one frame.

    Attributes:
        image_id: of the frame; ids of frames in a row are numbers in a row.
        file_name: of the frame.
        image_hw: its size.
        keypoints: (K, 3) x and y in image pixels, and a score; NaN where one isn't known.
        score: of the pose.
        track_id: who it is; -1 where a tracker didn't say, and None where there was no tracker.
    """

    image_id: int
    file_name: str
    image_hw: tuple[int, int]
    keypoints: Array
    score: float
    track_id: int | None


@dataclass(frozen=True, slots=True)
class Lifted:
    """A person's joints in space.

    Attributes:
        seen: what they were lifted from.
        joints_mm: (K, 3), x right, y down and z forwards from the root.
        scores: (K,) of the keypoints that they were lifted from, 0 where one wasn't known.
    """

    seen: Seen
    joints_mm: Array
    scores: Array


class Lifter:
    """A trained lifter as a function of keypoints.

    Args:
        checkpoint: a ``.ckpt`` file that lightpose-train wrote, or an ``.onnx`` file that lightpose-export wrote.
        device: None takes the accelerator if there is one.
        trust: see `lightpose.inference.predictor.Predictor`.

    Raises:
        UserError: for a checkpoint that can't be used, such as one that takes images.
    """

    def __init__(self, checkpoint: str | Path, device: str | None = None, trust: Trust = ()) -> None:
        if is_onnx(checkpoint):
            self.device = torch.device("cpu")  # of all but the graph
            self.estimator: Any = load_onnx(checkpoint, device, trust)
        else:
            self.device = find_device(device)
            self.estimator = load(checkpoint, trust).to(self.device)
        if not self.estimator.takes_sequences:
            raise UserError(
                f"{checkpoint} takes images, not keypoints; give images as source=, and a checkpoint of "
                "estimator=lifter for keypoints, as lift= beside it"
            )
        reader = section(self.estimator.config, "data", "reader")
        self.frames, self.causal = int(reader["frames"]), bool(reader.get("causal", False))
        self.skeleton = self.estimator.skeleton

    @property
    def root_name(self) -> str:
        """What joints are counted from."""
        root = section(self.estimator.config, "estimator", "codec").get("root")
        return " and ".join(self.skeleton.keypoints[place] for place in self.skeleton.roots(root))

    def __call__(self, people: Iterable[Seen], names: Sequence[str], batch_size: int = 64) -> list[Lifted]:
        """The joints of everyone in each frame in which they were seen, in the order of the frames.

        Args:
            people: in any order. Who has no track id is taken for one person; of several such in a frame the one with
                the best score is lifted, and a warning counts the others.
                Frames in which none of their keypoints is known are frames without them.
            names: of their keypoints.
            batch_size: sequences that go through the network at once.

        Raises:
            UserError: for keypoints that lack those of the network, and numbers of frames that have no order.
        """
        sources = sources_of(self.skeleton, names)
        taken = sorted({place for each in sources for place in each})
        lifted: list[Lifted] = []
        for track in tracks_of(each for each in people if _known(each.keypoints[taken]).any()):
            for run in runs_of(track, self.frames):
                lifted += self._run(run, sources, batch_size)
        return sorted(lifted, key=lambda each: (each.seen.image_id, each.seen.track_id or 0))

    def _run(self, run: Sequence[Seen], sources: Sequence[Sequence[int]], batch_size: int) -> Iterator[Lifted]:
        """A person in frames between which there are only short gaps."""
        first = run[0].image_id
        places = np.array([each.image_id - first for each in run])
        points = np.full((places[-1] + 1, len(sources), 3), [np.nan, np.nan, 0], np.float32)
        points[places] = np.stack([_derived(each.keypoints, sources) for each in run])
        sizes = np.array([each.image_hw for each in run])
        if (sizes != sizes[0]).any():
            raise UserError(
                f"{run[0].file_name} and others, in which one person is seen, have different sizes; a sequence is of "
                "one camera. Predict each folder of pictures by itself"
            )
        sequence = filled(points)
        screen = screen_from_image(sequence[..., :2], run[0].image_hw)
        joints = self._joints(np.concatenate([screen, sequence[..., 2:]], -1, dtype=np.float32), sizes[0], batch_size)
        for each, place in zip(run, places.tolist(), strict=True):
            yield Lifted(each, joints[place], points[place, :, 2])

    @torch.inference_mode()
    def _joints(self, sequence: Array, image_hw: Array, batch_size: int) -> Array:
        """(N, K, 3) mm of N frames in a row, (N, K, 3). The first and the last stand for those before and after."""
        count, every = len(sequence), self.estimator.codec.every_frame
        starts = np.array(window_starts(0, count, self.frames, self.frames)) if every else np.arange(count)
        before = 0 if every else self.frames - 1 if self.causal else self.frames // 2
        windows = (starts[:, None] + np.arange(self.frames) - before).clip(0, count - 1)  # (B, T)
        joints = np.zeros((count, sequence.shape[1], 3), np.float32)
        for place in range(0, len(windows), batch_size):
            rows = windows[place : place + batch_size]
            batch = unlabelled(torch.from_numpy(sequence[rows]), image_hw).to(self.device)
            poses = self.estimator.predict_step(batch, 0).numpy()
            joints[self._frames_of(poses, starts[place : place + batch_size], count)] = poses.keypoints
        return joints

    def _frames_of(self, poses: Poses[Array], starts: Array, count: int) -> Array:
        frame = poses.extras.get("frame")
        found: Array = starts[poses.batch_index] + (0 if frame is None else frame)
        return found.clip(0, count - 1)


def unlabelled(inputs: torch.Tensor, image_hw: Array) -> Batch:
    """A batch of sequences (B, T, K, 3) of which nothing else is known but the size of their images."""
    count, _, keypoints, _ = inputs.shape
    zeros, numbers = torch.zeros(count, 1), torch.arange(count)
    nobody = Instances(
        keypoints=torch.zeros(count, 1, keypoints, 3),
        visible=torch.zeros(count, 1, keypoints),
        boxes_xyxy=torch.zeros(count, 1, 4),
        areas=zeros,
        categories=zeros.long(),
        ids=zeros.long() - 1,
        scores=zeros,
        valid=zeros.bool(),
    )
    return Batch(
        inputs=inputs,
        instances=nobody,
        image_from_input=torch.eye(3).repeat(count, 1, 1),
        image_ids=numbers,
        indices=numbers,
        image_hw=torch.from_numpy(image_hw).repeat(count, 1),
    )


def sources_of(skeleton: Skeleton, names: Sequence[str]) -> list[list[int]]:
    """The keypoints whose middle each joint of a skeleton is: one of its name, or those of `DERIVED`.

    Raises:
        UserError: naming the joints for which there are none.
    """
    sources, missing = [], []
    for name, place in zip(skeleton.keypoints, match(skeleton.keypoints, names), strict=True):
        found = [place] if place >= 0 else match(DERIVED.get(name, ()), names)
        if not found or min(found) < 0:
            parts = " and ".join(DERIVED.get(name, ()))
            missing.append(f"{name} (or {parts})" if parts else name)
        sources.append(found)
    if missing:
        raise UserError(
            f"the keypoints lack {', '.join(missing)}, which the lifter takes; they are {', '.join(names)}. Give "
            "keypoints with these, or a lifter for those"
        )
    return sources


def _known(keypoints: Array) -> Array:
    """(K,) bool of (K, 3)."""
    return np.asarray(np.isfinite(keypoints).all(-1) & (keypoints[:, 2] > 0))


def _derived(keypoints: Array, sources: Sequence[Sequence[int]]) -> Array:
    """(J, 3): the middle of each joint's keypoints (K, 3), as sure as the least sure of them."""
    points = np.where(_known(keypoints)[:, None], keypoints, [np.nan, np.nan, 0])
    middles = [[*points[each, :2].mean(0), points[each, 2].min()] for each in map(list, sources)]
    return np.array(middles, np.float32)


def tracks_of(people: Iterable[Seen]) -> list[list[Seen]]:
    """The frames of each person, in order; those whom a tracker gave no identity are left out."""
    tracks: dict[int | None, dict[int, Seen]] = {}
    crowded: dict[int, int] = {}
    unknown = 0
    for each in people:
        if each.track_id == -1:
            unknown += 1
            continue
        track = tracks.setdefault(each.track_id, {})
        other = track.get(each.image_id)
        if other is not None:
            crowded[each.image_id] = crowded.get(each.image_id, 0) + 1
        if other is None or other.score < each.score:
            track[each.image_id] = each
    if crowded:
        log.warning(
            "%d frames show several people that no track id tells apart, such as frame %d; of each the one of the best "
            "score is lifted, and %d others are left out; predict with tracker=oks to lift all of them",
            len(crowded),
            min(crowded),
            sum(crowded.values()),
        )
    if unknown:
        log.info("%d poses have no identity, and are not lifted", unknown)
    return [[track[frame] for frame in sorted(track)] for track in tracks.values()]


def runs_of(track: Sequence[Seen], frames: int) -> list[list[Seen]]:
    """A track, cut where more frames than a network sees at once are missing."""
    runs: list[list[Seen]] = []
    for each in track:
        if runs and each.image_id - runs[-1][-1].image_id <= frames:
            runs[-1].append(each)
        else:
            runs.append([each])
    return runs


def content_of(lifted: Iterable[Lifted], skeleton: Skeleton) -> dict[str, Any]:
    """What a file of lifted poses holds, as plain data."""
    poses = [
        {
            "image_id": each.seen.image_id,
            "file_name": each.seen.file_name,
            **({} if each.seen.track_id is None else {"track_id": each.seen.track_id}),
            "keypoints": each.joints_mm.astype(np.float64).round(2).tolist(),
            "keypoint_scores": each.scores.astype(np.float64).round(4).tolist(),
            "score": round(each.seen.score, 6),
        }
        for each in lifted
    ]
    return {
        "units": "mm",
        "axes": "x right, y down, z forwards, from the root",
        "keypoints": list(skeleton.keypoints),
        "links": [[skeleton.keypoints[end] for end in link] for link in skeleton.links],
        "poses": poses,
    }
