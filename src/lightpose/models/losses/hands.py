"""The losses of InterNet (arXiv:2008.09309)."""

from torch import Tensor, nn
from torch.nn import functional

from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.structures import Targets


class HandsLoss(nn.Module):
    """Squared error of volumes, absolute error of root depth, and binary cross-entropy of which hands are there.

    Each is averaged over all elements, those of weight 0 included.

    Args:
        root_scale: in how many parts the bound of root depth is divided, one of which is an error of 1.
    """

    def __init__(self, root_scale: float = 64.0) -> None:
        super().__init__()
        self.root_scale = root_scale
        self.volumes = KeypointMSE()

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The losses ``heatmap``, ``root_depth`` and ``hands``."""
        root = (outputs["root_depth"] - targets.maps["root_depth"]).abs() * targets.weights["root_depth"]
        hands = functional.binary_cross_entropy_with_logits(outputs["hands"], targets.maps["hands"], reduction="none")
        return {
            **self.volumes(outputs, targets),
            "root_depth": self.root_scale * root.mean(),
            "hands": (hands * targets.weights["hands"]).mean(),
        }
