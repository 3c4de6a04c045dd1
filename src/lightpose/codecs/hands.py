"""Two hands in depth: volumes, how far one wrist lies beyond the other, and which hands are there (InterNet)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from lightpose.codecs.base import Codec
from lightpose.codecs.grid import MapGrid
from lightpose.codecs.maps import labelled_cells, nobody, on_device, one_pose_per_row
from lightpose.errors import UserError
from lightpose.geometry import Grid
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Instances, Poses, Spec, Targets


class HandsCodec(Codec):
    """Volumes ``heatmap`` (K, depth, h, w), ``root_depth`` (1), and the logits ``hands`` (2), right before left.

    After InterNet (arXiv:2008.09309), for the one or two hands of one person. A volume says where a keypoint is in the
    input, and how far behind the root of its hand, between half of ``depth_bound_mm`` before and half behind it.
    ``root_depth`` is how far the left root lies behind the right one, as a share of ``root_bound_mm``. Keypoints whose
    name begins with ``right_`` or ``left_`` are of that hand; others count from the middle of both roots.

    Labels have three numbers, x and y in input pixels and the depth before the camera in mm. Round trip: half a cell of
    the volume along each axis, wherever the keypoint lies within half a cell of a cell.

    Args:
        skeleton: gives K, the mirror pairs and the weights.
        input_hw: network input size.
        grid: which input pixel a map cell stands for.
        stride: input pixels per map cell.
        depth: cells of a volume from front to back.
        sigma: standard deviation of a Gaussian in cells, the same along all three axes.
        height: of a Gaussian.
        depth_bound_mm: from the front of a volume to its back.
        root_bound_mm: what a ``root_depth`` of 1 is.
        roots: names of the right and of the left root.

    Raises:
        UserError: for numbers that are not positive, and for roots that are no keypoints.
    """

    depth_labels: ClassVar[bool] = True

    def __init__(
        self,
        skeleton: Skeleton,
        input_hw: tuple[int, int],
        grid: Grid,
        stride: int = 4,
        depth: int = 64,
        sigma: float = 2.5,
        height: float = 255.0,
        depth_bound_mm: float = 400.0,
        root_bound_mm: float = 400.0,
        roots: Sequence[str] = ("right_wrist", "left_wrist"),
    ) -> None:
        positive = {"depth": depth, "sigma": sigma, "height": height}
        positive |= {"depth_bound_mm": depth_bound_mm, "root_bound_mm": root_bound_mm}
        for name, value in positive.items():
            if value <= 0:
                raise UserError(f"codec.{name}={value} must be positive; conf/codec/hands.yaml has the published value")
        missing = [name for name in roots if name not in skeleton.keypoints]
        if missing or len(roots) != 2:
            raise UserError(
                f"codec.roots={list(roots)} must be two keypoints of skeleton {skeleton.name}, the right root and the "
                f"left one; it has {', '.join(skeleton.keypoints)}"
            )
        self.map_grid = MapGrid(input_hw, grid, stride)
        self.mirror_lag = self.map_grid.mirror_lag
        volume = (skeleton.num_keypoints, depth, *self.map_grid.map_hw)
        self.spec = Spec({"heatmap": volume, "root_depth": (1,), "hands": (2,)}, input_hw)
        self.depth, self.sigma, self.height = depth, sigma, height
        self.depth_bound_mm, self.root_bound_mm = depth_bound_mm, root_bound_mm
        self._roots = [skeleton.keypoints.index(name) for name in roots]
        sides = [[name.startswith("right_"), name.startswith("left_")] for name in skeleton.keypoints]
        self._sides = torch.tensor([[float(side) if any(both) else 0.5 for side in both] for both in sides])  # (K, 2)
        self._loss_weights, self._swap = torch.tensor(skeleton.weights), torch.tensor(skeleton.swap)

    def encode(self, batch: Batch) -> Targets:
        """Volumes (B, K, depth, h, w), root depth (B, 1) and hands (B, 2) of the first instance of each row.

        A keypoint has weight 0 where its hand's root isn't labelled, where it lies outside the volume's depth, and
        where its Gaussian misses the map by 3 sigma or more. Root depth counts where both roots are labelled and within
        the bound of each other. A hand is there if any of its keypoints is labelled. Where nobody is there, volumes and
        hands are zero and count.

        Raises:
            UserError: for labels without depth.
        """
        instances, empty = batch.instances, nobody(batch.instances)
        centers, labels = labelled_cells(instances, self.map_grid, 3 * self.sigma)
        known, depths = _known(instances), _depths(instances)
        (x, y), (z, rooted) = centers[:, 0].unbind(-1), self._depth_cells(depths, known)
        labelled = labels[:, 0] * rooted * ((z >= 0) & (z < self.depth))  # (B, K)
        z = torch.where(labelled > 0, z, 0.0)
        height, width = self.map_grid.map_hw
        planes = self._profile(y, height)[..., :, None] * self._profile(x, width)[..., None, :]  # (B, K, h, w)
        maps = self._profile(z, self.depth)[..., None, None] * planes[:, :, None]  # (B, K, depth, h, w)
        maps = maps * (self.height * labelled)[..., None, None, None]
        loss_weights = on_device(self._loss_weights, labelled)

        right, left = depths[:, self._roots].split(1, 1)  # (B, 1)
        share = (left - right) / self.root_bound_mm
        both = known[:, self._roots].all(1, keepdim=True) & (share.abs() <= 0.5)
        sides = on_device(self._sides, labelled)
        hands = (known[..., None] & (sides == 1)).any(1).float()  # (B, 2)
        return Targets(
            {"heatmap": maps, "root_depth": torch.where(both, share, 0.0), "hands": hands},
            {
                "heatmap": (labelled + empty) * loss_weights,
                "root_depth": both.float(),
                "hands": known.any(1, keepdim=True).float() + empty,
            },
        )

    def _depth_cells(self, depths: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (B, K) from front to back, and whether the root that they count from is labelled (B, K)."""
        sides = on_device(self._sides, depths)
        roots = (depths[:, None, self._roots] * sides).sum(-1)  # (B, K)
        rooted = (known[:, None, self._roots] | (sides == 0)).all(-1)
        return ((depths - roots) / self.depth_bound_mm + 0.5) * self.depth, rooted

    def _profile(self, centers: Tensor, length: int) -> Tensor:
        """(..., length): the Gaussian along one axis."""
        distance = torch.arange(length, device=centers.device) - centers[..., None]
        return torch.exp(-(distance**2) / (2 * self.sigma**2))

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """One pose per row, of the highest cell of each volume.

        Keypoints are x and y in input pixels. Extras are ``depth_mm`` (B, K) behind the root of the hand,
        ``root_depth_mm`` (B) of the left root behind the right one, and ``right_hand`` and ``left_hand`` (B), the
        probabilities that they are there. A keypoint's score is its highest value as a share of a Gaussian's height,
        at least 0, times the probability of its hand; the pose's is their mean over the hands that are expected.
        """
        maps = outputs["heatmap"].float()  # (B, K, depth, h, w)
        depth, height, width = maps.shape[2:]
        peaks, index = maps.flatten(2).max(-1)  # (B, K)
        cells = torch.stack([index % width, index // width % height], -1).float()
        depth_mm = (index // (height * width) / depth - 0.5) * self.depth_bound_mm
        hands = outputs["hands"].float().sigmoid()
        there = (hands[:, None] * on_device(self._sides, hands)).sum(-1)  # (B, K)
        scores = (peaks / self.height).clamp_min(0) * there
        poses = one_pose_per_row(self.map_grid.to_input(cells, (height, width)), scores)
        extras = {
            "depth_mm": depth_mm,
            "root_depth_mm": outputs["root_depth"].float()[:, 0] * self.root_bound_mm,
            "right_hand": hands[:, 0],
            "left_hand": hands[:, 1],
        }
        return replace(poses, scores=scores.sum(-1) / there.sum(-1).clamp_min(1), extras=extras)

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input, which makes a right hand a left one; an involution."""
        maps = outputs["heatmap"]
        return {
            "heatmap": maps.flip(-1).index_select(1, on_device(self._swap, maps)),
            "root_depth": -outputs["root_depth"],
            "hands": outputs["hands"].flip(-1),
        }


def _known(instances: Instances) -> Tensor:
    """(B, K) bool: which keypoints of the first instance are labelled, be they in the input or not."""
    return (instances.visible[:, 0] > 0) & instances.valid[:, :1]


def _depths(instances: Instances) -> Tensor:
    """(B, K) mm of the first instance; 0 where not labelled.

    Raises:
        UserError: for labels of the plane.
    """
    if instances.keypoints.shape[-1] != 3:
        raise UserError(
            "codec=hands needs x, y and the depth in mm of each keypoint, but the data gives "
            f"{instances.keypoints.shape[-1]} numbers; use a reader that gives depth, or another codec"
        )
    return torch.where(_known(instances), instances.keypoints[:, 0, :, 2].float(), 0.0)
