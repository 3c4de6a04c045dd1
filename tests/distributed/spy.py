"""A callback that notes what processes exchange while they train and validate."""

import json
from pathlib import Path
from typing import Any

import lightning as L
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from lightpose.runtime.processes import LeanDDP


class Collectives(L.Callback):
    """Writes to ``FILE.<process>`` the names of the collective operations of a training step and of the validation
    batches, and the sum of each buffer that is validated with.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: dict[str, list[Any]] = {}
        self.profile: Any = None

    def _start(self) -> None:
        self.profile = profile(activities=[ProfilerActivity.CPU])
        self.profile.__enter__()

    def _stop(self, phase: str) -> None:
        self.profile.__exit__(None, None, None)
        names = [event.name for event in self.profile.events()]
        assert any(name.startswith("aten::") for name in names)
        self.found[phase] = [name for name in names if name.startswith("c10d::")]

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 2:  # in the step before, DDP agrees on its buckets
            self._start()
        if trainer.global_step == 3:
            self._stop("step")

    def on_validation_batch_start(self, trainer: L.Trainer, estimator: L.LightningModule, *batch: Any) -> None:
        if batch[1] == 0:
            self.found["buffers"] = [float(buffer.double().sum()) for buffer in estimator.net.buffers()]
            self._start()

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.val_loop.batch_progress.is_last_batch:
            self._stop("validation batches")

    def on_validation_end(self, trainer: L.Trainer, *_: Any) -> None:
        Path(f"{self.file}.{trainer.global_rank}").write_text(json.dumps(self.found))


class AsIfGraphed(L.Callback):
    """Makes a strategy believe that the network is replayed as CUDA graphs."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(trainer.strategy, LeanDDP)
        trainer.strategy.gradients_at_once = True

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        assert not isinstance(trainer.strategy.model, DistributedDataParallel)
