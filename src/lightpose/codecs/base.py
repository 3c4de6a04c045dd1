"""The contract of a codec: keypoints to targets, outputs to poses."""

from typing import Protocol

from torch import Tensor

from lightpose.structures import Instances, Poses, Spec, Targets


class Codec(Protocol):
    """Turns keypoints into training targets and network outputs into poses, a whole batch at a time, on any device.

    A codec has no parameters. It is built with ``skeleton``, ``input_hw`` and ``grid`` next to its own options.

    Attributes:
        spec: what it expects of a head.
        mirror_lag: input pixels that a mirrored input must move left before the network sees it, so that `flip` is
            exact (`lightpose.geometry.mirror_lag`).
    """

    spec: Spec
    mirror_lag: int

    def encode(self, instances: Instances) -> Targets:
        """Targets under the names of ``spec.outputs``; instances in input pixels."""
        ...

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """Poses in input pixels."""
        ...

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input; an involution."""
        ...
