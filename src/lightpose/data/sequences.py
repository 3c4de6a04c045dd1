"""Sequences of 2-D keypoints with joints in space, as lifting learns from them, and their augmentation."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lightpose.data.base import PoseDataset
from lightpose.data.cameras import Camera, read_cameras
from lightpose.data.transforms import mirror_labels
from lightpose.errors import UserError
from lightpose.geometry import screen_from_image
from lightpose.skeleton import Skeleton
from lightpose.structures import Annotations, Array, Sample

_MM = 1000.0  # of a metre
_FRAME = re.compile(r"(?P<clip>.+)_(?P<number>\d+)$")
_IN_CLIP = re.compile(r"(?P<subject>[^_.]+)_(?P<action>[^.]+?)(_\d+)?\.(?P<camera>.+)$")


class PoseSequences(PoseDataset):
    """A sample for each frame of an ``.npz`` file: the 2-D keypoints around it, and its joints in space.

    The file is one that MMPose makes of Human3.6M or MPI-INF-3DHP. It holds, for N frames, ``imgname`` (N,), ``part``
    (N, K, 2 or more) image pixels and ``S`` (N, K, 3 or 4): metres in the camera's frame, then whether the joint is
    labelled. A name is that of a clip and a number, ``CLIP_000001.jpg``. Where the clip is ``SUBJECT_ACTION.CAMERA``,
    as ``S1_Walking_1.54138969``, its camera is ``SUBJECT.CAMERA``, and figures are computed for each action; else the
    clip's own name is that of its camera.

    Inputs are on the screen (`lightpose.geometry.screen_from_image`), labels in mm before the camera.

    Args:
        annotations: the file.
        images: not used.
        frames: of a sample. Where a clip has no more, its first or last frame is repeated.
        causal: the labelled frame is the last of a sample, not the middle one.
        cameras: file of cameras, see `lightpose.data.cameras.read_cameras`; None takes ``cameras.json`` or
            ``cameras.pkl`` beside the annotations.
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
        cameras: str | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if frames < 1 or (frames % 2 == 0 and not causal):
            raise UserError(f"reader.frames={frames} has no middle frame; give an odd number, or reader.causal=true")
        path = Path(annotations)
        names, self.points_px, space = _arrays(path, self.skeleton.num_keypoints)
        self.joints_mm, self.visible = (space[..., :3] * _MM).astype(np.float32), _visible(space)
        clips, numbers = _clips(path, names)
        self.clips, clip_of = np.unique(np.array(clips), return_inverse=True)
        order = np.lexsort((np.array(numbers), clip_of))
        self.names = [names[place] for place in order]
        self.points_px, self.joints_mm, self.visible = (
            array[order] for array in (self.points_px, self.joints_mm, self.visible)
        )
        self.clip_of = clip_of[order]
        ends = np.bincount(clip_of).cumsum()
        self.first, self.last = np.append(0, ends)[self.clip_of], ends[self.clip_of] - 1
        self.cameras = _cameras_of(path, cameras, self.clips.tolist())
        before = frames - 1 if causal else frames // 2
        self.window = np.arange(frames) - before

    def __len__(self) -> int:
        return len(self.names)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """The frames around one, before any transform."""
        rows = (index + self.window).clip(self.first[index], self.last[index])
        camera = self.cameras[self.clip_of[index]]
        points = self.points_px[index]
        box = np.concatenate([points.min(0), points.max(0)]).astype(np.float32)
        labels = Annotations(
            keypoints=self.joints_mm[index][None],
            visible=self.visible[index][None],
            boxes_xyxy=box[None],
            areas=np.prod(box[2:] - box[:2], keepdims=True),
            categories=np.zeros(1, np.int64),
            ids=np.array([index]),
            scores=np.ones(1, np.float32),
        )
        screen = screen_from_image(self.points_px[rows], camera.image_hw).astype(np.float32)  # (T, K, 2)
        return Sample(screen, labels, np.eye(3), index, index, camera.image_hw, camera=camera.matrix)

    def ground_truth(self) -> dict[str, Any]:
        """The frames, with clip and, where it is known, action; their labels are in the batches."""
        found = [_IN_CLIP.match(clip) for clip in self.clips]
        actions = [match and match["action"] for match in found]
        images = [
            {
                "id": index,
                "file_name": name,
                "height": self.cameras[clip].image_hw[0],
                "width": self.cameras[clip].image_hw[1],
                "clip": int(clip),
                "action": actions[clip],
            }
            for index, (name, clip) in enumerate(zip(self.names, self.clip_of, strict=True))
        ]
        return {"images": images, "annotations": [], "categories": []}


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
            image=sample.image[:, list(self.skeleton.swap)] * np.array([-1, 1], np.float32),
            instances=replace(
                labels,
                keypoints=labels.keypoints * np.array([-1, 1, 1], np.float32),
                boxes_xyxy=np.array([width, 0, width, 0], np.float32)
                + labels.boxes_xyxy[:, [2, 1, 0, 3]] * [-1, 1, -1, 1],
            ),
            camera=camera,
        )


