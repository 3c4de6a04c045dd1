"""``lightpose-predict``: find poses in images or a video."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lightpose.cli import app
from lightpose.errors import UserError
from lightpose.signals import react_by, saying

if TYPE_CHECKING:
    from lightpose.inference.boxes import Detections
    from lightpose.inference.detectors import Detector
    from lightpose.inference.predictor import Find
    from lightpose.inference.sources import Frame, Source

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of the console script."""
    app.run("predict", predict)


def predict(composed: DictConfig) -> None:
    """Predict as configured, and write the results to ``out``."""
    import cv2
    from rich.progress import track

    from lightpose.cli.setup import resolved
    from lightpose.inference.predictor import Predictor
    from lightpose.inference.sources import ImageFiles, Video, open_source
    from lightpose.inference.writers import Canvas, ImageCanvas, VideoCanvas, drawn, staged, write_predictions

    config = resolved(composed)
    source = open_source(config["source"], config["images"])
    cv2.setNumThreads(0)  # the predictor's threads share the cores
    predictor = Predictor(config["ckpt"], config["device"], config["trust"], config["precision"], config["speed"])
    boxes, detector = people_of(config, source, predictor.estimator.takes_boxes)
    out, start = Path(config["out"]), time.perf_counter()
    with saying(f"nothing was written to out={out}"), ExitStack() as stack:
        folder = stack.enter_context(staged(out))
        if isinstance(source, ImageFiles) and detector is None:
            results = predictor.stream_files(source, boxes, config["batch_size"], config["num_workers"])
        else:
            frames: Iterable[Frame] = source.frames()
            if isinstance(source, Video) and not source.image_ids:
                frames = until_interrupt(frames)
            results = predictor.stream(frames, box_finder(boxes, detector), config["batch_size"])
        if config["draw"]:
            canvas: Canvas = ImageCanvas(folder / "overlays")
            if isinstance(source, Video):
                canvas = stack.enter_context(VideoCanvas(folder / "overlays" / f"{source.stem}.mp4", source.fps))
            overlays = drawn(results, canvas, predictor.skeleton, config["threshold"])
            results = stack.enter_context(closing(overlays))
        counted = track(results, "predicting", total=len(source.image_ids) or None)
        images, poses = write_predictions(folder, counted, predictor.skeleton, source.category_id)
    seconds = time.perf_counter() - start
    log.info("%d images, %d poses in %.1f s (%.1f images/s)", images, poses, seconds, images / seconds)
    for name in ("predictions.json", "predictions.csv", *(["overlays"] if config["draw"] else [])):
        log.info("%s", out / name)


def people_of(
    config: dict[str, Any], source: "Source", takes_boxes: bool
) -> "tuple[Mapping[str, Detections] | None, Detector | None]":
    """Boxes by the name of the image, from the file or the source's own annotations, or a detector; or neither.

    Raises:
        UserError: for both a file and a detector, or either where the model takes no boxes, and for unusable ones.
    """
    from lightpose.checkpoint import assemble
    from lightpose.inference.boxes import read_boxes

    given = [name for name in ("boxes", "detector") if config.get(name) is not None]
    if len(given) > 1:
        raise UserError("boxes come from boxes= or from detector=, not from both; leave one out")
    if not takes_boxes:
        if given:
            raise UserError(f"the checkpoint's model finds people by itself; leave {given[0]}= out")
        return None, None
    if "detector" in given:
        return None, assemble(config["detector"])
    return source.boxes if config["boxes"] is None else read_boxes(config["boxes"], source), None


def box_finder(boxes: "Mapping[str, Detections] | None", detector: "Detector | None") -> "Find | None":
    """Looks up boxes, or asks the detector; None for the whole image."""
    from lightpose.inference.boxes import NO_BOXES

    if detector is not None:
        return lambda frames: detector([frame.pixels() for frame in frames])
    return None if boxes is None else lambda frames: [boxes.get(frame.name, NO_BOXES) for frame in frames]


def until_interrupt(frames: "Iterable[Frame]") -> "Iterator[Frame]":
    """The frames until Ctrl-C, which then ends the recording and not the program."""
    stopped = threading.Event()
    react_by(lambda _: stopped.set())
    log.info("Ctrl-C ends the recording")
    return takewhile(lambda _: not stopped.is_set(), frames)


if __name__ == "__main__":
    main()
