"""Files of sequences: keypoints in the frames of clips, with joints in space where they are known."""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.data.cameras import Camera, read_cameras
from lightpose.data.plain_pickle import read_plain
from lightpose.errors import UserError, in_short
from lightpose.structures import Array

_MM = 1000.0  # of a metre
_FAR = 100.0  # metres: where nobody stands; so depths beyond it are mm
_FRAME = re.compile(r"(?P<clip>.+)_(?P<number>\d+)$")
_IN_CLIP = re.compile(r"(?P<subject>[^_.]+)_(?P<action>[^.]+?)(_\d+)?\.(?P<camera>.+)$")
_H3WB_HW = 1000, 1000


@dataclass(frozen=True, slots=True)
class Frames:
    """N frames, those of a clip together and in order.

    Attributes:
        names: N.
        clip_of: (N,) int64, position in ``clips``.
        clips: their names.
        cameras: of the clips.
        keypoints: (N, K, 3) float32: x and y in image pixels, confidence. Where one is not known it is NaN, NaN and 0.
        joints_mm: (N, K, 3) float32, in the camera's frame.
        visible: (N, K) float32 in {0, 2}: whether a joint is labelled.
    """

    names: list[str]
    clip_of: Array
    clips: list[str]
    cameras: list[Camera]
    keypoints: Array
    joints_mm: Array
    visible: Array

    def action_of(self, clip: int) -> str | None:
        """What is done in a clip, where its name tells."""
        found = _IN_CLIP.match(self.clips[clip])
        return found and found["action"]


def read_frames(path: Path, keypoints: int, cameras: str | None = None, detections: str | None = None) -> Frames:
    """The frames of a file: see `lightpose.data.sequences.PoseSequences`.

    Args:
        path: the file.
        keypoints: of the skeleton.
        cameras: file of cameras; None takes ``cameras.json`` or ``cameras.pkl`` beside the file. Not for H3WB, whose
            file has its own.
        detections: see `lightpose.data.sequences.PoseSequences`.

    Raises:
        UserError: for a file that can't be used.
    """
    known: Mapping[str, Camera] = {}
    if not path.is_file():
        raise UserError(f"there is no file {path}; give an .npz file of sequences")
    try:
        if "train_data.npy" in zipfile.ZipFile(path).namelist():
            names, points, space, known = _h3wb(path)
        else:
            names, points, space = _arrays(path)
    except Exception as error:  # of whatever a damaged file gives
        raise UserError(
            f"{path} is no file of sequences ({type(error).__name__}: {in_short(error)}); give an .npz file with "
            "imgname, part and S, or that of H3WB, see lightpose.data.sequences.PoseSequences"
        ) from error
    _check(path, names, points, space, keypoints)
    if detections is not None:
        points = _detected(path.with_name(f"{path.stem}{detections}"), points)
    found = [_FRAME.match(Path(name).stem) for name in names.tolist()]
    if None in found:
        raise UserError(f"{path}: {str(names[found.index(None)])!r} is no name of a frame; expected CLIP_000001.jpg")
    clips, clip_of = np.unique(np.array([match["clip"] for match in found if match]), return_inverse=True)
    order = np.lexsort((np.array([int(match["number"]) for match in found if match]), clip_of))
    labelled = np.asarray(np.isfinite(space[..., :3]).all(-1))
    if space.shape[2] > 3:
        labelled &= space[..., 3] > 0
    _check_depths(path, space[..., 2][labelled])
    return Frames(
        names=names[order].tolist(),
        clip_of=clip_of[order],
        clips=clips.tolist(),
        cameras=_cameras_of(path, cameras, clips.tolist(), known),
        keypoints=_with_confidence(points)[order],
        joints_mm=np.where(labelled[..., None], space[..., :3] * _MM, 0).astype(np.float32)[order],
        visible=np.where(labelled, 2, 0).astype(np.float32)[order],
    )


def _arrays(path: Path) -> tuple[Array, Array, Array]:
    """Names (N,), keypoints (N, K, 2 or more) and joints (N, K, 3 or 4); without ``S`` no joint is labelled."""
    with np.load(path, allow_pickle=False) as file:
        names, points = file["imgname"], file["part"]
        space = file["S"] if "S" in file else np.zeros((*points.shape[:2], 4))
    return names, points, space


def _detected(path: Path, labelled: Array) -> Array:
    """Detected keypoints (N, K, 2 or 3) in the place of labelled ones.

    Raises:
        UserError: for a file that doesn't have them.
    """
    if not path.is_file():
        raise UserError(
            f"there is no {path}, which reader.detections names: it gives the end of the name that follows that of the "
            "annotations, such as _cpn.npy"
        )
    try:
        points: Array = np.load(path, allow_pickle=False)
        shape = points.shape
    except (OSError, EOFError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}, which reader.detections names, is no .npy file of keypoints ({in_short(error)})"
        ) from error
    if shape[:2] != labelled.shape[:2] or shape[2:] not in ((2,), (3,)):
        raise UserError(f"{path} has keypoints of shape {shape}; expected {labelled.shape[:2]}, then 2 or 3")
    return points


