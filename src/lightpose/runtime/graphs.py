"""A network's trunk as CUDA graphs, each of which launches a whole pass at once.

A network of many small layers, such as HRNet, keeps a fast GPU waiting for its launches. A graph is ready in seconds,
and arithmetic, hooks, loss and optimizer stay as they are.
"""

import functools
import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from lightpose.errors import UserError
from lightpose.runtime.hooks import HookedNet, Trunk

log = logging.getLogger(__name__)

MOST_CAPTURES = 8
EAGER_CALLS = 10
WARM_UPS = 3
EAGERLY = "eagerly, as speed=eager does from the start"


def obstacle(net: HookedNet, device: torch.device) -> str | None:
    """Why a network can't be captured, as far as that shows before trying."""
    if device.type != "cuda":
        return f"device {device.type}, which has no CUDA graphs"
    if any(getattr(module, "grad_checkpointing", False) for module in net.modules()):
        return "activation checkpointing, which draws its random numbers anew in the backward pass"
    if any(isinstance(module, nn.SyncBatchNorm) for module in net.modules()):
        return "sync_batchnorm, which talks to other processes in the forward pass"
    return None


def is_graphed(net: HookedNet) -> bool:
    """Whether a network's passes are replayed, so that all gradients of its trunk come at once."""
    return isinstance(net.fast_features, GraphedTrunk)


def expect_calls(net: HookedNet, calls: int) -> None:
    """Let the first of so many calls be captured if it pays.

    Args:
        net: any network; nothing happens if it isn't replayed.
        calls: of a kind, without gradients.
    """
    if isinstance(net.fast_features, GraphedTrunk):
        net.fast_features.patience = 0 if calls > EAGER_CALLS else EAGER_CALLS


class GraphedTrunk:
    """`HookedNet.plain_features` as CUDA graphs, captured once and replayed from then on.

    A graph serves one kind of call: inputs of one shape and type, one autocast, one set of parameters that train, and
    one set of modules in training mode. With gradients the first call of a kind is captured. Without gradients the
    first few calls run eagerly, since a capture takes seconds and few images don't need it, and a smaller batch goes
    through the graph of a larger one. A capture leaves buffers and random numbers as they were. If it fails, the
    network runs without a graph from then on, and one warning says so.

    The network's Python code, its hooks included, runs at the capture and not at a replay. A network whose Python code
    draws random numbers, such as which layers to leave out, is therefore not captured.

    Args:
        net: its weights may change in place, but must not move or be replaced.
        compiled: what runs if a capture fails; if given, `torch.compile` makes what is captured.

    Attributes:
        patience: how many calls of a kind run eagerly without gradients.
        patience_in_training: likewise, with gradients.
    """

    def __init__(self, net: HookedNet, compiled: Trunk | None = None) -> None:
        self.net = net
        self.compiled = compiled
        self.patience = EAGER_CALLS
        self.patience_in_training = 0
        self.graphs: dict[Any, tuple[int, Trunk]] = {}
        self.captures = 0
        self.eager_calls: Counter[Any] = Counter()

    @functools.cached_property
    def parts(self) -> tuple[list[nn.Module], list[nn.Parameter]]:
        """Modules and parameters as they are at the first call: walking the network takes long."""
        return list(self.net.modules()), list(self.net.parameters())

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """Feature maps; with gradients they are valid only until the next call."""
        count = len(inputs)
        kind = self._kind(inputs)
        size, trunk = self.graphs.get(kind, (0, None))
        if trunk is None or count > size:
            self.eager_calls[kind] += 1
            patience = self.patience_in_training if torch.is_grad_enabled() else self.patience
            patient = self.eager_calls[kind] <= patience
            if patient or self.captures == MOST_CAPTURES:
                return self.net.plain_features(inputs)
            self.captures += 1
            try:
                trunk = self._capture(inputs)
            except Exception as error:
                if "DataLoader worker" in str(error):  # torch says here, too, that a worker has ended
                    raise
                torch.cuda.synchronize()
                give_up("captured as a CUDA graph", error, "only compiled" if self.compiled else EAGERLY)
                self.net.fast_features = self.compiled
                return (self.compiled or self.net.plain_features)(inputs)
            self.graphs[kind] = size, trunk = count, trunk
        if torch.is_grad_enabled():
            return trunk(inputs)
        if count < size:
            inputs = torch.cat([inputs, inputs[:1].expand(size - count, *inputs.shape[1:])])
        return [feature[:count].clone() for feature in trunk(inputs)]

    def _kind(self, inputs: Tensor) -> Any:
        shape = inputs.shape if torch.is_grad_enabled() else inputs.shape[1:]
        return shape, inputs.dtype, *kind_of_pass(*self.parts)

    def _capture(self, inputs: Tensor) -> Trunk:
        grad = torch.is_grad_enabled()
        with (
            nothing_changed(self.net, inputs.device),
            torch.cuda.device(inputs.device),
            torch.inference_mode(False),
            torch.set_grad_enabled(grad),
        ):
            return Replay(_Features(self.net), inputs, self.compiled is not None)


def kind_of_pass(modules: Sequence[nn.Module], parameters: Sequence[nn.Parameter]) -> tuple[Any, ...]:
    """What a graph of a network depends on beside its inputs."""
    autocast = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
    training = tuple([module.training for module in modules])
    trained = tuple([parameter.requires_grad for parameter in parameters]) if torch.is_grad_enabled() else ()
    return autocast, training, trained


