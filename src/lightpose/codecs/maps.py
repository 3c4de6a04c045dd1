"""What codecs of maps share."""

from collections.abc import MutableMapping

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from lightpose.codecs.grid import MapGrid
from lightpose.errors import UserError
from lightpose.structures import Batch, Instances, Poses

_COPIES: MutableMapping[Tensor, dict[torch.device, Tensor]] = WeakTensorKeyDictionary()


def labelled_cells(instances: Instances, map_grid: MapGrid, reach: float) -> tuple[Tensor, Tensor]:
    """Map cells (B, M, K, 2) and labels in {0, 1} (B, M, K) of all instances.

    The label is 0 for a keypoint that is not labelled, or more than ``reach`` cells outside the map; its cell is then
    the origin.
    """
    height, width = map_grid.map_hw
    cells = map_grid.to_map(instances.keypoints[..., :2].float())  # (B, M, K, 2)
    x, y = cells.unbind(-1)
    touches = (x >= -reach) & (x <= width - 1 + reach) & (y >= -reach) & (y <= height - 1 + reach)
    labelled = touches & (instances.visible > 0) & instances.valid[..., None]  # (B, M, K)
    return torch.where(labelled[..., None], cells, 0.0), labelled.float()


def nobody(instances: Instances) -> Tensor:
    """(B, 1) float: 1 where a sample of one person has none, so that all its maps are to be empty."""
    return (~instances.valid[:, :1]).float()


def counted_cells(batch: Batch, map_hw: tuple[int, int]) -> Tensor:
    """(B, h, w), 0 for the cells that `Batch.ignore` covers, in part or whole, and 1 for all others."""
    if batch.ignore is None:
        return torch.ones(len(batch), *map_hw, device=batch.image_from_input.device)
    return 1 - functional.adaptive_max_pool2d(batch.ignore.float(), map_hw)


def one_pose_per_row(keypoints: Tensor, scores: Tensor) -> Poses:
    """`Poses` of keypoints (B, K, 2) in input pixels and scores (B, K)."""
    return Poses(keypoints, scores, scores.mean(-1), torch.arange(keypoints.shape[0], device=keypoints.device))


def on_device(constant: Tensor, like: Tensor) -> Tensor:
    """A small constant next to ``like``. A device keeps its copy as long as the constant lives."""
    if constant.device == like.device:
        return constant
    copies = _COPIES.setdefault(constant, {})
    if like.device not in copies:
        with torch.inference_mode(False):  # what is made in that mode is of no use to training
            copies[like.device] = constant.to(like.device, non_blocking=True)
    return copies[like.device]


def check_odd(blur_kernel: int, name: str = "codec.blur_kernel") -> None:
    """Refuse a blur kernel without a middle.

    Raises:
        UserError: with the next odd number.
    """
    if blur_kernel < 1 or blur_kernel % 2 == 0:
        raise UserError(f"{name}={blur_kernel} must be odd and at least 1; try {max(blur_kernel + 1, 1) // 2 * 2 + 1}")
