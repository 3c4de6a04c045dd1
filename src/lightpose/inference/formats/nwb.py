"""Neurodata Without Borders: poses as ndx-pose has them."""

import datetime
import re
import uuid
from collections.abc import Iterable
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from lightpose.inference.formats.found import Found, check_room

FILES = ("predictions.nwb",)
_FRAME = "(x, y) in pixels of the image, x right and y down; (0, 0) is the centre of the top left pixel"


def write_nwb(folder: Path, found: Found) -> None:
    """Write a ``PoseEstimation`` for each individual (see `Found.individuals`) into the module ``behavior``.

    It has a series for each keypoint, with a time for each frame that shows the individual: seconds from the video's
    first frame. The session begins, as the format wants to know it, when the video file was changed last.
    """
    import ndx_pose
    import pynwb

    places, individuals = found.individuals()
    keypoints = found.skeleton.num_keypoints
    check_room(folder, 300_000 + 5_000 * len(individuals) * keypoints + 24 * len(places) * keypoints)
    now = datetime.datetime.now(datetime.UTC)
    began = now if found.video is None else datetime.datetime.fromtimestamp(found.video.stat().st_mtime, datetime.UTC)
    file = pynwb.NWBFile(
        session_description="poses that lightpose-predict found; when the session began is not known",
        identifier=str(uuid.uuid4()),
        session_start_time=began,
    )
    module = file.create_processing_module("behavior", "poses that lightpose-predict found")
    names = _plain(found.skeleton.keypoints)
    links = np.array(found.skeleton.links, np.uint8 if len(names) < 256 else np.uint16).reshape(-1, 2)
    skeleton = ndx_pose.Skeleton(name=_plain([found.skeleton.name])[0], nodes=names, edges=links)
    module.add(ndx_pose.Skeletons(skeletons=[skeleton]))
    shown: dict[str, Any] = {}
    if found.video is not None:
        shown["source_video"] = pynwb.image.ImageSeries(
            name=_plain([found.video.stem])[0],
            description="the video in which the poses were found",
            unit="n.a.",
            format="external",
            external_file=[str(found.video.resolve())],
            starting_frame=[0],
            rate=float(found.fps or 1),
            num_samples=int(found.image_ids.max(initial=1)),
            dimension=found.image_hw[0][::-1].tolist(),
        )
        file.add_acquisition(shown["source_video"])
    for place, individual in enumerate(individuals):
        rows = np.flatnonzero(places == place)
        series: list[Any] = []
        for column, name in enumerate(names):
            series.append(
                ndx_pose.PoseEstimationSeries(
                    name=name,
                    description=f"where {name} is",
                    data=found.keypoints[rows, column].astype(np.float32),
                    unit="pixels",
                    reference_frame=_FRAME,
                    timestamps=series[0] if series else found.times_s[found.frames[rows]],
                    confidence=found.keypoint_scores[rows, column].astype(np.float32),
                    confidence_definition="score of the keypoint",
                )
            )
        module.add(
            ndx_pose.PoseEstimation(
                name=individual,
                pose_estimation_series=series,
                description="poses in the frames of a video",
                source_software="lightpose",
                skeleton=skeleton,
                **shown,
            )
        )
    with pynwb.NWBHDF5IO(str(folder / FILES[0]), "w") as io:
        io.write(file)


def _plain(names: Iterable[str]) -> list[str]:
    """The names without the signs that the format keeps for itself, and each only once."""
    plain: list[str] = []
    for name in names:
        name = re.sub(r"[/:]", "_", name) or "_"
        free = (each for each in chain([name], (f"{name}_{number}" for number in count(2))) if each not in plain)
        plain.append(next(free))
    return plain
