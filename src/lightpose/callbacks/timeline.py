"""Marks the parts of a run's start, see `lightpose.runtime.timeline`."""

from typing import Any

import lightning as L
import torch

from lightpose.runtime.timeline import finish, mark


class Timeline(L.Callback):
    """Says where the time went, once the first step is done. It belongs before all other callbacks."""

    def __init__(self) -> None:
        self._before: int | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """The data sets are there."""
        mark("device, data sets")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The network is where it is trained."""
        mark("network to the device, optimizer")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What was tried before the first step is done."""
        self._before = trainer.global_step
        mark("loaders")

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *of_batch: Any) -> None:
        """A batch is there."""
        if self._before is not None:
            mark("workers, first batch")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *of_batch: Any) -> None:
        """A step may be done."""
        if self._before is None:
            return
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        mark("first step")
        if trainer.global_step > self._before:
            self._before = None
            if trainer.is_global_zero:
                finish()
