"""From the peak of a map to a point: batched, without synchronisation, in map cells (x, y)."""

import functools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Border = Literal["shrink", "zero"]


def blur_sigma(kernel: Tensor | int) -> Tensor | float:
    """Standard deviation of OpenCV's Gaussian kernel of that many taps, which DARK and UDP blur with."""
    return 0.15 * kernel + 0.35


def gaussian_kernel(taps: int) -> Tensor:
    """(taps,) Gaussian blur kernel of sum 1."""
    offsets = torch.arange(taps) - taps // 2
    weights = torch.exp(-(offsets**2) / (2 * blur_sigma(taps) ** 2))
    return weights / weights.sum()


@functools.lru_cache
def mirrored_blur_matrix(length: int, taps: int) -> Tensor:
    """(length, length): rows blur an axis of a map that goes on as its mirror image, the edge cell not repeated."""
    period = max(2 * length - 2, 1)
    source = (torch.arange(length)[:, None] + torch.arange(taps) - taps // 2) % period
    source = torch.minimum(source, period - source)
    return (F.one_hot(source, length) * gaussian_kernel(taps)[:, None]).sum(1)


def argmax_cells(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Highest cell of each (..., h, w) map: integer (x, y) cells (..., 2) and the values there (...)."""
    flat = maps.flatten(-2)
    index = flat.argmax(-1, keepdim=True)
    width = maps.shape[-1]
    return torch.cat([index % width, index // width], -1), flat.gather(-1, index)[..., 0]


def windows(maps: Tensor, centers: Tensor, radius: int) -> Tensor:
    """The (..., 2r + 1, 2r + 1) surroundings of integer cells (..., 2) of (..., h, w) maps; zero outside the map."""
    height, width = maps.shape[-2:]
    offsets = torch.arange(-radius, radius + 1, device=maps.device)
    x, y = (centers[..., None] + offsets).unbind(-2)
    inside = ((y >= 0) & (y < height))[..., :, None] & ((x >= 0) & (x < width))[..., None, :]
    index = y.clamp(0, height - 1)[..., :, None] * width + x.clamp(0, width - 1)[..., None, :]
    values = maps.flatten(-2).gather(-1, index.flatten(-2)).view(index.shape)
    return torch.where(inside, values, 0.0)


def quarter_shift(maps: Tensor, cells: Tensor, sigma: float) -> Tensor:
    """Shift of 0.25 cells from the highest ``cells`` (..., 2) toward the higher neighbour along each axis.

    A neighbour outside the map counts as what a Gaussian of ``sigma`` centred on the cell would have there.
    """
    height, width = maps.shape[-2:]
    around = windows(maps, cells, 1)
    missing = around[..., 1, 1] * math.exp(-0.5 / sigma**2)
    x, y = cells.unbind(-1)
    left = torch.where(x > 0, around[..., 1, 0], missing)
    right = torch.where(x < width - 1, around[..., 1, 2], missing)
    above = torch.where(y > 0, around[..., 0, 1], missing)
    below = torch.where(y < height - 1, around[..., 2, 1], missing)
    return 0.25 * torch.stack([right - left, below - above], -1).sign()


def newton_shift(maps: Tensor, cells: Tensor, blur_kernel: int, step: int, border: Border) -> Tensor:
    """Shift (..., 2) from the highest ``cells`` (..., 2) to the top of a Gaussian, after DARK (arXiv:1910.06278).

    The logarithm of a Gaussian is a parabola, so one Newton step from finite differences of the blurred map's
    logarithm finds its top. The difference stencil moves inside the map at a border. Only the surroundings of the
    peak are blurred. Where the surface has no top there, the shift is zero; it is never more than one cell per axis.

    Args:
        maps: (..., h, w).
        cells: integer (x, y).
        blur_kernel: taps of the blur, odd; 1 for none.
        step: cells between the samples of the second differences: 2 in DARK's code, 1 in UDP's.
        border: ``shrink`` narrows the blur, along each axis, to the widest that stays inside the map, so that a peak
            keeps its place up to the border; ``zero`` blurs with zeros around the map, as published code does, which
            moves peaks near a border inward by up to a cell.
    """
    height, width = maps.shape[-2:]
    radius = blur_kernel // 2
    room = torch.tensor([width, height]).to(maps.device, non_blocking=True) - 1
    centers = torch.minimum(cells.clamp_min(step), room - step)
    fits = torch.minimum(centers, room - centers) - step if border == "shrink" else torch.full_like(centers, radius)
    kernel_x, kernel_y = _blur_matrices(fits.clamp(0, radius), radius, step).unbind(-3)
    # Sums and no matrix products, which autocast and TF32 would round: its logarithm is differentiated twice.
    rows = (kernel_y[..., None] * windows(maps, centers, radius + step)[..., None, :, :]).sum(-2)
    blurred = (rows[..., None, :] * kernel_x[..., None, :, :]).sum(-1)  # (..., 2 step + 1, 2 step + 1)
    top = blurred[..., step, step].clamp_min(torch.finfo(blurred.dtype).tiny)
    shift, is_top = _newton(torch.log((blurred / top[..., None, None]).clamp_min(1e-3)), step)
    return torch.where(is_top[..., None], (centers - cells + shift).clamp(-1, 1), 0.0)


def _blur_matrices(radii: Tensor, widest: int, step: int) -> Tensor:
    """(..., 2 step + 1, 2 (widest + step) + 1): rows blur a window, each with a kernel of the given radius."""
    device = radii.device
    source = torch.arange(-widest - step, widest + step + 1, device=device)
    distance = (source - torch.arange(-step, step + 1, device=device)[:, None]).float()
    radii = radii[..., None, None]
    kernel = torch.exp(-(distance**2) / (2 * blur_sigma(2 * radii + 1) ** 2)) * (distance.abs() <= radii)
    return kernel / kernel.sum(-1, keepdim=True)


def _newton(surface: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Newton shift (..., 2) from the middle of (..., n, n) samples, and where it leads to a maximum (...)."""

    def at(x: int, y: int) -> Tensor:
        return surface[..., step + y, step + x]

    dx, dy = (at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2
    dxx = (at(step, 0) - 2 * at(0, 0) + at(-step, 0)) / step**2
    dyy = (at(0, step) - 2 * at(0, 0) + at(0, -step)) / step**2
    diagonal = at(1, 1) + at(-1, -1)
    if step == 1:  # published code pairs each spacing with its own mixed difference
        dxy = (diagonal - at(1, 0) - at(-1, 0) - at(0, 1) - at(0, -1) + 2 * at(0, 0)) / 2
    else:
        dxy = (diagonal - at(1, -1) - at(-1, 1)) / 4
    determinant = dxx * dyy - dxy**2
    is_top = (determinant > 1e-8) & (dxx < 0)
    newton = torch.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], -1)
    return newton / torch.where(is_top, determinant, 1.0)[..., None], is_top


def profile_shift(profiles: Tensor, cells: Tensor, blur_kernel: int) -> Tensor:
    """`newton_shift` of profiles (..., length) along one axis: the shift (...) from the highest ``cells`` (...).

    The blur narrows and the difference stencil moves near an end, and second differences span two cells. The shift is
    never more than two cells.
    """
    radius, step, last = blur_kernel // 2, 2, profiles.shape[-1] - 1
    centers = cells.clamp(step, last - step)
    fits = torch.minimum(centers, last - centers) - step
    kernel = _blur_matrices(fits.clamp(0, radius), radius, step)  # (..., 2 step + 1, taps)
    offsets = torch.arange(-radius - step, radius + step + 1, device=profiles.device)
    around = profiles.gather(-1, (centers[..., None] + offsets).clamp(0, last))  # clamped ones have no weight
    blurred = (kernel * around[..., None, :]).sum(-1)  # (..., 2 step + 1)
    top = blurred[..., step].clamp_min(torch.finfo(blurred.dtype).tiny)
    far_left, left, middle, right, far_right = torch.log((blurred / top[..., None]).clamp_min(1e-3)).unbind(-1)
    slope, bend = (right - left) / 2, (far_right - 2 * middle + far_left) / 4
    is_top = bend < 0
    shift = centers - cells - slope / torch.where(is_top, bend, 1.0)
    return torch.where(is_top, shift.clamp(-2, 2), 0.0)
