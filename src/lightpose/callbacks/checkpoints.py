"""Which checkpoints a run keeps, and under which names."""

import os
import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch import callbacks
from torch import Tensor

from lightpose.errors import UserError
from lightpose.runtime.whole_files import written_aside


class ModelCheckpoint(callbacks.ModelCheckpoint):
    """Lightning's callback, whose ``filename`` stays the same however many files it keeps.

    With ``save_top_k`` other than 1 the name of each file has its epoch, its step and the monitored figure in it, such
    as ``best_epoch003_step001200_0.7431.ckpt``. ``best.ckpt`` is another name of the best of them, or of the newest
    where nothing is monitored. A ``filename`` with fields of its own stays as it is.

    Args:
        filename: without suffix.
        save_top_k: how many files to keep; -1 for all.
        options: of Lightning's callback.
    """

    def __init__(self, filename: str, save_top_k: int = 1, **options: Any) -> None:
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

    def _save_topk_checkpoint(self, trainer: L.Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        super()._save_topk_checkpoint(trainer, monitor_candidates)
        best = Path(self.best_model_path)
        if self._main and self.dirpath and trainer.is_global_zero and best.is_file():
            _link(best, Path(self.dirpath) / self._main)


def _is_figure(value: Any) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1


def _link(file: Path, name: Path) -> None:
    """Let ``name`` be another name of ``file``, or a copy where the file system has no such names."""
    with written_aside(name) as part:
        try:
            os.link(file, part)
        except OSError:
            shutil.copyfile(file, part)
