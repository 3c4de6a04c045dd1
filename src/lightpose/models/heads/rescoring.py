"""What a pose's shape says of how good it is."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightpose.errors import UserError


class Rescoring(nn.Module):
    """A factor on the score of each pose, from how its keypoints lie and what they score (DEKR, arXiv:2104.02300).

    It looks at the way along each link, from its second keypoint to its first, at its length, both as shares of a
    person's size, and at the scores of the keypoints. It doesn't train. Until weights are loaded all factors are 1.

    Args:
        keypoints: K.
        links: the two keypoints that each joins, as indices.
        norm: indices of links, whose mean length is a person's size; it counts as one pixel at least.

    Raises:
        UserError: for links or ``norm`` with an index that is not there.
    """

    ends: Tensor
    norm: Tensor

    def __init__(self, keypoints: int, links: Sequence[Sequence[int]], norm: Sequence[int]) -> None:
        super().__init__()
        fit = all(len(link) == 2 and all(0 <= end < keypoints for end in link) for link in links)
        if not fit or not norm or not all(0 <= link < len(links) for link in norm):
            raise UserError(
                f"head.rescoring has links={[list(link) for link in links]} and norm={list(norm)}; give two of the "
                f"indices 0 to {keypoints - 1} of keypoints for each link, and indices of links as norm"
            )
        self.register_buffer("ends", torch.tensor([list(link) for link in links]).T.contiguous(), persistent=False)
        self.register_buffer("norm", torch.tensor(list(norm)), persistent=False)
        last = nn.Linear(256, 1)
        nn.init.zeros_(last.weight)
        nn.init.ones_(last.bias)
        self.layers = nn.Sequential(
            nn.Linear(3 * len(links) + keypoints, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), last
        )
        self.requires_grad_(False)

    def features(self, keypoints: Tensor, scores: Tensor) -> Tensor:
        """(..., 3 L + K): x and y of each link in turn, lengths of links, scores of keypoints."""
        first, second = self.ends
        ways = keypoints.index_select(-2, first) - keypoints.index_select(-2, second)  # (..., L, 2)
        lengths = ways.norm(dim=-1)
        size = lengths.index_select(-1, self.norm).mean(-1, keepdim=True).clamp_min(1)
        return torch.cat([(ways / size[..., None]).flatten(-2), lengths / size, scores], -1)

    def forward(self, keypoints: Tensor, scores: Tensor) -> Tensor:
        """(...) factors, none below 0, of keypoints (..., K, 2) in input pixels and their scores (..., K)."""
        factors: Tensor = self.layers(self.features(keypoints, scores))
        return factors[..., 0].clamp_min(0)
