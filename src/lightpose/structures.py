"""What flows through lightpose: samples on the CPU, batches on the device, targets, poses.

Three frames are always named: *image* (original pixels), *input* (network pixels), *map* (output cells). Points are
(x, y), sizes are (h, w), boxes are xyxy, and a pixel's centre has integer coordinates.
"""

from __future__ import annotations  # for those who need no torch

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Generic, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeIs, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Array = NDArray[Any]
Column = TypeVar("Column", "Tensor", Array, default="Tensor")


def is_tensor(value: Any) -> TypeIs[Tensor]:
    """Whether this is a tensor; torch isn't loaded to find out."""
    loaded: Any = sys.modules.get("torch")
    return loaded is not None and isinstance(value, loaded.Tensor)


def _map(value: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(value, np.ndarray) or is_tensor(value):
        return function(value)
    if isinstance(value, TensorStruct):
        return value.map(function)
    if isinstance(value, Mapping):
        return {key: _map(item, function) for key, item in value.items()}
    return value


class TensorStruct:
    """Mixin for frozen dataclasses of tensors, or of arrays: moves and pins them as one."""

    __slots__ = ()

    def map(self, function: Callable[[Any], Any]) -> Self:
        """A copy with ``function`` applied to every tensor or array inside, in the order of the fields."""
        data: Any = self
        return replace(data, **{each.name: _map(getattr(self, each.name), function) for each in fields(data)})

    def leaves(self) -> list[Any]:
        """Every tensor or array inside, in the order of `map`."""
        found: list[Any] = []
        self.map(found.append)
        return found

    def to(self, device: torch.device | str, non_blocking: bool | None = None) -> Self:
        """A copy on ``device``. Transfers *to* an accelerator don't block, transfers to the CPU do, unless told."""
        if non_blocking is None:
            non_blocking = str(device).partition(":")[0] != "cpu"
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """A copy in page-locked memory."""
        return self.map(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True, slots=True)
class Annotations:
    """The labelled instances of one sample, as NumPy arrays in image pixels.

    Attributes:
        keypoints: (M, K, D) float32.
        visible: (M, K) float32 in {0: not labelled, 1: labelled but hidden, 2: visible}.
        boxes_xyxy: (M, 4) float32.
        areas: (M,) float32, square pixels.
        categories: (M,) int64, index into the data set's categories.
        ids: (M,) int64, annotation ids of the file.
        scores: (M,) float32, confidence of the box (1 for ground truth).
    """

    keypoints: Array
    visible: Array
    boxes_xyxy: Array
    areas: Array
    categories: Array
    ids: Array
    scores: Array


@dataclass(frozen=True, slots=True)
class Sample:
    """One item on its way to the network, on the CPU.

    Keypoints and boxes stay in image pixels; the transforms only build up ``input_from_image``, and whoever joins
    samples to a batch applies it. So geometry can't drift from pixels.

    Attributes:
        image: (H, W, 3) uint8 RGB, or a `lightpose.data.pixels.decode.EncodedImage`; of several images a tuple of
            `lightpose.data.pixels.pieces.Piece`, whose frame then is the image. The warp replaces any by the (h, w, 3)
            input, or by a `lightpose.data.pixels.raw.Unwarped`. For lifting, a keypoint sequence (T, K, 3) float32: x,
            y and confidence. Its instances are one pose, or one for each of its T frames.
        instances: labelled instances in image pixels.
        input_from_image: (3, 3) float64, maps image points to input points.
        image_id: id of the image in the annotation file.
        index: position in the data set; identifies the sample when results of several processes are gathered.
        image_hw: size of the original image.
        photometric: name → parameters of an augmentation of colours and light, see `lightpose.data.pixels.photometric`.
        ignore: regions that nothing may be learnt from, each a polygon (P, 2) in image pixels. A row of NaN stands
            between the rings of a region with holes. None where a sample is one person.
        camera: (3, 3) float32, intrinsic matrix, or None; either all samples of a batch have one, or none has.
        empty: whether it is known that nobody is there, so that a model learns to find no keypoint. An instance then
            only gives the box to look in.
        input_hw: size of the network input of this sample; None for that of the run.
    """

    image: Any
    instances: Annotations
    input_from_image: Array
    image_id: int
    index: int
    image_hw: tuple[int, int]
    photometric: Mapping[str, Array] = field(default_factory=dict)
    ignore: Sequence[Array] | None = None
    camera: Array | None = None
    empty: bool = False
    input_hw: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Instances(TensorStruct):
    """The labelled instances of a batch in input pixels, padded to the same M (M = 1 for top-down).

    Attributes:
        keypoints: (B, M, K, D).
        visible: (B, M, K) in {0, 1, 2}.
        boxes_xyxy: (B, M, 4); the axis-aligned hull of the box when the crop rotates.
        areas: (B, M) in square input pixels.
        categories: (B, M) int64.
        ids: (B, M) int64, annotation ids; -1 where padded.
        scores: (B, M) box confidence.
        valid: (B, M) bool, False where padded, and where nobody is there (`Sample.empty`).
    """

    keypoints: Tensor
    visible: Tensor
    boxes_xyxy: Tensor
    areas: Tensor
    categories: Tensor
    ids: Tensor
    scores: Tensor
    valid: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLabels(TensorStruct):
    """What is known of the samples of a batch beside their pixels.

    Attributes:
        instances: in input pixels.
        image_from_input: (B, 3, 3) float32, maps input points back to the original image.
        image_ids: (B,) int64.
        indices: (B,) int64, positions in the data set.
        image_hw: (B, 2) int64.
        ignore: (B, H, W) bool, input pixels that no loss may count, or None.
        cameras: (B, 3, 3) float32, intrinsic matrices of the images, or None.
        input_hw: sizes of the inputs where they differ: the smaller ones have something added on the right and at the
            bottom. None where all have one size.
    """

    instances: Instances
    image_from_input: Tensor
    image_ids: Tensor
    indices: Tensor
    image_hw: Tensor
    ignore: Tensor | None = None
    cameras: Tensor | None = None
    input_hw: tuple[tuple[int, int], ...] | None = None

    def __len__(self) -> int:
        """Batch size."""
        return len(self.image_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(BatchLabels):
    """What an estimator receives.

    Attributes:
        inputs: (B, 3, H, W) uint8 RGB, or (B, T, K, 3) float32 for lifting: x, y and confidence.
    """

    inputs: Tensor


@dataclass(frozen=True, slots=True)
class Targets(TensorStruct):
    """What a codec makes of a `Batch`, under the names of its spec.

    Attributes:
        maps: name → (B, ...) target tensor.
        weights: name → tensor that broadcasts over the target of that name from the left, e.g. (B, K).
    """

    maps: dict[str, Tensor]
    weights: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Poses(TensorStruct, Generic[Column]):
    """Predicted poses, flat over the batch, so that an image without a person is an ordinary case.

    `Poses` holds tensors, ``Poses[Array]`` NumPy arrays. An optional field is None where nobody predicts it.

    Attributes:
        keypoints: (N, K, D), input pixels out of a codec, image pixels out of an estimator.
        keypoint_scores: (N, K).
        scores: (N,) confidence of the pose.
        batch_index: (N,) int64, row of the batch that the pose belongs to.
        visibility: (N, K) probability that a keypoint can be seen.
        boxes_xyxy: (N, 4), in the frame of the keypoints.
        box_scores: (N,) confidence of the box the pose was found in.
        categories: (N,) int64, index into the data set's categories.
        track_ids: (N,) int64, who it is, over the frames of a video.
        extras: name → (N, ...), what else a head predicts of each pose. Files of predictions show each under its name,
            which must not be that of another field.
    """

    keypoints: Column
    keypoint_scores: Column
    scores: Column
    batch_index: Column
    visibility: Column | None = None
    boxes_xyxy: Column | None = None
    box_scores: Column | None = None
    categories: Column | None = None
    track_ids: Column | None = None
    extras: Mapping[str, Column] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of poses."""
        return len(self.keypoints)

    def select(self, rows: Any) -> Self:
        """Some of the poses: of a slice, of indices or of a mask."""
        return self.map(lambda column: column[rows])

    def numpy(self) -> Poses[Array]:
        """The same poses as NumPy arrays; half precision becomes float32."""
        poses: Any = self.map(_as_array)
        return poses

    @staticmethod
    def cat(parts: Sequence[Poses[Column]]) -> Poses[Column]:
        """All poses of one or more ``parts``, which have the same fields where they have poses."""
        some = [part for part in parts if len(part)] or list(parts[:1])
        if len(some) == 1:
            return some[0]
        join: Any = sys.modules["torch"].cat if is_tensor(some[0].keypoints) else np.concatenate
        columns = zip(*(part.leaves() for part in some), strict=True)
        return some[0].map(lambda _: join(next(columns)))


@dataclass(frozen=True, slots=True)
class Spec:
    """What a codec says of itself.

    Attributes:
        outputs: name → shape without the batch dimension, e.g. ``{"heatmap": (17, 64, 48)}``, of what it decodes; a
            length, or the whole shape, is None where only the network knows it.
        input_hw: network input size; None for inputs that are not images.
        targets: names of what it encodes; None for those of the outputs.
    """

    outputs: Mapping[str, tuple[int | None, ...] | None]
    input_hw: tuple[int, int] | None
    targets: frozenset[str] | None = None

    @property
    def target_names(self) -> frozenset[str]:
        """Names of the targets."""
        return frozenset(self.outputs) if self.targets is None else self.targets


def _as_array(tensor: Tensor) -> Array:
    half = tensor.is_floating_point() and tensor.itemsize < 4  # NumPy has no bfloat16
    return (tensor.float() if half else tensor).detach().cpu().numpy()
