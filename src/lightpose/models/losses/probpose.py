"""Losses of ProbPose (arXiv:2412.02254)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightpose.codecs.maps import on_device
from lightpose.codecs.probpose import expected_oks
from lightpose.errors import UserError
from lightpose.structures import Targets

_SOBEL = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]) / 8
SOBELS = torch.stack([_SOBEL, _SOBEL.T])[:, None]


class ProbPoseLoss(nn.Module):
    """The expected shortfall of OKS, and what presence, visibility and expected OKS are off by; each a weighted mean.

    ``heatmap`` is 1 - OKS as the map expects it, and a little of the map's squared slopes, which keep it from
    breaking up. ``presence`` and ``visible`` are binary cross-entropies. ``oks`` is the squared error of the OKS that
    the network expects, against that of the highest expected cell.

    Args:
        smoothness: share of the slopes in ``heatmap``.
    """

    def __init__(self, smoothness: float = 0.05) -> None:
        super().__init__()
        if not 0 <= smoothness < 1:
            raise UserError(f"criterion.smoothness={smoothness} must be a share of the loss; 0.05 is the published one")
        self.smoothness = smoothness

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The four losses, in float32."""
        maps, oks_maps = outputs["heatmap"].float(), targets.maps["heatmap"].float()  # (B, K, h, w)
        shortfall = 1 - (maps * oks_maps).sum((-2, -1))  # (B, K)
        rough = (1 - self.smoothness) * shortfall + self.smoothness * _squared_slopes(maps)
        with torch.no_grad():
            best = expected_oks(maps, targets.maps["sigmas"].float()).flatten(-2).argmax(-1, keepdim=True)
            measured = oks_maps.flatten(-2).gather(-1, best)[..., 0]
        off = (outputs["oks"].float().sigmoid() - measured).square()
        weights = targets.weights
        found = {"heatmap": _mean(rough, weights["heatmap"]), "oks": _mean(off, weights["heatmap"])}
        for name in ("presence", "visible"):
            loss = functional.binary_cross_entropy_with_logits(
                outputs[name].float(), targets.maps[name].float(), reduction="none"
            )
            found[name] = _mean(loss, weights[name])
        return found


def _mean(loss: Tensor, weights: Tensor) -> Tensor:
    return (loss * weights).sum() / weights.sum().clamp_min(1)


def _squared_slopes(maps: Tensor) -> Tensor:
    """(B, K): sum of the squared Sobel derivatives along both axes."""
    kernels = on_device(SOBELS, maps).to(maps.dtype)  # (2, 1, 3, 3)
    slopes = functional.conv2d(maps.flatten(0, 1)[:, None], kernels, padding=1)
    return slopes.square().sum((1, 2, 3)).view(maps.shape[:2])
