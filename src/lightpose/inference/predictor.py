"""From images to poses in one call."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightpose.checkpoint import assemble, check_targets, load
from lightpose.data.base import Transform
from lightpose.data.boxes import unlabelled
from lightpose.data.decode import read_image
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.inference.boxes import NO_BOXES, Detections, check_boxes
from lightpose.inference.sources import Frame, batched, prefetch
from lightpose.structures import Array, Sample, collate

Image = str | Path | Array
Find = Callable[[Sequence[Frame]], list[Detections]]
"""Boxes for each of several frames: from a detector, or looked up by name."""


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


class Predictor:
    """A trained estimator as a function of images.

    Args:
        checkpoint: a ``.ckpt`` file that lightpose-train wrote.
        device: such as ``cpu`` or ``cuda:1``; None takes the accelerator if there is one.
        trust: prefixes of classes outside lightpose, torch and timm that the checkpoint may instantiate.

    Raises:
        UserError: for a device or a checkpoint that can't be used, such as one that doesn't take images.
    """

    def __init__(self, checkpoint: str | Path, device: str | None = None, trust: Sequence[str] = ()) -> None:
        self.device = find_device(device)
        self.estimator = load(checkpoint, trust).to(self.device)
        if self.estimator.input_hw is None:
            raise UserError(f"{checkpoint} takes sequences of keypoints, not images; run it with lightpose.load")
        self.transforms = eval_transforms(self.estimator, trust)
        self.skeleton = self.estimator.skeleton

    def __call__(
        self,
        images: Image | Sequence[Image],
        boxes: Any = None,
        batch_size: int = 32,
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
        jobs = list(enumerate(zip(images, _given(len(images), boxes, box_scores), strict=True)))
        found = [self._empty()]
        owners = [np.zeros(0, np.int64)]
        people = (sample for samples in prefetch(self._samples, jobs, ahead=batch_size) for sample in samples)
        for number, samples in enumerate(batched(people, batch_size)):
            rows, poses = self._predict(samples, number)
            owners.append(np.array([samples[row].image_id for row in rows], np.int64))
            found.append(poses)
        return _by_image(np.concatenate(owners), found, len(images))

    def stream(
        self, frames: Iterable[Frame], find: Find | None = None, batch_size: int = 32
    ) -> Iterator[tuple[Frame, ImagePoses]]:
        """The poses of every frame, in order; in memory are a batch of frames and those that ``frames`` reads ahead.

        Args:
            frames: such as ``open_source("clip.mp4").frames(ahead=32)``.
            find: boxes of several frames; None poses each whole image as one person.
            batch_size: as in `__call__`.
        """
        for chunk in batched(frames, batch_size):
            boxes = scores = None
            if find is not None:
                boxes, scores = zip(*find(chunk), strict=True)
            yield from zip(chunk, self([frame.image for frame in chunk], boxes, batch_size, scores), strict=True)

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

    def _predict(self, samples: list[Sample], number: int) -> tuple[Array, ImagePoses]:
        """Poses of a batch, and the row of each."""
        batch = collate(samples).to(self.device)
        with torch.inference_mode():
            poses = self.estimator.predict_step(batch, number).to("cpu")
        rows = poses.batch_index.numpy()
        keypoints, pose_scores = poses.keypoints.float().numpy(), poses.scores.float().numpy()
        if self.estimator.takes_boxes:
            boxes = np.concatenate([sample.instances.boxes_xyxy for sample in samples])[rows]
            scores = np.concatenate([sample.instances.scores for sample in samples])[rows]
        else:
            boxes = np.concatenate([keypoints[..., :2].min(1), keypoints[..., :2].max(1)], -1)
            scores = np.ones(len(rows), np.float32)
        return rows, ImagePoses(keypoints, poses.keypoint_scores.float().numpy(), scores * pose_scores, boxes, scores)

    def _empty(self) -> ImagePoses:
        keypoints = np.zeros((0, self.skeleton.num_keypoints, 2), np.float32)
        return ImagePoses(keypoints, keypoints[..., 0], NO_BOXES[1], *NO_BOXES)


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


def _by_image(owners: Array, parts: Sequence[ImagePoses], count: int) -> list[ImagePoses]:
    """Poses of several batches, sorted into the ``count`` images that own them."""
    order = np.argsort(owners, kind="stable")
    first = np.searchsorted(owners[order], np.arange(count + 1))
    names = [field.name for field in fields(ImagePoses)]
    columns = [np.concatenate([getattr(part, name) for part in parts])[order] for name in names]
    return [ImagePoses(*(column[first[i] : first[i + 1]] for column in columns)) for i in range(count)]
