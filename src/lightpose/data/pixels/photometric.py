"""Light, colour, blur and holes: chosen sample by sample in the workers, applied to the whole batch on its device.

A transform acts with its probability, and then puts random parameters on the sample. `apply_photometric` does the rest,
in the order colour, blur, holes. Samples without parameters come through unchanged.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lightpose.data.pixels.raw import Parameters
from lightpose.structures import Array, Sample

_GREY = np.tile([0.299, 0.587, 0.114], (3, 1))  # RGB to its luma, of BT.601, as in JPEG
_ODD = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)


class Photometric:
    """Base of the transforms: chooses parameters now and then.

    Args:
        probability: of doing it.
    """

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """Add to ``photometric``, or not."""
        if rng.random() >= self.probability:
            return sample
        return replace(sample, photometric={**sample.photometric, **self.choose(sample, rng)})

    def choose(self, sample: Sample, rng: np.random.Generator) -> dict[str, Array]:
        """Random parameters by name: ``color`` (3, 4), ``blur`` (taps,) or ``holes`` (count, 4), float32."""
        raise NotImplementedError


class BrightnessContrast(Photometric):
    """Add to the brightness, and stretch it about mid-grey.

    Args:
        brightness: largest change, as a share of the range from black to white.
        contrast: largest relative change.
        probability: of doing it.
    """

    def __init__(self, brightness: float = 0.2, contrast: float = 0.2, probability: float = 0.5) -> None:
        super().__init__(probability)
        self.brightness, self.contrast = brightness, contrast

    def choose(self, sample: Sample, rng: np.random.Generator) -> dict[str, Array]:
        """The affine map of RGB, after those of earlier transforms."""
        gain = 1 + rng.uniform(-self.contrast, self.contrast)
        offset = 255 * rng.uniform(-self.brightness, self.brightness) + 127.5 * (1 - gain)
        change = gain * np.eye(3, 4)
        change[:, 3] = offset
        return _color(sample, change)


class HueSaturation(Photometric):
    """Turn the colours about the grey axis, and move them from or towards the grey of the same brightness.

    Args:
        hue_degrees: largest turn.
        saturation: largest relative change.
        probability: of doing it.
    """

    def __init__(self, hue_degrees: float = 20.0, saturation: float = 0.3, probability: float = 0.5) -> None:
        super().__init__(probability)
        self.hue_degrees, self.saturation = hue_degrees, saturation

    def choose(self, sample: Sample, rng: np.random.Generator) -> dict[str, Array]:
        """The affine map of RGB, after those of earlier transforms."""
        radians = math.radians(rng.uniform(-self.hue_degrees, self.hue_degrees))
        factor = 1 + rng.uniform(-self.saturation, self.saturation)
        cos = math.cos(radians)
        hue = cos * np.eye(3) + (1 - cos) / 3 + math.sin(radians) * _ODD
        change = np.zeros((3, 4))
        change[:, :3] = (factor * np.eye(3) + (1 - factor) * _GREY) @ hue
        return _color(sample, change)


def _color(sample: Sample, change: Array) -> dict[str, Array]:
    earlier = sample.photometric.get("color", np.eye(3, 4))
    both = change[:, :3] @ earlier
    both[:, 3] += change[:, 3]
    return {"color": both.astype(np.float32)}


class GaussianBlur(Photometric):
    """Blur.

    Args:
        sigma: smallest and largest standard deviation, in input pixels.
        probability: of doing it.
    """

    def __init__(self, sigma: Sequence[float] = (0.5, 1.5), probability: float = 0.1) -> None:
        super().__init__(probability)
        self.sigma = (sigma[0], sigma[1])

    def choose(self, sample: Sample, rng: np.random.Generator) -> dict[str, Array]:
        """The weights of the pixels along a row or a column, equally many for any deviation."""
        radius = math.ceil(3 * self.sigma[1])
        weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / rng.uniform(*self.sigma)) ** 2)
        return {"blur": (weights / weights.sum()).astype(np.float32)}


class Holes(Photometric):
    """Black rectangles.

    Args:
        count: fewest and most of them.
        height: smallest and largest height, as a share of the input's.
        width: likewise.
        probability: of doing it.
    """

    def __init__(
        self,
        count: Sequence[int] = (1, 2),
        height: Sequence[float] = (0.1, 0.3),
        width: Sequence[float] = (0.1, 0.3),
        probability: float = 0.2,
    ) -> None:
        super().__init__(probability)
        self.count = (count[0], count[1])
        self.least_wh, self.most_wh = np.array([width[0], height[0]]), np.array([width[1], height[1]])

    def choose(self, sample: Sample, rng: np.random.Generator) -> dict[str, Array]:
        """Boxes xyxy as shares of the input; those beyond the chosen number have no size."""
        holes = np.zeros((self.count[1], 4), np.float32)
        for row in range(rng.integers(self.count[0], self.count[1] + 1)):
            size_wh = rng.uniform(self.least_wh, self.most_wh)
            corner = rng.uniform(0, 1 - size_wh)
            holes[row] = [*corner, *(corner + size_wh)]
        return {"holes": holes}


def apply_photometric(inputs: Tensor, chosen: Mapping[str, Parameters]) -> Tensor:
    """A changed copy of the inputs (B, 3, H, W) uint8, channels last in memory.

    Args:
        inputs: on any device.
        chosen: name → parameters, as `Photometric.choose` names them.
    """
    for name, change in (("color", _change_color), ("blur", _blur), ("holes", _punch)):
        if name in chosen:
            rows, values = chosen[name].rows, chosen[name].values
            inputs = inputs.index_copy(0, rows, change(inputs[rows], values))
    return inputs.contiguous(memory_format=torch.channels_last)


def _change_color(inputs: Tensor, matrices: Tensor) -> Tensor:
    """RGB mapped by (n, 3, 4), channel by channel: products of matrices as small as these take longer."""
    channels = [channel.float() for channel in inputs.unbind(1)]  # each (n, H, W)
    mapped = torch.empty_like(inputs)
    for out, row in zip(mapped.unbind(1), matrices[..., None, None].unbind(1), strict=True):
        *factors, value = row.unbind(1)  # each (n, 1, 1)
        for factor, channel in zip(factors, channels, strict=True):
            value = torch.addcmul(value, factor, channel)
        out.copy_(_to_bytes(value))
    return mapped


def _blur(inputs: Tensor, weights: Tensor) -> Tensor:
    """Columns and rows averaged with (n, taps), the edges mirrored."""
    radius = weights.shape[1] // 2
    height, width = inputs.shape[2:]
    padded = functional.pad(inputs.float(), [radius] * 4, mode="reflect")
    return _to_bytes(_slide(_slide(padded, weights, 3, width), weights, 2, height))


def _slide(values: Tensor, weights: Tensor, dim: int, length: int) -> Tensor:
    """The weighted sum of the windows along ``dim`` that are ``length`` long, one for each tap."""
    taps = weights[:, :, None, None, None].unbind(1)
    out = taps[0] * values.narrow(dim, 0, length)
    for start, weight in enumerate(taps[1:], 1):
        out = torch.addcmul(out, weight, values.narrow(dim, start, length))
    return out


def _punch(inputs: Tensor, holes: Tensor) -> Tensor:
    """Black inside of (n, count, 4) boxes xyxy, shares of the input."""
    left, top, right, bottom = holes.unbind(-1)  # (n, count)
    y, x = (torch.arange(side, device=inputs.device).add(0.5) / side for side in inputs.shape[2:])
    across = (x >= left[..., None]) & (x < right[..., None])  # (n, count, W)
    along = (y >= top[..., None]) & (y < bottom[..., None])
    inside = (along[..., None] & across[:, :, None]).any(1)
    return inputs.masked_fill(inside[:, None], 0)


def _to_bytes(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255).to(torch.uint8)  # of values that are nobody else's
