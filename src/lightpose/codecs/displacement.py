"""People as a centre and the displacements of their keypoints from it (arXiv:1908.09220, arXiv:2104.02300)."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightpose.codecs.base import Codec
from lightpose.codecs.grid import MapGrid
from lightpose.codecs.maps import check_odd, counted_cells, labelled_cells, on_device
from lightpose.codecs.people import (
    at_cells,
    better_than_neighbours,
    between_cells,
    chosen,
    crowd_maps,
    peaks,
    with_centers,
)
from lightpose.errors import UserError
from lightpose.geometry import Grid
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses, Spec, Targets


class DisplacementCodec(Codec):
    """Maps ``heatmap`` (K + 1, h, w) of keypoints and last of centres, ``displacement`` (K, 2, h, w) in cells.

    A person's centre is the mean of the labelled keypoints. Around it, each cell tells how far away the keypoints are.
    Where people overlap, the smaller one counts. Keypoints score what their own map has where they are found, times
    what the map of centres has at the centre.

    Round trip: exact, for people whose centres lie in different cells, and who aren't taken for the same.

    Args:
        skeleton: gives K and the mirror pairs.
        input_hw: network input size; inputs of other sizes are encoded and decoded as well.
        grid: which input pixel a map cell stands for.
        stride: input pixels per map cell.
        sigma: standard deviation of the Gaussians of keypoints, in map cells.
        center_sigma: of those of centres; displacements are learnt so many cells around a centre.
        published: round as published code does. Displacements are then learnt in cells that lie half a cell further
            left and up on average, and keypoints score what their map has up to half a cell off, toward the nearest
            border.
        background_weight: weight of heatmap cells that no Gaussian reaches; all others have 1.
        smallest: diagonal in cells, of a person's labelled keypoints, below which no displacement is learnt;
            5.656854 is published.
        peak_kernel: a centre is the highest of so many cells along each axis; odd.
        threshold: centres must score above it.
        max_people: found in an input at most.
        nms_distance: of two people the worse goes if most keypoints are as close as this share of the better one's
            diagonal; 0 keeps all.
        nms_joints: how many keypoints are more than this; None for half of them.

    Attributes:
        rescoring: a factor (B, P) on the scores of poses, from keypoints (B, P, K, 2) in input pixels and what their
            own maps have there (B, P, K); None for 1. The head of a network may set it. Of two people that are taken
            for the same, the one with the better scores before it stays.

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
        center_sigma: float = 4.0,
        published: bool = False,
        background_weight: float = 0.1,
        smallest: float = 2.0,
        peak_kernel: int = 5,
        threshold: float = 0.01,
        max_people: int = 30,
        nms_distance: float = 0.05,
        nms_joints: int | None = None,
    ) -> None:
        check_odd(peak_kernel, "codec.peak_kernel")
        if min(sigma, center_sigma) <= 0 or max_people < 1:
            raise UserError(
                f"codec.sigma={sigma}, codec.center_sigma={center_sigma} and codec.max_people={max_people} must be "
                "positive; 2, 4 and 30 are the published values"
            )
        self.map_grid = MapGrid(input_hw, grid, stride)
        self.mirror_lag = self.map_grid.mirror_lag
        count, map_hw = skeleton.num_keypoints, self.map_grid.map_hw
        self.spec = Spec({"heatmap": (count + 1, *map_hw), "displacement": (count, 2, *map_hw)}, input_hw)
        self.center_sigma, self.published, self.smallest = center_sigma, published, smallest
        self.background_weight, self.peak_kernel = background_weight, peak_kernel
        self.threshold, self.max_people, self.nms_distance = threshold, max_people, nms_distance
        self.nms_joints = count // 2 if nms_joints is None else nms_joints
        self.rescoring: Callable[[Tensor, Tensor], Tensor] | None = None
        self._sigmas = torch.tensor([*[sigma] * count, center_sigma])
        self._swap, self._mirror = torch.tensor(skeleton.swap), torch.tensor([-1.0, 1.0])[:, None, None]

    def encode(self, batch: Batch) -> Targets:
        """Maps of all people, with weights (B, K + 1, h, w) and (B, K, 1, h, w): one over the person's diagonal."""
        grid = self.map_grid.of(batch.inputs.shape[-2:])
        cells, labels = labelled_cells(batch.instances, grid, 1.0)  # (B, M, K, 2), (B, M, K)
        points, there = with_centers(cells, labels)
        heatmap = crowd_maps(points, there, on_device(self._sigmas, points), grid.map_hw)
        counted = counted_cells(batch, grid.map_hw)[:, None]  # (B, 1, h, w)
        weights = torch.where(heatmap > 0, 1.0, self.background_weight) * counted
        displacement, closeness = self._displacements(cells, labels, points[:, :, -1], grid.map_hw)
        return Targets(
            {"heatmap": heatmap, "displacement": displacement},
            {"heatmap": weights, "displacement": closeness * counted[:, None]},
        )

    def _displacements(
        self, cells: Tensor, labels: Tensor, centers: Tensor, map_hw: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(B, K, 2, h, w) from each cell to the smallest person there, and (B, K, 1, h, w) one over its diagonal."""
        height, width = map_hw
        far = torch.where(labels[..., None] > 0, cells, torch.inf).amin(2)
        diagonals = (torch.where(labels[..., None] > 0, cells, -torch.inf).amax(2) - far).norm(dim=-1)  # (B, M)
        learnt = labels * (diagonals.isfinite() & (diagonals >= self.smallest))[..., None]
        order = diagonals.argsort(1, descending=True)  # smaller people later, so that they stay
        near_x, near_y = self._near(centers[..., 0], width), self._near(centers[..., 1], height)
        place = torch.stack(
            torch.meshgrid(
                torch.arange(width, device=cells.device), torch.arange(height, device=cells.device), indexing="xy"
            )
        )  # (2, h, w)
        displacement = cells.new_zeros(*cells.shape[::2], 2, height, width)
        closeness = displacement[:, :, :1]
        rows = torch.arange(len(cells), device=cells.device)
        for person in order.unbind(1):
            near = near_y[rows, person][:, :, None] & near_x[rows, person][:, None]  # (B, h, w)
            here = near[:, None, None] & (learnt[rows, person] > 0)[..., None, None, None]  # (B, K, 1, h, w)
            away = cells[rows, person][..., None, None] - place  # (B, K, 2, h, w)
            displacement = torch.where(here, away, displacement)
            closeness = torch.where(here, 1 / diagonals[rows, person].reshape(-1, 1, 1, 1, 1), closeness)
        return displacement, closeness

    def _near(self, centers: Tensor, length: int) -> Tensor:
        """(B, M, length) bool: cells of one axis around centres (B, M)."""
        cells = torch.arange(length, device=centers.device)
        first, last = (centers - self.center_sigma)[..., None], (centers + self.center_sigma)[..., None]
        if self.published:
            return (cells >= first.floor()) & (cells < last.floor())
        return (cells >= first) & (cells <= last)

    chosen = staticmethod(chosen)

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """Poses in input pixels, of each input the best centres first."""
        return self.chosen(self.candidates(outputs))

    def candidates(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The best centres of each input, best first, and which of them are people."""
        maps, displacement = outputs["heatmap"].float(), outputs["displacement"].float()
        center_scores, centers = peaks(maps[:, -1], self.peak_kernel, self.max_people)  # (B, P), (B, P, 2)
        points = centers[:, :, None] + at_cells(displacement, centers)  # (B, P, K, 2)
        scored_at, size = points, torch.tensor([maps.shape[-1], maps.shape[-2]]).to(points.device, non_blocking=True)
        if self.published:
            scored_at = points * size / (size - 1) - 0.5
        scores = between_cells(maps[:, :-1], scored_at).clamp_min(0) * center_scores[..., None]  # (B, P, K)
        found = center_scores > self.threshold
        ranks = torch.where(found, scores.mean(-1), -1.0)
        found = found & better_than_neighbours(points, ranks, self.nms_distance, self.nms_joints)
        keypoints = self.map_grid.to_input(points, maps.shape[-2:])
        if self.rescoring is not None:
            inside = torch.minimum(scored_at.clamp_min(0), size - 1)  # it learnt with what the border has
            factors = self.rescoring(keypoints, between_cells(maps[:, :-1], inside))
            scores, ranks = scores * factors[..., None], torch.where(found, ranks * factors, -1.0)
        return {"keypoints": keypoints, "keypoint_scores": scores, "scores": ranks, "valid": found}

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input; an involution."""
        maps, displacement = outputs["heatmap"].flip(-1), outputs["displacement"].flip(-1)
        swap, mirror = on_device(self._swap, maps), on_device(self._mirror, maps)
        heatmap = torch.cat([maps[:, :-1].index_select(1, swap), maps[:, -1:]], 1)
        return {"heatmap": heatmap, "displacement": displacement.index_select(1, swap) * mirror}
