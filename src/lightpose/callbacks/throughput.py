"""How fast training runs, and how much of the time it waits for data."""

import time
from collections import deque
from typing import Any

import lightning as L
import torch


class Throughput(L.Callback):
    """Logs ``speed/samples_per_second`` (of all devices) and ``speed/data_wait``, the share of time spent waiting.

    A wait near 0 means that the workers keep up; a large one asks for more ``data.num_workers`` or
    ``data.decode=device``. The host stays at most two steps ahead of a GPU, or else the wait would not mean that.
    """

    def __init__(self) -> None:
        self.steps: deque[torch.cuda.Event] = deque()
        self._begin()

    def _begin(self) -> None:
        self.samples, self.waited, self.since = 0, 0.0, time.perf_counter()
        self.idle_since = self.since

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting, without what happened between epochs."""
        self._begin()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The batch is there: the wait is over."""
        self.waited += time.perf_counter() - self.idle_since
        self.samples += len(batch)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log every ``trainer.log_every_n_steps`` batches; the next wait begins."""
        if pl_module.device.type == "cuda":
            done = torch.cuda.Event()
            done.record()
            self.steps.append(done)
            if len(self.steps) > 2:
                self.steps.popleft().synchronize()
        now, every = time.perf_counter(), trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (trainer.fit_loop.total_batch_idx + 1) % every == 0:
            elapsed = now - self.since
            pl_module.log("speed/samples_per_second", self.samples * trainer.world_size / elapsed, batch_size=1)
            pl_module.log("speed/data_wait", self.waited / elapsed, batch_size=1)
            self._begin()
        self.idle_since = time.perf_counter()
