"""Gaussian heatmaps of one person, and their decoding."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lightpose.codecs.base import Codec
from lightpose.codecs.grid import MapGrid
from lightpose.codecs.maps import check_odd, labelled_cells, nobody, on_device, one_pose_per_row
from lightpose.codecs.peaks import Border, argmax_cells, newton_shift, quarter_shift
from lightpose.errors import UserError
from lightpose.geometry import Grid
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses, Spec, Targets

Refine = Literal["dark", "quarter", "none"]
Centers = Literal["continuous", "rounded"]


class HeatmapCodec(Codec):
    """One map per keypoint with a Gaussian of height 1 at its place (arXiv:1804.06208), for one person per input.

    Round trip: ``dark`` gives keypoints back to a hundredth of a cell anywhere in the input, ``quarter`` to a quarter
    of a cell and ``none`` to half a cell wherever the keypoint lies within half a cell of a cell. On the ``stride``
    grid the input's last pixels lie further out, where ``quarter`` and ``none`` lose up to another half cell.

    Args:
        skeleton: gives K, the mirror pairs and the weights.
        input_hw: network input size.
        grid: which input pixel a map cell stands for.
        stride: input pixels per map cell.
        sigma: standard deviation of the Gaussian in map cells.
        centers: ``continuous`` puts the Gaussian where the keypoint is (arXiv:1910.06278), ``rounded`` on the nearest
            cell, as SimpleBaselines does.
        truncate: cut the Gaussian this many sigmas from the cell nearest to the keypoint, or None. Published code
            cuts at 3.
        refine: ``dark`` takes a Newton step on the blurred map's logarithm (arXiv:1910.06278), ``quarter`` moves 0.25
            cells toward the higher neighbour, ``none`` takes the highest cell.
        blur_kernel: taps of the blur of ``dark``, odd; DARK takes 11 for sigma 2 and 17 for sigma 3.
        blur_border: what ``dark`` does near a border (`lightpose.codecs.peaks.newton_shift`).
        dark_step: spacing of second differences of ``dark`` in cells: 1 as in UDP's code, 2 as in DARK's.

    Raises:
        UserError: for an option that can't be used.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        input_hw: tuple[int, int],
        grid: Grid,
        stride: int = 4,
        sigma: float = 2.0,
        centers: Centers = "continuous",
        truncate: float | None = None,
        refine: Refine = "dark",
        blur_kernel: int = 11,
        blur_border: Border = "shrink",
        dark_step: Literal[1, 2] = 1,
    ) -> None:
        _choose("refine", refine, get_args(Refine))
        _choose("centers", centers, get_args(Centers))
        _choose("blur_border", blur_border, get_args(Border))
        _choose("dark_step", dark_step, (1, 2))
        check_odd(blur_kernel)
        if sigma <= 0:
            raise UserError(f"codec.sigma={sigma} must be a positive number of map cells; 2 suits maps of 64 cells")
        self.map_grid = MapGrid(input_hw, grid, stride)
        self.mirror_lag = self.map_grid.mirror_lag
        self.spec = Spec({"heatmap": (skeleton.num_keypoints, *self.map_grid.map_hw)}, input_hw)
        self.sigma, self.centers, self.truncate = sigma, centers, truncate
        self.refine, self.blur_kernel, self.blur_border, self.dark_step = refine, blur_kernel, blur_border, dark_step
        self._loss_weights, self._swap = torch.tensor(skeleton.weights), torch.tensor(skeleton.swap)

    def encode(self, batch: Batch) -> Targets:
        """Maps (B, K, h, w) and weights (B, K) of the first instance of each row; zero where not labelled.

        A keypoint whose Gaussian misses the map by 3 sigma or more has weight 0. Where nobody is there, the maps are
        zero and count.
        """
        height, width = self.map_grid.map_hw
        centers, labels = labelled_cells(batch.instances, self.map_grid, 3 * self.sigma)
        labelled, (x, y) = labels[:, 0], centers[:, 0].unbind(-1)  # (B, K)
        maps = self._profile(y, height)[..., :, None] * self._profile(x, width)[..., None, :]  # (B, K, h, w)
        maps = torch.where(labelled[..., None, None] > 0, maps, 0.0)
        weights = labelled + nobody(batch.instances)
        return Targets({"heatmap": maps}, {"heatmap": weights * on_device(self._loss_weights, weights)})

    def _profile(self, centers: Tensor, length: int) -> Tensor:
        """(..., length): the Gaussian along one axis."""
        cells = torch.arange(length, device=centers.device, dtype=torch.float32)
        nearest = (centers + 0.5).floor()[..., None]
        distance = cells - (nearest if self.centers == "rounded" else centers[..., None])
        profile = torch.exp(-(distance**2) / (2 * self.sigma**2))
        if self.truncate is None:
            return profile
        return torch.where((cells - nearest).abs() <= self.truncate * self.sigma, profile, 0.0)

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """One pose per row in input pixels; a keypoint's score is the highest value of its map, at least 0.

        A map without a positive value gives its highest cell with score 0.
        """
        maps = outputs["heatmap"].float()  # (B, K, h, w)
        cells, scores = argmax_cells(maps)  # (B, K, 2), (B, K)
        points = cells.float()
        if self.refine == "quarter":
            points = points + quarter_shift(maps, cells, self.sigma)
        elif self.refine == "dark":
            points = points + newton_shift(maps, cells, self.blur_kernel, self.dark_step, self.blur_border)
        return one_pose_per_row(self.map_grid.to_input(points, maps.shape[-2:]), scores.clamp_min(0))

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input; an involution."""
        maps = outputs["heatmap"]
        return {"heatmap": maps.flip(-1).index_select(1, on_device(self._swap, maps))}


def _choose(option: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise UserError(f"codec.{option}={value!r} is unknown; use one of {', '.join(map(str, known))}")
