"""From a sample as it is read to the network's input: mixing, geometry, one warp, pixels."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lightpose.data.mosaic import Mixing
from lightpose.data.pixels.decode import EncodedImage
from lightpose.data.transforms import Geometry
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton
from lightpose.structures import Sample

Transform = Callable[[Sample, np.random.Generator], Sample]
"""Takes a sample and a random generator, and returns a new sample."""

LISTS = ("mix", "geometry", "pixels")


class Pipeline:
    """Applies geometry, then the warp, then what works on pixels. No order of the lists puts geometry after the warp.

    Args:
        geometry: steps that move no pixel.
        warp: makes the input from the image; None only decodes it.
        pixels: steps that work on the input. One that moves keypoints must move the pixels, too.
        mix: steps that make one sample of several, which come first. The data set does them, as it has the others.

    Raises:
        UserError: for a step in the wrong list.
    """

    def __init__(
        self,
        geometry: Sequence[Transform] = (),
        warp: Transform | None = None,
        pixels: Sequence[Transform] = (),
        mix: Sequence[Mixing] = (),
    ) -> None:
        for each in mix:
            if not isinstance(each, Mixing):
                raise UserError(
                    f"mix lists {type(each).__name__}, which is no lightpose.data.mosaic.Mixing; list it under "
                    "geometry or pixels"
                )
        for step in geometry:
            if not isinstance(step, Geometry):
                raise UserError(
                    f"geometry lists {type(step).__name__}, which is no lightpose.data.transforms.Geometry; list it "
                    "under pixels, or derive it from Geometry if it changes only input_from_image and labels"
                )
        for step in pixels:
            if isinstance(step, Geometry):
                raise UserError(
                    f"pixels lists {type(step).__name__}, which would move keypoints and no pixel there; list it under "
                    "geometry"
                )
        self.geometry, self.warp, self.pixels, self.mix = tuple(geometry), warp, tuple(pixels), tuple(mix)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The network's input.

        Raises:
            UserError: for a step that returns no sample; for one of ``geometry`` that changes pixels; and for one of
                ``pixels`` that changes size or type of the input, or moves keypoints and leaves the image as it was.
        """
        for step in self.geometry:
            before, sample = sample, _sample_of(step, step(sample, rng))
            if sample.image is not before.image:
                raise UserError(
                    f"{type(step).__name__} is geometry and changes pixels; list it under pixels, and don't derive it "
                    "from Geometry"
                )
        if self.warp is not None:
            sample = self.warp(sample, rng)
        elif isinstance(sample.image, EncodedImage):
            sample = replace(sample, image=sample.image.decode()[0])
        for step in self.pixels:
            before, sample = sample, _sample_of(step, step(sample, rng))
            self._check_pixels(step, before, sample)
        return sample

    def _check_pixels(self, step: Transform, before: Sample, after: Sample) -> None:
        moved = after.input_from_image is not before.input_from_image
        moved |= after.instances.keypoints is not before.instances.keypoints
        if moved and after.image is before.image:
            raise UserError(
                f"{type(step).__name__} changes input_from_image or keypoints and moves no pixel; derive it from "
                "lightpose.data.transforms.Geometry and list it under geometry"
            )
        old, new = before.image, after.image
        if self.warp is None or not isinstance(old, np.ndarray):
            return
        if not isinstance(new, np.ndarray) or (new.shape, new.dtype) != (old.shape, old.dtype):
            came = f"{new.shape} of {new.dtype}" if isinstance(new, np.ndarray) else f"a {type(new).__name__}"
            raise UserError(
                f"{type(step).__name__} turned an input of shape {old.shape} and {old.dtype} into {came}; let it keep "
                "shape and type, since the network's preprocessor comes later"
            )


def _sample_of(step: Transform, sample: Any) -> Sample:
    if not isinstance(sample, Sample):
        raise UserError(
            f"{type(step).__name__} returns a {type(sample).__name__}; return a new Sample, such as one of "
            "dataclasses.replace"
        )
    return sample


def steps_of(lists: Mapping[str, Mapping[str, Any] | None], skeleton: Skeleton | None) -> dict[str, list[Any]]:
    """The steps of each of the `LISTS`.

    Args:
        lists: list → name → step, in order. None leaves one out; a partial receives ``skeleton``.
        skeleton: which keypoints there are.

    Raises:
        UserError: for another list.
    """
    unknown = sorted(set(lists) - set(LISTS))
    if unknown:
        raise UserError(f"augmentation has no list {' or '.join(unknown)}; its lists are {', '.join(LISTS)}")
    return {
        name: [
            step(skeleton=skeleton) if isinstance(step, functools.partial) else step
            for step in (lists.get(name) or {}).values()
            if step is not None
        ]
        for name in LISTS
    }
