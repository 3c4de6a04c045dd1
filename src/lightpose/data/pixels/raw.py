"""What workers ship: samples joined to a batch whose pixels are not finished yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightpose.data.pixels.crop import Unwarped
from lightpose.data.pixels.pieces import fill
from lightpose.geometry import transform_boxes, transform_points
from lightpose.structures import Array, BatchLabels, Instances, Sample, TensorStruct


@dataclass(frozen=True, slots=True)
class UnwarpedImages:
    """The images of a batch of `Unwarped` samples, each once. They stay on the CPU, where decoders read them.

    Attributes:
        data: (N,) uint8, what all images consist of, one after another.
        sizes: share of each image in ``data``.
        jpeg: whether it is a JPEG file, or else pixels.
        image_hw: size of each image.
        names: for messages.
        image_rows: which image each sample is of.
        reductions: of each sample, see `Unwarped`.
        input_hw: network input size; the largest height and width where they differ.
        margin_grey: see `lightpose.data.pixels.crop.Warp`; that of all samples.
    """

    data: Tensor
    sizes: tuple[int, ...]
    jpeg: tuple[bool, ...]
    image_hw: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    image_rows: tuple[int, ...]
    reductions: tuple[int, ...]
    input_hw: tuple[int, int]
    margin_grey: int

    @classmethod
    def join(cls, samples: Sequence[Unwarped]) -> "UnwarpedImages":
        """The images of ``samples`` in one tensor: many small ones would be slow to hand from process to process."""
        images = {sample.name: sample for sample in samples}
        rows = {name: row for row, name in enumerate(images)}
        return cls(
            data=torch.from_numpy(np.concatenate([image.data.ravel() for image in images.values()])),
            sizes=tuple(image.data.size for image in images.values()),
            jpeg=tuple(image.data.ndim == 1 for image in images.values()),
            image_hw=tuple(image.image_hw for image in images.values()),
            names=tuple(images),
            image_rows=tuple(rows[sample.name] for sample in samples),
            reductions=tuple(sample.reduction for sample in samples),
            input_hw=largest([sample.input_hw for sample in samples]),
            margin_grey=samples[0].margin_grey,
        )


@dataclass(frozen=True, slots=True)
class Parameters(TensorStruct):
    """The parameters of one kind of augmentation, for those samples of a batch that get it.

    Attributes:
        rows: (n,) int64, which samples.
        values: (n, ...) float32.
    """

    rows: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RawBatch(BatchLabels):
    """What workers ship. `lightpose.data.pixels.device.to_batch` makes a `lightpose.structures.Batch` of it.

    Attributes:
        images: (B, 3, H, W) uint8 RGB crops; or the images that crops are made of; or (B, T, K, C) float32 sequences.
        photometric: name → augmentation of colours and light that is still to be applied.
    """

    images: Tensor | UnwarpedImages
    photometric: Mapping[str, Parameters]


def gather(samples: Sequence[Sample]) -> RawBatch:
    """Join samples: instances to input pixels, padded; crops stay uint8, channels last in memory, and get margins."""
    matrices = [sample.input_from_image for sample in samples]
    sizes = [_input_hw(sample) for sample in samples]
    return RawBatch(
        images=_images([sample.image for sample in samples], largest(sizes)),
        photometric=_parameters([sample.photometric for sample in samples]),
        instances=_instances(samples),
        image_from_input=torch.from_numpy(np.linalg.inv(np.stack(matrices)).astype(np.float32)),
        image_ids=torch.tensor([sample.image_id for sample in samples]),
        indices=torch.tensor([sample.index for sample in samples]),
        image_hw=torch.tensor([sample.image_hw for sample in samples]),
        ignore=_ignored(samples, largest(sizes)),
        cameras=_cameras([sample.camera for sample in samples]),
        input_hw=tuple(sizes) if len(set(sizes)) > 1 else None,
    )


def _input_hw(sample: Sample) -> tuple[int, int]:
    """Height and width; of a sequence, the first two of its dimensions."""
    height, width = sample.image.input_hw if isinstance(sample.image, Unwarped) else sample.image.shape[:2]
    return height, width


def largest(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The size that has room for each of ``sizes``."""
    return max(height for height, _ in sizes), max(width for _, width in sizes)


def _images(images: Sequence[Any], input_hw: tuple[int, int]) -> Tensor | UnwarpedImages:
    if isinstance(images[0], Unwarped):
        return UnwarpedImages.join(images)
    if images[0].dtype != np.uint8:
        return torch.from_numpy(np.stack(images))
    return torch.from_numpy(np.stack([_with_margins(image, input_hw) for image in images])).permute(0, 3, 1, 2)


def _with_margins(image: Array, input_hw: tuple[int, int]) -> Array:
    """The (h, w, ...) image with zeros on the right and at the bottom."""
    missing = [(0, full - side) for full, side in zip(input_hw, image.shape[:2], strict=True)]
    return np.pad(image, missing + [(0, 0)] * (image.ndim - 2)) if image.shape[:2] != input_hw else image


def _instances(samples: Sequence[Sample]) -> Instances:
    labels = [sample.instances for sample in samples]
    pairs = [(sample.input_from_image, sample.instances) for sample in samples]
    most = max(1, *(len(label.ids) for label in labels))
    return Instances(
        keypoints=_pad([transform_points(matrix, label.keypoints) for matrix, label in pairs], most),
        visible=_pad([label.visible for label in labels], most),
        boxes_xyxy=_pad([transform_boxes(matrix, label.boxes_xyxy) for matrix, label in pairs], most),
        areas=_pad(
            [(label.areas * abs(np.linalg.det(matrix[:2, :2]))).astype(np.float32) for matrix, label in pairs], most
        ),
        categories=_pad([label.categories for label in labels], most),
        ids=_pad([label.ids for label in labels], most, fill=-1),
        scores=_pad([label.scores for label in labels], most),
        valid=_pad([np.full(len(sample.instances.ids), not sample.empty) for sample in samples], most),
    )


def _ignored(samples: Sequence[Sample], input_hw: tuple[int, int]) -> Tensor | None:
    """(B, H, W) bool; None where samples are people, so that these pay nothing."""
    if all(sample.ignore is None for sample in samples):
        return None
    masks = [fill(sample.ignore or (), sample.input_from_image, input_hw) for sample in samples]
    return torch.from_numpy(np.stack(masks))


def _cameras(cameras: Sequence[Array | None]) -> Tensor | None:
    """(B, 3, 3) float32; None unless every sample has one."""
    known = [camera for camera in cameras if camera is not None]
    return torch.from_numpy(np.stack(known).astype(np.float32)) if len(known) == len(cameras) else None


def _pad(arrays: Sequence[Array], length: int, fill: float = 0) -> Tensor:
    """Stack arrays of different first dimension into (B, length, ...)."""
    out = np.full((len(arrays), length, *arrays[0].shape[1:]), fill, arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(out)


def _parameters(samples: Sequence[Mapping[str, Array]]) -> dict[str, Parameters]:
    """Name → parameters of the samples that have some."""
    found = {}
    for name in sorted({name for sample in samples for name in sample}):
        rows = [row for row, sample in enumerate(samples) if name in sample]
        values = np.stack([samples[row][name] for row in rows])
        found[name] = Parameters(torch.tensor(rows), torch.from_numpy(values))
    return found
