"""``lightpose-predict``: find poses in images or a video."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lightpose.cli import app
from lightpose.errors import UserError
from lightpose.runtime.imports import quick_imports
from lightpose.runtime.signals import react_by, saying

if TYPE_CHECKING:
    from lightpose.inference.detections import Detections
    from lightpose.inference.detectors import Detector
    from lightpose.inference.frames import Frame
    from lightpose.inference.overlays import Overlays
    from lightpose.inference.predictor import Find, Predictor
    from lightpose.inference.smoothing import Smoother
    from lightpose.inference.sources import Source
    from lightpose.skeleton import Skeleton
    from lightpose.structures import Array, Poses

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of the console script."""
    app.run("predict", predict)


def predict(composed: DictConfig) -> None:
    """Predict as configured, and write the results to ``out``."""
    with quick_imports():
        import cv2

        from lightpose.cli.lift import collected, lift, lift_file, skeleton_given
        from lightpose.cli.progress import counted
        from lightpose.cli.setup import resolved
        from lightpose.cli.tracks import check_detect_every, tracking_of
        from lightpose.data.pixels.image_header import check_on_bad_image
        from lightpose.inference.early_end import EarlyEnd
        from lightpose.inference.formats.write import Formats
        from lightpose.inference.lifting import Lifter, Seen, sources_of
        from lightpose.inference.pose_files import is_poses
        from lightpose.inference.predictor import Predictor
        from lightpose.inference.sources import ImageFiles, open_source
        from lightpose.inference.video.live import Live
        from lightpose.inference.writers import OVERLAYS, check_out, results_in, staged, write_predictions

    config = resolved(composed)
    check_on_bad_image(config["on_bad_image"])
    if is_poses(config["source"]):
        lift_file(config)
        return
    if skeleton_given(config) is not None or config["image_hw"] is not None:
        raise UserError("skeleton= and image_hw= tell of a file of poses, and source= is none; leave them out")
    source, out = open_source(config["source"], config["images"], config["hwaccel"]), Path(config["out"])
    if config["images"] is not None and not (isinstance(source, ImageFiles) and source.has_ids):
        raise UserError(
            f"images= says where the images of a COCO JSON are, and source={config['source']} is none; leave it out"
        )
    formats = Formats(config["formats"], source, config["lift"] is not None)
    check_out(out, inputs(config, source), config["draw"])
    cv2.setNumThreads(0)  # the predictor's threads share the cores
    predictor = Predictor(
        config["ckpt"], config["device"], config["trust"], config["precision"], config["speed"], config["image_bits"]
    )
    lifter = None if config["lift"] is None else Lifter(config["lift"], config["device"], config["trust"])
    if lifter is not None:
        sources_of(lifter.skeleton, predictor.skeleton.keypoints)  # before the work
    check_detect_every(config, source, predictor.estimator.takes_boxes)
    tracking = tracking_of(config, source, predictor.skeleton)
    smoother = smoother_of(config, source)
    boxes, detector = people_of(config, source, predictor.estimator.takes_boxes)
    start, overlays, people = time.perf_counter(), None, list[Seen]()
    early = None if isinstance(source, ImageFiles) else EarlyEnd()
    with saying(f"nothing was written to out={out}"), ExitStack() as stack:
        folder = stack.enter_context(staged(out, early))
        if isinstance(source, Live):
            until_interrupt(source.stopped)
        elif early is not None:
            react_by(early.stop)
        results = finite(found(config, predictor, source, boxes, detector), config["ckpt"])
        if isinstance(source, ImageFiles) and boxes is not None and config["boxes"] is None:
            results = of_kinds(results, source.kinds)
        for step in (tracking, smoother, None if early is None else early.guarded):
            results = results if step is None else step(results)
        results = formats.collected(results)
        if lifter is not None:
            results = collected(results, people)
        elif config["draw"]:
            overlays = overlays_in(folder / OVERLAYS, config, source, predictor.skeleton)
            results = stack.enter_context(closing(overlays.drawn(results)))
        unit = "images" if early is None else "frames"
        results = counted(results, "predicting", len(source.image_ids) or None, unit)
        make_room = overlays.make_room if overlays is not None else lambda: False
        images, poses = write_predictions(folder, results, predictor.skeleton, source.category_ids, make_room, early)
        if early is not None and early.cause is None:
            react_by(None)
        if overlays is not None:
            overlays.close()
        whole = early is None or early.cause is None
        with nullcontext() if early is None else early.kept():
            formats.write(folder, predictor.skeleton, whole)
            if lifter is not None and whole:
                pictures = None if isinstance(source, Live) else source  # what it showed is gone
                lift(people, lifter, predictor.skeleton, folder, config, pictures, formats)
        written = results_in(folder)
    if early is not None and early.cause is not None:
        early.tell(images)
    seconds = time.perf_counter() - start
    log.info("%d %s, %d poses in %.1f s (%.1f %s/s)", images, unit, poses, seconds, images / seconds, unit)
    for name in written:
        log.info("%s", out / name)


def found(
    config: Mapping[str, Any],
    predictor: "Predictor",
    source: "Source",
    boxes: "Mapping[int, Detections] | None",
    detector: "Detector | None",
) -> "Iterator[tuple[Frame, Poses[Array]]]":
    """The poses of each picture of a source, as they are found."""
    from lightpose.inference.following import followed
    from lightpose.inference.sources import ImageFiles

    size, skip = config["batch_size"], config["on_bad_image"]
    if isinstance(source, ImageFiles) and detector is None:
        return predictor.stream_files(source, boxes, size, config["num_workers"], skip)
    find = box_finder(boxes, detector)
    if isinstance(source, ImageFiles):
        return predictor.stream(source.frames(on_bad_image=skip, image_bits=predictor.image_bits), find, size)
    if find is not None and config["detect_every"] > 1:
        return followed(predictor, source.frames(), find, config["detect_every"], size)
    return predictor.stream(source.frames(), find, size)


