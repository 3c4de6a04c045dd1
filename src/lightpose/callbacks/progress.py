"""A progress bar that doesn't make the GPU wait."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

SHOWN = ("train/loss", "speed/data_wait")


class ProgressBar(RichProgressBar):
    """Lightning's bar, with the loss as it was at most a second ago.

    Reading a figure waits until the GPU has computed it, and after every step that would keep the GPU waiting in turn.
    Lightning does so for what is logged with ``prog_bar=True``; here nothing is that is logged at every step.

    Args:
        leave: keep the bar of each epoch on the screen.
    """

    def __init__(self, leave: bool = False) -> None:
        super().__init__(leave=leave)
        self._figures: dict[str, float] = {}
        self._read_at = float("-inf")

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What stands beside the bar."""
        if time.monotonic() - self._read_at > 1:
            known = trainer.callback_metrics
            self._figures = {name: float(known[name]) for name in SHOWN if name in known}
            self._read_at = time.monotonic()
        return {**super().get_metrics(trainer, pl_module), **self._figures}
