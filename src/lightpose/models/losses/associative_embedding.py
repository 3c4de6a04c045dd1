"""The loss of associative embedding (arXiv:1611.05424)."""

import torch
from torch import Tensor, nn

from lightpose.models.base import Criterion
from lightpose.structures import Targets


class AssociativeEmbeddingLoss(nn.Module):
    """A loss of ``heatmap``, one that pulls the tags of each person together, and one that pushes people apart.

    ``pull`` is the squared distance of a person's tags from their mean, averaged over keypoints, people and images;
    ``push`` is exp(-d²) of the distances d between the means of two people, averaged over the pairs of an image and
    over images. An image without a labelled person, or a pair of people, counts as 0.

    Args:
        heatmap: the loss of ``heatmap``.
        pull: factor on the one.
        push: factor on the other; HigherHRNet (arXiv:1908.10357) takes half of ``pull``.
    """

    def __init__(self, heatmap: Criterion, pull: float = 1e-3, push: float = 5e-4) -> None:
        super().__init__()
        self.heatmap, self.pull, self.push = heatmap, pull, push

    def forward(self, outputs: dict[str, Tensor], targets: Targets) -> dict[str, Tensor]:
        """The losses ``heatmap``, ``pull`` and ``push``."""
        here = targets.weights["cells"]  # (B, M, K)
        tags = outputs["tag"].flatten(2).gather(2, targets.maps["cells"].mT).mT  # (B, M, K)
        count = here.sum(-1)  # (B, M)
        means = (tags * here).sum(-1) / count.clamp_min(1)  # (B, M)
        spread = ((tags - means[..., None]).square() * here).sum(-1) / count.clamp_min(1)
        person = (count > 0).float()
        pull = spread.sum(-1) / person.sum(-1).clamp_min(1)  # (B,)
        pairs = (person[:, :, None] * person[:, None]).triu(1)  # (B, M, M)
        alike = torch.exp(-(means[:, :, None] - means[:, None]).square())
        push = (alike * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)  # (B,)
        tagging = {"pull": self.pull * pull.mean(), "push": self.push * push.mean()}
        return {**self.heatmap(outputs, targets), **tagging}
