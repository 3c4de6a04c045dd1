"""Losses of profiles along the axes of the input."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.structures import Targets


class ProfileKL(nn.Module):
    """Weighted Kullback-Leibler divergence of every output (B, K, bins), each a distribution over its bins.

    As in published recipes it is the mean over the bins and over K, and the sum over B: it grows with the batch, which
    Adam doesn't see (arXiv:2107.03332, arXiv:2303.07399).

    Args:
        beta: the outputs are multiplied by it before their softmax.
        label_beta: likewise for targets; None for targets that are distributions.
    """

    def __init__(self, beta: float = 10.0, label_beta: float | None = 10.0) -> None:
        super().__init__()
        if beta <= 0 or (label_beta is not None and label_beta <= 0):
            raise UserError(
                f"criterion.beta={beta} and criterion.label_beta={label_beta} must be positive; 10 is RTMPose's value, "
                "and label_beta=null takes targets as they are"
            )
        self.beta, self.label_beta = beta, label_beta

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """A loss for each output, under its name."""
        return {name: self._divergence(output, targets, name) for name, output in outputs.items()}

    def _divergence(self, output: Tensor, targets: Targets, name: str) -> Tensor:
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        target = targets.maps[name].to(output.dtype)
        if self.label_beta is not None:
            target = (self.label_beta * target).softmax(-1)
        divergence = F.kl_div((self.beta * output).log_softmax(-1), target, reduction="none").mean(-1)  # (B, K)
        return (divergence * targets.weights[name]).sum() / output.shape[1]
