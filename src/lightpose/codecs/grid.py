"""Between input pixels and the cells of a map."""

from torch import Tensor

from lightpose.errors import UserError
from lightpose.geometry import Grid, check_grid, input_from_map, mirror_lag


class MapGrid:
    """The cells of a map that is ``stride`` times smaller than the input.

    Args:
        input_hw: network input size.
        grid: which input pixel a cell stands for (`lightpose.geometry`).
        stride: input pixels per cell.

    Attributes:
        map_hw: size of the map.
        mirror_lag: see `lightpose.geometry.mirror_lag`.

    Raises:
        UserError: when the stride does not divide the input size, or the grid is unknown.
    """

    def __init__(self, input_hw: tuple[int, int], grid: Grid, stride: int) -> None:
        check_grid(grid)
        height, width = input_hw
        if stride < 1 or height % stride or width % stride:
            raise UserError(
                f"the codec's stride {stride} must divide the input size, got input_hw=[{height}, {width}]; "
                f"change codec.stride, or make both sides multiples of {stride}"
            )
        self.map_hw = (height // stride, width // stride)
        self.mirror_lag = mirror_lag(grid, input_hw, self.map_hw)
        self._scale, self._offset = input_from_map(grid, input_hw, self.map_hw)

    def to_map(self, points: Tensor) -> Tensor:
        """Input pixels to continuous map cells, (..., 2)."""
        return (points - self._on(points, self._offset)) / self._on(points, self._scale)

    def to_input(self, cells: Tensor) -> Tensor:
        """Continuous map cells to input pixels, (..., 2)."""
        return cells * self._on(cells, self._scale) + self._on(cells, self._offset)

    @staticmethod
    def _on(like: Tensor, constant: Tensor) -> Tensor:
        return constant.to(like.device, non_blocking=True)
