"""Heatmaps of several widths, for networks that predict again and again."""

import functools
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from lightpose.codecs.base import Codec
from lightpose.codecs.grid import MapGrid
from lightpose.codecs.maps import check_odd, labelled_cells, nobody, on_device, one_pose_per_row
from lightpose.codecs.peaks import argmax_cells, blur_sigma, quarter_shift
from lightpose.errors import UserError
from lightpose.geometry import Grid
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses, Spec, Targets

PEAK = 255.0


class MegviiCodec(Codec):
    """One map per keypoint and width: a blurred cell with a peak of 255 (arXiv:1711.07319, arXiv:1901.00148).

    ``heatmap`` (K, h, w) has the narrowest peaks. The others are the target ``wider`` (L, K, h, w), widest first, for
    heads that refine their maps step by step; the loss of any head of heatmaps goes without it.

    On the ``stride`` grid a cell is the middle of its pixels, half a cell further right and down than that grid says:
    published code rounds down to cells. Round trip: three quarters of a cell, since a target has no more than the
    nearest cell, from which decoding moves by a quarter. A last kernel wider than 5 moves peaks near a border inward.
    As in published code, targets are blurred as if the map went on as its mirror image, so that a cell on the border is
    higher than 255 when the peak lies beside it, and decoded maps as if zeros surrounded them.

    Args:
        skeleton: gives K, the mirror pairs and the weights.
        input_hw: network input size.
        grid: which input pixel a map cell stands for.
        stride: input pixels per map cell.
        kernels: taps of the blurs, odd, widest first.

    Raises:
        UserError: for kernels that can't be used.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        input_hw: tuple[int, int],
        grid: Grid,
        stride: int = 4,
        kernels: Sequence[int] = (15, 11, 9, 7, 5),
    ) -> None:
        for taps in kernels:
            check_odd(taps, "each of codec.kernels")
        if not kernels or sorted(kernels, reverse=True) != list(kernels):
            raise UserError(
                f"codec.kernels={list(kernels)} must go from wide to narrow; [11, 9, 7, 5] is published for "
                "one stage, [15, 11, 9, 7, 5] for several"
            )
        self.map_grid = MapGrid(input_hw, grid, stride, offset=0.5 if grid == "stride" else 0.0)
        self.mirror_lag = self.map_grid.mirror_lag
        names = frozenset({"heatmap", "wider"} if len(kernels) > 1 else {"heatmap"})
        self.spec = Spec({"heatmap": (skeleton.num_keypoints, *self.map_grid.map_hw)}, input_hw, names)
        self.kernels = tuple(kernels)
        self._loss_weights, self._swap = torch.tensor(skeleton.weights), torch.tensor(skeleton.swap)

    def encode(self, batch: Batch) -> Targets:
        """Maps (B, K, h, w) and (B, L, K, h, w) with weights (B, K) and (B, L, K) of the first instance of each row.

        They are zero where a keypoint is not labelled or nearest to no cell of the map. Where nobody is there, the maps
        are zero and count.
        """
        height, width = self.map_grid.map_hw
        cells, labels = labelled_cells(batch.instances, self.map_grid, reach=0.5)
        cells, labelled = (cells[:, 0] + 0.5).floor().long(), labels[:, 0]  # (B, K, 2), (B, K)
        x, y = cells[..., 0].clamp(0, width - 1), cells[..., 1].clamp(0, height - 1)
        columns = torch.stack([on_device(_profiles(width, taps), cells)[x] for taps in self.kernels], 1)
        rows = torch.stack([on_device(_profiles(height, taps), cells)[y] for taps in self.kernels], 1)
        maps = PEAK * rows[..., :, None] * columns[..., None, :]  # (B, kernels, K, h, w)
        maps = torch.where(labelled[:, None, :, None, None] > 0, maps, 0.0)
        weights = (labelled + nobody(batch.instances)) * on_device(self._loss_weights, labelled)
        targets, weights_of = {"heatmap": maps[:, -1]}, {"heatmap": weights}
        if "wider" in self.spec.target_names:
            targets["wider"] = maps[:, :-1]
            weights_of["wider"] = weights[:, None].expand(-1, len(self.kernels) - 1, -1)
        return Targets(targets, weights_of)

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """One pose per row in input pixels: a quarter of a cell from the highest cell of the blurred map.

        A peak in the last two cells before the border stays in its cell's middle. A keypoint's score is the highest
        value of its map, at least 0; 1 means a perfect map, as for other codecs. (Published code adds a half.)
        """
        maps = outputs["heatmap"].float()  # (B, K, h, w)
        height, width = maps.shape[-2:]
        taps = self.kernels[-1]
        blur_y, blur_x = (on_device(_blur(length, taps, cv2.BORDER_CONSTANT), maps) for length in (height, width))
        with torch.autocast(maps.device.type, enabled=False):  # which would make the matrix products bfloat16
            blurred = blur_y @ maps @ blur_x.mT  # (B, K, h, w)
        cells, _ = argmax_cells(blurred)
        x, y = cells.unbind(-1)
        inner = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
        shift = torch.where(inner[..., None], quarter_shift(blurred, cells, float(blur_sigma(taps))), 0.0)
        scores = maps.flatten(-2).amax(-1) / PEAK
        return one_pose_per_row(self.map_grid.to_input(cells + shift, (height, width)), scores.clamp_min(0))

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input; an involution."""
        maps = outputs["heatmap"]
        return {"heatmap": maps.flip(-1).index_select(1, on_device(self._swap, maps))}


@functools.lru_cache
def _blur(length: int, taps: int, border: int) -> Tensor:
    """(length, length): rows blur an axis. OpenCV's, since that has kernels of its own where taps are few."""
    return torch.from_numpy(cv2.GaussianBlur(np.eye(length, dtype=np.float32), (1, taps), 0, borderType=border))


@functools.lru_cache
def _profiles(length: int, taps: int) -> Tensor:
    """(length, length): for each cell, the blurred axis of 1 there and 0 elsewhere, scaled to 1 there again."""
    blur = _blur(length, taps, cv2.BORDER_REFLECT_101)
    return (blur / blur.diagonal()).T.contiguous()
