"""A moving average of the weights, that fits short runs as well as long ones."""

from itertools import chain
from typing import Any

import lightning as L
import torch
from lightning.pytorch import callbacks
from torch import nn


class WeightAveraging(callbacks.WeightAveraging):
    """Averages weights and buffers after each optimizer step; the average is validated, saved and predicted with.

    After n steps the average keeps ``min(decay, (1 + n) / (10 + n))`` of itself. So it forgets the random weights of
    the start, however short the run. It lives on the device of the weights, and no step waits for the device.

    Args:
        decay: what the average keeps of itself in a long run.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the average to where the weights have been moved."""
        if self._average_model is not None:
            self._average_model.to(pl_module.device)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average, if the batch ended an optimizer step."""
        steps = trainer.global_step
        if steps > self._latest_update_step and self._average_model is not None:
            self._latest_update_step = steps
            self._update(self._average_model.module, pl_module, min(self.decay, (1 + steps) / (10 + steps)))

    @torch.no_grad()
    def _update(self, average: nn.Module, current: nn.Module, kept: float) -> None:
        old, new = (list(chain(module.parameters(), module.buffers())) for module in (average, current))
        pairs = list(zip(old, new, strict=True))
        numbers = [pair for pair in pairs if pair[0].is_floating_point()]
        counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        torch._foreach_lerp_([each for each, _ in numbers], [each for _, each in numbers], 1 - kept)
        torch._foreach_copy_([each for each, _ in counts], [each for _, each in counts])
