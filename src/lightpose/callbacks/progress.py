"""A progress bar that doesn't make the GPU wait."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Lightning's bar, with figures that are read once a second.

    Reading a figure waits until the GPU has computed it, and after every step that would keep the GPU waiting in turn.

    Args:
        leave: keep the bar of each epoch on the screen.
    """

    def __init__(self, leave: bool = False) -> None:
        super().__init__(leave=leave)
        self._figures: dict[str, Any] = {}
        self._read_at = -1.0

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """The figures of at most a second ago."""
        if time.monotonic() - self._read_at > 1:
            self._figures = super().get_metrics(trainer, pl_module)
            self._read_at = time.monotonic()
        return self._figures
