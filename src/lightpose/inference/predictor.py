"""From images to poses in one call."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from lightpose.checkpoint import assemble, check_targets, load
from lightpose.data.base import Transform
from lightpose.data.boxes import unlabelled
from lightpose.data.decode import read_image
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.inference.boxes import NO_BOXES, Detections, check_boxes
from lightpose.inference.sources import AHEAD, Frame, batched, prefetch
from lightpose.speed import Speed, precision, speed_up
from lightpose.structures import Array, Batch, Sample, collate

T = TypeVar("T")
Image = str | Path | Array
Find = Callable[[Sequence[Frame]], list[Detections]]
"""Boxes for each of several frames: from a detector, or looked up by name."""

FIND_AT_ONCE = 16
"""Frames that `Predictor.stream` collects for a detector."""

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Precision, in Lightning's words, to the type of autocast."""


@dataclass(frozen=True, slots=True)
class ImagePoses:
    """The poses of one image, in image pixels, as float32 NumPy arrays.

    Attributes:
        keypoints: (N, K, D); for top-down in the order of the boxes.
        keypoint_scores: (N, K).
        scores: (N,), box score times the codec's score of the pose, which is the mean of its keypoint scores.
        boxes_xyxy: (N, 4), the boxes that were given; where the estimator takes none, the hulls of the keypoints.
        box_scores: (N,), 1 where none were given.
    """

    keypoints: Array
    keypoint_scores: Array
    scores: Array
    boxes_xyxy: Array
    box_scores: Array

    def __len__(self) -> int:
        """Number of poses."""
        return len(self.keypoints)

    def __getitem__(self, rows: Any) -> "ImagePoses":
        """Some of the poses: of a slice, or of indices."""
        return ImagePoses(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class _Crops:
    """What goes through the network at once.

    Attributes:
        batch: B samples; None for none.
        detections: box and score of each sample.
        ends: how many samples there are up to the end of each image that ends here.
    """

    batch: Batch | None
    detections: Detections
    ends: list[int]


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """Results that the device may still be computing.

    Attributes:
        crops: what they are of.
        packed: (N, K * D + K + 2) float32: keypoints, their scores, the pose's score and its sample; None for none.
        done: when ``packed`` can be read; None for at once.
    """

    crops: _Crops
    packed: torch.Tensor | None
    done: torch.cuda.Event | None


class Predictor:
    """A trained estimator as a function of images.

    Threads decode and crop, the device computes one batch while the results of the one before are handed out.

    Args:
        checkpoint: a ``.ckpt`` file that lightpose-train wrote.
        device: such as ``cpu`` or ``cuda:1``; None takes the accelerator if there is one.
        trust: prefixes of classes outside lightpose, torch and timm that the checkpoint may instantiate.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``; ``auto`` is the fastest on a GPU of NVIDIA, and
            ``32-true`` elsewhere. Mixed precision rounds the maps, which moves keypoints by a fraction of a cell.
        speed: see `lightpose.speed.speed_up`.

    Raises:
        UserError: for a device or a checkpoint that can't be used, such as one that doesn't take images, and for an
            unknown precision or speed.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | None = None,
        trust: Sequence[str] = (),
        precision: str = "auto",
        speed: Speed = "auto",
    ) -> None:
        self.device = find_device(device)
        self.autocast = find_autocast(precision, self.device)
        self.estimator = load(checkpoint, trust).to(self.device)
        if self.estimator.input_hw is None:
            raise UserError(f"{checkpoint} takes sequences of keypoints, not images; run it with lightpose.load")
        speed_up(self.estimator.net, speed, self.device)
        self.transforms = eval_transforms(self.estimator, trust)
        self.skeleton = self.estimator.skeleton

    def __call__(
        self,
        images: Image | Sequence[Image],
        boxes: Any = None,
        batch_size: int = 64,
        box_scores: Any = None,
    ) -> list[ImagePoses]:
        """The poses of every image; the people of all images share batches.

        Args:
            images: paths, or (H, W, 3) uint8 RGB arrays; or one of them.
            boxes: per image an (N, 4) array, xyxy in image pixels; for one image, its array. None poses the whole image
                as one person. Zero boxes give zero poses.
            batch_size: people (or images, for an estimator that takes no boxes) that go through the network at once.
            box_scores: per image an (N,) array, as `boxes`; None for 1.

        Raises:
            UserError: for images or boxes that can't be used.
        """
        if boxes is not None and not self.estimator.takes_boxes:
            raise UserError(f"{type(self.estimator).__name__} finds people by itself; leave boxes out")
        if isinstance(images, (str, Path)) or (isinstance(images, np.ndarray) and images.ndim == 3):
            boxes, box_scores = (None if given is None else [given] for given in (boxes, box_scores))
            return self([images], boxes, batch_size, box_scores)
        return list(self._predict(zip(images, _given(len(images), boxes, box_scores), strict=True), batch_size))

    def stream(
        self, frames: Iterable[Frame], find: Find | None = None, batch_size: int = 64
    ) -> Iterator[tuple[Frame, ImagePoses]]:
        """The poses of every frame, in order; the people of consecutive frames share batches.

        In memory are those frames whose people fill three batches, at most as many for each as ``batch_size`` says, a
        few that are being cropped, and those that ``frames`` reads ahead.

        Args:
            frames: such as ``open_source("clip.mp4").frames()``.
            find: boxes of several frames; None poses each whole image as one person.
            batch_size: as in `__call__`.
        """
        waiting: deque[Frame] = deque()

        def jobs() -> Iterator[tuple[Image, Detections | None]]:
            for chunk in batched(frames, FIND_AT_ONCE if find else 1):
                boxes = scores = None
                if find is not None:
                    boxes, scores = zip(*find(chunk), strict=True)
                for frame, detections in zip(chunk, _given(len(chunk), boxes, scores), strict=True):
                    waiting.append(frame)
                    yield frame.image, detections

        for poses in self._predict(jobs(), batch_size):
            yield waiting.popleft(), poses

    def _predict(self, jobs: Iterable[tuple[Image, Detections | None]], batch_size: int) -> Iterator[ImagePoses]:
        """The poses of every image; the boxes of one are None where the whole image is to be posed.

        While the device computes one batch, the next is being put together and the one before is handed out.
        """
        rest = self._empty()  # poses of an image that goes on in the next batch
        samples = prefetch(self._samples, enumerate(jobs), ahead=AHEAD)
        for results in behind(map(self._submit, prefetch(self._crops, cut(samples, batch_size), ahead=1, threads=1))):
            rows, poses = self._collect(results)
            cuts = [0, *np.searchsorted(rows, results.crops.ends).tolist()]
            for start, end in pairwise(cuts):
                yield joined([rest, poses[start:end]])
                rest = self._empty()
            rest = joined([rest, poses[cuts[-1] :]])

    def _samples(self, job: tuple[int, tuple[Image, Detections | None]]) -> list[Sample]:
        """What the network sees of one image: a crop for each box, or one sample."""
        number, (given, detections) = job
        image = check_image(given, number)
        height, width = image.shape[:2]
        if detections is None:
            detections = np.array([[0, 0, width, height]], np.float32), np.ones(1, np.float32)
        boxes, scores = detections
        one_by_one = [(boxes[row : row + 1], scores[row : row + 1]) for row in range(len(boxes))]
        people = one_by_one if self.estimator.takes_boxes else [NO_BOXES]
        count = self.skeleton.num_keypoints
        return [
            self._transform(Sample(image, unlabelled(*person, count), np.eye(3), number, number, (height, width)))
            for person in people
        ]

    def _transform(self, sample: Sample) -> Sample:
        rng = np.random.default_rng(0)
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample

    def _crops(self, given: tuple[list[Sample], list[int]]) -> _Crops:
        samples, ends = given
        if not samples:
            return _Crops(None, NO_BOXES, ends)
        boxes = np.concatenate([sample.instances.boxes_xyxy for sample in samples])
        scores = np.concatenate([sample.instances.scores for sample in samples])
        return _Crops(collate(samples), (boxes, scores), ends)

    def _submit(self, crops: _Crops) -> _UnderWay:
        """Start a batch; on a GPU nothing waits for it."""
        if crops.batch is None:
            return _UnderWay(crops, None, None)
        on_gpu = self.device.type == "cuda"
        batch = (crops.batch.pin_memory() if on_gpu and not crops.batch.inputs.is_cuda else crops.batch).to(self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, self.autocast, self.autocast is not None):
            poses = self.estimator.predict_step(batch, 0)
        columns = (poses.keypoints.flatten(1), poses.keypoint_scores, poses.scores[:, None], poses.batch_index[:, None])
        packed = torch.cat([column.float() for column in columns], 1)
        if not on_gpu:
            return _UnderWay(crops, packed.cpu(), None)
        done = torch.cuda.Event()
        packed = packed.to("cpu", non_blocking=True)  # into pinned memory
        done.record(torch.cuda.current_stream(self.device))
        return _UnderWay(crops, packed, done)

    def _collect(self, results: _UnderWay) -> tuple[Array, ImagePoses]:
        """Poses of a batch, ordered by sample, and the sample of each."""
        if results.packed is None:
            return np.zeros(0, np.int64), self._empty()
        if results.done is not None:
            results.done.synchronize()
        columns = results.packed.numpy()
        columns = columns[np.argsort(columns[:, -1], kind="stable")]  # a copy: pinned memory goes back
        count = self.skeleton.num_keypoints
        rows, pose_scores = columns[:, -1].astype(np.int64), columns[:, -2]
        keypoints = columns[:, : -2 - count].reshape(len(rows), count, columns.shape[1] // count - 1)
        if self.estimator.takes_boxes:
            boxes, scores = (column[rows] for column in results.crops.detections)
        else:
            boxes = np.concatenate([keypoints[..., :2].min(1), keypoints[..., :2].max(1)], -1)
            scores = np.ones(len(rows), np.float32)
        return rows, ImagePoses(keypoints, columns[:, -2 - count : -2], scores * pose_scores, boxes, scores)

    def _empty(self) -> ImagePoses:
        keypoints = np.zeros((0, self.skeleton.num_keypoints, 2), np.float32)
        return ImagePoses(keypoints, keypoints[..., 0], NO_BOXES[1], *NO_BOXES)


def cut(images: Iterable[list[Sample]], size: int) -> Iterator[tuple[list[Sample], list[int]]]:
    """The samples of consecutive images in lists of ``size``, each with the places in it where an image ends.

    A list is shorter where ``size`` images end before it is full, so that a video without people doesn't fill the
    memory.

    Raises:
        UserError: for a size below 1.
    """
    if size < 1:
        raise UserError(f"batch_size={size} must be at least 1")
    batch: list[Sample] = []
    ends: list[int] = []
    for samples in images:
        for sample in samples:
            if len(batch) == size:
                yield batch, ends
                batch, ends = [], []
            batch.append(sample)
        ends.append(len(batch))
        if len(ends) == size:
            yield batch, ends
            batch, ends = [], []
    if ends:
        yield batch, ends


def behind(items: Iterable[T]) -> Iterator[T]:
    """The same items, each after the next one has been asked for."""
    before: deque[T] = deque()
    for item in items:
        before.append(item)
        if len(before) > 1:
            yield before.popleft()
    yield from before


def joined(parts: Iterable[ImagePoses]) -> ImagePoses:
    """All poses of one or more ``parts``."""
    parts = list(parts)
    some = [part for part in parts if len(part)] or parts[:1]
    if len(some) == 1:
        return some[0]
    return ImagePoses(*(np.concatenate([getattr(part, field.name) for part in some]) for field in fields(ImagePoses)))


def find_device(name: str | None) -> torch.device:
    """The device called ``name``, or the accelerator if there is one, else the CPU.

    Raises:
        UserError: when this machine has no such device.
    """
    if name is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} can't be used here ({str(error).splitlines()[0]}); try device=cpu") from error


def find_autocast(choice: str, device: torch.device) -> torch.dtype | None:
    """The type of autocast that a precision means on ``device``, or None for none.

    Raises:
        UserError: for an unknown precision.
    """
    fastest = precision("auto", "auto") if device.type == "cuda" else "32-true"
    chosen = fastest if choice == "auto" else choice
    if chosen not in AUTOCAST:
        raise UserError(f"precision={choice} is unknown; use auto or one of {', '.join(AUTOCAST)}")
    return AUTOCAST[chosen]


def check_image(image: Image, number: int) -> Array:
    """The pixels of a path or an array.

    Raises:
        UserError: for a file that can't be decoded, and for arrays that are not (H, W, 3) uint8.
    """
    if isinstance(image, (str, Path)):
        return read_image(image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        what = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(f"image {number} is {what}; expected a path, or an (H, W, 3) uint8 array in RGB order")
    return image


def eval_transforms(estimator: PoseEstimator, trust: Sequence[str] = ()) -> list[Transform]:
    """The transforms that the estimator was validated with, from its configuration.

    Raises:
        UserError: when they name classes outside the trusted prefixes.
    """
    config = estimator.config or {}
    steps = [step for step in config["augment"]["eval"].values() if step is not None]
    check_targets(steps, trust)
    return [assemble(step, **({"skeleton": estimator.skeleton} if step.get("_partial_") else {})) for step in steps]


def _given(images: int, boxes: Any, scores: Any) -> list[Detections | None]:
    """Checked boxes for every image, or None for every image."""
    if boxes is None:
        return [None] * images
    scores = [None] * len(boxes) if scores is None else scores
    if not len(boxes) == len(scores) == images:
        raise UserError(
            f"{images} images come with {len(boxes)} arrays of boxes and {len(scores)} of scores; give each image "
            "one, empty where there is nobody"
        )
    pairs = enumerate(zip(boxes, scores, strict=True))
    return [check_boxes(box, score, f"image {number}") for number, (box, score) in pairs]
