"""What a prediction found, as arrays, which files of other tools are made of."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lightpose.data.pixels.decode import read_image_hw
from lightpose.inference.frames import Frame
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Poses


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Every pose of a prediction.

    Attributes:
        skeleton: of K keypoints.
        names: F, of the frames, which include those without a pose.
        image_ids: (F,) int64; of a video the numbers of the frames, from 1, with gaps.
        image_hw: (F, 2).
        times_s: (F,) when each is shown, counted from the first of the video; NaN for pictures.
        frames: (N,) int64, increasing: the frame of each pose, from 0.
        keypoints: (N, K, 2) image pixels.
        keypoint_scores: (N, K).
        scores: (N,).
        track_ids: (N,) int64, -1 for who has no identity.
        video: the file, or None; then `files` has the pictures, or nothing if a camera gave them.
        fps: frames per second; None for pictures.
        files: name → path, of pictures.
    """

    skeleton: Skeleton
    names: list[str]
    image_ids: Array
    image_hw: Array
    times_s: Array
    frames: Array
    keypoints: Array
    keypoint_scores: Array
    scores: Array
    track_ids: Array
    video: Path | None = None
    fps: float | None = None
    files: dict[str, Path] = field(default_factory=dict)

    def individuals(self) -> tuple[Array, list[str]]:
        """Who each pose is of: (N,) places in a list of names, and that list.

        ``track7`` has the identity 7. Poses without identity are ``individual1``, ``individual2``, ... in the order in
        which they stand in their frame, so that a name says nothing of who it is in another frame.
        """
        tracked = self.track_ids >= 0
        ids, of_tracked = np.unique(self.track_ids[tracked], return_inverse=True)
        frames = self.frames[~tracked]
        ordinal = np.arange(len(frames)) - np.searchsorted(frames, frames)
        places = np.zeros(len(self.frames), np.int64)
        places[tracked], places[~tracked] = of_tracked, len(ids) + ordinal
        most = int(ordinal.max()) + 1 if len(ordinal) else 0
        return places, [f"track{number}" for number in ids] + [f"individual{number + 1}" for number in range(most)]


@dataclass(slots=True)
class Collection:
    """Gathers the numbers of a prediction, and none of its pixels, as they pass."""

    names: list[str] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    image_hw: list[tuple[int, int]] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    poses: list[tuple[Array, Array, Array, Array]] = field(default_factory=list)

    def of(self, results: Iterable[tuple[Frame, Poses[Array]]]) -> Iterator[tuple[Frame, Poses[Array]]]:
        """The same results."""
        for frame, poses in results:
            self.names.append(frame.name)
            self.image_ids.append(frame.image_id)
            height, width = read_image_hw(frame.image) if isinstance(frame.image, Path) else frame.image.shape[:2]
            self.image_hw.append((height, width))
            self.times_s.append(float("nan") if frame.time_s is None else frame.time_s)
            ids = np.full(len(poses), -1) if poses.track_ids is None else poses.track_ids
            self.poses.append((poses.keypoints[..., :2], poses.keypoint_scores, poses.scores, ids))
            yield frame, poses

    def found(self, skeleton: Skeleton, video: Path | None, fps: float | None, files: dict[str, Path]) -> Found:
        """All that passed."""
        count = skeleton.num_keypoints
        none = (np.zeros((0, count, 2), np.float32), np.zeros((0, count), np.float32), np.zeros(0), np.zeros(0))
        columns = [np.concatenate(parts) for parts in zip(none, *self.poses, strict=True)]
        return Found(
            skeleton=skeleton,
            names=self.names,
            image_ids=np.array(self.image_ids, np.int64),
            image_hw=np.array(self.image_hw, np.int64).reshape(-1, 2),
            times_s=np.array(self.times_s),
            frames=np.repeat(np.arange(len(self.poses)), [len(scores) for _, _, scores, _ in self.poses]),
            keypoints=columns[0],
            keypoint_scores=columns[1],
            scores=columns[2],
            track_ids=columns[3].astype(np.int64),
            video=video,
            fps=fps,
            files=files,
        )


def check_room(folder: Path, size: int) -> None:
    """Write so many bytes to the folder, and take them away again.

    HDF5 keeps what it couldn't write, and kills the process at the end; so it is asked only where there is room.

    Raises:
        OSError: when they don't fit.
    """
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        rest = size
        while rest > 0:
            written = file.write(bytes(min(rest, 2**20)))
            rest -= written or 0