def _h3wb(path: Path) -> tuple[Array, Array, Array, dict[str, Camera]]:
    """As `_arrays`, of a file of H3WB (arXiv:2211.15692), and its cameras."""
    people, metadata = _object(path, "train_data"), _object(path, "metadata")
    names, points, space, cameras = [], [], [], {}
    for subject, actions in people.items():
        for action, content in actions.items():
            numbers = [int(number) for number in np.asarray(content["frame_id"]).tolist()]
            for camera in sorted(key for key, value in content.items() if isinstance(value, dict)):
                clip = f"{subject}_{str(action).replace(' ', '_')}.{camera}"
                names += [f"{clip}_{number:06d}.jpg" for number in numbers]
                points.append(np.asarray(content[camera]["pose_2d"], np.float32))
                space.append(np.asarray(content[camera]["camera_3d"], np.float64))
                matrix = np.asarray(metadata[subject][camera]["K"], np.float32).reshape(3, 3).copy()
                matrix[:2] *= _H3WB_HW[1]
                cameras[f"{subject}.{camera}"] = Camera(matrix, _H3WB_HW)
    joints = np.concatenate(space)
    if np.nanmedian(joints[..., 2]) > _FAR:
        joints /= _MM
    return np.array(names), np.concatenate(points), joints, cameras


def _object(path: Path, name: str) -> Any:
    """The one object of an array of objects in an .npz file."""
    with zipfile.ZipFile(path) as files, files.open(f"{name}.npy") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        header(file)
        try:
            return np.asarray(read_plain(file)).item()
        except Exception as error:
            raise ValueError(f"{name}: {error}") from error


def _check(path: Path, names: Array, points: Array, space: Array, count: int) -> None:
    """Refuse arrays of other shapes.

    Raises:
        UserError: with what is expected.
    """
    shapes = names.shape, points.shape, space.shape
    fits = points.ndim == space.ndim == 3 and names.ndim == 1 and len(names) == len(points) == len(space) > 0
    if not fits or points.shape[2] < 2 or space.shape[2] < 3 or names.dtype.kind != "U":
        raise UserError(
            f"{path} has imgname, part and S of shapes {', '.join(map(str, shapes))}; expected names (N,), keypoints "
            "(N, K, 2) and joints (N, K, 3), all of the same N"
        )
    if not points.shape[1] == space.shape[1] == count:
        choice = {133: "coco_wholebody"}.get(points.shape[1], "h36m")
        raise UserError(
            f"{path} has {points.shape[1]} keypoints and {space.shape[1]} joints, the skeleton {count}; choose the "
            f"skeleton of the data, such as skeleton={choice}"
        )


def _check_depths(path: Path, depths: Array) -> None:
    """Refuse joints (metres) that no camera sees.

    Raises:
        UserError: for joints in mm, and for joints that are counted from their root or stand in the world.
    """
    if not len(depths):
        return
    middle = float(np.median(depths))
    if middle > _FAR:
        raise UserError(f"joints of {path} are {middle:.0f} m before the camera; give `S` in metres, not in mm")
    behind = float((depths <= 0).mean())
    if behind > 0.1:
        raise UserError(
            f"{behind:.0%} of the joints of {path} are not before the camera (z <= 0); give `S` in the camera's frame, "
            "not from the root and not in that of the world"
        )


def _with_confidence(points: Array) -> Array:
    """(N, K, 3) float32 of points (N, K, 2 or more), whose third number is a confidence."""
    xy = points[..., :2].astype(np.float32)
    confidence = points[..., 2] if points.shape[2] > 2 else np.ones(points.shape[:2])
    known = np.asarray(np.isfinite(xy).all(-1) & (confidence > 0))
    return np.concatenate(
        [np.where(known[..., None], xy, np.nan), np.where(known, confidence, 0)[..., None]], -1, dtype=np.float32
    )


def _cameras_of(path: Path, given: str | None, clips: list[str], known: Mapping[str, Camera]) -> list[Camera]:
    """The camera of each clip.

    Raises:
        UserError: when there is no file of cameras, or one of them is not in it.
    """
    file = path
    if not known or given:
        beside = [path.parent / name for name in ("cameras.json", "cameras.pkl")]
        there = next((each for each in ([Path(given)] if given else beside) if each.is_file()), None)
        if there is None:
            looked = given or f"{beside[0]} and {beside[1]}"
            raise UserError(f"there are no cameras in {looked}; give the file as reader.cameras=cameras.json")
        file, known = there, read_cameras(there)
    found = [_IN_CLIP.match(clip) for clip in clips]
    names = [
        f"{match['subject']}.{match['camera']}" if match else clip for match, clip in zip(found, clips, strict=True)
    ]
    missing = [name for name in names if name not in known]
    if missing:
        raise UserError(
            f"{file} has no camera {missing[0]}, with which {path} was taken; it has {', '.join([*known][:8])}"
        )
    return [known[name] for name in names]
