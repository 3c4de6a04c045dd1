"""From images to poses in one call."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lightpose.building import eval_transforms
from lightpose.data.pixels.decode import check_image_bits
from lightpose.data.pixels.image_header import ImageError, OnBadImage, check_on_bad_image
from lightpose.errors import UserError
from lightpose.inference.crops import (
    Cropper,
    Crops,
    CropTasks,
    Job,
    collated,
    cut,
    deaths_explained,
    made_by_processes,
)
from lightpose.inference.detections import NO_BOXES, Detections, check_boxes
from lightpose.inference.frames import Frame
from lightpose.inference.inputs import Image, given_boxes, is_one
from lightpose.inference.prefetch import AHEAD, batched, prefetch
from lightpose.inference.sources import ImageFiles, without_bad
from lightpose.interop.onnx.packages import check_options, is_onnx
from lightpose.interop.onnx.running import Inputs, load_arrays
from lightpose.interop.onnx.session import Content, content_of
from lightpose.runtime.cores import CORES, MOST_WORKERS
from lightpose.structures import Array, Poses, Sample
from lightpose.trust import Trust

if TYPE_CHECKING:  # whoever only runs exported files doesn't wait for torch
    import torch

    from lightpose.inference.transfer import Transfer
    from lightpose.runtime.speed import Speed

T = TypeVar("T")
Find = Callable[[Sequence[Frame]], list[Detections]]
"""Boxes for each of several frames: from a detector, or looked up by id."""

FIND_AT_ONCE = 16
"""Frames that `Predictor.stream` collects for a detector."""

FEW_BATCHES = 4
"""For fewer, worker processes take longer to start than they save."""

AUTOCAST = {"32-true": None, "bf16-mixed": "bfloat16", "16-mixed": "float16"}
"""Precision, in Lightning's words, to the type of autocast."""


