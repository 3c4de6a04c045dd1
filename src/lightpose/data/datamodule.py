"""Data sets, transforms and loaders of a run."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Timer

from lightpose.data.base import PoseDataset
from lightpose.data.combined import CombinedDataset
from lightpose.data.pipeline import Pipeline, steps_of
from lightpose.data.pixels.crop import DeferWarp, Warp
from lightpose.data.pixels.device import unpacked
from lightpose.data.pixels.image_files import ImagesNotFound
from lightpose.data.pixels.input_size import sizes_between
from lightpose.data.pixels.loader import EpochLoader, EpochSampler, one_thread
from lightpose.data.pixels.packed import packed
from lightpose.data.pixels.photometric import Photometric
from lightpose.data.transforms import Geometry
from lightpose.errors import UserError
from lightpose.runtime.cores import CORES, MOST_WORKERS
from lightpose.skeleton import Skeleton

log = logging.getLogger(__name__)

_SHIPPED = 32
"""Samples that a worker ships at once where batches are smaller, see `EpochLoader`."""
_SPLITS_OF_STAGE = {"fit": ("train", "val"), "validate": ("val",)}


class PoseDataModule(LightningDataModule):
    """Training and validation data of any `PoseDataset`.

    Args:
        reader: builds a data set from ``annotations``, ``images``, ``skeleton``, ``transforms`` and ``seed``, and
            ``boxes`` where it is given.
        transforms: ``train``, ``eval`` and, if there is another way to train at the end, ``late``, each with the lists
            ``mix``, ``geometry`` and ``pixels`` of name → step in order. The warp between the last two is in none. None
            leaves a step out; a partial receives ``skeleton``.
        skeleton: which keypoints there are.
        input_hw: network input size; None for inputs that are not images.
        margin_grey: see `lightpose.data.pixels.crop.Warp`.
        train: annotation file, or several, see `CombinedDataset`.
        val: annotation file; None trains without validation.
        images: folder of the training images, or one for each of several files; None lets the data set look near the
            annotation file.
        ratios: how often a sample is drawn from each of several files, relative to the others; None draws each sample
            once in a pass.
        val_images: likewise for validation; where None finds none, they are taken to be in ``images``.
        boxes: detected boxes to validate in; None uses the annotated ones.
        input_scale: smallest and largest factor on ``input_hw``. Each training batch is resized to a size between,
            drawn for it in steps of 32 pixels. None trains on one size.
        batch_size: per process; training cuts it to the samples there are.
        epoch_steps: optimizer steps of an epoch, which then begins and ends anywhere in an endless row of passes over
            the data, each in another order. None takes one pass for an epoch.
        late_epochs: how many epochs at the end of the run, whole or not, are trained with the transforms ``late``.
        eval_batch_size: None takes ``batch_size``.
        num_workers: per process; None takes the CPU cores that a process may use, 16 at most, and no more than an epoch
            has batches.
        group_by_image: put the people of one image into one batch, so that it is decoded once. Faster, but the samples
            of a batch are less independent.
        decode: ``cpu``: the workers decode and crop. ``device``: they read files, and batches are decoded and cropped
            on the device of the run, where few CPU cores would not keep up with it.
        cache_gb: 10^9 bytes of memory, for each split and process, in which decoded images are kept while a model is
            trained, if all of them fit (`PoseDataset.keep_decoded`); not with ``decode=device``.
        seed: of order and transforms.

    Raises:
        UserError: when a split is used whose annotation file is not given, for what the data set refuses, for a
            transform in the wrong list, and for one that needs pixels where ``decode`` is ``device``.
    """

    def __init__(
        self,
        reader: Callable[..., PoseDataset],
        transforms: Mapping[str, Mapping[str, Mapping[str, Any]]],
        skeleton: Skeleton | None = None,
        input_hw: Sequence[int] | None = None,
        margin_grey: int = 0,
        train: str | Sequence[str] | None = None,
        val: str | None = None,
        images: str | Sequence[str | None] | None = None,
        val_images: str | None = None,
        ratios: Sequence[float] | None = None,
        boxes: str | None = None,
        input_scale: Sequence[float] | None = None,
        batch_size: int = 64,
        epoch_steps: int | None = None,
        late_epochs: float = 0,
        eval_batch_size: int | None = None,
        num_workers: int | None = None,
        group_by_image: bool = False,
        decode: Literal["cpu", "device"] = "cpu",
        cache_gb: float = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if decode not in ("cpu", "device"):
            raise UserError(f"data.decode={decode!r} is unknown; use cpu or device")
        if not cache_gb >= 0:
            raise UserError(f"data.cache_gb={cache_gb} must be at least 0; 0 keeps no decoded images")
        unknown = sorted(set(transforms) - {"train", "eval", "late"})
        if unknown:
            raise UserError(f"augment has no key {' or '.join(unknown)}; its keys are train, eval and late")
        if decode == "device" and input_hw is None:
            raise UserError("data.decode=device decodes images, but input_hw=null has none; use data.decode=cpu")
        self.decode, self.input_hw = decode, None if input_hw is None else (input_hw[0], input_hw[1])
        self.margin_grey = margin_grey
        self.sizes = sizes_between(input_hw, input_scale) if input_hw and input_scale is not None else []
        self.reader = reader
        self.annotations = {"train": train, "val": val}
        self.train_files = list(pairs(train, images))
        if ratios is not None and len(self.train_files) == 1:
            raise UserError("data.ratios are those of several files; give them as data.train=[a.json,b.json]")
        self.folders = [images] if isinstance(images, str) else list(filter(None, images or ()))
        self.val_images, self.ratios = val_images, ratios
        self.boxes = {"train": None, "val": boxes}
        self.transforms, self.skeleton, self.seed = transforms, skeleton, seed
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.num_workers, self.group_by_image = num_workers, group_by_image
        self.epoch_steps, self.late_epochs = epoch_steps, late_epochs
        self.cache_gb = cache_gb if decode == "cpu" else 0
        self._datasets: dict[str, PoseDataset] = {}

    def dataset(self, split: str) -> PoseDataset:
        """The data set of ``train`` or ``val``, made at the first call.

        Raises:
            UserError: when its annotation file is not given.
        """
        if split not in self._datasets:
            self._datasets[split] = self._train() if split == "train" else self._val()
        return self._datasets[split]

    def _train(self) -> PoseDataset:
        if not self.train_files:
            raise UserError("there is no annotation file to train on; give one as `train`")
        parts = [self._make("train", annotations, images) for annotations, images in self.train_files]
        _check_labelled(parts, [annotations for annotations, _ in self.train_files], "learn from")
        if len(parts) == 1:
            return parts[0]
        return CombinedDataset(parts, [annotations for annotations, _ in self.train_files], self.ratios)

    def _val(self) -> PoseDataset:
        annotations = self.annotations["val"]
        if not isinstance(annotations, str):
            raise UserError("there is no annotation file to validate on; give one as `val`")
        dataset = self._make_val(annotations)
        _check_labelled([dataset], [annotations], "measure on")
        return dataset

    def _make_val(self, annotations: str) -> PoseDataset:
        try:
            return self._make("val", annotations, self.val_images)
        except ImagesNotFound:
            if self.val_images:
                raise
            for images in self.folders:
                with suppress(ImagesNotFound):
                    return self._make("val", annotations, images)
            raise

    def _make(self, split: str, annotations: str, images: str | None) -> PoseDataset:
        pipeline = self._pipeline("train" if split == "train" else "eval")
        boxes = {"boxes": self.boxes[split]} if self.boxes[split] else {}
        own = {"skeleton": self.skeleton, "transforms": pipeline, "seed": self.seed, **boxes}
        try:
            dataset = self.reader(annotations=annotations, images=images, **own)
        except (UserError, OSError):
            raise
        except Exception as error:
            kind: Any = getattr(self.reader, "func", self.reader)
            raise UserError(
                f"the reader {kind.__name__} can't be built with annotations={annotations}, images={images}, "
                f"{', '.join(own)} ({type(error).__name__}: {error}); let its __init__ take these, hand the "
                "last ones to PoseDataset.__init__, and look for the images where images is None"
            ) from error
        lacks = [
            name for name in ("__len__", "load") if getattr(type(dataset), name) is getattr(PoseDataset, name, None)
        ]
        if lacks:
            raise UserError(f"the reader {type(dataset).__name__} has no method {' and no '.join(lacks)}; define it")
        dataset.training = split == "train"
        dataset.check_files()
        if self.sizes and dataset.training and dataset.one_person:
            raise UserError(
                f"data.input_scale is for whole images with everyone in them, but a sample of "
                f"{type(dataset).__name__} is one person; set data.input_scale=null"
            )
        late = self._pipeline("late") if dataset.training and self.late_epochs else None
        dataset.late_transforms = late
        for each in filter(None, (pipeline, late)):
            _check_kind(each, dataset)
        return dataset

    @property
    def train_dataset(self) -> PoseDataset:
        """What is trained on."""
        return self.dataset("train")

    def _pipeline(self, kind: str) -> Pipeline:
        steps = steps_of(self.transforms.get(kind) or {}, self.skeleton)
        if self.input_hw is None:
            return Pipeline(steps["geometry"], None, steps["pixels"])
        if self.decode == "cpu":
            return Pipeline(steps["geometry"], Warp(self.input_hw, self.margin_grey), steps["pixels"], steps["mix"])
        if steps["mix"]:
            raise UserError(
                f"{type(steps['mix'][0]).__name__} joins images as they are warped, which data.decode=device does one "
                "by one; use data.decode=cpu"
            )
        pipeline = Pipeline(steps["geometry"], DeferWarp(self.input_hw, self.margin_grey), steps["pixels"])
        for step in pipeline.pixels:
            if not isinstance(step, Photometric):
                raise UserError(
                    f"{type(step).__name__} needs pixels, which data.decode=device doesn't give to transforms; use "
                    "data.decode=cpu, or the transforms of lightpose.data.pixels.photometric"
                )
        return pipeline

    def setup(self, stage: str) -> None:
        """Make the data sets of a stage now, so that mistakes show before training starts."""
        for split in _SPLITS_OF_STAGE.get(stage, ()):
            if split != "val" or stage != "fit" or self.annotations["val"]:
                self.dataset(split)

    def teardown(self, stage: str) -> None:
        """Say which images were skipped."""
        for split, dataset in self._datasets.items():
            if skipped := dataset.bad_images:
                log.warning("%s: %d unreadable images were skipped, e.g. %s", split, len(skipped), skipped[0])

    def train_dataloader(self) -> EpochLoader:
        """Shuffled by seed and pass, in whole batches."""
        dataset = self.dataset("train")
        groups = dataset.image_rows if self.group_by_image else None
        if self.group_by_image and groups is None:
            raise UserError(
                f"{type(dataset).__name__} doesn't say which samples are of one image (image_rows); use "
                "data.group_by_image=false"
            )
        trainer = self.trainer
        world, rank = (trainer.world_size, trainer.global_rank) if trainer else (1, 0)
        accumulated = trainer.accumulate_grad_batches if trainer else 1
        batches = self.epoch_steps and self.epoch_steps * accumulated
        draws = dataset.draws if isinstance(dataset, CombinedDataset) else None
        samples = sum(taken for _, taken in draws) if draws else len(dataset)
        most = max(1, -(-samples // world))
        if most < self.batch_size:
            log.info("data.batch_size=%d is cut to %d: there are %d samples", self.batch_size, most, samples)
            self.batch_size = most
        sampler = EpochSampler(dataset, self.seed, groups, world, rank, self.batch_size, batches, draws)
        sampler.late_from = self._late_from(len(sampler) // self.batch_size) if self.late_epochs else None
        return self._loader(dataset, self.batch_size, sampler=sampler, sizes=self.sizes)

    def _late_from(self, epoch_batches: int) -> int:
        """Batch of the run, counted from its first, from which on samples have the transforms ``late``.

        Raises:
            UserError: when there are no such transforms, or nobody can tell how many batches come.
        """
        if not self.transforms.get("late"):
            raise UserError(
                f"data.late_epochs={self.late_epochs:g} needs augment.late, which is not there; give it the lists "
                "geometry and pixels, as augment.train has them, or set data.late_epochs=0"
            )
        trainer: Any = self.trainer
        if trainer and trainer.limit_train_batches not in (None, 1.0):
            limit = trainer.limit_train_batches
            epoch_batches = min(epoch_batches, limit if isinstance(limit, int) else int(limit * epoch_batches))
        epochs, steps = (trainer.max_epochs or -1, trainer.max_steps) if trainer else (-1, -1)
        ends = [epochs * epoch_batches] if epochs > 0 else []
        ends += [steps * trainer.accumulate_grad_batches] if steps > 0 else []
        if not ends:
            raise UserError("data.late_epochs counts from the end of the run; give trainer.max_epochs")
        late_from = min(ends) - round(self.late_epochs * epoch_batches)
        if late_from <= 0:
            log.warning(
                "the whole run is trained with augment.late, as it is no longer than data.late_epochs=%g; give a "
                "smaller number, or 0 to train with augment.train alone",
                self.late_epochs,
            )
        elif any(isinstance(callback, Timer) for callback in trainer.callbacks):
            log.warning("data.late_epochs counts from the last epoch, and trainer.max_time may end the run before")
        return max(0, late_from)

    def val_dataloader(self) -> EpochLoader | list[EpochLoader]:
        """In order, every sample once; no loader when there is no validation file."""
        return self._loader(self.dataset("val"), self.eval_batch_size) if self.annotations["val"] else []

    def _loader(self, dataset: PoseDataset, batch_size: int, **options: Any) -> EpochLoader:
        if "train" in self._datasets:  # who only evaluates sees each image once
            dataset.keep_decoded(self.cache_gb)
        workers = (
            self.num_workers
            if self.num_workers is not None
            else self._useful_workers(len(options.get("sampler", dataset)), batch_size)
        )
        device = self.trainer.strategy.root_device if self.trainer else None
        endless = workers and "sampler" in options
        return EpochLoader(
            dataset,
            device,
            unpacked,
            batch_size=batch_size * max(1, _SHIPPED // batch_size) if endless else batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device is not None and device.type == "cuda",
            collate_fn=packed,
            worker_init_fn=one_thread,
            **options,
        )

    def _useful_workers(self, samples: int, batch_size: int) -> int:
        devices = self.trainer.num_devices if self.trainer else 1
        return max(1, min(MOST_WORKERS, CORES // devices, -(-samples // batch_size)))


def files_of(given: str | Sequence[str] | None) -> list[str]:
    """The files that an option names: one, several, or none."""
    return [given] if isinstance(given, str) else list(given or ())


def pairs(
    files: str | Sequence[str] | None, folders: str | Sequence[str | None] | None
) -> Iterator[tuple[str, str | None]]:
    """Each annotation file with the folder of its images.

    Raises:
        UserError: where it isn't clear which folder belongs to which file.
    """
    listed = files_of(files)
    if isinstance(folders, str) or folders is None:
        yield from ((file, folders) for file in listed)
    elif len(folders) == len(listed):
        yield from zip(listed, folders, strict=True)
    elif listed:
        raise UserError(
            f"data.images names {len(folders)} folders and data.train {len(listed)} files; give a folder for each "
            "file, in their order, or one for all"
        )


def _check_labelled(parts: Sequence[PoseDataset], names: Sequence[str], what_for: str) -> None:
    """Refuse data of which nothing is labelled.

    Raises:
        UserError: naming the files.
    """
    if not any(part.labelled for part in parts):
        raise UserError(f"nothing is labelled in {', '.join(names)}, so there is nothing to {what_for}; give labels")


def _check_kind(pipeline: Pipeline, dataset: PoseDataset) -> None:
    """Refuse geometry that looks at the first person of a whole image and at no other, and mixing of single people.

    Inputs that differ in size are refused, too, unless whole images are evaluated.

    Raises:
        UserError: naming the step.
    """
    for step in pipeline.geometry:
        if isinstance(step, Geometry) and step.own_size and (dataset.training or dataset.one_person):
            name = type(step).__name__
            fix = (
                "which models of one person don't take; use CropBox"
                if dataset.one_person
                else f"but a batch to train on has one size; use CropImage there, and {name} under augment.eval alone"
            )
            raise UserError(f"{name} gives each image an input of its own size, {fix}")
    if dataset.one_person:
        if pipeline.mix:
            raise UserError(
                f"{type(pipeline.mix[0]).__name__} joins whole images, but a sample of {type(dataset).__name__} is one "
                "person; leave out augment.train.mix, or use data=bottomup"
            )
        return
    for step in pipeline.geometry:
        if isinstance(step, Geometry) and step.one_person:
            raise UserError(
                f"{type(step).__name__} is for samples of one person, but a sample of {type(dataset).__name__} is a "
                "whole image; use augment=bottomup, or leave that step out"
            )
