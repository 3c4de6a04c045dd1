"""Weights that are split over several GPUs (FSDP)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor

from lightpose.errors import UserError


def check_precision(strategy: Any, precision: str) -> None:
    """Refuse a precision that doesn't go with split weights.

    Args:
        strategy: of the trainer, as configured.
        precision: of the trainer.

    Raises:
        UserError: naming those that do.
    """
    if is_sharded(strategy) and precision == "16-mixed":
        raise UserError(
            "trainer=fsdp can't scale losses, which trainer.precision=16-mixed needs; use trainer.precision=bf16-mixed "
            "or 32-true on GPUs without bfloat16"
        )


def is_sharded(strategy: Any) -> bool:
    """Whether a trainer's strategy, as configured, is `ShardedStrategy`."""
    return isinstance(strategy, dict) and "ShardedStrategy" in strategy["_target_"]


class ShardedStrategy(ModelParallelStrategy):
    """FSDP (fully sharded data parallelism, arXiv:2304.11277): every GPU holds a share of weights and optimizer state.

    Weights are split over the GPUs of a node, and every node has a copy; where each node has one GPU, they are split
    over the nodes. Checkpoints are those of any other run.
    """

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)  # one file, whole tensors

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Every process has data of its own; Lightning would give the same to all processes of a node."""
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
        """Content of a checkpoint of any strategy."""
        return self.checkpoint_io.load_checkpoint(checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Split whole weights."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self.lightning_module, checkpoint["state_dict"], options=options)  # type: ignore[arg-type]

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """State of an optimizer, as if it held whole weights."""
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


def shard(net: nn.Module, mesh: DeviceMesh) -> None:
    """Split every weight over the devices of ``mesh``, in place.

    The weights of each block of a transformer are gathered by themselves when it is computed.

    Args:
        net: with the same weights in every process.
        mesh: one row of devices, or several rows, each with a copy.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if any(isinstance(module, FSDPModule) for module in net.modules()):
        return
    net.to(memory_format=torch.contiguous_format)  # others can't be split
    blocks = [module for name, module in net.named_modules() if name.rpartition(".")[0].endswith("blocks")]
    parts = [part for part in net.children() if any(True for _ in part.parameters())]
    for module in (*blocks, *parts):
        fully_shard(module, mesh=mesh)
