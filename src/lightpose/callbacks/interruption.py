"""Ends training in good order after a signal."""

import os
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed import distributed_c10d

from lightpose.callbacks.length import has_all_steps
from lightpose.errors import UserError
from lightpose.runtime import signals
from lightpose.runtime.signals import Interrupted

STOPPED = "lightpose/stopped"
"""Key under which process 0 tells the others that it needs them no more."""


class Interruption(L.Callback):
    """After Ctrl-C or SIGTERM, finishes the step, writes ``last.ckpt`` and raises `Interrupted` once it is written.

    Of several processes, the others go on until process 0 has written, as it can't finish a step without them.

    Args:
        folder: of the checkpoints.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note signals from now on."""

        def note(signum: int) -> None:
            for process in getattr(trainer.strategy.launcher, "procs", []):
                process.send_signal(signum)
            if trainer.is_global_zero:
                os.write(2, b"\nstopping after this step; the same again ends the run at once\n")
            else:
                store = distributed_c10d._get_default_store()
                signals.leave_after(signum, lambda: store.check([STOPPED]))

        signals.react_by(note)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop, unless validation or the end of the epoch comes next, or gradients are being accumulated."""
        accumulates = (batch_idx + 1) % trainer.accumulate_grad_batches
        if not accumulates and not trainer.is_last_batch and not has_all_steps(trainer):
            self._stop(trainer)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Stop; a resumed run begins the validation again."""
        if signals.received() is None or trainer.sanity_checking or not trainer.is_global_zero:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                callback.on_validation_epoch_end(trainer, pl_module)  # puts the weights back that are trained
        progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        progress.reset()
        progress.total.ready = progress.total.started = 1  # type: ignore[attr-defined]
        self._stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop, unless this was the last epoch."""
        if trainer.current_epoch + 1 != trainer.max_epochs and not has_all_steps(trainer):
            self._stop(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that nothing is left to do."""
        if signals.received() is not None and trainer.is_global_zero:
            files: Any = trainer.strategy.checkpoint_io
            problem = _tried(files.wait)
            self._raise(trainer, f"the run had just finished; {problem}its checkpoints are in {self.folder}")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let signals interrupt what the command does next."""
        signals.react_by(None)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """The same."""
        signals.react_by(None)

    def _stop(self, trainer: L.Trainer) -> None:
        if signals.received() is not None and trainer.is_global_zero:
            problem = self._save(trainer)
            where = f"epoch {trainer.current_epoch}, step {trainer.global_step}"
            self._raise(trainer, f"{where}; {problem}{how_to_go_on(self.folder)}")

    def _raise(self, trainer: L.Trainer, message: str) -> NoReturn:
        if trainer.world_size > 1:
            distributed_c10d._get_default_store().set(STOPPED, "1")
        raise Interrupted(signals.received() or signal.SIGTERM, message)

    def _save(self, trainer: L.Trainer) -> str:
        """Write ``last.ckpt``; what prevents that, if anything does."""
        if not trainer.checkpoint_callbacks or isinstance(trainer.strategy, ModelParallelStrategy):
            return ""  # nobody wants one, or all processes would have to write it together
        files: Any = trainer.strategy.checkpoint_io

        def save() -> None:
            # Not trainer.save_checkpoint, which waits for the other processes: those don't stop here.
            content = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            trainer.strategy.save_checkpoint(content, self.folder / "last.ckpt")
            files.wait()

        return _tried(save)


def _tried(call: Callable[[], None]) -> str:
    """Call something that writes checkpoints; what prevents that, if anything does."""
    try:
        call()
    except (OSError, UserError) as error:
        return f"no checkpoint was written ({error}); "
    return ""


def how_to_go_on(folder: Path) -> str:
    """What to type after a run that has ended early.

    Args:
        folder: of its checkpoints.
    """
    last = folder / "last.ckpt"
    if not last.is_file():
        return f"start it anew, as there is no {last} to go on from"
    return f"go on with the same command and {shlex.quote(f'resume={last}')}"
