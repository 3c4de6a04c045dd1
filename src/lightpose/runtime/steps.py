"""A whole training step as one CUDA graph: targets, network, losses, gradients, clipping and optimizer.

Where batches are small, the host needs longer to launch a step than a GPU to compute it. A replay is one launch.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Adam, Optimizer

from lightpose.runtime.graphs import WARM_UPS, first_line, kind_of_pass, nothing_changed, uncached_autocast
from lightpose.runtime.hooks import HookedNet

log = logging.getLogger(__name__)

OWN_STEPS = 2
"""Steps before a capture: they make the optimizer's state, and let cuDNN choose its algorithms."""
MOST_CAPTURES = 4
_FREE = {"params", "lr", "initial_lr"}
"""Entries of an optimizer's group that a graph doesn't depend on, or that are looked at elsewhere."""
OURS = ("lightpose", "torch", "timm")


def may_be_graphed(optimizer: Optimizer, parts: list[Any]) -> bool:
    """Whether a step can be captured, and a replay does what the step would.

    Args:
        optimizer: must read its learning rates from the device, as `torch.optim`'s fused Adam and AdamW do.
        parts: what runs beside the trunk. The Python code of a user's own may depend on more than the batch, such as on
            the epoch, so it runs at each step.
    """
    fused = isinstance(optimizer, Adam) and all(group["fused"] for group in optimizer.param_groups)
    made_by = [getattr(part, "func", part).__module__.split(".")[0] for part in parts]
    return fused and all(name in OURS for name in made_by)


class GraphedStep:
    """Training steps, of which all but the first few are replayed.

    A graph serves batches of one layout, one set of modules that train, one set of options of the optimizer, and any
    learning rates. There are a few graphs; all other batches, and all batches if a capture fails, take the ordinary
    way.

    Args:
        losses: batch → losses by name, each of one number; ``loss`` is their sum. It calls ``net``.
        net: its weights may change in place, but must not move or be replaced.
        optimizer: see `may_be_graphed`.
        clip_norm: largest norm of all gradients together; None leaves them as they are.
        context: of a forward pass: autocast.
        parts: what makes the losses beside the trunk. Where a number in one of them changes, steps are captured anew.
    """

    def __init__(
        self,
        losses: Callable[[Any], dict[str, Tensor]],
        net: HookedNet,
        optimizer: Optimizer,
        clip_norm: float | None,
        context: Callable[[], AbstractContextManager[Any]],
        parts: Sequence[Any] = (),
    ) -> None:
        self.module, self.net = _Losses(net, losses), net
        self.optimizer, self.clip_norm, self.context, self.parts = optimizer, clip_norm, context, parts
        self.modules, self.parameters = list(net.modules()), list(net.parameters())
        self.ordinary_steps_left = OWN_STEPS
        self.graphs: list[tuple[Any, _CapturedStep]] = []
        """Each with the kind of step that it serves."""
        self.failed = False
        self.taken: tuple[_CapturedStep, list[Tensor]] | None = None
        """What replays the step of the batch that was taken, and its tensors; None where it takes the ordinary way."""

    @property
    def given_up(self) -> bool:
        """Whether no step will be a replay."""
        return self.failed and not self.graphs

    def take(self, batch: Any) -> None:
        """Decide whether the step of this batch will be a replay; None stands for a batch whose step can't be.

        The first of a kind that can be is captured.
        """
        self.taken = None
        if batch is None:
            return
        if self.ordinary_steps_left:
            self.ordinary_steps_left -= 1
            return
        leaves = batch.leaves()
        with self.context():
            kind = (
                [(leaf.shape, leaf.dtype) for leaf in leaves],
                kind_of_pass(self.modules, self.parameters),
                [{key: group[key] for key in group.keys() - _FREE} for group in self.optimizer.param_groups],
                [_numbers(part) for part in self.parts],
            )
        graph = next((graph for known, graph in self.graphs if known == kind), None)
        if graph is None and not self.failed and len(self.graphs) < MOST_CAPTURES:
            graph = self._captured(batch)
            if graph is not None:
                self.graphs.append((kind, graph))
        if graph is not None:
            self.taken = graph, leaves

    def replay(self) -> dict[str, Tensor]:
        """Do the step of the batch that was taken; its losses."""
        assert self.taken is not None
        graph, leaves = self.taken
        return graph.replay(leaves)

    def _captured(self, batch: Any) -> "_CapturedStep | None":
        fast, self.net.fast_features = self.net.fast_features, None
        try:
            with nothing_changed(self.net, self.parameters[0].device):
                pool = self.graphs[0][1].graph.pool() if self.graphs else None
                return _CapturedStep(self.module, self.optimizer, self.clip_norm, self.context, batch, pool)
        except Exception as error:
            if "DataLoader worker" in str(error):  # torch says here, too, that a worker has ended
                raise
            self.failed = True
            self.optimizer.zero_grad()
            torch.cuda.synchronize()
            log.debug("a training step is not captured as a whole (%s)", first_line(error))
            return None
        finally:
            self.net.fast_features = fast


