"""Which checkpoints a run keeps, and under which names."""

import logging
import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any
from weakref import proxy

import lightning as L
from lightning.pytorch import callbacks
from lightning.pytorch.trainer import call
from torch import Tensor

from lightpose.callbacks.length import has_all_steps
from lightpose.errors import UserError
from lightpose.runtime.aside import written_aside

log = logging.getLogger(__name__)

INTERVALS = ("every_n_epochs", "every_n_train_steps", "train_time_interval")


class ModelCheckpoint(callbacks.ModelCheckpoint):
    """Lightning's callback, whose ``filename`` stays the same however many files it keeps.

    With ``save_top_k`` other than 1 the name of each file has its epoch, its step and the monitored figure in it, such
    as ``best_epoch003_step001200_0.7431.ckpt``. ``best.ckpt`` is another name of the best of them, or of the newest
    where nothing is monitored. A ``filename`` with fields of its own stays as it is.

    With ``save_weights_only`` a file has what `lightpose.load` needs and no state of training: averaged weights where
    weights are averaged. Files that hold that state and aren't chosen by a figure are also written at the end of
    training. One that is due while the one before of the same name is still being written is left out.

    Args:
        filename: without suffix.
        save_top_k: how many files to keep; -1 for all.
        train_time_interval: minutes from one file to the next.
        options: of Lightning's callback.

    Raises:
        UserError: when more than one interval is given.
    """

    def __init__(
        self, filename: str, save_top_k: int = 1, train_time_interval: float | None = None, **options: Any
    ) -> None:
        options["train_time_interval"] = train_time_interval
        given = [f"{name}={options[name]}" for name in INTERVALS if options.get(name)]
        if len(given) > 1:
            raise UserError(
                f"{' and '.join(given)} of {filename}.ckpt exclude each other; give one, and null for the others"
            )
        if train_time_interval is not None:
            options["train_time_interval"] = timedelta(minutes=train_time_interval)
        self._main = None
        monitor = options.get("monitor")
        if save_top_k not in (0, 1) and "{" not in filename:
            self._main = f"{filename}{self.FILE_EXTENSION}"
            filename += "_epoch{epoch:03d}_step{step:06d}" + (f"_{{{monitor}:.4f}}" if monitor else "")
            options["auto_insert_metric_name"] = False
        super().__init__(filename=filename, save_top_k=save_top_k, **options)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the files of the run that goes on which are in its folder, and forget others.

        Raises:
            UserError: when the state is not one that this callback wrote.
        """
        scores: Any = state_dict.get("best_k_models")
        best: Any = state_dict.get("best_model_path")
        figures = [state_dict.get(key) for key in ("best_model_score", "current_score")]
        sound = isinstance(scores, dict) and isinstance(best, str) and isinstance(state_dict.get("dirpath"), str)
        if not sound or not all(map(_is_figure, [*scores.values(), *(each for each in figures if each is not None)])):
            raise UserError("the checkpoint's list of best files is damaged; start a new run from it with init_from=")
        own = {path: score for path, score in scores.items() if self._is_mine(path)}
        rank = min if self.mode == "max" else max
        worst = rank(own, key=lambda path: float(own[path]), default="")
        super().load_state_dict(
            {
                **state_dict,
                "best_k_models": own,
                "kth_best_model_path": worst,
                "kth_value": own.get(worst),
                "best_model_path": best if self._is_mine(best) else "",
                "last_model_path": "",
            }
        )

    def _is_mine(self, path: Any) -> bool:
        if not isinstance(path, str) or "\0" in path:
            return False
        return Path(path).resolve().parent == Path(str(self.dirpath)).resolve()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if it is time, or if training is over: what validation found last belongs into the last file."""
        super().on_train_epoch_end(trainer, pl_module)
        is_saved = self._every_n_epochs and self._last_global_step_saved == trainer.global_step
        is_wanted = self._is_for_resuming and not is_saved and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if is_wanted and _is_over(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    @property
    def _is_for_resuming(self) -> bool:
        return self.monitor is None and not self.save_weights_only

    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        files: Any = trainer.strategy.checkpoint_io  # WholeFiles
        if self._is_for_resuming and _is_over(trainer):
            files.wait()  # for memory that is free again; nothing is left to train meanwhile
        elif self._is_for_resuming:
            path = self.format_checkpoint_name(monitor_candidates)
            if trainer.strategy.broadcast(files.is_pending(path)):
                log.debug("%s is left out at step %d: the one before is being written", path, trainer.global_step)
                return
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        if self._main and self.dirpath and trainer.is_global_zero:
            best, name = Path(self.best_model_path), Path(self.dirpath) / self._main
            files.afterwards(lambda: _link(best, name))

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        if not self.save_weights_only:
            super()._save_checkpoint(trainer, filepath)
            return
        # By itself Lightning would ask no callback, so that weights would be neither averaged nor looked at.
        content = trainer._checkpoint_connector.dump_checkpoint(weights_only=True)
        kept = content.keys() - {"loops"}
        call._call_callbacks_on_save_checkpoint(trainer, content)
        trainer.strategy.save_checkpoint({key: content[key] for key in kept}, filepath)
        trainer.strategy.barrier()
        self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, filepath
        for logger in trainer.loggers if trainer.is_global_zero else ():
            logger.after_save_checkpoint(proxy(self))


def best_checkpoint(trainer: L.Trainer) -> callbacks.ModelCheckpoint | None:
    """The callback that keeps the best weights by a figure."""
    kept = (each for each in trainer.checkpoint_callbacks if isinstance(each, callbacks.ModelCheckpoint))
    return next((each for each in kept if each.monitor), None)


def _is_figure(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1


def _is_over(trainer: L.Trainer) -> bool:
    """Whether no step is left to train."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    return trainer.should_stop or has_all_steps(trainer) or epochs.processed == trainer.max_epochs


def _link(file: Path, name: Path) -> None:
    """Let ``name`` be another name of ``file``, if that exists, or a copy where the file system has no such names."""
    if not file.is_file():
        return
    with written_aside(name) as part:
        try:
            os.link(file, part)
        except OSError:
            shutil.copyfile(file, part)
