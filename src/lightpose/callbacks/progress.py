"""A progress bar that doesn't make the GPU wait."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

SHOWN = ("train/loss", "speed/data_wait")


class ProgressBar(RichProgressBar):
    """Lightning's bar, which shows the loss as it was at most a second ago.

    To read a figure, the host waits until the GPU has computed it; then the GPU waits for the host. Lightning reads
    whatever is logged with ``prog_bar=True`` after every step. This bar reads its figures once a second, and no step
    logs anything with ``prog_bar=True``.

    Args:
        leave: keep the bar of each epoch on the screen.
    """

    def __init__(self, leave: bool = False) -> None:
        super().__init__(leave=leave)
        self._figures: dict[str, float] = {}
        self._read_at = float("-inf")

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The figures beside the bar."""
        if time.monotonic() - self._read_at > 1:
            known = trainer.callback_metrics
            self._figures = {name: float(known[name]) for name in SHOWN if name in known}
            self._read_at = time.monotonic()
        return {**super().get_metrics(trainer, pl_module), **self._figures}