class _CapturedStep:
    """The graph of one kind of step. Graphs of one ``pool`` share the memory that only a replay needs."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        clip_norm: float | None,
        context: Callable[[], AbstractContextManager[Any]],
        batch: Any,
        pool: Any,
    ) -> None:
        trained = {name: each for name, each in module.named_parameters() if each.requires_grad}
        stand_ins = {name: each.detach().requires_grad_() for name, each in trained.items()}
        device = next(iter(trained.values())).device
        self.optimizer = optimizer
        copy = batch.map(torch.clone)
        self.leaves = copy.leaves()
        self.rates = [[g["lr"], torch.tensor(g["lr"], device=device)] for g in optimizer.param_groups]

        def compute() -> tuple[dict[str, Tensor], tuple[Tensor | None, ...]]:
            with context(), uncached_autocast():
                losses = functional_call(module, stand_ins, (copy,))
            return losses, torch.autograd.grad(losses["loss"], list(stand_ins.values()), allow_unused=True)

        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.device(device), torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                compute()
        torch.cuda.current_stream(device).wait_stream(stream)
        optimizer.zero_grad()
        self.graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(device),
            self._rates_on_device(),
            torch.cuda.graph(self.graph, pool, stream, "thread_local"),
        ):
            losses, grads = compute()
            found = [(each, grad) for each, grad in zip(trained.values(), grads, strict=True) if grad is not None]
            self.gradients = [(parameter, _laid_out_like(parameter, grad)) for parameter, grad in found]
            for parameter, grad in self.gradients:
                if parameter not in optimizer.state:  # it would be made anew by each replay
                    raise RuntimeError("the optimizer has no state of a weight yet")
                parameter.grad = grad
            if clip_norm and clip_norm > 0:
                nn.utils.clip_grad_norm_(trained.values(), clip_norm)
            optimizer.step()
            self.names, self.values = list(losses), torch.stack([each.detach().float() for each in losses.values()])

    def replay(self, leaves: list[Tensor]) -> dict[str, Tensor]:
        """Do the step of a batch of these tensors; its losses."""
        torch._foreach_copy_(self.leaves, leaves)
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            if rate[0] != group["lr"]:
                rate[0] = group["lr"]
                rate[1].fill_(group["lr"])
        parameter, grad = self.gradients[0]
        if parameter.grad is not grad:  # an ordinary step, or one of another kind, has been done meanwhile
            for parameter, grad in self.gradients:
                parameter.grad = grad
        self.graph.replay()
        return dict(zip(self.names, self.values.clone().unbind(), strict=True))

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """Let the optimizer read its learning rates where a replay finds those of its step."""
        groups = self.optimizer.param_groups
        before = [(group["lr"], group["capturable"]) for group in groups]
        try:
            for group, (_, rate) in zip(groups, self.rates, strict=True):
                group["lr"], group["capturable"] = rate, True
            yield
        finally:
            for group, (rate, capturable) in zip(groups, before, strict=True):
                group["lr"], group["capturable"] = rate, capturable


def _laid_out_like(parameter: Tensor, grad: Tensor) -> Tensor:
    """The gradient with the strides of its parameter: a backward pass leaves it so, and fused optimizers want it so."""
    same = grad.stride() == parameter.stride()
    return grad if same else torch.empty_like(parameter).copy_(grad)


def _numbers(part: Any) -> dict[str, Any]:
    """The numbers and flags in a part, which a capture makes constants."""
    return {name: value for name, value in vars(part).items() if isinstance(value, (bool, int, float))}


class _Losses(nn.Module):
    """The losses of a network as a module, whose weights others can stand in for."""

    def __init__(self, net: HookedNet, losses: Callable[[Any], dict[str, Tensor]]) -> None:
        super().__init__()
        self.net = net
        self.losses = losses

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Losses by name."""
        return self.losses(batch)
