"""Several processes: which start together, what they exchange, and how they may share out the weights."""

import functools
import inspect
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.overrides.distributed import _sync_module_states
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor

from lightpose.errors import UserError
from lightpose.models.net import PoseNet
from lightpose.runtime.signals import kept_back
from lightpose.runtime.speed import GraphedTrunk


class LeanDDP(DDPStrategy):
    """DDP that exchanges gradients in a step and nothing else; ``strategy=auto`` means it with several devices.

    By itself DDP also sends all buffers from process 0 to the others at every forward pass. Here that is done once,
    before validation (`share_buffers`). Where the network is to be replayed as CUDA graphs its gradients come all at
    once, so there is no backward pass left beside which DDP could send them piece by piece: they are sent in one piece
    (`GradientMean`), without DDP.

    Args:
        options: of Lightning's DDPStrategy and torch's DistributedDataParallel; any that says how DDP works makes sure
            that it is DDP.
    """

    def __init__(self, **options: Any) -> None:
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # until torch 2.12
        super().__init__(**{buffers: False, "gradient_as_bucket_view": True, **options})
        self._always_ddp = bool(options.keys() - {"start_method", "process_group_backend", "timeout"})
        self._mean: GradientMean | None = None
        self._accumulating = False

    def configure_ddp(self) -> None:
        """Let gradients be exchanged from now on."""
        estimator: Any = self.lightning_module
        graphed = self._layer_sync is None and isinstance(estimator.net.fast_features, GraphedTrunk)
        if graphed and not self._always_ddp:
            _sync_module_states(estimator)
            self._mean = GradientMean(list(estimator.parameters()))
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
        """Let go of the gradients."""
        self._mean = None
        super().teardown()

    def _setup_model(self, model: nn.Module) -> nn.parallel.DistributedDataParallel:
        # Lightning does this in a stream of its own, to which DDP then binds the gradients: each of them would have to
        # be handed from the stream of training to that one.
        return nn.parallel.DistributedDataParallel(
            model, device_ids=self.determine_ddp_device_ids(), **self._ddp_kwargs
        )


class GradientMean:
    """Replaces the gradients by their mean over all processes, in one exchange for each type.

    Args:
        parameters: those that train, of which every process must have the same, get a gradient: 0 if they have none.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self._trained: list[int] = []
        self._flat: dict[torch.dtype, Tensor] = {}
        self._places: list[Tensor] = []

    @torch.no_grad()
    def __call__(self) -> None:
        """Exchange; gradients lie in one vector from then on."""
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
            sizes[parameter.dtype] += -(-parameter.numel() // 32) * 32  # kernels like addresses that are round
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

    Lightning asks process 0 before every batch whether the run was told to end. The answer is waited for, so no step
    could be queued while the device still works on the one before; and what a signal's handler sends may meet anything
    that the others just exchange. See `Interruption` instead.
    """
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    trainer._signal_connector._sigterm_notifier_fn = lambda *_: None  # type: ignore[method-assign]
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher._call_children_scripts = kept_back()(launcher._call_children_scripts)  # type: ignore[method-assign]


@contextmanager
def ending_together(trainer: L.Trainer) -> Iterator[None]:
    """When this fails, the processes that Lightning started for it end, too."""
    try:
        yield
    except BaseException:
        for process in getattr(trainer.strategy.launcher, "procs", []):
            process.terminate()
        raise


@torch.no_grad()
def share_buffers(net: nn.Module) -> None:
    """Give every process the buffers of process 0, such as BatchNorm's statistics; those are what a checkpoint holds.

    Each process gathers statistics of its own batches. Without this each would validate with its own.
    """
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        for buffer in net.buffers():
            distributed.broadcast(buffer, src=0)


# -- processes that torchrun or srun started ---------------------------------------------------------------------


def agree(value: str, devices: Any, num_nodes: int) -> str:
    """Process 0's ``value`` in every process of a run that torchrun or srun started; else ``value`` itself.

    Processes that Lightning starts take such things from their command line.

    Args:
        value: what each process would choose by itself.
        devices: the trainer's; with ``1``, and one node, processes started together are runs of their own.
        num_nodes: the trainer's.
    """
    environment = _environment()
    if environment is None or (devices in (1, "1") and num_nodes == 1):
        return value
    store, key = _store(), f"value {next(_agreements)}"
    if environment.global_rank() == 0:
        store.set(key, value)
    return store.get(key).decode()


_agreements = itertools.count()


