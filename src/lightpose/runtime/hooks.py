"""What a network offers to whoever makes it faster: its parts, and the two calls that another may stand in for."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor, nn

Trunk = Callable[[Tensor], list[Tensor]]


class HookedHead(Protocol):
    """The part that follows the trunk.

    Attributes:
        fast_call: what a call of the head does in place of `plain_call`; None for that itself.
    """

    fast_call: Callable[..., Any] | None

    def plain_call(self, *args: Any) -> Any:
        """A call without any acceleration."""
        ...


class HookedNet(Protocol):
    """A module of a trunk and a head.

    Attributes:
        fast_features: what computes features in place of `plain_features`; None for that itself.
    """

    fast_features: Trunk | None

    def plain_features(self, inputs: Tensor) -> list[Tensor]:
        """The trunk's features without any acceleration."""
        ...

    @property
    def head(self) -> HookedHead:
        """The part that follows the trunk."""
        ...

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """The parts by name."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """The parts, and the parts of parts."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights."""
        ...

    def buffers(self) -> Iterator[Tensor]:
        """All buffers."""
        ...
