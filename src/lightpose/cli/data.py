"""``lightpose-data``: make, convert, check and look at data sets."""

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from lightpose.cli import app
from lightpose.cli.suggest import suggest
from lightpose.runtime.signals import saying

if TYPE_CHECKING:
    from lightpose.structures import Array

log = logging.getLogger(__name__)

USAGE = """lightpose-data: make, convert, check and look at data sets.

  lightpose-data synthetic out=DIR images=1000 seed=0       draw people, with COCO annotations
  lightpose-data synthetic out=DIR sequences=100 seed=0     people who move, for lifting; no pictures
  lightpose-data synthetic out=DIR videos=2 people=4        videos of people who move, with who is who
  lightpose-data convert source=data.yaml out=train.json    labels of other tools as a COCO file, to train on
  lightpose-data suggest ckpt=best.ckpt source=clip.mp4     frames to label next, with poses to correct
  lightpose-data check data.train=annotations.json ...      report what would be used, dropped, or is wrong
  lightpose-data preview data.train=annotations.json ...    draw training samples as the network sees them

Each takes --help."""


def main() -> None:
    """Entry point of the console script."""
    tasks = {"synthetic": synthetic, "convert": convert, "suggest": suggest, "check": check, "preview": preview}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(USAGE)
        return
    if name not in tasks:
        app.stop(f"lightpose-data has no command {name!r}; use one of {', '.join(tasks)}")
    del sys.argv[1]
    if name == "check":  # earlier spellings
        sys.argv[1:] = [re.sub(r"^(data|annotations)=", "data.train=", argument) for argument in sys.argv[1:]]
        sys.argv[1:] = [re.sub(r"^images=", "data.images=", argument) for argument in sys.argv[1:]]
    app.run(f"data_{name}", tasks[name])


def synthetic(config: DictConfig) -> None:
    """Write the embedded data set: JPEG files and COCO annotations, sequences of keypoints, or videos."""
    from lightpose.data.synthetic.generate import generate
    from lightpose.data.synthetic.sequences import FRAMES, generate_sequences
    from lightpose.errors import UserError

    if config.sequences is not None and config.videos is not None:
        raise UserError("sequences= makes keypoints, and videos= pictures; leave one out")
    if config.sequences is not None:
        path = generate_sequences(Path(config.out), config.sequences, config.seed)
        log.info("%d clips of %d frames: %s", config.sequences, FRAMES, path)
        return
    size = tuple(config.image_hw)
    if config.videos is not None:
        from lightpose.data.synthetic.videos import generate_videos

        people = 4 if config.people is None else config.people
        with saying(f"out={config.out} holds a part of the videos; delete it"):
            paths = generate_videos(
                Path(config.out), config.videos, config.seed, size, people, config.seconds, config.fps
            )
        log.info("%d videos of %g s with their annotations: %s", len(paths), config.seconds, config.out)
        return
    with saying(f"out={config.out} holds a part of the images; delete it"):
        annotations = generate(Path(config.out), config.images, config.seed, size, config.people)
    log.info("%d images: %s", config.images, annotations)


def convert(config: DictConfig) -> None:
    """Write COCO files from labels of another tool, and say what was kept and what lost."""
    from lightpose.inference.video.decode import read_frames
    from lightpose.inference.video.timeline import read_timeline
    from lightpose.interop.datasets import convert as datasets

    def video_frames(path: Path) -> "Iterator[tuple[int, Array]]":
        return ((number - 1, image) for number, image in read_frames(str(path), read_timeline(str(path))))

    with saying(f"nothing was written to out={config.out}"):
        made = datasets.convert(
            str(config.source), str(config.out), video_frames, config.images, config.on_bad_image, config.overwrite
        )
    for path, (pictures, people) in made.files.items():
        log.info("%s: %d pictures, %d people or animals", path, pictures, people)
    if made.images is not None:
        log.info("%s: pictures that were no files", made.images)
    log.info("%s, %d keypoints: %s", made.tool, len(made.keypoints), app.visible(", ".join(made.keypoints)))
    for what, count in made.lost.items():
        log.info("not kept: %d %s", count, app.visible(what))
    for note in made.notes:
        log.info("%s", note)


def check(composed: DictConfig) -> None:
    """Print what each data set holds; exit code 1 if one can't be trained on."""
    from lightpose.cli.setup import choose_skeleton, resolved
    from lightpose.data.coco.dataset import CocoDataset
    from lightpose.data.datamodule import files_of, pairs
    from lightpose.data.report import check as check_data
    from lightpose.errors import UserError

    config = resolved(composed)
    files, decode = list(pairs(config["data"]["train"], config["data"]["images"])), config["decode"]
    try:
        skeleton = choose_skeleton(config["skeleton"], files_of(config["data"]["train"]), CocoDataset)
        reports = [check_data(file, images, skeleton, decode=decode) for file, images in files]
    except UserError:
        reports = [check_data(file, images, decode=decode) for file, images in files]
        if not any(report.has_errors for report in reports):  # not a file is wrong, but what was chosen
            raise
    print(app.visible("\n\n".join(map(str, reports))))
    if any(report.has_errors for report in reports):
        sys.exit(1)


def preview(composed: DictConfig) -> None:
    """Draw training samples, augmented, with keypoint names and links, to one PNG file."""
    import cv2
    import numpy as np

    from lightpose.checkpoint import assemble
    from lightpose.cli.options import check_options, preparing
    from lightpose.cli.setup import find_reader, make_skeleton, resolved
    from lightpose.data.pixels.device import collate
    from lightpose.draw import draw_poses, grid
    from lightpose.errors import UserError

    config = resolved(composed)
    out = Path(config["out"])
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"out={out} must end in .png or .jpg")
    if find_reader(config).sequences:
        raise UserError("a sample is a sequence of keypoints, which has no picture; preview data of images")
    with preparing("skeleton"):
        skeleton = make_skeleton(config)
    with preparing("data"):
        check_options(config["data"], "data")
        datamodule = assemble(config["data"], skeleton=skeleton)
        datamodule.setup("fit")
    dataset = datamodule.train_dataset
    chosen = np.random.default_rng(config["seed"]).permutation(len(dataset))[: config["count"]]
    batch = collate([dataset[int(index)] for index in chosen])
    pictures = [
        draw_poses(image, keypoints[valid, :, :2], visible[valid] / 2, skeleton, threshold=0.1, names=config["names"])
        for image, keypoints, visible, valid in zip(
            batch.inputs.permute(0, 2, 3, 1).numpy(),
            batch.instances.keypoints.numpy(),
            batch.instances.visible.numpy(),
            batch.instances.valid.numpy(),
            strict=True,
        )
    ]
    picture = cv2.imencode(out.suffix, grid(pictures, columns=config["columns"])[..., ::-1])[1]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(picture.tobytes())
    except OSError as error:
        raise UserError(f"out={out} can't be written ({error.strerror}); give another file") from error
    swapped = [f"{skeleton.keypoints[i]} ↔ {skeleton.keypoints[j]}" for i, j in enumerate(skeleton.swap) if i < j]
    if skeleton.mirrors:
        log.info("flips exchange %s", ", ".join(swapped) or "nothing")
    log.info("%d samples: %s", len(pictures), out)


if __name__ == "__main__":
    main()
