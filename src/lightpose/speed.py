"""Fewer and larger kernels: the trunk of a network replayed as CUDA graphs, or compiled.

A network of many small layers, such as HRNet, keeps a fast GPU waiting for its launches. A CUDA graph launches a whole
pass at once; it is ready in seconds, and arithmetic, hooks, loss and optimizer stay as they are. `torch.compile` also
fuses layers, after minutes of waiting.
"""

import inspect
import logging
from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.net import PoseNet

log = logging.getLogger(__name__)

Speed = Literal["auto", "eager", "graph", "compile"]
Trunk = Callable[[Tensor], list[Tensor]]

MOST_CAPTURES = 8


def speed_up(net: PoseNet, speed: Speed, device: torch.device) -> None:
    """Let `PoseNet.features` run faster from now on; ``eager`` undoes it.

    Args:
        net: on ``device``, or about to be moved there.
        speed: ``graph`` replays CUDA graphs, ``compile`` is `torch.compile`, ``eager`` is neither. ``auto`` is
            ``graph`` on a GPU where the network allows, else ``eager``.
        device: where the network runs.

    Raises:
        UserError: for an unknown speed.
    """
    if speed not in get_args(Speed):
        raise UserError(f"speed={speed!r} is unknown; use one of {', '.join(get_args(Speed))}")
    net.fast_features = None
    vars(net.head).pop("forward", None)
    obstacle = _obstacle(net, device)
    if speed == "graph" and obstacle:
        log.warning("speed=graph is not possible with %s; the network runs eagerly", obstacle)
    if speed in ("graph", "auto") and not obstacle:
        net.fast_features = GraphedTrunk(net)
    if speed == "compile":
        net.fast_features = _or_eager(torch.compile(net.plain_features), net.plain_features)
        net.head.forward = _or_eager(torch.compile(net.head.forward), net.head.forward)  # type: ignore[method-assign]


def precision(choice: str, accelerator: str) -> str:
    """``auto`` becomes the fastest precision that trains well on this machine, in Lightning's words."""
    if choice != "auto":
        return choice
    if torch.cuda.is_available() and accelerator != "cpu":
        return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "16-mixed"
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "bf16-mixed" if features.get("avx512_bf16") or features.get("amx_bf16") else "32-true"


def _obstacle(net: PoseNet, device: torch.device) -> str | None:
    """What keeps a network from being captured, as far as can be told before trying."""
    if device.type != "cuda":
        return f"device {device.type}, which has no CUDA graphs"
    if any(getattr(module, "grad_checkpointing", False) for module in net.modules()):
        return "activation checkpointing, which draws its random numbers anew in the backward pass"
    if any(isinstance(module, nn.SyncBatchNorm) for module in net.modules()):
        return "sync_batchnorm, which talks to other processes in the forward pass"
    return None


class GraphedTrunk:
    """`PoseNet.plain_features` as CUDA graphs, captured at the first call of a kind and replayed from then on.

    Calls are of one kind if shape and autocast agree, and which parameters train and which modules are in training
    mode. Without gradients a smaller batch goes through the graph of a larger one. Buffers and random numbers come out
    of a capture as they went in. If a capture fails, the network goes on eagerly, with one warning.

    Args:
        net: its weights may change in place, but must not move.
    """

    def __init__(self, net: PoseNet) -> None:
        self.net = net
        self.graphs: dict[Any, tuple[int, Trunk]] = {}
        self.captures = 0

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Feature maps. With gradients they are valid until the next call, otherwise for good."""
        count = len(inputs)
        kind = self._kind(inputs)
        size, trunk = self.graphs.get(kind, (0, None))
        if trunk is None or count > size:
            if self.captures == MOST_CAPTURES:
                return self.net.plain_features(inputs)
            self.captures += 1
            try:
                trunk = self._capture(inputs)
            except Exception as error:
                torch.cuda.synchronize()
                _give_up("captured as a CUDA graph", error)
                self.net.fast_features = None
                return self.net.plain_features(inputs)
            self.graphs[kind] = size, trunk = count, trunk
        if torch.is_grad_enabled():
            return trunk(inputs)
        if count < size:
            inputs = torch.cat([inputs, inputs[:1].expand(size - count, *inputs.shape[1:])])
        return [feature[:count].clone() for feature in trunk(inputs)]

    def _kind(self, inputs: Tensor) -> Any:
        grad = torch.is_grad_enabled()
        shape = inputs.shape if grad else inputs.shape[1:]
        autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        training = tuple(module.training for module in self.net.modules())
        trained = tuple(parameter.requires_grad for parameter in self.net.parameters()) if grad else ()
        return shape, inputs.dtype, autocast, training, trained

    def _capture(self, inputs: Tensor) -> Trunk:
        buffers = [(buffer, buffer.clone()) for buffer in self.net.buffers()]
        state = torch.cuda.get_rng_state(inputs.device)
        trunk = nn.Sequential(self.net.preprocessor, self.net.backbone, self.net.neck)
        trunk.training = self.net.training  # of the container alone; its parts keep their own
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(torch.is_grad_enabled()),
            torch.autocast(
                "cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), cache_enabled=False
            ),
        ):
            sample = inputs.clone(memory_format=torch.preserve_format)
            # Other threads, which pin batches, may use the GPU meanwhile; releases without the option forbid them to.
            options = inspect.signature(torch.cuda.make_graphed_callables).parameters
            mode: Any = {"capture_error_mode": "thread_local"} if "capture_error_mode" in options else {}
            graphed: Any = torch.cuda.make_graphed_callables(trunk, (sample,), allow_unused_input=True, **mode)
            for buffer, before in buffers:
                buffer.copy_(before)
        torch.cuda.set_rng_state(state, inputs.device)
        return cast(Trunk, graphed)


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
            _give_up("compiled", error)
            chosen = plain
            return plain(*args)

    return call


def _give_up(what: str, error: Exception) -> None:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    log.warning("the network can't be %s (%s), so it runs eagerly; speed=eager says so from the start", what, reason)
