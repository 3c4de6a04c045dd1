"""Predictions on their way to disk, image by image."""

import json
import shutil
import tempfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import cv2
import torch

from lightpose.draw import draw_poses
from lightpose.errors import UserError
from lightpose.inference.predictor import ImagePoses, joined
from lightpose.inference.results import csv_rows, write_csv
from lightpose.inference.sources import THREADS, Frame, batched, prefetch
from lightpose.metrics.oks import coco_results
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Poses

WRITTEN_AT_ONCE = 64
"""Images whose results are put into words together, which takes less time than one by one."""


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder whose files move to ``out`` when all is done; after an error nothing of them is left.

    Raises:
        UserError: when ``out`` can't be a folder.
    """
    existed = out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=out))
    except OSError as error:
        raise UserError(f"nothing can be written to out={out} ({error.strerror}); give another folder") from error
    try:
        yield stage
        for file in sorted(path for path in stage.rglob("*") if path.is_file()):
            target = out / file.relative_to(stage)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    except BaseException:
        shutil.rmtree(stage)
        if not existed:
            out.rmdir()
        raise
    shutil.rmtree(stage)


def write_predictions(
    folder: Path, results: Iterable[tuple[Frame, ImagePoses]], skeleton: Skeleton, category_id: int = 1
) -> tuple[int, int]:
    """Write ``predictions.json`` (COCO results with a ``file_name``) and ``predictions.csv`` as the results come.

    Returns:
        How many images and poses there were.
    """
    images = poses = 0
    encode = json.JSONEncoder(separators=(",", ":")).encode
    with (folder / "predictions.json").open("w", encoding="utf-8") as file:

        def rows() -> Iterator[Sequence[Any]]:
            nonlocal images, poses
            separator = "["
            without_pixels = ((frame.image_id, frame.name, found) for frame, found in results)
            for chunk in batched(without_pixels, WRITTEN_AT_ONCE):
                names = {image_id: name for image_id, name, _ in chunk}
                ids = [image_id for image_id, _, found in chunk for _ in range(len(found))]
                people = _poses(joined([found for *_, found in chunk]))
                for entry in coco_results(people, ids, category_id):
                    named = {**entry, "file_name": names[entry["image_id"]]}
                    file.write(separator + encode(named))
                    separator = ",\n"
                yield from csv_rows(people, ids, names)
                images, poses = images + len(chunk), poses + len(people)
            file.write("[]" if separator == "[" else "]")

        write_csv(folder / "predictions.csv", rows(), skeleton)
    return images, poses


def _poses(found: ImagePoses) -> Poses:
    return Poses(
        keypoints=torch.from_numpy(found.keypoints),
        keypoint_scores=torch.from_numpy(found.keypoint_scores),
        scores=torch.from_numpy(found.scores),
        batch_index=torch.zeros(len(found), dtype=torch.int64),
        boxes_xyxy=torch.from_numpy(found.boxes_xyxy),
        box_scores=torch.from_numpy(found.box_scores),
    )


class Canvas(Protocol):
    """Where overlays go.

    Attributes:
        threads: how many may write at once.
    """

    threads: int

    def write(self, name: str, image: Array) -> None:
        """Keep an (H, W, 3) uint8 RGB picture."""
        ...


class ImageCanvas:
    """A picture file each, in the folder, under the image's own name."""

    threads = THREADS

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, image: Array) -> None:
        """Write a JPEG or PNG file; other formats get ``.png`` after their name."""
        path = self.folder / name
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            path = path.with_name(f"{path.name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
            raise UserError(f"{path} can't be written; is there space? draw=false leaves overlays out")


class VideoCanvas:
    """An MP4 video; a context manager, as it is complete only when closed.

    Args:
        path: of the file.
        fps: frames per second.
    """

    threads = 1  # frames come in order

    def __init__(self, path: Path, fps: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.fps = path, fps
        self._writer: cv2.VideoWriter | None = None

    def __enter__(self) -> Self:
        return self

    def write(self, name: str, image: Array) -> None:
        """Append a frame; all have the size of the first.

        Raises:
            UserError: when this build of OpenCV can't write MP4.
        """
        if self._writer is None:
            size = image.shape[1], image.shape[0]
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, size)
            if not self._writer.isOpened():
                raise UserError(f"OpenCV can't write the video {self.path}; leave overlays out with draw=false")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.release()


def drawn(
    results: Iterable[tuple[Frame, ImagePoses]], canvas: Canvas, skeleton: Skeleton, threshold: float
) -> Generator[tuple[Frame, ImagePoses]]:
    """Pass results on, each drawn by a thread; close it to stop them."""

    def draw(result: tuple[Frame, ImagePoses]) -> tuple[Frame, ImagePoses]:
        frame, found = result
        picture = draw_poses(
            frame.pixels(),
            found.keypoints[..., :2],
            found.keypoint_scores,
            skeleton,
            boxes_xyxy=found.boxes_xyxy,
            threshold=threshold,
        )
        canvas.write(frame.name, picture)
        return result

    return prefetch(draw, results, 2 * canvas.threads, canvas.threads)
