"""How long a run is, in words, and its end within an epoch."""

import logging
import math
from typing import Any

import lightning as L

from lightpose.estimators.optim import time_share

log = logging.getLogger(__name__)


class Length(L.Callback):
    """Says how many steps a run has, of how many samples, and how often they are shown.

    A run that ``trainer.max_steps`` ends within an epoch is validated there, as one that its time ends is; and a run of
    fewer epochs than ``trainer.check_val_every_n_epoch`` is validated at its end.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say it."""
        if trainer.check_val_every_n_epoch is not None:
            trainer.check_val_every_n_epoch = _within_run(trainer.check_val_every_n_epoch, trainer)
        if trainer.is_global_zero and trainer.train_dataloader is not None:
            log.info(length(trainer))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let Lightning validate after the last step."""
        if has_all_steps(trainer):
            trainer.should_stop = True


def has_all_steps(trainer: L.Trainer) -> bool:
    """Whether ``trainer.max_steps`` are done."""
    return 0 <= trainer.max_steps <= trainer.global_step


def _within_run(every: int, trainer: L.Trainer) -> int:
    """``every``, or the epochs of the run where it has fewer; the last need not be whole."""
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        every = min(every, trainer.max_epochs)
    if trainer.max_steps > 0:
        every = min(
            every, math.ceil(trainer.max_steps * trainer.accumulate_grad_batches / trainer.num_training_batches)
        )
    return max(every, 1)


def length(trainer: L.Trainer) -> str:
    """Such as ``3000 steps of 8 = 260 passes over 92 samples, validated every 300 steps``."""
    loader: Any = trainer.train_dataloader
    samples, accumulated = len(loader.dataset), trainer.accumulate_grad_batches
    batch = loader.sampler.step * accumulated
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps):
        words = f"steps of {batch} over {samples} samples"
    else:
        passes = steps * batch / samples
        shown = f"{passes:.1f}" if passes < 10 else f"{passes:.0f}"
        words = f"{int(steps)} steps of {batch} = {shown} passes over {samples} samples"
    if time_share(trainer) is not None:
        words += ", or until trainer.max_time has gone"
    every = _validated_every(trainer)
    if not every:
        return words
    return f"{words}, validated at the end" if every >= steps else f"{words}, validated every {every} steps"


def _validated_every(trainer: L.Trainer) -> int | None:
    """Optimizer steps between validations; None where there are none, or the clock tells."""
    interval, batches = trainer.val_check_batch, trainer.num_training_batches
    if not trainer.enable_validation or interval is None or math.isinf(interval) or math.isinf(batches):
        return None
    if interval == batches:
        interval *= trainer.check_val_every_n_epoch or 1
    return math.ceil(interval / trainer.accumulate_grad_batches)
