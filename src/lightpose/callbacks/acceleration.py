"""Turns on CUDA graphs or compilation when a run begins."""

import logging
from dataclasses import replace
from typing import Any

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch.nn import functional

from lightpose.data.pixels.loader import EpochLoader
from lightpose.estimators.base import PoseEstimator
from lightpose.runtime.graphs import GraphedTrunk, is_graphed
from lightpose.runtime.processes import LeanDDP
from lightpose.runtime.speed import Speed, speed_up
from lightpose.runtime.steps import OWN_STEPS, GraphedStep, may_be_graphed
from lightpose.structures import Batch

log = logging.getLogger(__name__)

INNER_HOOKS = (
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "configure_gradient_clipping",
)


class Acceleration(L.Callback):
    """Applies ``speed=``, see `lightpose.runtime.speed.speed_up`.

    Args:
        speed: ``auto``, ``eager``, ``graph`` or ``compile``.
    """

    def __init__(self, speed: Speed) -> None:
        self.speed: Speed = speed

    def setup(self, trainer: L.Trainer, pl_module: PoseEstimator, stage: str) -> None:  # type: ignore[override]
        """Choose how the network runs; a graph is captured at the first batch."""
        self._warm = False
        whole = isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy))  # others shard or wrap the weights
        lacks = None if whole else "whole weights in every process"
        sizes = getattr(getattr(trainer, "datamodule", None), "sizes", ())
        if stage == "fit" and len(sizes) > 1:  # a graph of each would keep the memory of all of them
            lacks = lacks or "inputs of one size, not data.input_scale"
        if lacks and self.speed in ("graph", "compile"):
            log.warning("speed=%s needs %s; the network runs eagerly", self.speed, lacks)
        speed_up(pl_module.net, "eager" if lacks else self.speed, trainer.strategy.root_device)
        if isinstance(trainer.strategy, LeanDDP):
            trainer.strategy.gradients_at_once = is_graphed(pl_module.net)

    def on_train_start(self, trainer: L.Trainer, pl_module: PoseEstimator) -> None:  # type: ignore[override]
        """Let whole steps be replayed, where the trunk is and where nothing looks into a step."""
        trunk, optimizer, precision = pl_module.net.fast_features, trainer.optimizers[0], trainer.precision_plugin
        parts = _parts(pl_module)
        if (
            isinstance(trunk, GraphedTrunk)
            and trunk.compiled is None
            and isinstance(trainer.strategy, SingleDeviceStrategy)
            and trainer.accumulate_grad_batches == 1
            and getattr(precision, "scaler", None) is None
            and trainer.gradient_clip_algorithm in (None, "norm")
            and pl_module.distillation is None  # its losses fade, and it has weights beside the network's
            and not _looks_into_steps(trainer, pl_module)
            and may_be_graphed(optimizer, [pl_module, *parts])
        ):
            trunk.patience_in_training = OWN_STEPS
            pl_module.graphed_step = GraphedStep(
                pl_module.losses,
                pl_module.net,
                optimizer,
                trainer.gradient_clip_val,
                precision.train_step_context,
                parts,
            )

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: PoseEstimator, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        """Say which batch comes, and whether its step is like those before: callbacks of Lightning may change that."""
        step, loop = pl_module.graphed_step, trainer.fit_loop
        if step is not None and not step.given_up:
            alone = trainer.accumulate_grad_batches == 1 and not loop._skip_backward
            step.take(rounded(batch) if alone and trainer.gradient_clip_val == step.clip_norm else None)

    def on_validation_start(self, trainer: L.Trainer, pl_module: PoseEstimator) -> None:  # type: ignore[override]
        """Warm up before the first validation, while its workers make the first batches."""
        loader = trainer.val_dataloaders
        if not self._warm and not trainer.sanity_checking and isinstance(loader, EpochLoader):
            self._warm = True
            batch_size = min(loader.batch_size or 1, len(loader.dataset))  # type: ignore[arg-type]
            with trainer.precision_plugin.val_step_context():
                pl_module.warm_up(batch_size, sum(trainer.num_val_batches))  # type: ignore[arg-type]

    def teardown(self, trainer: L.Trainer, pl_module: PoseEstimator, stage: str) -> None:  # type: ignore[override]
        """Free the memory of the graphs."""
        pl_module.graphed_step = None
        speed_up(pl_module.net, "eager", trainer.strategy.root_device)


def rounded(batch: Batch) -> Batch:
    """The batch with as many instances as the next power of two, so that batches of people have few layouts.

    Those that are added are not valid.
    """
    count = batch.instances.valid.shape[1]
    more = (1 << (count - 1).bit_length()) - count
    if not more:
        return batch
    padded = batch.instances.map(lambda column: functional.pad(column, (*(0, 0) * (column.ndim - 2), 0, more)))
    ids = functional.pad(batch.instances.ids, (0, more), value=-1)
    return replace(batch, instances=replace(padded, ids=ids))


def _looks_into_steps(trainer: Any, estimator: PoseEstimator) -> bool:
    """Whether a callback or the estimator does something between forward pass and optimizer."""

    def does(owner: Any, base: type, name: str) -> bool:
        return getattr(getattr(owner, name, None), "__func__", None) is not getattr(base, name, None)

    owners = [(callback, L.Callback) for callback in trainer.callbacks] + [(estimator, L.LightningModule)]
    return any(does(owner, base, name) for owner, base in owners for name in INNER_HOOKS)


def _parts(estimator: PoseEstimator) -> list[Any]:
    """What runs in a step beside the trunk: codecs, heads and criteria, those within wrappers included."""
    codec, heads = estimator.codec, list(estimator.net.head.modules())
    return [codec, getattr(codec, "codec", codec), *heads, *(getattr(each, "criterion", each) for each in heads)]
