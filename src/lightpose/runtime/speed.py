"""How a network runs: eagerly, replayed as CUDA graphs (`lightpose.runtime.graphs`), or compiled.

`torch.compile` fuses layers, which graphs don't, after minutes of waiting; what it makes is replayed as a graph, too.
"""

import logging
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch

from lightpose.errors import UserError
from lightpose.runtime.graphs import EAGERLY, GraphedTrunk, give_up, obstacle
from lightpose.runtime.hooks import HookedNet

log = logging.getLogger(__name__)

Speed = Literal["auto", "eager", "graph", "compile"]


def speed_up(net: HookedNet, speed: Speed, device: torch.device) -> None:
    """Let a network run faster from now on; ``eager`` undoes it.

    Args:
        net: on ``device``, or about to be moved there.
        speed: ``graph`` replays CUDA graphs, ``compile`` is `torch.compile`, replayed on a GPU where the network
            allows, ``eager`` is neither. ``auto`` is ``graph`` on a GPU where the network allows, else ``eager``.
        device: where the network runs.

    Raises:
        UserError: for an unknown speed.
    """
    if speed not in get_args(Speed):
        raise UserError(f"speed={speed!r} is unknown; use one of {', '.join(get_args(Speed))}")
    net.fast_features = None
    net.head.fast_call = None
    reason = obstacle(net, device)
    if speed == "graph" and reason:
        log.warning("speed=graph is not possible with %s; the network runs eagerly", reason)
    if speed in ("graph", "auto") and not reason:
        net.fast_features = GraphedTrunk(net)
    if speed == "compile":
        compiled = _or_eager(torch.compile(net.plain_features), net.plain_features)
        net.fast_features = compiled if reason else GraphedTrunk(net, compiled)
        net.head.fast_call = _or_eager(torch.compile(net.head.plain_call), net.head.plain_call)


def _or_eager(fast: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """``fast``, or after its first failure ``plain``."""
    chosen = fast

    def call(*args: Any) -> Any:
        nonlocal chosen
        try:
            return chosen(*args)
        except Exception as error:
            if chosen is plain:
                raise
            give_up("compiled", error, EAGERLY)
            chosen = plain
            return plain(*args)

    return call
