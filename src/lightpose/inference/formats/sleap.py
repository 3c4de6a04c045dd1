"""SLEAP's files of predictions."""

from pathlib import Path
from typing import Any

from lightpose.inference.formats.found import Found, check_room

FILES = ("predictions.slp",)


def write_sleap(folder: Path, found: Found) -> None:
    """Write the poses as predicted instances, which SLEAP shows, corrects and trains on.

    The file names the video, or the pictures as sequences of images, one for each size of them; it holds no pixels.
    Poses with an identity have a track of that name, others none. Mirrored keypoints are SLEAP's symmetries.
    """
    import sleap_io

    names, swap = found.skeleton.keypoints, found.skeleton.swap
    poses, frames = found.keypoint_scores.shape[0], len(found.names)
    check_room(folder, 30_000 + 1_000 * len(names) + poses * (32 * len(names) + 200) + 300 * frames)
    skeleton = sleap_io.Skeleton(
        nodes=[sleap_io.Node(name) for name in names],
        edges=[(names[start], names[end]) for start, end in found.skeleton.links],
        symmetries=[(names[left], names[right]) for left, right in enumerate(swap) if left < right],
        name=found.skeleton.name,
    )
    places = _places(found)
    ids = sorted(set(found.track_ids.tolist()) - {-1})
    tracks = {number: sleap_io.Track(name=f"track{number}") for number in ids}
    instances: list[list[Any]] = [[] for _ in found.names]
    for row, frame in enumerate(found.frames.tolist()):
        instances[frame].append(
            sleap_io.PredictedInstance.from_numpy(
                found.keypoints[row].astype("float64"),
                skeleton,
                point_scores=found.keypoint_scores[row],
                score=float(found.scores[row]),
                track=tracks.get(int(found.track_ids[row])),
            )
        )
    labels = sleap_io.Labels(
        [
            sleap_io.LabeledFrame(video=video, frame_idx=number, instances=people)
            for (video, number), people in zip(places, instances, strict=True)
            if people
        ],
        videos=list({id(video): video for video, _ in places}.values()),
        skeletons=[skeleton],
        tracks=list(tracks.values()),
        provenance={"source": "lightpose-predict"},
    )
    sleap_io.save_slp(labels, str(folder / FILES[0]), embed=False, verbose=False)


def _places(found: Found) -> list[tuple[Any, int]]:
    """For each frame the video of SLEAP that it is in, and its number there, from 0."""
    import sleap_io

    def video(filename: Any, frames: int, height: int, width: int) -> Any:
        about: dict[str, Any] = {"shape": [frames, height, width, 3], "grayscale": False, "fps": found.fps}
        if isinstance(filename, list):
            about |= {"type": "ImageVideo", "filename": filename[0], "filenames": filename}
            about |= {"height_": height, "width_": width, "channels_": 3}
        else:
            about |= {"type": "MediaVideo", "filename": filename, "bgr": True, "dataset": "", "input_format": ""}
        return sleap_io.Video(filename=filename, open_backend=False, backend_metadata=about)

    sizes = [tuple(size) for size in found.image_hw.tolist()]
    if found.fps is not None:
        name = str(found.video.resolve()) if found.video is not None else found.names[0].rpartition("_")[0]
        one = video(name, int(found.image_ids.max()), *sizes[0])
        return [(one, number - 1) for number in found.image_ids.tolist()]
    files: dict[tuple[int, ...], list[str]] = {}
    numbers = []
    for name, size in zip(found.names, sizes, strict=True):
        numbers.append(len(files.setdefault(size, [])))
        files[size].append(str(found.files[name].resolve()))
    videos = {size: video(listed, len(listed), *size) for size, listed in files.items()}
    return [(videos[size], number) for size, number in zip(sizes, numbers, strict=True)]
