"""What codecs of several people share: their centres, maps of all of them, peaks, near-duplicates."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms

from lightpose.codecs.peaks import Border
from lightpose.structures import Poses


def with_centers(cells: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """People's keypoints and after them their centres: (B, M, K + 1, 2) and labels in {0, 1} (B, M, K + 1).

    The centre is the mean of the labelled keypoints; it is labelled where there are any.

    Args:
        cells: (B, M, K, 2).
        labels: (B, M, K) in {0, 1}.
    """
    count = labels.sum(-1, keepdim=True)  # (B, M, 1)
    centers = (cells * labels[..., None]).sum(-2) / count.clamp_min(1)  # (B, M, 2)
    return torch.cat([cells, centers[:, :, None]], 2), torch.cat([labels, count.clamp_max(1)], -1)


def gaussians(points: Tensor, sigmas: Tensor, map_hw: tuple[int, int], rounded: bool = True) -> tuple[Tensor, Tensor]:
    """Rows (..., h) and columns (..., w), whose products are Gaussians around ``points``.

    A Gaussian has height 1 and is cut 3 sigmas from the cell nearest to the point, as in published code.

    Args:
        points: (..., 2) cells.
        sigmas: broadcasts with (...), in cells.
        map_hw: size of the map.
        rounded: whether Gaussians stand on the nearest cells, or where the points are.
    """
    sigmas = sigmas[..., None].to(points.device)
    nearest, profiles = (points + 0.5).floor(), []
    for place, cell, length in zip(points.unbind(-1), nearest.unbind(-1), map_hw[::-1], strict=True):
        cells = torch.arange(length, device=points.device)
        distance = cells - (cell if rounded else place)[..., None]
        profile = torch.exp(-(distance**2) / (2 * sigmas**2))
        profiles.append(torch.where((cells - cell[..., None]).abs() <= 3 * sigmas, profile, 0.0))
    return profiles[1], profiles[0]


def crowd_maps(points: Tensor, labels: Tensor, sigmas: Tensor, map_hw: tuple[int, int], rounded: bool = True) -> Tensor:
    """(B, K, h, w): the highest of the Gaussians that all people have in a map.

    Args:
        points: (B, M, K, 2) cells.
        labels: (B, M, K) in {0, 1}.
        sigmas: broadcasts with (B, M, K), in cells.
        map_hw: size of the maps.
        rounded: see `gaussians`.
    """
    rows, columns = gaussians(points, sigmas, map_hw, rounded)
    rows = rows * labels[..., None]
    maps = rows.new_zeros(len(points), points.shape[2], *map_hw)
    for row, column in zip(rows.unbind(1), columns.unbind(1), strict=True):  # maps of each person would fill memory
        maps = torch.maximum(maps, row[..., :, None] * column[..., None, :])
    return maps


def peaks(maps: Tensor, kernel: int, count: int, every: bool = False) -> tuple[Tensor, Tensor]:
    """Scores (B, P) and integer (x, y) cells (B, P, 2) of the highest peaks of (B, h, w) maps, best first.

    A peak is the highest of the ``kernel`` x ``kernel`` cells around it; of cells that are equally high, as in half
    precision they may be, it is the first, or with ``every`` each. Where there are fewer than P, the rest scores 0. P
    is ``count``, or the number of cells if that is less.
    """
    height, width = maps.shape[-2:]
    highest, place = F.max_pool2d(maps[:, None], kernel, 1, kernel // 2, return_indices=True)
    if every:
        is_peak = maps == highest[:, 0]
    else:  # the place of a window's highest cell is that of the first
        is_peak = place[:, 0] == torch.arange(height * width, device=maps.device).view(height, width)
    scores, places = torch.where(is_peak, maps, 0.0).flatten(1).topk(min(count, height * width))
    rows = places // width
    return scores, torch.stack([places - rows * width, rows], -1)


def at_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """(B, P, ...) values of maps (B, ..., h, w) at integer cells (B, P, 2)."""
    places = cells[..., 1] * maps.shape[-1] + cells[..., 0]  # (B, P)
    flat = maps.flatten(-2).flatten(1, -2)  # (B, C, h w)
    values = flat.gather(2, places[:, None].expand(-1, flat.shape[1], -1))  # (B, C, P)
    return values.mT.unflatten(2, maps.shape[1:-2])


def between_cells(maps: Tensor, points: Tensor) -> Tensor:
    """(B, P, K) values of maps (B, K, h, w) at points (B, P, K, 2) of cells, bilinear; 0 outside the maps."""
    height, width = maps.shape[-2:]
    x, y = points.unbind(-1)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    grid = grid.transpose(1, 2).flatten(0, 1)[:, None]  # (B K, 1, P, 2)
    values = F.grid_sample(maps.flatten(0, 1)[:, None], grid, align_corners=False)  # (B K, 1, 1, P)
    return values[:, 0, 0].unflatten(0, maps.shape[:2]).mT


def enlarged(maps: Tensor, times: int) -> Tensor:
    """Maps (..., h, w) with ``times`` as many cells along each axis, bilinear, as `torch.nn.functional.interpolate`.

    It is written in plain steps, as an exported file then rounds like torch and finds the same peaks.
    """
    if times == 1:
        return maps
    for axis in (maps.ndim - 1, maps.ndim - 2):
        rest = maps.shape[axis] - 1
        up = maps - torch.cat([maps.narrow(axis, 0, 1), maps.narrow(axis, 0, rest)], axis)  # from the cell before
        down = torch.cat([maps.narrow(axis, 1, rest), maps.narrow(axis, rest, 1)], axis) - maps
        places = [(part + 0.5) / times - 0.5 for part in range(times)]  # of new cells around the middle of the old
        maps = torch.stack([maps + (up if place < 0 else down) * place for place in places], axis + 1)
        maps = maps.flatten(axis, axis + 1)
    return maps


def better_than_neighbours(keypoints: Tensor, scores: Tensor, distance: float, joints: int) -> Tensor:
    """(B, P) bool: which poses stay when those go that lie on a better one.

    Args:
        keypoints: (B, P, K, 2).
        scores: (B, P).
        distance: keypoints are close if nearer than this share of the diagonal of the better pose's keypoints.
        joints: a pose lies on another if more keypoints than this are close (arXiv:2104.02300).
    """
    places = torch.arange(scores.shape[1], device=scores.device)
    better, other = scores[:, :, None], scores[:, None]
    ahead = (better > other) | ((better == other) & (places[:, None] < places))  # (B, P, P)
    rank = ahead.sum(1)  # (B, P)
    order = torch.zeros_like(rank).scatter(1, rank, places.expand_as(rank))  # a stable sort, which ONNX lacks
    ordered = keypoints.gather(1, order[..., None, None].expand_as(keypoints))
    reach = distance * (ordered.amax(2) - ordered.amin(2)).norm(dim=-1)  # (B, P)
    apart = (ordered[:, :, None] - ordered[:, None]).norm(dim=-1)  # (B, P, P, K)
    covers = ((apart < reach[..., None, None]).sum(-1) > joints).triu(1)  # (B, P, P): the better first
    stays = torch.ones_like(scores, dtype=torch.bool)
    for place in range(scores.shape[1]):
        stays = stays & ~(covers[:, place] & stays[:, place, None])
    return stays.gather(1, rank)


@torch.library.custom_op("lightpose::best_boxes", mutates_args=())
def best_boxes(boxes: Tensor, scores: Tensor, overlap: float, least: float) -> Tensor:
    """(B, P) bool: which boxes score above ``least`` and don't lie on a better one of their row that stays.

    It is one operator, as ONNX has its like, and how many stay is known only when it has run.

    Args:
        boxes: (B, P, 4) xyxy.
        scores: (B, P).
        overlap: a box lies on another if they overlap by more (IoU).
        least: see above.
    """
    row, place = (scores > least).nonzero().unbind(1)
    kept = batched_nms(boxes[row, place], scores[row, place], row, overlap)
    stays = torch.zeros_like(scores, dtype=torch.bool)
    stays[row[kept], place[kept]] = True
    return stays


@best_boxes.register_fake
def _(boxes: Tensor, scores: Tensor, overlap: float, least: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


def picked(values: Tensor, places: Tensor) -> Tensor:
    """(B, P, ...) of values (B, N, ...) those at places (B, P)."""
    return values[torch.arange(places.shape[0], device=places.device)[:, None], places]


def chosen(candidates: dict[str, Tensor]) -> Poses:
    """The poses that are ``valid`` (B, P) of candidates (B, P, ...) under the names of fields of `Poses`."""
    row, place = candidates["valid"].nonzero().unbind(1)
    columns = {name: column[row, place] for name, column in candidates.items() if name != "valid"}
    return Poses(**columns, batch_index=row)  # type: ignore[arg-type]


def smoothed(maps: Tensor, border: Border) -> Tensor:
    """(B, C, h, w) maps, halfway to the mean of the 3x3 cells around each.

    Of cells outside the map, ``shrink`` leaves them out, and ``zero`` counts them as 0, which moves peaks near a border
    inward.
    """
    return (maps + F.avg_pool2d(maps, 3, 1, 1, count_include_pad=border == "zero")) / 2
