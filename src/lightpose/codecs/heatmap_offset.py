"""A disk and an offset field per keypoint: the combined form of Unbiased Data Processing."""

import torch
from torch import Tensor

from lightpose.codecs.base import Codec
from lightpose.codecs.grid import MapGrid
from lightpose.codecs.maps import check_odd, labelled_cells, nobody, on_device, one_pose_per_row
from lightpose.codecs.peaks import argmax_cells, gaussian_kernel, mirrored_blur_matrix
from lightpose.errors import UserError
from lightpose.geometry import Grid
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses, Spec, Targets


class HeatmapOffsetCodec(Codec):
    """A disk that says which cells are near a keypoint, and from each cell the way to it (arXiv:1911.07524).

    ``heatmap`` (K, h, w) is 1 within a radius r of the keypoint, else 0; ``offset`` (K, 2, h, w) holds (dx, dy) from
    the cell to the keypoint in units of r, in all cells, of which the loss counts those of the disk. Round trip: exact.

    Args:
        skeleton: gives K, the mirror pairs and the weights.
        input_hw: network input size.
        grid: which input pixel a map cell stands for.
        stride: input pixels per map cell.
        radius_factor: r as a share of the longer side of the map.
        blur_kernel: decoding blurs the disks with ``2 * blur_kernel + 1`` taps; odd.

    Raises:
        UserError: for an option that can't be used.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        input_hw: tuple[int, int],
        grid: Grid,
        stride: int = 4,
        radius_factor: float = 0.0546875,
        blur_kernel: int = 11,
    ) -> None:
        check_odd(blur_kernel)
        if radius_factor <= 0:
            raise UserError(f"codec.radius_factor={radius_factor} must be positive; 0.0546875 is the published value")
        self.map_grid = MapGrid(input_hw, grid, stride)
        self.mirror_lag = self.map_grid.mirror_lag
        count, (height, width) = skeleton.num_keypoints, self.map_grid.map_hw
        self.spec = Spec({"heatmap": (count, height, width), "offset": (count, 2, height, width)}, input_hw)
        self.radius = radius_factor * max(height, width)
        self.taps = 2 * blur_kernel + 1
        self.full_score = _blurred_disk(self.radius, self.taps)
        self._loss_weights, self._swap = torch.tensor(skeleton.weights), torch.tensor(skeleton.swap)

    def encode(self, batch: Batch) -> Targets:
        """Disks (B, K, h, w), offsets (B, K, 2, h, w) and their weights (B, K); zero where not labelled.

        A keypoint whose disk misses the map has weight 0. Where nobody is there, the disks are empty and count.
        """
        centers, weights = (each[:, 0] for each in labelled_cells(batch.instances, self.map_grid, self.radius))
        offset = (centers[..., None, None] - self._cells(centers)) / self.radius
        labelled = weights[..., None, None] > 0
        disk = (labelled & (offset.square().sum(2) <= 1)).float()
        weights = (weights + nobody(batch.instances)) * on_device(self._loss_weights, weights)
        maps = {"heatmap": disk, "offset": torch.where(labelled[:, :, None], offset, 0.0)}
        return Targets(maps, {"heatmap": weights, "offset": weights})

    def _cells(self, like: Tensor) -> Tensor:
        """(2, h, w): x and y of every cell."""
        height, width = self.map_grid.map_hw
        y, x = (torch.arange(length, device=like.device, dtype=torch.float32) for length in (height, width))
        return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """One pose per row in input pixels.

        The middle of a disk is the peak of its blurred map; the score is that peak relative to a whole disk's, so that
        1 means a perfect map, as for other codecs. It lies between 0 and 1.
        """
        maps = outputs["heatmap"].float()  # (B, K, h, w)
        height, width = maps.shape[-2:]
        blur_y, blur_x = (mirrored_blur_matrix(length, self.taps) for length in (height, width))
        with torch.autocast(maps.device.type, enabled=False):  # which would make the matrix products bfloat16
            blurred = on_device(blur_y, maps) @ maps @ on_device(blur_x, maps).mT  # (B, K, h, w)
        cells, peaks = argmax_cells(blurred)
        index = (cells[..., 1] * width + cells[..., 0])[..., None, None].expand(-1, -1, 2, 1)  # (B, K, 2, 1)
        offset = outputs["offset"].float().flatten(-2).gather(-1, index)[..., 0]
        points = self.map_grid.to_input(cells + offset * self.radius, maps.shape[-2:])
        return one_pose_per_row(points, (peaks / self.full_score).clamp(0, 1))

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input; an involution."""
        swap = on_device(self._swap, outputs["heatmap"])
        heatmap, offset = (outputs[name].flip(-1).index_select(1, swap) for name in ("heatmap", "offset"))
        dx, dy = offset.unbind(2)
        return {"heatmap": heatmap, "offset": torch.stack([-dx, dy], 2)}


def _blurred_disk(radius: float, taps: int) -> float:
    """The blurred value in the middle of a disk that lies in the map whole."""
    kernel, offsets = gaussian_kernel(taps), torch.arange(taps) - taps // 2
    disk = offsets[:, None] ** 2 + offsets**2 <= radius**2
    return float((kernel[:, None] * kernel * disk).sum())