def _arrays(path: Path, count: int) -> tuple[list[str], Array, Array]:
    """Names (N,), keypoints (N, K, 2) in image pixels and joints (N, K, 3 or 4) of a file.

    Raises:
        UserError: for a file that has none, or of another number of keypoints.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names, points, space = (file[key] for key in ("imgname", "part", "S"))
    except (OSError, EOFError, KeyError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise UserError(
            f"{path} is no file of sequences ({type(error).__name__}: {error}); give an .npz file with imgname, part "
            "and S, see lightpose.data.sequences.PoseSequences"
        ) from error
    shapes = names.shape, points.shape, space.shape
    fits = points.ndim == space.ndim == 3 and names.ndim == 1 and len(names) == len(points) == len(space) > 0
    if not fits or points.shape[2] < 2 or space.shape[2] < 3 or names.dtype.kind != "U":
        raise UserError(
            f"{path} has imgname, part and S of shapes {', '.join(map(str, shapes))}; expected names (N,), keypoints "
            "(N, K, 2) and joints (N, K, 3)"
        )
    if not points.shape[1] == space.shape[1] == count:
        raise UserError(
            f"{path} has {points.shape[1]} keypoints and {space.shape[1]} joints, the skeleton {count}; choose the "
            "skeleton of the data, such as skeleton=h36m"
        )
    if not np.isfinite(points[..., :2]).all():
        raise UserError(f"{path} has keypoints that are not finite; leave out frames without all of them")
    return names.tolist(), points[..., :2].astype(np.float32), space


def _visible(space: Array) -> Array:
    """(N, K) float32 in {0, 2}: whether a joint is labelled."""
    labelled = np.isfinite(space[..., :3]).all(-1)
    if space.shape[2] > 3:
        labelled &= space[..., 3] > 0
    return np.where(labelled, 2, 0).astype(np.float32)


def _clips(path: Path, names: list[str]) -> tuple[list[str], list[int]]:
    """The clip of each frame, and its number there.

    Raises:
        UserError: for a name without a number.
    """
    found = [_FRAME.match(Path(name).stem) for name in names]
    if None in found:
        raise UserError(f"{path}: {names[found.index(None)]!r} is no name of a frame; expected CLIP_000001.jpg")
    frames = [match for match in found if match]
    return [frame["clip"] for frame in frames], [int(frame["number"]) for frame in frames]


def _cameras_of(path: Path, given: str | None, clips: list[str]) -> list[Camera]:
    """The camera of each clip.

    Raises:
        UserError: when there is no file of cameras, or one of them is not in it.
    """
    beside = [path.parent / name for name in ("cameras.json", "cameras.pkl")]
    file = next((each for each in ([Path(given)] if given else beside) if each.is_file()), None)
    if file is None:
        looked = given or f"{beside[0]} and {beside[1]}"
        raise UserError(f"there are no cameras in {looked}; give the file as reader.cameras=cameras.json")
    known, found = read_cameras(file), [_IN_CLIP.match(clip) for clip in clips]
    names = [
        f"{match['subject']}.{match['camera']}" if match else clip for match, clip in zip(found, clips, strict=True)
    ]
    missing = [name for name in names if name not in known]
    if missing:
        raise UserError(
            f"{file} has no camera {missing[0]}, with which {path} was taken; it has {', '.join([*known][:8])}"
        )
    return [known[name] for name in names]
