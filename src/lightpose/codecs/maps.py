"""What codecs of maps share."""

import torch
from torch import Tensor

from lightpose.codecs.grid import MapGrid
from lightpose.errors import UserError
from lightpose.structures import Instances, Poses


def labelled_cells(instances: Instances, map_grid: MapGrid, reach: float) -> tuple[Tensor, Tensor]:
    """Map cells (B, K, 2) and labels in {0, 1} (B, K) of the first instance of each row.

    The label is 0 for a keypoint that is not labelled, or more than ``reach`` cells outside the map; its cell is then
    the origin.
    """
    height, width = map_grid.map_hw
    cells = map_grid.to_map(instances.keypoints[:, 0, :, :2].float())  # (B, K, 2)
    x, y = cells.unbind(-1)
    touches = (x >= -reach) & (x <= width - 1 + reach) & (y >= -reach) & (y <= height - 1 + reach)
    labelled = touches & (instances.visible[:, 0] > 0) & instances.valid[:, :1]  # (B, K)
    return torch.where(labelled[..., None], cells, 0.0), labelled.float()


def one_pose_per_row(keypoints: Tensor, scores: Tensor) -> Poses:
    """`Poses` of keypoints (B, K, 2) in input pixels and scores (B, K)."""
    return Poses(keypoints, scores, scores.mean(-1), torch.arange(keypoints.shape[0], device=keypoints.device))


def on_device(constant: Tensor, like: Tensor) -> Tensor:
    """A small constant next to ``like``, without waiting for the device."""
    return constant.to(like.device, non_blocking=True)


def check_odd(blur_kernel: int) -> None:
    """Refuse a blur kernel without a middle.

    Raises:
        UserError: with the next odd number.
    """
    if blur_kernel < 1 or blur_kernel % 2 == 0:
        raise UserError(
            f"codec.blur_kernel={blur_kernel} must be odd and at least 1; try {max(blur_kernel + 1, 1) // 2 * 2 + 1}"
        )
