"""What the network sees of images: crops in batches, made by threads of this process or by worker processes."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Self, TypeVar

import numpy as np

from lightpose.data.coco.boxes import unlabelled
from lightpose.data.pipeline import Transform
from lightpose.data.pixels.decode import EncodedImage
from lightpose.data.pixels.image_header import ImageError, OnBadImage
from lightpose.errors import UserError
from lightpose.geometry import whole_image_box
from lightpose.inference.detections import NO_BOXES, Detections
from lightpose.inference.inputs import Image, as_rgb
from lightpose.interop.onnx.running import Inputs
from lightpose.structures import Array, Batch, Sample

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Crops:
    """What goes through the network at once.

    Attributes:
        batch: B samples, for PyTorch or for an exported file; None for none.
        detections: box and score of each sample.
        ends: one number for each image whose last sample is in this batch: how many samples of the batch come up to
            there.
        bad: number of an image that was left out → why.
    """

    batch: Batch | Inputs | None
    detections: Detections
    ends: list[int]
    bad: dict[int, str] = field(default_factory=dict)

    def pin_memory(self) -> Self:
        """A copy in page-locked memory."""
        return replace(self, batch=self.batch.pin_memory()) if isinstance(self.batch, Batch) else self


@dataclass(frozen=True, slots=True)
class Job:
    """An image and where to look in it.

    Attributes:
        image: see `as_rgb`; or a path.
        detections: None for the whole image.
        number: of the image, for messages.
    """

    image: Image
    detections: Detections | None
    number: int


@dataclass(frozen=True, slots=True)
class Cropper:
    """Makes samples of images. It can be sent to other processes.

    Attributes:
        transforms: from the image to the network's input.
        num_keypoints: K.
        takes_boxes: whether each box makes a sample, or each image.
        image_bits: see `lightpose.data.pixels.decode.read_image`.
        as_arrays: whether `joined` leaves torch out, as for an exported file.
    """

    transforms: Transform
    num_keypoints: int
    takes_boxes: bool
    image_bits: int = 16
    as_arrays: bool = False

    def count(self, job: Job) -> int:
        """How many samples `samples` makes of an image."""
        return 1 if job.detections is None or not self.takes_boxes else len(job.detections[0])

    def samples(self, job: Job) -> list[Sample]:
        """What the network sees of one image: a crop for each box, or one sample. A file without boxes isn't read.

        Raises:
            ImageError: for a file that can't be decoded.
            UserError: for what `as_rgb` refuses.
        """
        if isinstance(job.image, (str, os.PathLike)):
            if not self.count(job):
                return []
            encoded = EncodedImage(os.fspath(job.image), bits=self.image_bits)
            return self._samples(job, encoded, encoded.hw)
        image = as_rgb(job.image, job.number, self.image_bits)
        return self._samples(job, image, (image.shape[0], image.shape[1]))

    def _samples(self, job: Job, image: Array | EncodedImage, image_hw: tuple[int, int]) -> list[Sample]:
        boxes, scores = whole_image_box(image_hw), np.ones(1, np.float32)
        if self.takes_boxes and job.detections is not None:
            boxes, scores = job.detections
        people = [(boxes[row : row + 1], scores[row : row + 1]) for row in range(len(boxes))]
        labels = (unlabelled(*one, self.num_keypoints) for one in people)
        samples = (Sample(image, one, np.eye(3), job.number, job.number, image_hw) for one in labels)
        return [self.transforms(sample, np.random.default_rng(0)) for sample in samples]

    def joined(self, samples: Sequence[Sample]) -> Batch | Inputs:
        """The samples as what computes takes them."""
        if self.as_arrays and not any(sample.photometric for sample in samples):
            matrices = np.linalg.inv(np.stack([sample.input_from_image for sample in samples]))
            return Inputs(np.stack([sample.image for sample in samples]), matrices.astype(np.float32))
        from lightpose.data.pixels.device import collate

        batch = collate(samples)
        if not self.as_arrays:
            return batch
        return Inputs(batch.inputs.permute(0, 2, 3, 1).contiguous().numpy(), batch.image_from_input.numpy())


class CropTasks:
    """Batches of crops of image files, each made on its own, in whatever process.

    A `UserError` is returned and not raised, as `DataLoader` would bury its message in a traceback.

    Args:
        cropper: makes the samples.
        jobs: image files.
        size: of a batch.
        on_bad_image: ``skip`` leaves out an image that can't be decoded and says so in `Crops.bad`.
    """

    def __init__(self, cropper: Cropper, jobs: Sequence[Job], size: int, on_bad_image: OnBadImage = "error") -> None:
        self.cropper, self.jobs, self.on_bad_image = cropper, jobs, on_bad_image
        people = ([(job.number, row) for row in range(cropper.count(job))] for job in jobs)
        self.batches = list(cut(people, size))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Crops | UserError:
        people, ends = self.batches[index]
        samples: list[Sample] = []
        bad: dict[int, str] = {}
        try:
            for number, group in groupby(people, key=lambda person: person[0]):
                job, rows = self.jobs[number], [row for _, row in group]
                if job.detections is not None and self.cropper.takes_boxes:
                    boxes, scores = job.detections
                    job = replace(job, detections=(boxes[rows], scores[rows]))
                try:
                    samples += self.cropper.samples(job)
                except ImageError as error:
                    if self.on_bad_image == "error":
                        raise
                    bad[number] = str(error)
        except UserError as error:
            return error
        made_before = np.cumsum([0, *(number not in bad for number, _ in people)])
        return replace(collated(self.cropper, samples, made_before[ends].tolist()), bad=bad)


def made_by_processes(tasks: CropTasks, workers: int, pin: bool) -> Iterator[Crops]:
    """The batches in order, made by ``workers`` processes, at most two ahead in each; they start at once.

    Args:
        tasks: the batches.
        workers: at least 1.
        pin: put them into page-locked memory.

    Raises:
        UserError: the first that a worker met.
    """
    from torch.utils.data import DataLoader

    from lightpose.data.pixels.loader import one_thread

    loader: Any = DataLoader(
        tasks,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2,
        pin_memory=pin,
        worker_init_fn=one_thread,
    )
    return _good(iter(loader))


def _good(made: Iterator[Crops | UserError]) -> Iterator[Crops]:
    """The batches up to the first error, which is raised; at the end, whatever it is, the processes end."""
    from lightpose.data.pixels.loader import stop_workers  # which loads torch

    try:
        for crops in made:
            if isinstance(crops, UserError):
                raise crops
            yield crops
    finally:
        stop_workers(made)


@contextmanager
def deaths_explained() -> Iterator[None]:
    """Turn what torch raises when a worker was killed, wherever the main thread is then, into a `UserError`.

    Raises:
        UserError: with what may help, as where shared memory is too small.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"a process that crops images ended ({reason}); give a lower num_workers, or 0") from error


