"""Stops a run whose loss is no longer a number, and says where that began."""

from collections import deque
from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor

from lightpose.errors import UserError
from lightpose.structures import Batch


class Step(NamedTuple):
    """What is remembered of a training step; the tensors stay on the device."""

    number: int
    loss: Tensor
    terms: dict[str, Tensor]
    image_ids: Tensor
    annotation_ids: Tensor


class NanGuard(L.Callback):
    """Ends training after ``patience`` steps in a row with a NaN or infinite loss.

    The losses stay on the device and are read once every ``patience`` steps, so that the guard costs no
    synchronisation per step. A checkpoint is never written while the loss is not finite.

    Args:
        patience: steps.
    """

    def __init__(self, patience: int = 10) -> None:
        self.patience = patience
        self.steps: deque[Step] = deque(maxlen=2 * patience)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: dict[str, Any], batch: Batch, batch_idx: int
    ) -> None:
        """Remember the step; look every ``patience`` steps."""
        self.steps.append(
            Step(trainer.global_step, outputs["loss"].detach(), outputs["losses"], batch.image_ids, batch.instances.ids)
        )
        if (batch_idx + 1) % self.patience == 0:
            self._check()

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to write weights that a NaN has gone through; the checkpoint before stays."""
        if self.steps and not self.steps[-1].loss.isfinite():
            self._stop(max(0, len(self.steps) - self._run_length()))

    def _run_length(self) -> int:
        finite = torch.stack([step.loss for step in self.steps]).isfinite().tolist()
        return next((count for count, is_finite in enumerate(reversed(finite)) if is_finite), len(finite))

    def _check(self) -> None:
        length = self._run_length()
        if length >= self.patience:
            self._stop(len(self.steps) - length)

    def _stop(self, first: int) -> None:
        step = self.steps[first]
        terms = [name for name, value in step.terms.items() if not value.isfinite()] or list(step.terms)
        ids = [number for number in step.annotation_ids.flatten().tolist() if number >= 0]
        raise UserError(
            f"the loss is not finite since step {step.number}: term {', '.join(terms)}, annotation ids {ids} of images "
            f"{step.image_ids.tolist()}. Look at these labels (lightpose-data preview), lower optimizer.lr, set "
            "trainer.gradient_clip_val=1, or use trainer.precision=32-true; then resume from the last checkpoint"
        )
