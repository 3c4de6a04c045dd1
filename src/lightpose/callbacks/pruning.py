"""Stops a run of a sweep that does worse than those before it."""

import logging
from collections.abc import Callable

import lightning as L

from lightpose.callbacks.length import has_all_steps

log = logging.getLogger(__name__)


class Pruning(L.Callback):
    """Tells the sweep the monitored figure after each validation, and ends training in good order if it says so.

    Process 0 asks, and the others hear of the answer.

    Args:
        monitor: the figure.
        stops: takes the figure and the number of the validation, from 1; says whether to stop. Called in process 0.
    """

    def __init__(self, monitor: str, stops: Callable[[float, int], bool]) -> None:
        self.monitor = monitor
        self.stops = stops
        self.validations = 0

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask, unless the run is over anyway."""
        value = trainer.callback_metrics.get(self.monitor)
        over = has_all_steps(trainer) or (trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs)
        if trainer.sanity_checking or value is None or over:
            return
        self.validations += 1
        stop = trainer.is_global_zero and self.stops(float(value), self.validations)
        if trainer.strategy.broadcast(stop):
            log.info(
                "stopped early: %s is worse than that of other trials after validation %d",
                self.monitor,
                self.validations,
            )
            trainer.should_stop = True
