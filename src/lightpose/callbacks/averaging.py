"""A moving average of the weights, that fits short runs as well as long ones."""

from itertools import chain
from typing import Any

import lightning as L
import torch
from lightning.pytorch import callbacks
from torch import Tensor


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
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the average to where the weights have been moved, and list both once: a step has no time for that."""
        if self._average_model is None:
            return
        self._average_model.to(pl_module.device)
        old, new = (
            [tensor.detach() for tensor in chain(module.parameters(), module.buffers())]
            for module in (self._average_model.module, pl_module)
        )
        pairs = list(zip(old, new, strict=True))
        numbers = [pair for pair in pairs if pair[0].is_floating_point()]
        counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._pairs = [([each for each, _ in some], [each for _, each in some]) for some in (numbers, counts)]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average, if the batch ended an optimizer step."""
        steps = trainer.global_step
        if steps <= self._latest_update_step or not self._pairs:
            return
        self._latest_update_step = steps
        numbers, counts = self._pairs
        torch._foreach_lerp_(*numbers, 1 - min(self.decay, (1 + steps) / (10 + steps)))
        torch._foreach_copy_(*counts)