@functools.cache
def _environment() -> ClusterEnvironment | None:
    """What started several processes at once, if anything did."""
    kind = next((kind for kind in (TorchElasticEnvironment, SLURMEnvironment) if kind.detect()), None)
    environment = kind() if kind else None
    return environment if environment and environment.world_size() > 1 else None


@functools.cache  # its server must outlive the exchange: the process group will use the same one
def _store() -> PrefixStore:
    """Keys and values that all processes see; kept by process 0, or by torchrun."""
    environment = _environment()
    assert environment is not None
    os.environ |= {"MASTER_ADDR": environment.main_address, "MASTER_PORT": str(environment.main_port)}
    place = rendezvous("env://", environment.global_rank(), environment.world_size())
    return PrefixStore("lightpose", next(place)[0])


# -- weights that are shared out ---------------------------------------------------------------------------------


def check_precision(strategy: Any, precision: str) -> None:
    """Refuse a precision that split weights don't go with.

    Args:
        strategy: of the trainer, as configured.
        precision: of the trainer.

    Raises:
        UserError: with those that do.
    """
    if isinstance(strategy, dict) and "ShardedStrategy" in strategy["_target_"] and precision == "16-mixed":
        raise UserError(
            "trainer=fsdp can't scale losses, which trainer.precision=16-mixed needs; use trainer.precision=bf16-mixed "
            "or 32-true on GPUs without bfloat16"
        )


class ShardedStrategy(ModelParallelStrategy):
    """FSDP (fully sharded data parallelism, arXiv:2304.11277): every GPU holds a share of weights and optimizer state.

    They are shared out over the GPUs of a node, of which every node has a copy; over the nodes, if each has one GPU.
    Checkpoints are those of any other run.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)  # one file, whole tensors

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Every process has data of its own; Lightning would give one node's processes the same."""
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    def setup_environment(self) -> None:
        """Start the processes' exchange, and arrange for the network to be split when the run begins.

        Raises:
            UserError: for what doesn't go with split weights.
        """
        estimator: Any = self.lightning_module
        if any(isinstance(callback, WeightAveraging) for callback in estimator.trainer.callbacks):
            raise UserError("callbacks=ema averages whole weights and can't with trainer=fsdp; use callbacks=default")
        if self._layer_sync is not None:
            raise UserError("trainer.sync_batchnorm=true needs whole layers; leave it out, or leave out trainer=fsdp")
        super().setup_environment()
        mesh = self.device_mesh  # nodes × GPUs of a node, by Lightning's names for another use of them
        if self.num_nodes == 1:
            mesh = mesh["tensor_parallel"]
        elif self.num_processes == 1:
            mesh = mesh["data_parallel"]
        estimator.configure_model = partial(shard, estimator.net, mesh)  # the hook that Lightning calls for it

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Lightning restores a checkpoint in the ordinary order, by the methods below."""
        return True

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Content of a checkpoint, whoever wrote it."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Split whole weights."""
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.lightning_module, checkpoint["state_dict"], options=options)  # type: ignore[arg-type]

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """State of an optimizer as one that holds whole weights would give it."""
        content: dict[str, Any] = super(ModelParallelStrategy, self).optimizer_state(optimizer)
        state = {i: {key: _whole(value) for key, value in one.items()} for i, one in content["state"].items()}
        return {**content, "state": state}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Split the whole state of an optimizer as its weights are."""
        for optimizer, content in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            state = {
                i: {key: _split_like(value, weights[i]) for key, value in one.items()}
                for i, one in content["state"].items()
            }
            optimizer.load_state_dict({**content, "state": state})


def _whole(value: Any) -> Any:
    if not isinstance(value, DTensor):
        return value
    layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format  # as of whole weights
    return value.full_tensor().cpu().contiguous(memory_format=layout)


def _split_like(value: Any, weight: DTensor) -> Any:
    if not isinstance(value, Tensor) or value.shape != weight.shape:
        return value  # such as the number of the step
    return distribute_tensor(value, weight.device_mesh, weight.placements)


def shard(net: PoseNet, mesh: DeviceMesh) -> None:
    """Split every weight over the devices of ``mesh``, in place; blocks of a transformer are put together one by one.

    Args:
        net: with the same weights in every process.
        mesh: one row of devices, or rows with a copy each.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if any(isinstance(module, FSDPModule) for module in net.modules()):
        return
    net.to(memory_format=torch.contiguous_format)  # others can't be split
    blocks = [module for name, module in net.named_modules() if name.rpartition(".")[0].endswith("blocks")]
    parts = [part for part in net.children() if any(True for _ in part.parameters())]
    for module in (*blocks, *parts):
        fully_shard(module, mesh=mesh)
