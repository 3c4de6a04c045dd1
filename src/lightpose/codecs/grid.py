"""Between input pixels and the cells of a map."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lightpose.errors import UserError
from lightpose.geometry import Grid, Pair, check_grid, input_from_map, mirror_lag


class MapGrid:
    """The cells of a map that is ``stride`` times smaller than the input.

    Args:
        input_hw: network input size.
        grid: which input pixel a cell stands for (`lightpose.geometry`).
        stride: input pixels per cell.
        offset: cells by which all cells lie further right and down than the grid says.

    Attributes:
        map_hw: size of the map.
        mirror_lag: see `lightpose.geometry.mirror_lag`.

    Raises:
        UserError: when the stride does not divide the input size, or the grid is unknown.
    """

    def __init__(self, input_hw: tuple[int, int], grid: Grid, stride: int, offset: float = 0.0) -> None:
        check_grid(grid)
        height, width = input_hw
        if stride < 1 or height % stride or width % stride:
            raise UserError(
                f"the codec's stride {stride} must divide the input size, got input_hw=[{height}, {width}]; "
                f"change codec.stride, or make both sides multiples of {stride}"
            )
        self.grid, self.stride, self.offset = grid, stride, offset
        self.map_hw = (height // stride, width // stride)
        self.mirror_lag = mirror_lag(grid, input_hw, self.map_hw) - round(2 * offset * stride)

    def of(self, input_hw: Sequence[int]) -> "MapGrid":
        """The cells of inputs of another size.

        Raises:
            UserError: when the stride does not divide it.
        """
        return MapGrid((input_hw[0], input_hw[1]), self.grid, self.stride, self.offset)

    def to_map(self, points: Tensor) -> Tensor:
        """Input pixels to continuous map cells, (..., 2)."""
        (scale_x, scale_y), (offset_x, offset_y) = self._affine(self.map_hw)
        x, y = points.unbind(-1)
        return torch.stack([(x - offset_x) / scale_x - self.offset, (y - offset_y) / scale_y - self.offset], -1)

    def to_input(self, cells: Tensor, map_hw: Sequence[int]) -> Tensor:
        """Continuous cells of a map of size ``map_hw`` to input pixels, (..., 2)."""
        (scale_x, scale_y), (offset_x, offset_y) = self._affine(map_hw)
        x, y = (cells + self.offset).unbind(-1)
        return torch.stack([x * scale_x + offset_x, y * scale_y + offset_y], -1)

    def resampled(self, maps: Tensor, map_hw: Sequence[int]) -> Tensor:
        """Maps (B, K, h, w) of a resized input as those of size ``map_hw`` of the input itself, bilinear."""
        own_hw, input_hw = ([side * self.stride for side in hw] for hw in (maps.shape[-2:], map_hw))
        rows, columns = (torch.arange(side, device=maps.device, dtype=torch.float32) for side in map_hw)
        cells = torch.stack([columns.expand(len(rows), -1), rows[:, None].expand(-1, len(columns))], -1)
        scale = torch.tensor([own_hw[1] / input_hw[1], own_hw[0] / input_hw[0]]).to(maps.device, non_blocking=True)
        points = (self.to_input(cells, map_hw) + 0.5) * scale - 0.5  # pixels of the resized input
        own = self.of(own_hw).to_map(points)  # (h, w, 2)
        last = torch.tensor([maps.shape[-1], maps.shape[-2]]).to(maps.device, non_blocking=True) - 1
        places = (2 * own / last.clamp_min(1) - 1).expand(len(maps), -1, -1, -1)
        return functional.grid_sample(maps, places, padding_mode="border", align_corners=True)

    def _affine(self, map_hw: Sequence[int]) -> tuple[Pair, Pair]:
        input_hw = map_hw[0] * self.stride, map_hw[1] * self.stride
        return input_from_map(self.grid, input_hw, (map_hw[0], map_hw[1]))
