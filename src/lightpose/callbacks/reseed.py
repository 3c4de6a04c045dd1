"""Random numbers that depend on the step and not on what ran before it."""

from typing import Any

import lightning as L
import numpy as np
import torch


class Reseed(L.Callback):
    """Seeds torch before each batch, so that a resumed run draws the dropout of an uninterrupted one.

    Args:
        seed: of the run; each epoch, batch and process has a seed of its own that follows from it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the CPU and the device of the process."""
        place = [self.seed, trainer.current_epoch, batch_idx, trainer.global_rank]
        seed = int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0])
        torch.default_generator.manual_seed(seed)  # torch.manual_seed keeps a list for backends that never start
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(seed)
