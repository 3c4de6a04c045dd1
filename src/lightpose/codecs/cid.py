"""A map of each keypoint for each person (CID, Wang and Zhang, CVPR 2022)."""

import math

import torch
from torch import Tensor

from lightpose.codecs.base import Codec
from lightpose.codecs.grid import MapGrid
from lightpose.codecs.maps import counted_cells, labelled_cells, on_device
from lightpose.codecs.peaks import argmax_cells, quarter_shift
from lightpose.codecs.people import chosen, crowd_maps, smoothed, with_centers
from lightpose.errors import UserError
from lightpose.geometry import Grid
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses, Spec, Targets


class CIDCodec(Codec):
    """Of everyone ``heatmap`` (K + 1, h, w), of each of P people ``instance_heatmap`` (P, K, h, w) and ``score`` (P).

    All maps are probabilities. ``heatmap`` has the keypoints of all people, and last their centres, each the mean of a
    person's labelled keypoints. ``score`` is that of the centre; those of places without a person are low.

    Round trip: three quarters of a cell up to the borders, a cell on the input's last pixels of the ``stride`` grid.

    Args:
        skeleton: gives K and the mirror pairs.
        input_hw: network input size; inputs of other sizes are encoded and decoded as well.
        grid: which input pixel a map cell stands for.
        stride: input pixels per map cell.
        overlap: the larger, the narrower Gaussians are: as wide as CornerNet's (arXiv:1808.01244) for boxes that are to
            overlap by this intersection over union.
        threshold: centres must score above it.
        max_people: P, found in an input at most.

    Raises:
        UserError: for an option that can't be used.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        input_hw: tuple[int, int],
        grid: Grid,
        stride: int = 4,
        overlap: float = 0.7,
        threshold: float = 0.01,
        max_people: int = 30,
    ) -> None:
        if not 0 < overlap < 1 or max_people < 1:
            raise UserError(
                f"codec.overlap={overlap} must be between 0 and 1, and codec.max_people={max_people} at least 1; 0.7 "
                "and 30 are the published values"
            )
        self.map_grid = MapGrid(input_hw, grid, stride)
        self.mirror_lag = self.map_grid.mirror_lag
        count, map_hw = skeleton.num_keypoints, self.map_grid.map_hw
        people = min(max_people, math.prod(map_hw))
        shapes = {"heatmap": (count + 1, *map_hw), "instance_heatmap": (people, count, *map_hw), "score": (people,)}
        self.spec = Spec(shapes, input_hw, frozenset({"heatmap", "people", "sigmas"}))
        self.overlap, self.threshold = overlap, threshold
        self._swap = torch.tensor(skeleton.swap)

    def encode(self, batch: Batch) -> Targets:
        """``heatmap`` with weights (B, 1, h, w), and what maps of each person are made from.

        ``people`` (B, M, K + 1, 2) are cells of keypoints and centre, with weights in {0, 1} (B, M, K + 1), ``sigmas``
        (B, M) the widths of their Gaussians in cells.
        """
        grid = self.map_grid.of(batch.inputs.shape[-2:])
        map_hw = grid.map_hw
        cells, labels = labelled_cells(batch.instances, grid, 1.0)  # (B, M, K, 2), (B, M, K)
        x, y = cells.unbind(-1)
        cells = torch.stack([x.clamp(0, map_hw[1] - 1), y.clamp(0, map_hw[0] - 1)], -1)
        points, there = with_centers(cells, labels)  # (B, M, K + 1, 2), (B, M, K + 1)
        sigmas = self._sigmas(batch.instances.boxes_xyxy)
        heatmap = crowd_maps(points, there, sigmas[..., None], map_hw)
        counted = counted_cells(batch, map_hw)[:, None]  # (B, 1, h, w)
        return Targets(
            {"heatmap": heatmap, "people": points, "sigmas": sigmas},
            {"heatmap": counted, "people": there, "sigmas": there[..., -1]},
        )

    def _sigmas(self, boxes_xyxy: Tensor) -> Tensor:
        """(B, M): a third of CornerNet's radius, as published code computes it from boxes (B, M, 4) in input pixels."""
        width, height = ((boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).float() / self.map_grid.stride).unbind(-1)
        half = self.overlap * (width + height)
        radius = (half**2 + 4 * self.overlap * (1 - self.overlap) * width * height).sqrt() - half
        return radius.clamp_min(0.3) / 3

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """Poses in input pixels; a keypoint scores the highest value of its map, times the person's score."""
        row, place = (outputs["score"] > self.threshold).nonzero().unbind(1)
        keypoints, scores = self._found(outputs["instance_heatmap"][row, place], outputs["score"][row, place])
        return Poses(keypoints, scores, scores.mean(-1), row)

    chosen = staticmethod(chosen)

    def candidates(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is at the best centres of each input, best first, and which of these are people."""
        maps, score = outputs["instance_heatmap"], outputs["score"]
        found = self._found(maps.flatten(0, 1), score.flatten())
        keypoints, scores = (each.unflatten(0, score.shape) for each in found)
        return {
            "keypoints": keypoints,
            "keypoint_scores": scores,
            "scores": scores.mean(-1),
            "valid": score > self.threshold,
        }

    def _found(self, maps: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        """Keypoints (N, K, 2) and their scores (N, K), of maps (N, K, h, w) and scores (N,) of people."""
        maps = smoothed(maps.float(), "shrink")
        cells, values = argmax_cells(maps)
        points = cells + quarter_shift(maps, cells, sigma=2.0)
        return self.map_grid.to_input(points, maps.shape[-2:]), values * score.float()[:, None]

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input, of any of the outputs; an involution."""
        turned = dict(outputs)
        if "heatmap" in outputs:
            maps = outputs["heatmap"].flip(-1)
            turned["heatmap"] = torch.cat([maps[:, on_device(self._swap, maps)], maps[:, -1:]], 1)
        if "instance_heatmap" in outputs:
            maps = outputs["instance_heatmap"].flip(-1)
            turned["instance_heatmap"] = maps[:, :, on_device(self._swap, maps)]
        return turned
