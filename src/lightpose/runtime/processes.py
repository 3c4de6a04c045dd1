"""Several processes: which of them start together, and what they exchange."""

import functools
import inspect
import itertools
import logging
import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.overrides.distributed import _sync_module_states
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from lightpose.runtime.signals import PATIENCE_SECONDS, kept_back


class LeanDDP(DDPStrategy):
    """DDP that exchanges gradients in a step and nothing else; ``strategy=auto`` means it with several devices.

    By itself DDP also sends all buffers from process 0 to the others at every forward pass. Here that is done once,
    before validation (`share_buffers`). Where all gradients come at once, no backward pass is left beside which DDP
    could send them piece by piece: they are sent in one piece (`GradientMean`), without DDP.

    Args:
        options: of Lightning's DDPStrategy and torch's DistributedDataParallel. An option that says how DDP works
            makes the strategy use DDP in any case.

    Attributes:
        gradients_at_once: whether all gradients come at once, as they do from a CUDA graph; set before training begins.
    """

    def __init__(self, **options: Any) -> None:
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # until torch 2.12
        super().__init__(**{buffers: False, "gradient_as_bucket_view": True, **options})
        self._always_ddp = bool(options.keys() - {"start_method", "process_group_backend", "timeout"})
        self.gradients_at_once = False
        self._mean: GradientMean | None = None
        self._accumulating = False

    def configure_ddp(self) -> None:
        """Let gradients be exchanged from now on."""
        module = self.lightning_module
        if module and self.gradients_at_once and self._layer_sync is None and not self._always_ddp:
            _sync_module_states(module)
            self._mean = GradientMean(list(module.parameters()))
        else:
            super().configure_ddp()

    def pre_backward(self, closure_loss: Tensor) -> None:
        """Arrange for the exchange after this backward pass, before any hook sees the gradients."""
        super().pre_backward(closure_loss)
        if (mean := self._mean) and not self._accumulating:
            closure_loss.register_hook(lambda _: torch.autograd.Variable._execution_engine.queue_callback(mean))

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Backward passes in here exchange nothing: their gradients accumulate."""
        self._accumulating = True
        try:
            with super().block_backward_sync():
                yield
        finally:
            self._accumulating = False

    def teardown(self) -> None:
        """Free the gradients' memory."""
        self._mean = None
        super().teardown()

    def _setup_model(self, model: nn.Module) -> nn.parallel.DistributedDataParallel:
        # Lightning does this in a stream of its own. DDP would bind the gradients to it, and each of them would have to
        # be handed over from the stream of training.
        return nn.parallel.DistributedDataParallel(
            model, device_ids=self.determine_ddp_device_ids(), **self._ddp_kwargs
        )


class GradientMean:
    """Replaces gradients by their mean over all processes, in one exchange for each data type.

    Args:
        parameters: every process must have the same, and train the same. Those that train and have no gradient get one
            of zeros.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self._trained: list[int] = []
        self._flat: dict[torch.dtype, Tensor] = {}
        self._places: list[Tensor] = []

    @torch.no_grad()
    def __call__(self) -> None:
        """Exchange the gradients, which are views of one vector from then on."""
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        if self._trained != [id(parameter) for parameter in trained]:
            self._lay_out(trained)
        pairs = [(place, parameter.grad) for place, parameter in zip(self._places, trained, strict=True)]
        for place in (place for place, grad in pairs if grad is None):
            place.zero_()
        given = [(place, grad) for place, grad in pairs if grad is not None]
        torch._foreach_copy_([place for place, _ in given], [grad for _, grad in given])
        for flat in self._flat.values():
            distributed.all_reduce(flat.div_(distributed.get_world_size()))
        for parameter, place in zip(trained, self._places, strict=True):
            parameter.grad = place

    def _lay_out(self, trained: list[nn.Parameter]) -> None:
        sizes: Counter[torch.dtype] = Counter()
        starts = []
        for parameter in trained:
            starts.append(sizes[parameter.dtype])
            sizes[parameter.dtype] += -(-parameter.numel() // 32) * 32  # kernels are faster on aligned addresses
        self._trained = [id(parameter) for parameter in trained]
        self._flat = {dtype: torch.zeros(size, dtype=dtype, device=trained[0].device) for dtype, size in sizes.items()}
        self._places = [
            self._flat[parameter.dtype][start:].as_strided(parameter.shape, parameter.stride())
            for parameter, start in zip(trained, starts, strict=True)
        ]


def lean_ddp() -> None:
    """Let ``strategy=ddp`` be `LeanDDP`."""
    StrategyRegistry.register("ddp", LeanDDP, description="gradients only", override=True, start_method="popen")


def orderly_signals(trainer: L.Trainer) -> None:
    """Keep Lightning's processes from telling each other of signals, and new ones from dying of one before they begin.

    Lightning asks process 0 before every batch whether the run was told to end. It waits for the answer, so no step
    could be queued while the device works on the step before; and what a signal's handler sends could get mixed up with
    whatever the processes exchange at that moment. The callback `Interruption` does this work instead.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    trainer._signal_connector._sigterm_notifier_fn = lambda *_: None  # type: ignore[method-assign]
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher._call_children_scripts = kept_back()(launcher._call_children_scripts)  # type: ignore[method-assign]


