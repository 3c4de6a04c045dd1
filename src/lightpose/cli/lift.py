"""The part of ``lightpose-predict`` that goes from keypoints to joints in space."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightpose.errors import UserError
from lightpose.runtime.signals import saying

if TYPE_CHECKING:
    from lightpose.inference.formats.write import Formats
    from lightpose.inference.frames import Frame
    from lightpose.inference.lifting import Lifted, Lifter, Seen
    from lightpose.inference.sources import Source
    from lightpose.skeleton import Skeleton
    from lightpose.structures import Array, Poses

log = logging.getLogger(__name__)


def lift_file(config: Mapping[str, Any]) -> None:
    """Lift a file of poses as configured, and write the results to ``out``."""
    from lightpose.cli.setup import recognise
    from lightpose.inference.formats.write import OWN, Formats
    from lightpose.inference.lifting import Lifter
    from lightpose.inference.pose_files import names_beside, read_poses
    from lightpose.inference.sources import open_source
    from lightpose.inference.writers import check_out, results_in, staged
    from lightpose.skeleton import Skeleton

    pointless = [name for name in ("boxes", "detector", "tracker", "lift") if config.get(name) is not None]
    if pointless:
        raise UserError(f"a file of poses is lifted as it is; leave out {' and '.join(f'{key}=' for key in pointless)}")
    path, out = Path(str(config["source"])), Path(config["out"])
    pictures = None if config["images"] is None else open_source(config["images"])
    formats = Formats(config["formats"], pictures, lifts=True)
    idle = sorted(set(formats.names) - {*OWN, "trc"})
    if idle:
        raise UserError(
            f"formats=[{','.join(idle)}] is of poses that are found in pictures; a file of poses is only lifted, which "
            "formats=[trc] can hold"
        )
    plane = skeleton_given(config) or recognise(Skeleton.build(names_beside(path)))
    people = read_poses(path, plane.keypoints, sizes(config["image_hw"], pictures, path))
    given = [Path(str(config[name])) for name in ("ckpt", "source", "images") if config[name] is not None]
    check_out(out, given, config["draw"])
    lifter = Lifter(config["ckpt"], config["device"], config["trust"])
    with saying(f"nothing was written to out={out}"), staged(out) as folder:
        lift(people, lifter, plane, folder, config, pictures, formats)
        written = results_in(folder)
    for name in written:
        log.info("%s", out / name)


def lift(
    people: "Iterable[Seen]",
    lifter: "Lifter",
    plane: "Skeleton",
    folder: Path,
    config: Mapping[str, Any],
    pictures: "Source | None",
    formats: "Formats",
) -> None:
    """Lift, write and, if wanted, draw.

    Args:
        people: keypoints of everyone in each frame.
        lifter: of the joints.
        plane: the keypoints.
        folder: where to.
        config: of the command.
        pictures: what the keypoints were found in, to draw beside it; None where that isn't known.
        formats: which other files there are to be.
    """
    from lightpose.inference.lifting import content_of
    from lightpose.inference.pose_files import write_lifted
    from lightpose.inference.writers import LIFTED

    lifted = lifter(people, plane.keypoints, config["batch_size"])
    write_lifted(folder / LIFTED, content_of(lifted, lifter.skeleton))
    formats.write_lifted(folder, lifted, lifter.skeleton)
    frames = len({each.seen.image_id for each in lifted})
    log.info("%d poses in %d frames lifted to space, in mm from %s", len(lifted), frames, lifter.root_name)
    if not lifted:
        log.warning("nobody was lifted, as no frame has a pose with a known keypoint; look at the poses in the plane")
    if not config["draw"]:
        return
    try:
        draw(lifted, lifter.skeleton, plane, folder, config["threshold"], pictures)
    except (OSError, ValueError, UserError) as error:  # whatever it is, the poses are worth more
        log.warning("There are no pictures, or not all, as they can't be made: %s. The poses are complete", error)


def draw(
    lifted: "Sequence[Lifted]",
    skeleton: "Skeleton",
    plane: "Skeleton",
    folder: Path,
    threshold: float,
    pictures: "Source | None",
) -> None:
    """A picture for each frame, or a video of them; without ``pictures`` only of frames with people."""
    from lightpose.cli.progress import counted
    from lightpose.inference.frames import Video
    from lightpose.inference.overlays import ImageWriter, PictureWriter
    from lightpose.inference.stick_figures import StickFigures
    from lightpose.inference.video.writer import VideoWriter
    from lightpose.inference.writers import OVERLAYS

    of_frame: dict[int, list[Lifted]] = {}
    for each in lifted:
        of_frame.setdefault(each.seen.image_id, []).append(each)
    figures = StickFigures(lifted, skeleton, plane, threshold)
    writer: PictureWriter = ImageWriter(folder / OVERLAYS)
    if isinstance(pictures, Video):
        writer = VideoWriter(folder / OVERLAYS, pictures.stem, pictures.fps, pictures)
    frames = without_pixels(of_frame) if pictures is None else pictures.frames()
    total = len(of_frame) if pictures is None else len(pictures.image_ids) or None
    with closing(writer):
        for frame in counted(frames, "drawing", total, "frames"):
            image = frame.pixels() if pictures is not None else None
            writer.write(frame, writer.place(frame), figures(of_frame.get(frame.image_id, []), image))


def without_pixels(of_frame: "Mapping[int, list[Lifted]]") -> "Iterator[Frame]":
    """Frames of which nothing is known but their names."""
    from lightpose.inference.frames import Frame

    for image_id, people in of_frame.items():
        yield Frame(people[0].seen.file_name, Path(people[0].seen.file_name), image_id)


def collected(
    results: "Iterable[tuple[Frame, Poses[Array]]]", people: "list[Seen]"
) -> "Iterator[tuple[Frame, Poses[Array]]]":
    """The same results, each pose of which is added to ``people`` as it passes."""
    import numpy as np

    from lightpose.inference.lifting import Seen

    for frame, poses in results:
        if len(poses):
            image_hw = frame_hw(frame)
            points = np.concatenate([poses.keypoints[..., :2], poses.keypoint_scores[..., None]], -1)
            ids: Any = [None] * len(poses) if poses.track_ids is None else poses.track_ids.tolist()
            for row, track_id in enumerate(ids):
                people.append(
                    Seen(frame.image_id, frame.name, image_hw, points[row], float(poses.scores[row]), track_id)
                )
        yield frame, poses


def frame_hw(frame: "Frame") -> tuple[int, int]:
    """Size of a frame; of a file without decoding it."""
    from lightpose.data.pixels.decode import read_image_hw

    if isinstance(frame.image, Path):
        return read_image_hw(frame.image)
    height, width = frame.image.shape[:2]
    return height, width


def sizes(
    image_hw: Sequence[int] | None, pictures: "Source | None", path: Path
) -> Callable[[int, str], tuple[int, int]]:
    """Gives the size of a frame, by its id and name.

    Raises:
        UserError: when nothing tells, or a frame of the file is not there.
    """
    from lightpose.inference.frames import Frame
    from lightpose.inference.sources import ImageFiles

    if image_hw is not None:
        height, width = image_hw
        return lambda image_id, name: (height, width)
    if pictures is None:
        raise UserError(
            f"{path} doesn't say how large its pictures are, which a lifter must know; give the video or the folder "
            "as images=clip.mp4, or image_hw=[1080,1920]"
        )
    if isinstance(pictures, ImageFiles):
        files, known = pictures, dict[str, tuple[int, int]]()

        def size_of(image_id: int, name: str) -> tuple[int, int]:
            if name not in known:
                if name not in files.files:
                    raise UserError(f"{path} has poses of {name}, which is no picture in images=; give those it is of")
                known[name] = frame_hw(Frame(name, files.files[name], image_id))
            return known[name]

        return size_of
    frames = pictures.frames()
    first = frame_hw(next(frames))
    frames.close()  # type: ignore[attr-defined]
    return lambda image_id, name: first


def skeleton_given(config: Mapping[str, Any]) -> "Skeleton | None":
    """The skeleton that the command line names for a file of poses."""
    from lightpose.checkpoint import assemble

    choice = config.get("skeleton")
    chosen: Skeleton | None = assemble(choice) if choice and "_target_" in choice else None
    return chosen
