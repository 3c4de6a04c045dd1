"""What a training run keeps in its folder; a run that never trained leaves nothing."""

import errno
import shutil
import traceback
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf

from lightpose.callbacks.interruption import how_to_go_on
from lightpose.cli.app import prune
from lightpose.cli.options import mistake
from lightpose.errors import UserError, in_short
from lightpose.runtime import signals
from lightpose.runtime.aside import written_aside
from lightpose.runtime.signals import Interrupted

LIGHTNINGS = ("lightning.pytorch.callbacks", "lightning.pytorch.loggers")


def refuse_overwriting(folder: Path, resume: str | None) -> None:
    """See that a run overwrites no checkpoints but those of the run that it goes on with.

    Args:
        folder: of the run.
        resume: the checkpoint that it goes on from.

    Raises:
        UserError: when the folder holds others.
    """
    place = folder / "checkpoints"
    found = sorted(path.name for path in place.glob("*.ckpt"))
    if not found or (resume and Path(resume).resolve().parent == place.resolve()):
        return
    go_on = f"resume={place / 'last.ckpt'} goes on with that run; or " if "last.ckpt" in found else ""
    raise UserError(
        f"output_dir={folder} holds checkpoints of another run ({', '.join(found[:4])}), which this one would "
        f"overwrite; {go_on}give another output_dir=, or delete them"
    )


class RunFolder(L.Callback):
    """Writes ``config.yaml`` after the first step, and hands it to the loggers; a run without a step leaves nothing.

    Args:
        config: the resolved configuration.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.path = Path(config["output_dir"])
        self.began = self.trained = False
        self._new: list[Path] = []

    def expect(self, trainer: L.Trainer) -> None:
        """Note where loggers will write, before they do."""
        if trainer.is_global_zero:
            logs = [Path(logger.log_dir) for logger in trainer.loggers if logger.log_dir]
            self._new = [place for log in logs for place in (log, log.parent) if not place.exists()]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note that options can spoil nothing from now on: all is built, and a batch is read."""
        self.began = True

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the configuration, after the first batch."""
        if not self.trained and trainer.is_global_zero:
            self._write(OmegaConf.to_yaml(OmegaConf.create(self.config)))
            for logger in trainer.loggers:
                logger.log_hyperparams(self.config)
        self.trained = True

    def _write(self, content: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with written_aside(self.path / "config.yaml") as part:
            part.write_text(content)

    def take_back(self) -> None:
        """Remove the logs of a run that never trained, and the folders that are then empty."""
        if not self.trained:
            for place in self._new:
                shutil.rmtree(place, ignore_errors=True)
            prune(self.path)

    def explained(self, error: BaseException, trainer: L.Trainer) -> BaseException | None:
        """What to raise in place of the exception that ended the run; None to raise the exception itself."""
        signum, saved = signals.received(), self.path / "checkpoints"
        where = (
            f"epoch {trainer.current_epoch}, step {trainer.global_step}" if self.trained else "before the first step"
        )
        if signum is not None and (not isinstance(error, Interrupted) or not str(error)):
            return Interrupted(signum, f"{where}; {how_to_go_on(saved)}" if trainer.is_global_zero else "")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return UserError(
                f"the disk is full ({error}), and the run in {self.path} ended: {where}. Free some space; then "
                f"{how_to_go_on(saved)}"
            )
        if isinstance(error, ValueError) and "more than 1 value per channel" in str(error):  # torch's words
            return UserError(
                "batch normalisation needs several values of each channel, and a batch of one sample gives this "
                "network one; give two samples or more, and data.batch_size=2 or more"
            )
        foreign = isinstance(error, Exception) and not isinstance(error, UserError)
        if self.config["resume"] and not self.trained and foreign:
            return UserError(
                f"the run can't go on from {self.config['resume']} ({type(error).__name__}: "
                f"{in_short(error)}): it is damaged, or of a run with other options; give those of "
                "the interrupted run, or start a new one from its weights with init_from="
            )
        mistaken = isinstance(error, MisconfigurationException) or (not self.began or _is_of_a_callback(error))
        if mistaken and foreign and not isinstance(error, OSError):
            return UserError(mistake(error, "callbacks" if self.began else ""))  # type: ignore[arg-type]
        return None


def _is_of_a_callback(error: BaseException) -> bool:
    """Whether a callback or logger of Lightning's raised it, as they do late for a figure that is missing."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].f_globals["__name__"].startswith(LIGHTNINGS)
