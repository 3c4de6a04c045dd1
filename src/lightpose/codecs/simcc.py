"""Coordinates as two classifications, and their decoding."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from lightpose.codecs.base import Codec
from lightpose.codecs.maps import nobody, on_device, one_pose_per_row
from lightpose.codecs.peaks import profile_shift
from lightpose.errors import UserError
from lightpose.geometry import Grid, Pair, check_grid, input_from_map
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses, Spec, Targets


class SimCCCodec(Codec):
    """The x and the y of a keypoint, each as a class among bins finer than pixels (arXiv:2107.03332).

    ``x`` (K, W * split) and ``y`` (K, H * split) are profiles along the two axes of the input, for one person per
    input. Round trip: keypoints anywhere in the input come back to half a bin, which is ``1 / (2 * split)`` pixels.

    Args:
        skeleton: gives K, the mirror pairs and the weights.
        input_hw: network input size.
        grid: which input pixel a bin stands for.
        split: bins per input pixel.
        target: ``gaussian`` around the nearest bin, or ``one_hot``: the nearest bin alone, with label smoothing.
        sigma: standard deviations (x, y) of the Gaussians in bins; None for the square root of a sixteenth of the
            number of bins (arXiv:2303.07399).
        normalize: let a Gaussian sum to 1; otherwise its height is 1.
        label_smoothing: share of a ``one_hot`` target that the other bins get.
        refine: ``dark`` takes a Newton step on the logarithm of the profile, blurred with a Gaussian as wide as the
            target's (arXiv:1910.06278); ``none`` takes the highest bin.

    Raises:
        UserError: for an option that can't be used.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        input_hw: tuple[int, int],
        grid: Grid,
        split: int = 2,
        target: Literal["gaussian", "one_hot"] = "gaussian",
        sigma: Sequence[float] | None = None,
        normalize: bool = False,
        label_smoothing: float = 0.1,
        refine: Literal["dark", "none"] = "none",
    ) -> None:
        check_grid(grid)
        if split < 1:
            raise UserError(f"codec.split={split} must be at least 1 bin per pixel; 2 is the published value")
        if target not in ("gaussian", "one_hot"):
            raise UserError(f"codec.target={target!r} is unknown; use gaussian or one_hot")
        if refine not in ("dark", "none"):
            raise UserError(f"codec.refine={refine!r} is unknown; use dark or none")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"codec.label_smoothing={label_smoothing} must be at least 0 and below 1; try 0.1")
        bins_hw = (input_hw[0] * split, input_hw[1] * split)
        self.sigma = [math.sqrt(bins / 16) for bins in reversed(bins_hw)] if sigma is None else list(sigma)
        if len(self.sigma) != 2 or min(self.sigma) <= 0:
            raise UserError(f"codec.sigma={list(self.sigma)} must be two positive numbers of bins, x and y; try null")
        count = skeleton.num_keypoints
        self.spec = Spec({"x": (count, bins_hw[1]), "y": (count, bins_hw[0])}, input_hw)
        self.grid, self.split, self.bins_hw = grid, split, bins_hw
        self.target, self.normalize, self.label_smoothing, self.refine = target, normalize, label_smoothing, refine
        self._loss_weights, self._swap = torch.tensor(skeleton.weights), torch.tensor(skeleton.swap)

    def encode(self, batch: Batch) -> Targets:
        """Profiles (B, K, bins) and weights (B, K) of the first instance of each row; zero where not labelled.

        A keypoint has weight 0 when its Gaussian misses an axis by 3 sigma or more, or its bin for ``one_hot`` is not
        there. Where nobody is there, no bin stands out, and that counts.
        """
        instances = batch.instances
        labelled = (instances.visible[:, 0] > 0) & instances.valid[:, :1]  # (B, K)
        scale, offset = self._input_from_bins(self.bins_hw)
        centers = []
        for axis, bins in enumerate(reversed(self.bins_hw)):
            position = (instances.keypoints[:, 0, :, axis].float() - offset[axis]) / scale[axis]
            reach = 3 * self.sigma[axis] if self.target == "gaussian" else 0.5
            labelled = labelled & (position >= -reach) & (position < bins - 1 + reach)
            centers.append((position + 0.5).floor())
        empty = nobody(instances)
        maps = {}
        for name, center, bins, sigma in zip("xy", centers, reversed(self.bins_hw), self.sigma, strict=True):
            profile = self._profile(torch.where(labelled, center, 0.0), bins, sigma)
            level = 1 / bins if self.normalize or self.target == "one_hot" else 0.0
            maps[name] = torch.where(labelled[..., None], profile, level * empty[..., None])
        weights = (labelled + empty) * on_device(self._loss_weights, empty)
        return Targets(maps, dict.fromkeys(maps, weights))

    def _profile(self, centers: Tensor, bins: int, sigma: float) -> Tensor:
        """(..., bins): the target around whole bins."""
        distance = torch.arange(bins, device=centers.device) - centers[..., None]
        if self.target == "one_hot":
            others = self.label_smoothing / max(bins - 1, 1)
            return torch.where(distance == 0, 1 - self.label_smoothing, others)
        profile = torch.exp(-(distance**2) / (2 * sigma**2))
        return profile / (sigma * math.sqrt(2 * math.pi)) if self.normalize else profile

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """One pose per row in input pixels; a score is the lower of the two profiles' highest values, at least 0."""
        bins_hw = outputs["y"].shape[-1], outputs["x"].shape[-1]
        places, tops = [], []
        for name, scale, offset, sigma in zip("xy", *self._input_from_bins(bins_hw), self.sigma, strict=True):
            profiles = outputs[name].float()  # (B, K, bins)
            cells = profiles.argmax(-1)
            tops.append(profiles.gather(-1, cells[..., None])[..., 0])
            position = cells.float()
            if self.refine == "dark":
                position = position + profile_shift(profiles, cells, _blur_kernel(sigma))
            places.append(position * scale + offset)
        return one_pose_per_row(torch.stack(places, -1), torch.minimum(*tops).clamp_min(0))

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input; an involution.

        On the ``stride`` grid the last ``split - 1`` bins lie beyond the middle of the last pixel, and have no mirror
        image: all other bins move on by so many.
        """
        x, y = (outputs[name].index_select(1, on_device(self._swap, outputs[name])) for name in "xy")
        lag = self.split - 1 if self.grid == "stride" else 0
        return {"x": x.flip(-1).roll(-lag, -1), "y": y}

    def _input_from_bins(self, bins_hw: tuple[int, int]) -> tuple[Pair, Pair]:
        return input_from_map(self.grid, (bins_hw[0] // self.split, bins_hw[1] // self.split), bins_hw)


def _blur_kernel(sigma: float) -> int:
    """Odd number of taps of the blur whose deviation (`lightpose.codecs.peaks.blur_sigma`) is ``sigma`` at most."""
    taps = int((sigma - 0.35) / 0.15 + 1e-6)
    return max(taps - (taps + 1) % 2, 1)
