"""A callback that says where the time of training steps goes, without making the device wait."""

import json
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import PassThroughProfiler
from timing import Marks, peak_gib, synchronize

from lightpose.data.pixels import loader

_STRETCHES = {"training_step": "forward", "backward": "backward"}


class StepTimes(L.Callback):
    """Writes a JSON file with speed, the parts of a step, and memory, when the run is over.

    Counted are the steps after ``warmup``; the device is waited for at the first and the last moment only. Lightning's
    profiler hooks give the parts: *data wait* is the host's time in the loader, the other parts lie between marks on
    the device's time line. *transfer* is all that brings a batch to the device and is done to it there, in a stream of
    its own beside the step before; *optimizer* is all that follows the backward pass until the optimizer has stepped,
    such as clipping.

    Args:
        out: the JSON file.
        warmup: optimizer steps that don't count.
        started: `time.time` at which the process was started.
    """

    def __init__(self, out: str, warmup: int, started: float) -> None:
        self.out, self.warmup, self.started = Path(out), warmup, started
        self.first_step_s = self.begin = 0.0
        self.images = self.batches = 0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen to the trainer."""
        self.device = trainer.strategy.root_device
        self.parts = Parts(self.device)
        trainer.profiler = self.parts
        loader._prepared = self.parts.device.wrap("transfer", loader._prepared)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and begin and end the measurement."""
        if self.begin:
            self.images += len(batch) * trainer.world_size
            self.batches += 1
        if not self.first_step_s:
            synchronize(self.device)
            self.first_step_s = time.time() - self.started
        if not self.begin and trainer.global_step >= self.warmup:
            synchronize(self.device)
            self.parts.clear()
            self.begin = time.perf_counter()
        elif trainer.global_step == trainer.max_steps:
            synchronize(self.device)
            self._write(trainer, time.perf_counter() - self.begin)

    def _write(self, trainer: L.Trainer, seconds: float) -> None:
        parts = {name: 1000 * self.parts.seconds(name) / self.batches for name in self.parts.names}
        step = 1000 * seconds / self.batches
        if trainer.is_global_zero:
            content = {
                "images_per_s": self.images / seconds,
                "step_ms": step,
                **{f"{name}_ms": value for name, value in parts.items()},
                "rest_ms": step - sum(parts[name] for name in ("forward", "backward", "optimizer")),
                "peak_gib": peak_gib(self.device),
                "first_step_s": self.first_step_s,
                "steps": self.batches,
                "world_size": trainer.world_size,
                "precision": str(trainer.precision),
            }
            self.out.write_text(json.dumps(content))


class Parts(PassThroughProfiler):
    """Takes the times of a training step's parts from the calls that Lightning makes to its profiler."""

    names = ("data wait", "transfer", "forward", "backward", "optimizer")

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.host = Marks(device), Marks(torch.device("cpu"))
        self.begun: dict[str, Any] = {}

    def clear(self) -> None:
        """Forget all stretches."""
        self.device.spans.clear()
        self.host.spans.clear()

    def seconds(self, name: str) -> float:
        """All stretches of this name together."""
        return (self.host if name == "data wait" else self.device).seconds(name)

    def start(self, action_name: str) -> None:
        """A part may begin."""
        if action_name.endswith("train_dataloader_next"):
            self.begun["data wait"] = self.host.now()
        elif action_name.startswith("[Strategy]") and (name := self._part(action_name)):
            self.begun[name] = self.device.now()

    def stop(self, action_name: str) -> None:
        """A part may end."""
        if action_name.endswith("train_dataloader_next"):
            self.host.add("data wait", self.begun["data wait"], self.host.now())
        elif action_name.startswith("[Strategy]") and (name := self._part(action_name)):
            end = self.device.now()
            self.device.add(name, self.begun[name], end)
            self.begun["optimizer"] = end
        elif action_name.startswith("[LightningModule]") and action_name.endswith(".optimizer_step"):
            self.device.add("optimizer", self.begun["optimizer"], self.device.now())

    @staticmethod
    def _part(action_name: str) -> str | None:
        return _STRETCHES.get(action_name.rsplit(".", 1)[-1])