@contextmanager
def nothing_changed(net: HookedNet, device: torch.device) -> Iterator[None]:
    """Capture in here; buffers and random numbers are afterwards what they were.

    Raises:
        RuntimeError: when the network can't be captured, or draws random numbers on the host.
    """
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()]
    generator = torch.cuda.default_generators[device.index or 0]
    state, spare = generator.get_state(), generator.clone_state()
    on_host = random.getstate(), torch.get_rng_state()
    try:
        if reason := obstacle(net, device):  # Lightning changes modules when a run begins
            raise RuntimeError(reason)
        yield
        if random.getstate() != on_host[0] or not torch.equal(torch.get_rng_state(), on_host[1]):
            raise RuntimeError("it draws random numbers on the host")
    except Exception:
        generator.graphsafe_set_state(spare)  # a failed capture leaves the other state unusable
        raise
    finally:
        generator.set_state(state)
        for buffer, before in buffers:
            buffer.copy_(before)


class _Features(nn.Module):
    """A network without its head."""

    def __init__(self, net: HookedNet) -> None:
        super().__init__()
        for name, part in net.named_children():
            if name != "head":
                self.add_module(name, part)
        self.features = net.plain_features

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """The features."""
        return self.features(inputs)


class Replay:
    """A module's forward pass as one CUDA graph, and if gradients are enabled its backward pass as another.

    It is like `torch.cuda.make_graphed_callables`, but other threads, such as those that pin batches, may use the GPU
    during the capture, and the parameters' gradients are not bound to the stream of the capture.

    Args:
        module: takes ``inputs`` and gives a list of tensors.
        inputs: of the shape and type of all inputs to come.
        compiled: capture what `torch.compile` makes of the module.
    """

    def __init__(self, module: nn.Module, inputs: Tensor, compiled: bool = False) -> None:
        trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self.parameters = tuple(trained.values()) if torch.is_grad_enabled() else ()
        self.inputs = inputs.clone(memory_format=torch.preserve_format)
        stand_ins = {name: value.detach().requires_grad_() for name, value in trained.items()}
        leaves = tuple(stand_ins.values())

        def call(parameters: dict[str, Tensor], inputs: Tensor) -> Any:
            return functional_call(module, parameters, (inputs,))

        chosen = torch.compile(call, dynamic=False) if compiled else call

        def forward() -> list[Tensor]:
            return list(chosen(stand_ins, self.inputs))

        def backward(outputs: list[Tensor], grads: list[Tensor]) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(outputs, leaves, grads, allow_unused=True)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), uncached_autocast():
            for _ in range(WARM_UPS):  # lets cuDNN choose its algorithms
                outputs = forward()
                grads = [torch.zeros_like(output) for output in outputs]
                found = backward(outputs, grads) if self.parameters else ()
            del outputs
        torch.cuda.current_stream().wait_stream(stream)
        # Gradients are still there at the next forward pass, which writes wherever the memory of graphs was free.
        self.grads = grads
        self.parameter_grads = [
            None if grad is None else torch.empty_like(leaf) for leaf, grad in zip(leaves, found, strict=False)
        ]
        del found
        pool = torch.cuda.graph_pool_handle()
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forward, pool, stream, "thread_local"), uncached_autocast():
            outputs = forward()
        if self.parameters:
            kept = [grad for grad in self.parameter_grads if grad is not None]
            with torch.cuda.graph(self.backward, pool, stream, "thread_local"), uncached_autocast():
                torch._foreach_copy_(kept, [grad for grad in backward(outputs, grads) if grad is not None])
        self.outputs = [output.detach() for output in outputs]
        self.calls = 0

    def __call__(self, inputs: Tensor) -> list[Tensor]:
        """What the module gives; the tensors are overwritten by the next call."""
        return list(_ReplayFunction.apply(self, inputs, *self.parameters))


class _ReplayFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, replay: Replay, inputs: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        replay.calls += 1
        ctx.replay, ctx.call = replay, replay.calls
        replay.inputs.copy_(inputs)
        replay.forward.replay()
        return tuple(output.detach() for output in replay.outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        replay: Replay = ctx.replay
        if ctx.call != replay.calls:
            raise UserError(
                "the network was called again before the backward pass of its last call, and the CUDA graph has "
                "overwritten the activations of that call; use speed=eager"
            )
        for parameter, static in zip(replay.parameters, replay.parameter_grads, strict=True):
            # A gradient that is still there, since gradients accumulate, may lie where the replay writes the next one.
            if parameter.grad is not None and static is not None and parameter.grad.data_ptr() == static.data_ptr():
                parameter.grad = parameter.grad.clone()
        for output_grad, grad in zip(replay.grads, grads, strict=True):
            output_grad.copy_(grad)
        replay.backward.replay()
        return None, None, *(None if grad is None else grad.detach() for grad in replay.parameter_grads)


def uncached_autocast() -> torch.autocast:
    """The autocast that is on, without its cache: a graph must convert the weights anew at each replay."""
    return torch.autocast(
        "cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), cache_enabled=False
    )


def give_up(what: str, error: Exception, instead: str) -> None:
    """Say once that something can't be done to the network, and how it runs instead."""
    log.warning("the network can't be %s (%s), so it runs %s", what, first_line(error), instead)


def first_line(error: Exception) -> str:
    """What an exception says, in a line; its kind if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
