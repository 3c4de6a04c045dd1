"""``lightpose-data suggest``: which frames to label next."""

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lightpose.errors import UserError
from lightpose.runtime.imports import quick_imports
from lightpose.runtime.signals import saying

if TYPE_CHECKING:
    from lightpose.data.coco.labelled import Person
    from lightpose.inference.frames import Video
    from lightpose.inference.sources import ImageFiles
    from lightpose.structures import Array, Poses

log = logging.getLogger(__name__)


def suggest(composed: DictConfig) -> None:
    """Predict, choose frames, and write them with their poses for a labelling tool."""
    with quick_imports():
        import cv2
        import numpy as np

        from lightpose.cli.predict import box_finder, finite, people_of
        from lightpose.cli.progress import counted
        from lightpose.cli.setup import resolved
        from lightpose.data.coco.labelled import Category, Picture, coco_content, write_coco
        from lightpose.inference.predictor import Predictor
        from lightpose.inference.sources import ImageFiles, open_source
        from lightpose.inference.suggest import Impressions, at_less_sure, choose, jumps, outliers, sureness
        from lightpose.inference.video.live import Live
        from lightpose.inference.writers import staged

    config = resolved(composed)
    source, out = open_source(config["source"]), Path(config["out"])
    if isinstance(source, Live):
        raise UserError("frames of a camera are gone once they are chosen; record a video, and give it as source=")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={out} exists and isn't an empty folder; give another one")
    cv2.setNumThreads(0)  # the predictor's threads share the cores
    predictor = Predictor(config["ckpt"], config["device"], config["trust"])
    boxes, detector = people_of(config, source, predictor.estimator.takes_boxes)
    with saying(f"nothing was written to out={out}"), staged(out) as folder:
        results = predictor.stream(source.frames(), box_finder(boxes, detector), config["batch_size"])
        seen = Impressions(predictor)
        unit = "images" if isinstance(source, ImageFiles) else "frames"
        for _ in counted(seen.note(finite(results, config["ckpt"])), "looking", len(source.image_ids), unit):
            pass
        sure = sureness(seen.poses)
        jumped = np.zeros_like(sure)
        if not isinstance(source, ImageFiles):
            jumped = at_less_sure(outliers(jumps(seen.poses, seen.image_ids)), sure)
        rows, by_jump = choose(sure, jumped, np.stack(seen.features), config["count"])
        chosen = {seen.image_ids[row]: seen.poses[row] for row in rows.tolist()}
        (folder / "images").mkdir()
        pictures = [
            Picture(path, hw, people_in(chosen[image_id], config["threshold"]))
            for image_id, path, hw in pictures_of(source, set(chosen), folder / "images")
        ]
        skeleton = predictor.skeleton
        pairs = tuple((left, right) for left, right in enumerate(skeleton.swap) if left < right)
        category = Category(skeleton.name, skeleton.keypoints, skeleton.links, pairs if skeleton.mirrors else None)
        kinds = max((person.category for picture in pictures for person in picture.people), default=0)
        further = [replace(category, name=f"{category.name}_{number + 1}") for number in range(1, kinds + 1)]
        write_coco(folder / "annotations.json", coco_content(pictures, [category, *further], folder))
    log.info(
        "%d of %d frames, %d of them for a jump; the mean score of keypoints is %.2f in them and %.2f in all",
        len(rows),
        len(seen.names),
        by_jump.sum(),
        sure[rows].mean(),
        sure.mean(),
    )
    log.info("%s", out / "images")
    log.info("%s: their poses, to be corrected", out / "annotations.json")


def pictures_of(
    source: "Video | ImageFiles", image_ids: set[int], folder: Path
) -> "Iterator[tuple[int, Path, tuple[int, int]]]":
    """Write frames of a video, or copies of files: id, file and size of each."""
    import cv2

    from lightpose.data.pixels.decode import read_image_hw
    from lightpose.inference.sources import ImageFiles

    if isinstance(source, ImageFiles):
        for image_id in sorted(image_ids):
            file = source.files[source.names[image_id]]
            path = folder / file.name
            if path.exists():  # of another folder
                path = folder / f"{file.stem}_{image_id}{file.suffix}"
            shutil.copyfile(file, path)
            yield image_id, path, read_image_hw(path)
        return
    for frame in source.frames():
        if frame.image_id in image_ids:
            image, path = frame.pixels(), folder / f"{frame.name}.png"
            path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
            yield frame.image_id, path, (image.shape[0], image.shape[1])
        if frame.image_id >= max(image_ids):
            return


def people_in(poses: "Poses[Array]", threshold: float) -> "list[Person]":
    """Poses as labels: a keypoint of a lower score than ``threshold`` is a hidden one, so that it stands out."""
    import numpy as np

    from lightpose.data.coco.labelled import Person

    people = []
    for row in range(len(poses)):
        box = None if poses.boxes_xyxy is None else poses.boxes_xyxy[row].tolist()
        people.append(
            Person(
                keypoints=poses.keypoints[row, :, :2].astype(np.float64),
                visible=np.where(poses.keypoint_scores[row] >= threshold, 2, 1),
                category=0 if poses.categories is None else int(poses.categories[row]),
                box_xywh=None if box is None else (box[0], box[1], box[2] - box[0], box[3] - box[1]),
                track_id=None if poses.track_ids is None else int(poses.track_ids[row]),
                further={"score": round(float(poses.scores[row]), 4)},
            )
        )
    return people
