"""Sequences of 2-D keypoints with joints in space, as lifting learns from them, and their augmentation."""

import logging
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lightpose.data.base import PoseDataset
from lightpose.data.sequence_files import read_frames
from lightpose.data.transforms import mirror_labels
from lightpose.errors import UserError
from lightpose.geometry import screen_from_image
from lightpose.skeleton import Skeleton
from lightpose.structures import Annotations, Array, Sample

log = logging.getLogger(__name__)

_ENOUGH = 10_000
"""Frames whose bones are measured; more would say the same."""
_LOPSIDED = 0.2
"""How far the sides of a body differ at the most; where joints have wrong names, it is twice as much and more."""


class PoseSequences(PoseDataset):
    """A sample for each frame of an ``.npz`` file: the 2-D keypoints around it, and its joints in space.

    The file is one that MMPose makes of Human3.6M or MPI-INF-3DHP, or that of H3WB. The former holds, for N frames,
    ``imgname`` (N,), ``part`` (N, K, 2 or 3) image pixels and perhaps confidences, and ``S`` (N, K, 3 or 4): metres in
    the camera's frame, then whether the joint is labelled; without ``S`` none is. A name is that of a clip and a
    number, ``CLIP_000001.jpg``. Where the clip is ``SUBJECT_ACTION.CAMERA``, as ``S1_Walking_1.54138969``, its camera
    is ``SUBJECT.CAMERA``, and figures are computed for each action; else the clip's own name is that of its camera.

    Inputs (T, K, 3) are x and y on the screen (`lightpose.geometry.screen_from_image`) and a confidence; a keypoint
    that is not known has a confidence of 0 and stands between where it was and where it will be. Labels are in mm
    before the camera.

    Args:
        annotations: the file.
        images: not used.
        frames: of a sample. Where a clip has no more, its first or last frame is repeated.
        causal: the labelled frame is the last of a sample, not the middle one.
        stride: a number makes a sample of each window of ``frames`` frames, all of which are labelled: its instances,
            in order. Windows to learn from begin so many frames apart, others adjoin. The last of a clip ends with it.
            A frame that a window repeats, or that the one before it has in evaluation, has no label and the id -1.
        detections: what follows the name of the annotations in that of a file beside them, whose keypoints, detected
            ones, take the place of theirs: ``_cpn.npy``, so that ``train_cpn.npy`` (N, K, 2 or 3) is of ``train.npz``.
        cameras: file of cameras, see `lightpose.data.cameras.read_cameras`; None takes ``cameras.json`` or
            ``cameras.pkl`` beside the annotations. That of H3WB has its own.
        shared: see `PoseDataset`.

    Raises:
        UserError: for files that can't be used.
    """

    sequences: ClassVar[bool] = True

    def __init__(
        self,
        annotations: Path | str,
        images: Path | str | None = None,
        frames: int = 27,
        causal: bool = False,
        stride: int | None = None,
        detections: str | None = None,
        cameras: str | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if frames < 1 or (frames % 2 == 0 and not causal and stride is None):
            raise UserError(f"reader.frames={frames} has no middle frame; give an odd number, or reader.causal=true")
        if stride is not None and not 1 <= stride <= frames:
            raise UserError(f"reader.stride={stride} must be between 1 and reader.frames={frames}, or frames are lost")
        path = Path(annotations)
        self.content = read_frames(path, self.skeleton.num_keypoints, cameras, detections)
        clip_of = self.content.clip_of
        ends = np.bincount(clip_of).cumsum()
        self.bounds = list(pairwise([0, *ends.tolist()]))
        self.points = self.content.keypoints.copy()  # (N, K, 3)
        for first, end in self.bounds:
            self.points[first:end] = filled(self.points[first:end])
        if not self.points[..., 2].any():
            raise UserError(f"{path} has keypoints that are not finite, and no others; give the right file")
        self.labelled = bool(self.content.visible.any())
        lopsided = _lopsided(self.content.joints_mm, self.content.visible > 0, self.skeleton)
        if lopsided > _LOPSIDED:
            log.warning(
                "%s: lengths of bones on the left and on the right differ by %.0f %%, so its joints are hardly in the "
                "order of skeleton=%s; give the skeleton that they have, such as skeleton=mpi_inf_3dhp",
                path,
                100 * lopsided,
                self.skeleton.name,
            )
        self.window = np.arange(frames) - (0 if stride else frames - 1 if causal else frames // 2)
        steps = {True: stride, False: frames} if stride else {}
        self.starts = {
            training: np.array([start for each in self.bounds for start in window_starts(*each, frames, step)])
            for training, step in steps.items()
        }

    def __len__(self) -> int:
        return len(self.starts[self.training]) if self.starts else len(self.points)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """The frames around one, or of a window, before any transform."""
        starts = self.starts.get(self.training)
        at = index if starts is None else int(starts[index])
        first, end = self.bounds[self.content.clip_of[at]]
        rows = at + self.window
        inside = rows < end
        rows = rows.clip(first, end - 1)
        camera = self.content.cameras[self.content.clip_of[at]]
        if starts is None:
            labelled, counts = np.array([at]), np.ones(1, bool)
        else:
            before = starts[index - 1] + len(rows) if index and not self.training else 0
            labelled, counts = rows, inside & (rows >= before)
        points = self.points[labelled, :, :2]
        boxes = np.concatenate([points.min(1), points.max(1)], -1)
        labels = Annotations(
            keypoints=self.content.joints_mm[labelled],
            visible=self.content.visible[labelled] * counts[:, None].astype(np.float32),
            boxes_xyxy=boxes,
            areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
            categories=np.zeros(len(labelled), np.int64),
            ids=np.where(counts, labelled, -1),
            scores=np.ones(len(labelled), np.float32),
        )
        screen = screen_from_image(self.points[rows, :, :2], camera.image_hw)
        sequence = np.concatenate([screen, self.points[rows, :, 2:]], -1, dtype=np.float32)  # (T, K, 3)
        return Sample(sequence, labels, np.eye(3), at, index, camera.image_hw, camera=camera.matrix)

    def ground_truth(self) -> dict[str, Any]:
        """The frames, with clip and, where it is known, action; their labels are in the batches."""
        content = self.content
        actions = [content.action_of(clip) for clip in range(len(content.clips))]
        images = [
            {
                "id": index,
                "file_name": name,
                "height": content.cameras[clip].image_hw[0],
                "width": content.cameras[clip].image_hw[1],
                "clip": int(clip),
                "action": actions[clip],
            }
            for index, (name, clip) in enumerate(zip(content.names, content.clip_of, strict=True))
        ]
        return {"images": images, "annotations": [], "categories": []}


def _lopsided(joints: Array, labelled: Array, skeleton: Skeleton) -> float:
    """By how much bones on the left and on the right differ, as a share of the longer ones; 0 where none is known."""
    bones = {tuple(sorted(link)) for link in skeleton.links}
    other = {bone: tuple(sorted(skeleton.swap[end] for end in bone)) for bone in bones}
    pairs = [[*bone, *other[bone]] for bone in bones if bone < other[bone] in bones]
    if not pairs:
        return 0.0
    ends = np.array(pairs)  # (P, 4)
    some = slice(None, None, len(joints) // _ENOUGH or 1)
    joints, labelled = joints[some], labelled[some]
    known = labelled[:, ends].all(-1)  # (N, P)
    left, right = (np.linalg.norm(joints[:, ends[:, at]] - joints[:, ends[:, at + 1]], axis=-1) for at in (0, 2))
    longer = np.maximum(left, right)[known].sum()
    return float(np.abs(left - right)[known].sum() / longer) if longer else 0.0


def filled(points: Array) -> Array:
    """Keypoints (T, K, 3) of one person, where each that has no confidence stands between its known neighbours in time.

    Before the first and after the last of them it stays; one that is never known goes with the middle of the others.
    Where nothing is known, zeros come.
    """
    known = points[..., 2] > 0  # (T, K)
    if known.all():
        return points
    out, frames = points.copy(), np.arange(len(points))
    ever = known.any(0)
    for joint in np.flatnonzero(ever & ~known.all(0)).tolist():
        there = known[:, joint]
        for axis in (0, 1):
            out[:, joint, axis] = np.interp(frames, frames[there], points[there, joint, axis])
    out[:, ~ever, :2] = out[:, ever, :2].mean(1, keepdims=True) if ever.any() else 0
    return out


def window_starts(first: int, end: int, frames: int, step: int) -> list[int]:
    """Where windows of ``frames`` frames begin, ``step`` apart, so that each of ``first`` to ``end - 1`` is in one.

    The last ends with the frames, unless they are fewer than a window.
    """
    last = max(first, end - frames)
    starts = list(range(first, last + 1, step))
    return starts if starts[-1] == last else [*starts, last]


class MirrorSequence:
    """Mirrors the keypoints of a sample on the screen, and its joints in space before a mirrored camera.

    Args:
        skeleton: says which keypoints are each other's mirror image; nothing is mirrored where that is not known.
        probability: of doing it.
    """

    def __init__(self, skeleton: Skeleton, probability: float = 0.5) -> None:
        self.skeleton, self.probability = skeleton, probability

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Mirror, or not."""
        if rng.random() >= self.probability or not self.skeleton.mirrors:
            return sample
        labels, camera = mirror_labels(sample.instances, self.skeleton), sample.camera
        width = sample.image_hw[1]
        if camera is not None:
            camera = camera.copy()
            camera[0, 2] = width - camera[0, 2]
        return replace(
            sample,
            image=sample.image[:, list(self.skeleton.swap)] * np.array([-1, 1, 1], np.float32),
            instances=replace(
                labels,
                keypoints=labels.keypoints * np.array([-1, 1, 1], np.float32),
                boxes_xyxy=np.array([width, 0, width, 0], np.float32)
                + labels.boxes_xyxy[:, [2, 1, 0, 3]] * [-1, 1, -1, 1],
            ),
            camera=camera,
        )
