"""Turns on CUDA graphs or compilation when a run begins."""

import logging

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from lightpose.estimators.base import PoseEstimator
from lightpose.speed import Speed, speed_up

log = logging.getLogger(__name__)


class Acceleration(L.Callback):
    """Applies ``speed=``, see `lightpose.speed.speed_up`.

    Args:
        speed: ``auto``, ``eager``, ``graph`` or ``compile``.
    """

    def __init__(self, speed: Speed) -> None:
        self.speed: Speed = speed

    def setup(self, trainer: L.Trainer, pl_module: PoseEstimator, stage: str) -> None:  # type: ignore[override]
        """Nothing is captured yet: that happens at the first batch."""
        whole = isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy))  # others shard or wrap the weights
        if not whole and self.speed in ("graph", "compile"):
            log.warning("speed=%s needs whole weights in every process; the network runs eagerly", self.speed)
        speed_up(pl_module.net, self.speed if whole else "eager", trainer.strategy.root_device)

    def teardown(self, trainer: L.Trainer, pl_module: PoseEstimator, stage: str) -> None:  # type: ignore[override]
        """Give the graphs' memory back."""
        speed_up(pl_module.net, "eager", trainer.strategy.root_device)