class Predictor:
    """A trained estimator as a function of images.

    Threads decode and crop; in `stream_files` processes do. While the device computes one batch, the results of the
    batch before are handed out.

    Args:
        checkpoint: a ``.ckpt`` file that lightpose-train wrote, or an ``.onnx`` file that lightpose-export wrote.
        device: such as ``cpu`` or ``cuda:1``; None takes the accelerator if there is one. For an ONNX file it names
            what runs it, see `lightpose.interop.onnx.session.open_session`, and torch isn't loaded.
        trust: packages, modules or classes outside lightpose, torch and timm that the checkpoint may build from.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``; ``auto`` is the fastest on a GPU of NVIDIA, and
            ``32-true`` elsewhere. Mixed precision rounds the maps, which moves keypoints by a fraction of a cell. An
            ONNX file has its own.
        speed: see `lightpose.runtime.speed.speed_up`.
        image_bits: how many bits the values of 16-bit images have (`lightpose.data.pixels.decode.read_image`); None: as
            the checkpoint was trained.

    Raises:
        UserError: for a device or a checkpoint that can't be used, such as one that doesn't take images, and for an
            unknown precision or speed.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        device: str | None = None,
        trust: Trust = (),
        precision: str = "auto",
        speed: "Speed" = "auto",
        image_bits: int | None = None,
    ) -> None:
        self.device: torch.device | None = None  # on which torch computes
        self.estimator: Any
        if is_onnx(checkpoint):
            check_options(checkpoint, precision=precision, speed=speed)
            content = content_of(checkpoint)
            self.estimator = load_arrays(content, checkpoint, device)
            if self.estimator is None:
                self._load_onnx(content, checkpoint, device, trust)
        else:
            self._load(checkpoint, device, trust, precision, speed)
        self.skeleton = self.estimator.skeleton
        self.image_bits = trained_image_bits(self.estimator) if image_bits is None else image_bits
        check_image_bits(self.image_bits)
        self.cropper = Cropper(
            eval_transforms(self.estimator, trust),
            self.skeleton.num_keypoints,
            self.estimator.takes_boxes,
            self.image_bits,
            as_arrays=self.device is None,
        )

    def _load(self, checkpoint: str | Path, device: str | None, trust: Trust, precision: str, speed: "Speed") -> None:
        from lightpose.checkpoint import load
        from lightpose.runtime.speed import speed_up

        self.device = find_device(device)
        self.autocast = find_autocast(precision, self.device)
        self.estimator = load(checkpoint, trust).to(self.device)
        self._refuse_sequences(checkpoint)
        speed_up(self.estimator.net, speed, self.device)

    def _load_onnx(self, content: Content, checkpoint: str | Path, device: str | None, trust: Trust) -> None:
        """A file whose poses the codec chooses among candidates."""
        import torch

        from lightpose.interop.onnx.model import load_onnx

        self.device, self.autocast = torch.device("cpu"), None  # of all but the graph
        self.estimator = load_onnx(checkpoint, device, trust, content=content)
        self._refuse_sequences(checkpoint)

    def _refuse_sequences(self, checkpoint: str | Path) -> None:
        if self.estimator.input_hw is None:
            raise UserError(
                f"{checkpoint} takes sequences of keypoints, not images; give a model of images as ckpt= and this "
                "one as lift=, or source=predictions.json, which lightpose-predict wrote"
            )

    @property
    def _on_gpu(self) -> bool:
        return self.device is not None and self.device.type == "cuda"

    def __call__(
        self,
        images: Image | Iterable[Image],
        boxes: Any = None,
        batch_size: int = 64,
        box_scores: Any = None,
    ) -> list[Poses[Array]]:
        """The poses of every image; the people of all images share batches.

        Args:
            images: paths, (H, W, 3) uint8 RGB arrays, (H, W) uint8 grey ones or Pillow images, which aren't turned by
                their EXIF orientation; or one of them.
            boxes: per image (N, 4) numbers, xyxy in image pixels; for one image, its numbers. None poses the whole
                image as one person. Zero boxes give zero poses.
            batch_size: people (or images, for an estimator that takes no boxes) that go through the network at once.
            box_scores: per image N numbers, as `boxes`; None for 1.

        Returns:
            For each image its poses in image pixels; for top-down in the order of the boxes. ``scores`` are the box
            score times the codec's score of the pose, ``boxes_xyxy`` those that were given, or else the model's, or the
            hulls of the keypoints.

        Raises:
            UserError: for images or boxes that can't be used.
        """
        if boxes is not None and not self.estimator.takes_boxes:
            raise UserError(f"{type(self.estimator).__name__} takes whole images; leave boxes out")
        pictures: list[Any]
        if is_one(images):
            boxes, box_scores = (None if given is None else [given] for given in (boxes, box_scores))
            pictures = [images]
        else:
            pictures = list(images)  # type: ignore[arg-type]
        given = zip(pictures, given_boxes(len(pictures), boxes, box_scores), strict=True)
        jobs = [Job(image, detections, number) for number, (image, detections) in enumerate(given)]
        return list(self._predict(self._by_threads(jobs, batch_size)))

    def stream(
        self, frames: Iterable[Frame], find: Find | None = None, batch_size: int = 64
    ) -> Iterator[tuple[Frame, Poses[Array]]]:
        """The poses of every frame, in order; the people of consecutive frames share batches.

        Memory holds the frames of three batches, each of at most ``batch_size`` frames, a few frames that are being
        cropped, and those that ``frames`` reads ahead.

        Args:
            frames: such as ``open_source("clip.mp4").frames()``.
            find: boxes of several frames; None poses each whole image as one person.
            batch_size: as in `__call__`.
        """
        waiting: deque[Frame] = deque()

        def jobs() -> Iterator[Job]:
            for chunk in batched(frames, FIND_AT_ONCE if find else 1):
                boxes = scores = None
                if find is not None:
                    boxes, scores = zip(*find(chunk), strict=True)
                for frame, detections in zip(chunk, given_boxes(len(chunk), boxes, scores), strict=True):
                    waiting.append(frame)
                    yield Job(frame.image, detections, frame.image_id)

        for poses in self._predict(self._by_threads(jobs(), batch_size, most_images=batch_size)):
            yield waiting.popleft(), poses

    def stream_files(
        self,
        source: ImageFiles,
        boxes: Mapping[int, Detections] | None = None,
        batch_size: int = 64,
        num_workers: int | None = None,
        on_bad_image: OnBadImage = "error",
    ) -> Iterator[tuple[Frame, Poses[Array]]]:
        """The poses of every image file, in order, with frames that hold its path; worker processes read and crop.

        Args:
            source: such as ``open_source("val.json")``.
            boxes: image id → boxes. An image whose id is missing has none, and isn't read. None poses each whole image
                as one person.
            batch_size: as in `__call__`.
            num_workers: processes; 0 leaves their work to threads of this one. None takes the CPU cores there are, 16
                at most, and threads for less than four batches.
            on_bad_image: ``error``, or ``skip`` to leave out an image that can't be read, and to name and count it.

        Raises:
            UserError: for images or boxes that can't be used, and a negative number of processes.
        """
        if num_workers is not None and num_workers < 0:
            raise UserError(f"num_workers={num_workers} must be at least 0, or null for the CPU cores there are")
        check_on_bad_image(on_bad_image)
        frames = [Frame(name, source.files[name], image_id, self.image_bits) for image_id, name in source.names.items()]
        found = [
            None if boxes is None else check_boxes(*boxes.get(each.image_id, NO_BOXES), each.name) for each in frames
        ]
        jobs = [Job(*job, number) for number, job in enumerate(zip((f.image for f in frames), found, strict=True))]
        tasks = CropTasks(self.cropper, jobs, batch_size, on_bad_image)
        bad: dict[int, str] = {}
        if num_workers is None:
            num_workers = min(MOST_WORKERS, CORES) if len(tasks) >= FEW_BATCHES else 0
        if not num_workers:
            made = self._predict(self._by_threads(jobs, batch_size, bad=bad if on_bad_image == "skip" else None))
            yield from without_bad(zip(frames, made, strict=True), bad)
            return
        with deaths_explained():
            batches = made_by_processes(tasks, min(num_workers, len(tasks)), pin=self._on_gpu)
            if self.device is not None:  # while the first batches are made
                with self._context():
                    self.estimator.warm_up(max(len(people) for people, _ in tasks.batches), len(tasks))
            made = self._predict(_noted(batches, bad))
            yield from without_bad(zip(frames, made, strict=True), bad)

    def _by_threads(
        self,
        jobs: Iterable[Job],
        batch_size: int,
        most_images: int | None = None,
        bad: dict[int, str] | None = None,
    ) -> Iterator[Crops]:
        """Batches, made by threads; see `cut`. Given ``bad``, images that can't be decoded are noted there."""

        def samples(job: Job) -> list[Sample]:
            try:
                return self.cropper.samples(job)
            except ImageError as error:
                if bad is None:
                    raise
                bad[job.number] = str(error)
                return []

        made = prefetch(samples, jobs, ahead=AHEAD)
        return prefetch(self._collated, cut(made, batch_size, most_images), ahead=1, threads=1)

    def _collated(self, given: tuple[list[Sample], list[int]]) -> Crops:
        crops = collated(self.cropper, *given)
        return crops.pin_memory() if self._on_gpu else crops

    def _predict(self, batches: Iterable[Crops]) -> Iterator[Poses[Array]]:
        """The poses of every image.

        While the device computes one batch, the next is being put together and the one before is handed out.
        """
        rest = self._empty()  # poses of an image that goes on in the next batch
        for crops, transfer in behind(map(self._submit, batches)):
            rows, poses = self._collect(crops, transfer)
            cuts = [0, *np.searchsorted(rows, crops.ends).tolist()]
            for start, end in pairwise(cuts):
                yield Poses.cat([rest, poses.select(slice(start, end))])
                rest = self._empty()
            rest = Poses.cat([rest, poses.select(slice(cuts[-1], None))])

    @contextmanager
    def _context(self) -> Iterator[None]:
        import torch

        assert self.device is not None
        with torch.inference_mode(), torch.autocast(self.device.type, self.autocast, self.autocast is not None):
            yield

    def _submit(self, crops: Crops) -> "tuple[Crops, Transfer | Poses[Array] | None]":
        """Start a batch; on a GPU nothing waits for it."""
        if crops.batch is None:
            return crops, None
        if isinstance(crops.batch, Inputs):
            return crops, self.estimator.predict(crops.batch, *crops.detections)
        from lightpose.inference.transfer import Transfer

        assert self.device is not None
        batch = crops.batch.to(self.device)
        with self._context():
            return crops, Transfer(self.estimator.predict_step(batch, 0))

    def _collect(self, crops: Crops, transfer: "Transfer | Poses[Array] | None") -> tuple[Array, Poses[Array]]:
        """Poses of a batch, ordered by sample, and the sample of each."""
        if transfer is None:
            return np.zeros(0, np.int64), self._empty()
        poses = transfer if isinstance(transfer, Poses) else transfer.wait()
        poses = poses.select(np.argsort(poses.batch_index, kind="stable"))
        rows = poses.batch_index
        poses = replace(poses, batch_index=np.zeros_like(rows))
        if self.estimator.takes_boxes:
            boxes, scores = (column[rows] for column in crops.detections)
            return rows, replace(poses, scores=scores * poses.scores, boxes_xyxy=boxes, box_scores=scores)
        if poses.boxes_xyxy is None:
            xy = poses.keypoints[..., :2]
            poses = replace(poses, boxes_xyxy=np.concatenate([xy.min(1), xy.max(1)], -1))
        if poses.box_scores is None:
            poses = replace(poses, box_scores=np.ones(len(rows), np.float32))
        return rows, poses

    def _empty(self) -> Poses[Array]:
        keypoints = np.zeros((0, self.skeleton.num_keypoints, 2), np.float32)
        boxes, scores = NO_BOXES
        return Poses(keypoints, keypoints[..., 0], scores, np.zeros(0, np.int64), boxes_xyxy=boxes, box_scores=scores)


