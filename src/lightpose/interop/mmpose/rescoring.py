"""The network of MMPose's DEKR that scores poses anew, which goes by the links of the data set that it learnt from."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightpose.interop.mmpose.backbones import kind_of

COCO = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
CROWDPOSE = (
    *((10, 8), (8, 6), (11, 9), (9, 7), (6, 7), (0, 6), (1, 7), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5)),
    *((12, 13), (1, 13), (0, 13)),
)
KNOWN = {17: (COCO, (5, 6)), 14: (CROWDPOSE, (0, 1))}
"""Number of keypoints → links by their keypoints, and places of those whose length is a person's size, as published."""


def with_rescoring(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Mapping[str, Any]:
    """A configuration whose head says by ``rescoring`` if a checkpoint has that network, for links that are known.

    MMPose's own ``rescore_cfg`` doesn't: it names no links, and a checkpoint may come without the network.

    Args:
        config: of MMPose.
        state: tensors by their names of today.
    """
    model: Any = config.get("model")
    head: Any = model.get("head") if isinstance(model, Mapping) else None
    first = state.get("head.rescore_net.l1.weight")
    if first is None or not isinstance(head, Mapping) or kind_of(head) != "DEKRHead":
        return config
    for count, (links, norm) in KNOWN.items():
        if head.get("num_keypoints") == count and first.shape[1:] == (3 * len(links) + count,):
            found = {"links": [list(link) for link in links], "norm": list(norm)}
            return {**config, "model": {**model, "head": {**head, "rescoring": found}}}
    return config
