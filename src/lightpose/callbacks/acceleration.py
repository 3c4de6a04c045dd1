"""Turns on CUDA graphs or compilation when a run begins."""

import logging

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from lightpose.data.pixels.loader import EpochLoader
from lightpose.estimators.base import PoseEstimator
from lightpose.runtime.graphs import is_graphed
from lightpose.runtime.processes import LeanDDP
from lightpose.runtime.speed import Speed, speed_up

log = logging.getLogger(__name__)


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
        if not whole and self.speed in ("graph", "compile"):
            log.warning("speed=%s needs whole weights in every process; the network runs eagerly", self.speed)
        speed_up(pl_module.net, self.speed if whole else "eager", trainer.strategy.root_device)
        if isinstance(trainer.strategy, LeanDDP):
            trainer.strategy.gradients_at_once = is_graphed(pl_module.net)

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
        speed_up(pl_module.net, "eager", trainer.strategy.root_device)