def overlays_in(folder: Path, config: Mapping[str, Any], source: "Source", skeleton: "Skeleton") -> "Overlays":
    """What draws the poses of a source, to images or to a video."""
    from lightpose.inference.frames import Video
    from lightpose.inference.overlays import ImageWriter, Overlays
    from lightpose.inference.sources import ImageFiles
    from lightpose.inference.video.writer import VideoWriter

    if isinstance(source, ImageFiles):
        return Overlays(ImageWriter(folder), skeleton, config["threshold"])
    writer = VideoWriter(folder, source.stem, source.fps, source if isinstance(source, Video) else None)
    return Overlays(writer, skeleton, config["threshold"], tail_frames=round(source.fps))


def finite(results: "Iterable[tuple[Frame, Poses[Array]]]", ckpt: str) -> "Iterator[tuple[Frame, Poses[Array]]]":
    """The same results.

    Raises:
        UserError: for one that holds another number than a finite one, which no JSON file does.
    """
    import numpy as np

    for frame, poses in results:
        if not all(np.isfinite(values).all() for values in (poses.keypoints, poses.keypoint_scores, poses.scores)):
            raise UserError(
                f"the model in {ckpt} finds NaN or infinity instead of keypoints in {frame.name}; give "
                "precision=32-true, or another checkpoint"
            )
        yield frame, poses


def of_kinds(
    results: "Iterator[tuple[Frame, Poses[Array]]]", kinds: "Mapping[int, Array]"
) -> "Iterator[tuple[Frame, Poses[Array]]]":
    """The same results, each pose of the category of its box, unless the model finds that itself.

    Args:
        results: of the source's own boxes.
        kinds: see `lightpose.inference.sources.ImageFiles.kinds`.
    """
    import numpy as np

    for frame, poses in results:
        if kinds and poses.categories is None:
            poses = replace(poses, categories=kinds.get(frame.image_id, np.zeros(0, np.int64)))
        yield frame, poses


def inputs(config: dict[str, Any], source: "Source") -> "list[Path]":
    """The files that a prediction reads."""
    from lightpose.inference.frames import Video
    from lightpose.inference.sources import ImageFiles

    given = [Path(str(config[name])) for name in ("ckpt", "lift", "boxes", "source") if config[name] is not None]
    if isinstance(source, ImageFiles):
        given += source.files.values()
    if isinstance(source, Video):
        given.append(Path(source.path))
    return given


def people_of(
    config: dict[str, Any], source: "Source", takes_boxes: bool
) -> "tuple[Mapping[int, Detections] | None, Detector | None]":
    """Boxes by the id of the image, from the file or the source's own annotations; or a detector; or neither.

    Raises:
        UserError: for a file and a detector together, for either if the model takes no boxes, for boxes that can't be
            used, and if the source's annotations should give the boxes and have none.
    """
    from lightpose.checkpoint import assemble
    from lightpose.cli.options import check_options, preparing
    from lightpose.inference.box_files import read_boxes

    given = [name for name in ("boxes", "detector") if config.get(name) is not None]
    if len(given) > 1:
        raise UserError("boxes come from boxes= or from detector=, not from both; leave one out")
    if not takes_boxes:
        if given:
            raise UserError(f"the checkpoint's model takes whole images; leave {given[0]}= out")
        return None, None
    if "detector" in given:
        with preparing("detector"):
            check_options(config["detector"], "detector")
            return None, assemble(config["detector"])
    if config["boxes"] is not None:
        return read_boxes(config["boxes"], source), None
    boxes = source.boxes
    if boxes is not None and not boxes:
        raise UserError(
            f"source={config['source']} has annotations, but none that gives a box; give boxes=, or "
            "detector=whole_image to pose each whole image as one person"
        )
    return boxes, None


def smoother_of(config: dict[str, Any], source: "Source") -> "Smoother | None":
    """What makes poses smoother from frame to frame.

    Raises:
        UserError: where there are no frames, or for its options.
    """
    from lightpose.checkpoint import assemble
    from lightpose.cli.options import check_options, preparing
    from lightpose.inference.sources import ImageFiles

    if config.get("smoothing") is None:
        return None
    if isinstance(source, ImageFiles):
        raise UserError(
            f"smoothing= is for the frames of a video or a camera, and source={config['source']} is pictures; leave it "
            "out"
        )
    with preparing("smoothing"):
        check_options(config["smoothing"], "smoothing")
        made: Smoother = assemble(config["smoothing"])
        return made


def box_finder(boxes: "Mapping[int, Detections] | None", detector: "Detector | None") -> "Find | None":
    """Looks up boxes, or asks the detector; None for the whole image."""
    from lightpose.inference.detections import NO_BOXES

    if detector is not None:
        return lambda frames: detector([frame.pixels() for frame in frames])
    return None if boxes is None else lambda frames: [boxes.get(frame.image_id, NO_BOXES) for frame in frames]


def until_interrupt(stopped: threading.Event) -> None:
    """From now on Ctrl-C ends the recording and not the program."""
    react_by(lambda _: stopped.set())
    log.info("Ctrl-C ends the recording")


if __name__ == "__main__":
    main()