def start_others(trainer: L.Trainer, command: Sequence[str]) -> None:
    """Let Lightning start its further processes by ``command``; by itself it would repeat what started this process."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return
    start = launcher._call_children_scripts

    def start_by_command() -> None:
        module: Any = subprocess_script
        before = module._hydra_subprocess_cmd
        module._hydra_subprocess_cmd = lambda local_rank: (command, str(Path.cwd()))
        try:
            start()
        finally:
            module._hydra_subprocess_cmd = before

    launcher._call_children_scripts = start_by_command  # type: ignore[method-assign]


@contextmanager
def ending_together(trainer: L.Trainer, goes_on: bool = False) -> Iterator[None]:
    """If the run fails in here, end the processes that Lightning started for it, too.

    Args:
        trainer: of the run.
        goes_on: whether this process has other runs to do: then nothing of this one is left.
    """
    settings = dict(os.environ)
    failed = True
    try:
        yield
        failed = False
    finally:
        started: list[Any] = getattr(trainer.strategy.launcher, "procs", [])
        if goes_on and started:
            _leave(started, failed)
            os.environ.clear()
            os.environ.update(settings)  # or the next run would look for its processes
        elif failed:
            for process in started:
                process.terminate()


def _leave(started: list[Any], failed: bool) -> None:
    """End processes that Lightning started, and forget them."""
    processes = started.copy()
    started.clear()  # Lightning watches these, and kills this process when one of them fails
    for process in processes:
        if failed:
            process.kill()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    if distributed.is_initialized():
        distributed.destroy_process_group()


@torch.no_grad()
def share_buffers(net: nn.Module) -> None:
    """Give every process the buffers of process 0, such as BatchNorm's statistics: a checkpoint holds those.

    Each process gathers statistics of its own batches, and would validate with them otherwise.
    """
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        for buffer in net.buffers():
            distributed.broadcast(buffer, src=0)


def submitted() -> list[ClusterEnvironment]:
    """For a job of SLURM that submitit started, SLURM without Lightning's requeueing: submitit sees to that itself."""
    is_so = os.environ.get("SUBMITIT_EXECUTOR") == "slurm" and SLURMEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if is_so else []


# -- processes that torchrun or srun started ---------------------------------------------------------------------


def agree(value: str, devices: Any, num_nodes: int) -> str:
    """Process 0's ``value`` in every process of a run that torchrun or srun started; else ``value`` itself.

    Processes that Lightning starts get such values on their command line.

    Args:
        value: what each process would choose by itself.
        devices: the trainer's.
        num_nodes: the trainer's.
    """
    environment = _environment()
    if environment is None or _are_runs_of_their_own(devices, num_nodes):
        return value
    store, key = _store(), f"value {next(_agreements)}"
    if environment.global_rank() == 0:
        store.set(key, value)
    return store.get(key).decode()


def let_one_speak(devices: Any, num_nodes: int = 1) -> bool:
    """Whether this process is the first of its run. What all of them find, the others don't log.

    Each still tells of images that it alone can't read.

    Args:
        devices: the trainer's.
        num_nodes: the trainer's.
    """
    first: bool = not rank_zero_only.rank  # type: ignore[attr-defined]
    speaks = first or _are_runs_of_their_own(devices, num_nodes)
    if not speaks:
        logging.getLogger().setLevel(logging.ERROR)
        for name in ("lightpose.data.coco.dataset", "lightpose.data.datamodule"):
            logging.getLogger(name).setLevel(logging.WARNING)
    return speaks


def _are_runs_of_their_own(devices: Any, num_nodes: int) -> bool:
    """Whether processes that start together train by themselves, each on one device."""
    return devices in (1, "1") and num_nodes == 1


_agreements = itertools.count()


@functools.cache
def _environment() -> ClusterEnvironment | None:
    """The launcher that started several processes at once, or None."""
    kind = next((kind for kind in (TorchElasticEnvironment, SLURMEnvironment) if kind.detect()), None)
    environment = kind() if kind else None
    return environment if environment and environment.world_size() > 1 else None


@functools.cache  # the process group uses the same server later
def _store() -> PrefixStore:
    """Keys and values that all processes see; process 0 or torchrun keeps them."""
    environment = _environment()
    assert environment is not None
    os.environ |= {"MASTER_ADDR": environment.main_address, "MASTER_PORT": str(environment.main_port)}
    place = rendezvous("env://", environment.global_rank(), environment.world_size())
    return PrefixStore("lightpose", next(place)[0])
