"""Associative embedding (arXiv:1611.05424): keypoints of everyone as peaks, and tags that are alike within a person."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from lightpose.codecs.base import Codec
from lightpose.codecs.grid import MapGrid
from lightpose.codecs.heatmap import Centers
from lightpose.codecs.maps import check_odd, counted_cells, labelled_cells, on_device
from lightpose.codecs.peaks import newton_shift, quarter_shift
from lightpose.codecs.people import at_cells, crowd_maps, enlarged, peaks
from lightpose.errors import UserError
from lightpose.geometry import Grid
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Batch, Poses, Spec, Targets

Refine = Literal["dark", "quarter"]

FROM_THE_TRUNK = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder"),
    *("left_hip", "right_hip", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_knee", "right_knee", "left_ankle", "right_ankle"),
)
"""COCO's keypoints in the published order: those that are found well and say who it is come first."""
_AT_ONCE = 2**21
"""Cells of maps in which places of keypoints are searched for at the same time: 128 maps of 128 x 128."""


class AssociativeEmbeddingCodec(Codec):
    """One map per keypoint with a Gaussian for each person, and one map of tags, which tell people apart.

    Decoding takes the peaks of each map, then goes through the keypoints and gives each peak to the person whose mean
    tag is near, by `scipy.optimize.linear_sum_assignment` over distances of tags, rounded, and then over scores. A peak
    that is near to nobody begins a person. A keypoint that a person lacks is put where the map is high and the tag near
    to the person's. A pose's score is the mean score of its keypoints, where those that were put count as 0.

    Round trip: ``dark`` gives keypoints of people who are apart back to a hundredth of a cell, ``quarter`` to a quarter
    of a cell; in enlarged maps ``dark`` to an eighth, and ``quarter`` to a third.

    Args:
        skeleton: gives K, the mirror pairs and the weights.
        input_hw: network input size; inputs of other sizes are encoded and decoded as well.
        grid: which input pixel a map cell stands for.
        stride: input pixels per map cell.
        sigma: standard deviation of the Gaussians in map cells; they are cut 3 sigma from the nearest cell.
        centers: ``continuous`` puts a Gaussian where the keypoint is, ``rounded`` on the nearest cell, as published.
        refine: ``dark`` takes a Newton step on the blurred map's logarithm (arXiv:1910.06278), ``quarter`` moves 0.25
            cells toward the higher neighbour.
        blur_kernel: taps of the blur of ``dark``, odd.
        nms_kernel: a peak is the highest of so many cells squared, odd.
        max_people: peaks of each map, and then poses of each image; the best.
        score_threshold: peaks must be higher.
        tag_threshold: how far a peak's tag may be from a person's.
        offset: cells by which all cells lie further right and down than the grid says. Published code, which rounds
            keypoints down to a cell of the ``stride`` grid, has 0.5.
        enlarge: whether maps and tags are first resized, bilinearly, to the size of the input, as published. Windows of
            ``nms_kernel``, ``refine`` and ``blur_kernel`` are then of pixels.
        order: names of all keypoints in the order in which peaks are given away; None begins with `FROM_THE_TRUNK`
            where the skeleton has all of these, and is the skeleton's own otherwise.

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
        refine: Refine = "dark",
        blur_kernel: int = 11,
        nms_kernel: int = 5,
        max_people: int = 30,
        score_threshold: float = 0.1,
        tag_threshold: float = 1.0,
        offset: float = 0.0,
        enlarge: bool = False,
        order: Sequence[str] | None = None,
    ) -> None:
        for option, value, known in (("refine", refine, Refine), ("centers", centers, Centers)):
            if value not in get_args(known):
                raise UserError(f"codec.{option}={value!r} is unknown; use one of {', '.join(get_args(known))}")
        check_odd(blur_kernel)
        check_odd(nms_kernel, "codec.nms_kernel")
        if sigma <= 0:
            raise UserError(f"codec.sigma={sigma} must be a positive number of map cells; 2 suits maps of 128 cells")
        self.map_grid, self.times = MapGrid(input_hw, grid, stride, offset), stride if enlarge else 1
        self.mirror_lag = self.map_grid.mirror_lag
        shape = (skeleton.num_keypoints, *self.map_grid.map_hw)
        outputs = {"heatmap": shape, "tag": (*shape, None)}
        self.spec = Spec(outputs, input_hw, targets=frozenset({"heatmap", "cells"}))
        self.sigma, self.refine, self.blur_kernel = sigma, refine, blur_kernel
        self.rounded, self._sigmas = centers == "rounded", torch.tensor([sigma])
        self.nms_kernel, self.max_people = nms_kernel, max_people
        self.score_threshold, self.tag_threshold = score_threshold, tag_threshold
        self.order = _places(skeleton, order)
        self._loss_weights, self._swap = torch.tensor(skeleton.weights), torch.tensor(skeleton.swap)

    def encode(self, batch: Batch) -> Targets:
        """Maps ``heatmap`` (B, K, h, w), the highest of everyone's Gaussians, and ``cells`` (B, M, K) of the keypoints.

        A cell is y * w + x. Weights of the maps are 0 where nothing may be learnt from, and those of cells where a
        keypoint is not labelled, or outside of the map.
        """
        grid = self.map_grid.of(batch.inputs.shape[-2:])
        centers, labelled = labelled_cells(batch.instances, grid, reach=0.49)  # (B, M, K, 2), (B, M, K)
        maps = crowd_maps(centers, labelled, on_device(self._sigmas, centers), grid.map_hw, self.rounded)
        counted = counted_cells(batch, grid.map_hw)[:, None] * on_device(self._loss_weights, maps)[:, None, None]
        x, y = (centers + 0.5).floor().long().unbind(-1)
        return Targets({"heatmap": maps, "cells": y * grid.map_hw[1] + x}, {"heatmap": counted, "cells": labelled})

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """Poses in input pixels, best first in each image. A keypoint's score is the value of its map there."""
        if self.times == 1:
            return self.chosen(self.candidates(outputs))
        names, rows = list(outputs), zip(*(maps.split(1) for maps in outputs.values()), strict=True)
        found = [self.candidates(dict(zip(names, row, strict=True))) for row in rows]  # of all, maps would fill memory
        return self.chosen({name: torch.cat([each[name] for each in found]) for name in found[0]})

    def candidates(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """P peaks of each map, best first: ``peaks`` (B, K, P, 2) in input pixels, scores, tags, and which are high.

        With them come the maps, which keypoints that nobody has a peak for are looked up in.
        """
        maps, tags = outputs["heatmap"].float(), outputs["tag"].float()  # (B, K, h, w), (B, K, h, w, L)
        fine = enlarged(maps, self.times)
        scores, cells = peaks(fine.flatten(0, 1), self.nms_kernel, self.max_people)  # (B K, P), (B K, P, 2)
        values = self._tags_at(tags.flatten(0, 1).movedim(-1, 1), cells).nan_to_num()  # (B K, P, L)
        scores, cells, values = (each.unflatten(0, maps.shape[:2]) for each in (scores, cells, values))
        return {
            "peaks": self._to_input(self._refined(fine, cells), maps.shape[-2:]),
            "peak_scores": scores,
            "peak_tags": values,
            "valid": scores > self.score_threshold,
            "maps": maps,
            "tags": tags,
        }

    def _tags_at(self, tags: Tensor, cells: Tensor) -> Tensor:
        """(N, P, L) of tags (N, L, h, w) what they are at cells (N, P, 2) of enlarged maps."""
        if self.times == 1:
            return at_cells(tags, cells)
        size = torch.tensor([tags.shape[-1], tags.shape[-2]]).to(cells.device, non_blocking=True) * self.times
        places = ((2 * cells + 1) / size - 1)[:, None]  # (N, 1, P, 2)
        return F.grid_sample(tags, places, padding_mode="border", align_corners=False)[:, :, 0].mT

    def _to_input(self, cells: Tensor, map_hw: Sequence[int]) -> Tensor:
        """Cells (..., 2) of maps that had the size ``map_hw``, now `enlarged`, to input pixels."""
        return self.map_grid.to_input((cells + 0.5) / self.times - 0.5 if self.times > 1 else cells, map_hw)

    def chosen(self, candidates: dict[str, Tensor]) -> Poses:
        """The poses that peaks are put together to."""
        scores, values, maps, tags = (candidates[name] for name in ("peak_scores", "peak_tags", "maps", "tags"))
        (count, *map_hw), device = maps.shape[1:], maps.device
        columns = zip(*(each.cpu().numpy() for each in (scores, values, candidates["valid"])), strict=True)
        people = [self._group(*image) for image in columns]
        rows = torch.arange(len(people)).repeat_interleave(torch.tensor([len(each) for each in people])).to(device)
        chosen = torch.from_numpy(np.concatenate(people)).to(device)  # (N, K)
        there = rows[:, None], torch.arange(count, device=device), chosen.clamp_min(0)
        found = chosen >= 0
        keypoints, keypoint_scores = candidates["peaks"][there], torch.where(found, scores[there], 0.0)
        means = (values[there] * found[..., None]).sum(1) / found.sum(1, keepdim=True)  # (N, L)
        pose_scores = keypoint_scores.mean(-1)
        height, width = (side * self.times for side in map_hw)
        for missing in (~found).nonzero().split(max(_AT_ONCE // (height * width), 1)):
            person, joint = missing.unbind(-1)
            own = enlarged(maps[rows[person], joint], self.times).flatten(1)  # (n, h * w)
            around = enlarged(tags[rows[person], joint].movedim(-1, 1), self.times).flatten(2)  # (n, L, h * w)
            apart = (around - means[person, :, None]).square().sum(1).sqrt()  # `norm` of this dimension is slow
            best = (own - apart.round()).argmax(-1, keepdim=True)
            cells = torch.cat([best % width, best // width], -1).float()
            keypoints[person, joint] = self._to_input(cells, map_hw)
            keypoint_scores[person, joint] = own.gather(1, best)[:, 0].clamp_min(0)
        return Poses(keypoints, keypoint_scores, pose_scores, rows)

    def _refined(self, maps: Tensor, cells: Tensor) -> Tensor:
        """Points (B, K, P, 2) near integer cells."""
        each = maps[:, :, None].expand(-1, -1, cells.shape[2], -1, -1)
        if self.refine == "quarter":
            return cells + quarter_shift(each, cells, self.sigma * self.times)
        return cells + newton_shift(each, cells, self.blur_kernel, 1, "shrink")

    def _group(self, scores: Array, tags: Array, high: Array) -> Array:
        """(n, K) int64: which of the P peaks each person of an image has, -1 for none.

        Args:
            scores: (K, P).
            tags: (K, P, L).
            high: (K, P) bool, which of the peaks count.
        """
        count = len(scores)
        people, sums = np.zeros((0, count), np.int64), np.zeros((0, tags.shape[-1]))
        for joint in self.order:
            places = np.flatnonzero(high[joint])
            means = sums / (people >= 0).sum(1, keepdims=True)
            apart = np.linalg.norm(tags[joint, places, None] - means, axis=-1)  # (high, people)
            peak, person = linear_sum_assignment(np.round(apart) * 100 - scores[joint, places, None])
            near = apart[peak, person] < self.tag_threshold
            peak, person = peak[near], person[near]
            strangers = np.delete(np.arange(len(places)), peak)
            person = np.concatenate([person, len(people) + np.arange(len(strangers))])
            peak = places[np.concatenate([peak, strangers])]
            people = np.concatenate([people, np.full((len(strangers), count), -1)])
            sums = np.concatenate([sums, np.zeros((len(strangers), tags.shape[-1]))])
            people[person, joint] = peak
            sums[person] += tags[joint, peak]
        totals = np.where(people >= 0, scores[np.arange(count), people], 0).sum(1)
        return people[np.argsort(-totals, kind="stable")[: self.max_people]]

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input; an involution."""
        return {name: maps.flip(3).index_select(1, on_device(self._swap, maps)) for name, maps in outputs.items()}

    def merge(self, plain: dict[str, Tensor], mirrored: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean of maps; tags side by side, as only those of one pass can be compared."""
        return {**super().merge(plain, mirrored), "tag": torch.cat([plain["tag"], mirrored["tag"]], -1)}

    def merge_scales(self, outputs: dict[str, Tensor], others: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Mean maps of an input and of the same input resized; tags are those of the input."""
        maps = outputs["heatmap"]
        resampled = [self.map_grid.resampled(other["heatmap"], maps.shape[-2:]) for other in others]
        return {**outputs, "heatmap": torch.stack([maps, *resampled]).mean(0)}


def _places(skeleton: Skeleton, order: Sequence[str] | None) -> list[int]:
    """The keypoints in the order in which peaks are given to people."""
    known = all(name in skeleton.keypoints for name in FROM_THE_TRUNK)
    first = order if order is not None else FROM_THE_TRUNK if known else ()
    places = skeleton.indices(list(first))
    if order is not None and sorted(places) != list(range(skeleton.num_keypoints)):
        raise UserError(
            f"codec.order names {len(set(places))} of the skeleton's {skeleton.num_keypoints} keypoints; name each "
            f"once: {', '.join(skeleton.keypoints)}"
        )
    return [*places, *(place for place in range(skeleton.num_keypoints) if place not in places)]