def collated(cropper: Cropper, samples: list[Sample], ends: list[int]) -> Crops:
    """Samples and ends, as `cut` gives them, in one batch."""
    if not samples:
        return Crops(None, NO_BOXES, ends)
    boxes = np.concatenate([sample.instances.boxes_xyxy for sample in samples])
    scores = np.concatenate([sample.instances.scores for sample in samples])
    return Crops(cropper.joined(samples), (boxes, scores), ends)


def cut(images: Iterable[list[T]], size: int, most_images: int | None = None) -> Iterator[tuple[list[T], list[int]]]:
    """The people of consecutive images in lists of ``size``; beside each list, the places in it where images end.

    Args:
        images: the people of each.
        size: of all lists but the last.
        most_images: a list in which so many images end is given at once, so that a video without people doesn't fill
            the memory.

    Raises:
        UserError: for a size below 1.
    """
    if size < 1:
        raise UserError(f"batch_size={size} must be at least 1")
    batch: list[T] = []
    ends: list[int] = []
    for people in images:
        for person in people:
            if len(batch) == size:
                yield batch, ends
                batch, ends = [], []
            batch.append(person)
        ends.append(len(batch))
        if len(ends) == most_images:
            yield batch, ends
            batch, ends = [], []
    if ends:
        yield batch, ends