def behind(items: Iterable[T]) -> Iterator[T]:
    """The same items, each after the next one has been asked for."""
    before: deque[T] = deque()
    for item in items:
        before.append(item)
        if len(before) > 1:
            yield before.popleft()
    yield from before


def find_device(name: str | None) -> "torch.device":
    """The device called ``name``, or the accelerator if there is one, else the CPU.

    Raises:
        UserError: when this machine has no such device.
    """
    import torch

    if name is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        probe = torch.zeros(1, device=name)
        probe.cpu()  # which fails on `meta`
        return probe.device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} can't be used here ({str(error).splitlines()[0]}); try device=cpu") from error


def find_autocast(choice: str, device: "torch.device") -> "torch.dtype | None":
    """The type of autocast that a precision means on ``device``, or None for none.

    Raises:
        UserError: for an unknown precision.
    """
    import torch

    from lightpose.runtime.precision import precision

    fastest = precision("auto", "auto") if device.type == "cuda" else "32-true"
    chosen = fastest if choice == "auto" else choice
    if chosen not in AUTOCAST:
        raise UserError(f"precision={choice} is unknown; use auto or one of {', '.join(AUTOCAST)}")
    name = AUTOCAST[chosen]
    return None if name is None else getattr(torch, name)


def trained_image_bits(estimator: Any) -> int:
    """How many bits the values of 16-bit images had when the estimator was trained."""
    node: Any = estimator.config or {}
    for key in ("data", "reader", "image_bits"):
        node = node.get(key) if isinstance(node, dict) else None
    return 16 if node is None else node


def _noted(batches: Iterable[Crops], bad: dict[int, str]) -> Iterator[Crops]:
    for crops in batches:
        bad.update(crops.bad)
        yield crops
