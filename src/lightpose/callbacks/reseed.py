"""Random numbers that depend on the epoch and not on what ran before it."""

import lightning as L
import torch


class Reseed(L.Callback):
    """Seeds torch at the start of each epoch, so that a resumed run draws the dropout of an uninterrupted one.

    Args:
        seed: of the run; the epoch and the process add to it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Seed every device."""
        torch.manual_seed(self.seed + 1_000_003 * trainer.current_epoch + trainer.global_rank)
