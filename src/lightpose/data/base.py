"""What every reader of a data set shares: transforms, ground truth, and randomness of seed, pass and index alone."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from torch.utils.data import Dataset

from lightpose.data.coco.ground_truth import ground_truth_of
from lightpose.data.pipeline import Pipeline, Transform
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Sample


class Late(NamedTuple):
    """A sample of the end of a run, which other transforms are for.

    Attributes:
        pass_number: which pass over the data it is.
        sample: its index.
    """

    pass_number: int
    sample: int


class PoseDataset(Dataset[Sample]):
    """Base of readers: map-style data sets of `Sample`.

    A subclass implements ``__len__`` and `load`. The data module builds it with its own options, with ``annotations``
    and ``images``, with the arguments below, and with ``boxes`` for evaluation in detected boxes. So a reader of one's
    own format may begin::

        def __init__(self, annotations, images=None, **shared):
            super().__init__(**shared)

    ``images`` is None unless it was given; `lightpose.data.pixels.image_files.image_folder` then looks near the file.

    Args:
        skeleton: which keypoints there are.
        transforms: applied to what `load` returns; None only decodes the image.
        seed: of the random transforms. Together with the pass and the index it fixes all that is random, so neither
            the number of workers nor an interruption changes a run.

    Attributes:
        one_person: whether a sample is one person, or a whole image with everyone in it.
        whole_image: whether a sample of one person is a whole image, and not a box of it.
        sequences: whether a sample is no image, but a sequence of keypoints.
        labelled: whether any sample has a label; a data set without may be trained on beside one that has.
        training: whether the samples are learnt from. The data module clears it where they are evaluated on.
        late_transforms: what takes the place of the transforms where a sample is asked for as `Late`.
    """

    one_person: ClassVar[bool] = True
    whole_image: ClassVar[bool] = False
    sequences: ClassVar[bool] = False

    def __init__(self, skeleton: Skeleton | None = None, transforms: Transform | None = None, seed: int = 0) -> None:
        self._skeleton = skeleton
        self.transforms = transforms or Pipeline()
        self.seed = seed
        self.labelled = True
        self.training = True
        self.late_transforms: Transform | None = None
        self._late: Self | None = None
        self._ground_truth: dict[str, Any] | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        """The sample before any transform."""
        raise NotImplementedError

    def check_files(self) -> None:
        """Refuse files that are missing, before anything is computed; here none are known."""

    @property
    def skeleton(self) -> Skeleton:
        """Which keypoints there are.

        Raises:
            UserError: when nothing says it.
        """
        if self._skeleton is None:
            raise UserError(f"{type(self).__name__} was given no skeleton; build it with skeleton=...")
        return self._skeleton

    @classmethod
    def read_skeleton(cls, annotations: Path | str, sigmas: Sequence[float] | None = None) -> Skeleton:
        """The skeleton that an annotation file describes, which ``skeleton=auto`` takes.

        Args:
            annotations: the file.
            sigmas: OKS constants; None takes those of the file, else the default.

        Raises:
            UserError: when the file doesn't describe one. By default none does.
        """
        raise UserError(
            f"{cls.__name__} can't tell which keypoints {annotations} has; choose them, as with skeleton=coco17, or "
            "give the reader a method read_skeleton"
        )

    @classmethod
    def skeleton_remarks(cls, annotations: Path | str) -> list[str]:
        """What an annotation file leaves unsaid, or says wrongly, of the skeleton that `read_skeleton` reads."""
        return []

    @classmethod
    def read_image_hw(cls, annotations: Path | str) -> Array:
        """The sizes of the images of an annotation file, from which ``input_hw=auto`` follows.

        Args:
            annotations: the file.

        Returns:
            (I, 2) height and width in pixels.

        Raises:
            UserError: when nothing tells. By default nothing does.
        """
        raise UserError(
            f"{cls.__name__} can't tell how large the images of {annotations} are; give the network's input size, as "
            "with input_hw=[256,256], or give the reader a method read_image_hw"
        )

    def ground_truth(self) -> dict[str, Any]:
        """What to score against, as the content of a COCO file. By default made of what `load` gives, once.

        For this no pixels are read, where `load` gives images as `lightpose.data.pixels.decode.EncodedImage`.
        """
        if self._ground_truth is None:
            samples = (self.load(index, np.random.default_rng(0)) for index in range(len(self)))
            self._ground_truth = ground_truth_of(samples, self.skeleton)
        return self._ground_truth

    @property
    def image_rows(self) -> Array | None:
        """(N,) a number for the image of each sample, counted from 0, for ``data.group_by_image``; None if unknown."""
        return None

    @property
    def bad_images(self) -> list[str]:
        """Names of the images that were skipped so far since they can't be read."""
        return []

    def keep_decoded(self, limit_gb: float) -> None:
        """Keep decoded images from now on, if all of them fit into so many 10^9 bytes. By default none is kept."""

    def __getitem__(self, index: int | tuple[int, int]) -> Sample:
        """The sample of an index, or of a pass over the data and an index: each pass draws other random numbers."""
        dataset = self._with_late_transforms() if isinstance(index, Late) else self
        number, index = index if isinstance(index, tuple) else (0, index)
        return dataset.sample(index, np.random.default_rng([self.seed, number, index]))

    def _with_late_transforms(self) -> Self:
        if self._late is None:
            self._late = copy.copy(self)
            self._late.transforms = self.late_transforms or self.transforms
        return self._late

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """The sample after all transforms."""
        sample = self.load(index, rng)
        for step in getattr(self.transforms, "mix", ()):
            sample = step(sample, lambda: self.load(int(rng.integers(len(self))), rng), rng)
        return self.transforms(sample, rng)
