"""TRC: tables of markers in space, which OpenSim and other tools for biomechanics read."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.inference.lifting import Lifted
from lightpose.skeleton import Skeleton
from lightpose.structures import Array

FILES = ("predictions_3d.trc",)


def write_trc(
    folder: Path, lifted: Sequence[Lifted], skeleton: Skeleton, fps: float, time_s: Callable[[int], float]
) -> None:
    """Write the joints of each person: mm from the root, x right, y up, z towards the camera.

    A row for each frame from the first to the last that shows the person, blank where it doesn't. Time is in seconds
    from the first frame of the video. The file of one person is ``predictions_3d.trc``; of several each has one:
    ``predictions_3d_track7.trc``, or ``predictions_3d_untracked.trc`` for poses without an identity.

    Args:
        folder: where to.
        lifted: the joints.
        skeleton: of the joints.
        fps: frames per second, on average.
        time_s: gives the time of the frame with a number.
    """
    people: dict[int | None, dict[int, Array]] = {}
    for each in lifted:
        people.setdefault(each.seen.track_id, {})[each.seen.image_id] = each.joints_mm
    for track_id, joints in people.items():
        name = FILES[0]
        if len(people) > 1:
            who = "untracked" if track_id is None or track_id < 0 else f"track{track_id}"
            name = f"predictions_3d_{who}.trc"
        (folder / name).write_text(_table(name, joints, skeleton, fps, time_s), encoding="utf-8")


def _table(name: str, joints: dict[int, Array], skeleton: Skeleton, fps: float, time_s: Callable[[int], float]) -> str:
    first, count = min(joints), max(joints) - min(joints) + 1
    rate = f"{fps:g}"
    facts = {"DataRate": rate, "CameraRate": rate, "NumFrames": count, "NumMarkers": skeleton.num_keypoints}
    facts |= {"Units": "mm", "OrigDataRate": rate, "OrigDataStartFrame": first, "OrigNumFrames": count}
    rows: list[list[Any]] = [
        ["PathFileType", "4", "(X/Y/Z)", name],
        list(facts),
        list(facts.values()),
        ["Frame#", "Time"] + [cell for keypoint in skeleton.keypoints for cell in (_marker(keypoint), "", "")],
        ["", ""] + [f"{axis}{number + 1}" for number in range(skeleton.num_keypoints) for axis in "XYZ"],
        [],
    ]
    for number in range(first, first + count):
        cells = [""] * (3 * skeleton.num_keypoints)
        if number in joints:
            cells = [f"{value:.3f}" for value in (joints[number] * np.array([1, -1, -1])).ravel()]
        rows.append([number, f"{time_s(number):.6f}", *cells])
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def _marker(name: str) -> str:
    return "_".join(name.split())
