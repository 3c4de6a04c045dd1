"""Residual log-likelihood estimation (arXiv:2107.11291)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.losses.weighting import expand
from lightpose.structures import Targets

STEPS, WIDTH = 6, 64


class RealNVP(nn.Module):
    """A density of points in the plane: a standard normal one, bent by coupling layers (arXiv:1605.08803).

    Each layer keeps one coordinate, and scales and shifts the other by what two small networks make of the first. It
    starts close to the normal density.
    """

    kept: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.ModuleList(nn.Sequential(*_layers(), nn.Tanh()) for _ in range(STEPS))
        self.shift = nn.ModuleList(nn.Sequential(*_layers()) for _ in range(STEPS))
        self.register_buffer("kept", torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(STEPS // 2, 1), persistent=False)

    def log_density(self, points: Tensor) -> Tensor:
        """Logarithm (...) of the density at points (..., 2)."""
        log_volume = torch.zeros_like(points[..., 0])
        for step in reversed(range(STEPS)):
            kept, free = self.kept[step], 1 - self.kept[step]
            scale, shift = (net[step](points * kept) * free for net in (self.scale, self.shift))
            points = points * kept + (points - shift) * (-scale).exp() * free
            log_volume = log_volume - scale.sum(-1)
        return log_volume - points.square().sum(-1) / 2 - math.log(2 * math.pi)


class RLE(nn.Module):
    """Negative log-likelihood of ``keypoints`` (B, K, 2) with deviations ``sigmas`` (B, K, 2), summed over K.

    The errors' density is learnt along with the network, by a flow whose weights belong to this loss. As in published
    code, the flow's part counts once for each of the two coordinates.

    Args:
        residual: the flow learns only how errors differ from ``density``. Otherwise it learns all of the density.
        density: of errors in units of sigma, with ``residual``.
    """

    def __init__(self, residual: bool = True, density: Literal["laplace", "gaussian"] = "laplace") -> None:
        super().__init__()
        if density not in ("laplace", "gaussian"):
            raise UserError(f"criterion.density={density!r} is unknown; use laplace or gaussian")
        self.residual, self.density = residual, density
        self.flow = RealNVP()

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The loss ``keypoints``, which can be negative."""
        sigmas = outputs["sigmas"].clamp_min(1e-9)
        error = (outputs["keypoints"] - targets.maps["keypoints"]) / sigmas  # (B, K, 2)
        loss = sigmas.log() - self.flow.log_density(error)[..., None]
        if self.residual and self.density == "laplace":
            loss = loss + (2 * sigmas).log() + error.abs()
        elif self.residual:
            loss = loss + sigmas.log() + math.log(2 * math.pi) / 2 + error.square() / 2
        return {"keypoints": (loss * expand(targets.weights["keypoints"], loss)).sum() / len(loss)}


def _layers() -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in ((2, WIDTH), (WIDTH, WIDTH), (WIDTH, 2)):
        linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(linear.weight, gain=0.01)
        layers += [linear, nn.LeakyReLU()]
    return layers[:-1]
