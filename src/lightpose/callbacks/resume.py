"""Lets a resumed run go on within an epoch, with the samples that it has not yet seen."""

import logging
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np

from lightpose.data.pixels.loader import EpochLoader, EpochSampler
from lightpose.errors import UserError

log = logging.getLogger(__name__)

COUNTED = frozenset({"ready", "started", "processed", "completed"})
"""What Lightning counts of epochs and batches."""


class Resume(L.Callback):
    """Goes on after the last batch of the run before, however that run ended and whatever the batch size is now.

    Lightning makes the training loader before it restores a checkpoint, since the schedule depends on the loader's
    length, and so doesn't restore its position. It also counts an epoch as whole that ``trainer.max_steps`` ended.
    """

    def __init__(self) -> None:
        self.saved: dict[str, Any] = {}
        self._sampler: EpochSampler | None = None

    def state_dict(self) -> dict[str, Any]:
        """How many samples one batch of all processes has, and a check sum of the epoch's order."""
        return {"step": self._sampler.step, "order": _check_sum(self._sampler)} if self._sampler else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what a checkpoint says of them."""
        self.saved = state_dict

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Change Lightning's counts to those at the end of a batch, or between epochs."""
        loop = checkpoint["loops"]["fit_loop"]
        batches, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
        if _is_validating(loop) or not batches["current"]["processed"]:
            return  # Lightning begins the validation, or the epoch, again
        between = _is_between_epochs(loop)
        for count in (epochs["total"], epochs["current"]):
            done = _whole(loop, count)
            count |= {"ready": count["started"], "processed": done, "completed": done}
        if between:
            batches["total"] |= dict.fromkeys(COUNTED, batches["total"]["processed"])
            batches["current"] |= dict.fromkeys(COUNTED, 0)
        else:
            for count in (batches["total"], batches["current"]):
                count |= {**dict.fromkeys(COUNTED, count["processed"]), "completed": count["processed"] - 1}
        batches["is_last_batch"] = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Skip the samples that the epoch has seen.

        Raises:
            UserError: where they make no whole number of this run's optimizer steps, or more than its epochs have.
        """
        loop, loader = trainer.fit_loop, trainer.train_dataloader
        if not isinstance(loader, EpochLoader) or not isinstance(loader.sampler, EpochSampler):
            return
        self._sampler = sampler = loader.sampler
        if not (loop.restarted_mid_epoch and loop.epoch_loop.restarted_on_train_batch_end):
            return
        progress: Any = loop.epoch_loop.batch_progress.current
        epoch: int = loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        seen = self._samples(progress.processed)
        needed = sampler.step * trainer.accumulate_grad_batches
        if seen % needed:
            raise UserError(
                f"the checkpoint was written {seen} samples into an epoch, which is no whole number of this run's "
                f"steps of {needed} samples; choose data.batch_size, trainer.accumulate_grad_batches and the number of "
                f"processes so that their product divides {seen}"
            )
        done, batches = seen // sampler.step, int(trainer.num_training_batches)
        if done >= batches:
            raise UserError(
                f"the checkpoint was written {seen} samples into an epoch, and this run's epochs end after "
                f"{batches * sampler.step}; give the data, data.epoch_steps, trainer.limit_train_batches and batch "
                "size of the run before"
            )
        sampler.resume(epoch, seen)
        sampler.set_epoch(epoch)
        if self.saved.get("order") != _check_sum(sampler):
            log.warning(
                "the epoch goes on in another order than it began in, as the data, seed, data.group_by_image or the "
                "length of epochs has changed: some of its samples may be shown twice, others not at all"
            )
        progress.ready = progress.started = progress.processed = done
        progress.completed = done - 1

    def _samples(self, batches: int) -> int:
        step = self.saved.get("step")
        if type(step) is not int or step < 1:
            raise UserError(
                "the checkpoint was written within an epoch and doesn't say how many samples its batches have; give "
                "one of the end of an epoch, or start a new run from its weights with init_from="
            )
        return step * batches


def _check_sum(sampler: EpochSampler) -> int:
    return zlib.crc32(np.ascontiguousarray(sampler.order(sampler.epoch)[:, 1]).tobytes())


def epochs_done(loop: dict[str, Any]) -> int:
    """Number of whole epochs that a checkpoint's ``fit_loop`` has trained."""
    return _whole(loop, loop["epoch_progress"]["current"])


def _whole(loop: dict[str, Any], epochs: dict[str, int]) -> int:
    if not loop["epoch_loop.batch_progress"]["current"]["processed"]:
        return epochs["processed"]
    return epochs["started"] if _is_between_epochs(loop) else max(epochs["started"] - 1, 0)


def _is_between_epochs(loop: dict[str, Any]) -> bool:
    batches = loop["epoch_loop.batch_progress"]
    trained: int = batches["current"]["processed"]
    return batches["is_last_batch"] and trained == batches["current"]["ready"] and not _is_validating(loop)


def _is_validating(loop: dict[str, Any]) -> bool:
    validated: dict[str, int] = loop["epoch_loop.val_loop.batch_progress"]["total"]
    return validated["started"] > validated["processed"]


def check_counts(path: str, content: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose state of training is not what Lightning writes.

    Args:
        path: of the checkpoint.
        content: of the checkpoint.

    Raises:
        UserError: with what is missing or wrong.
    """
    missing = [key for key in ("loops", "global_step", "optimizer_states", "lr_schedulers") if key not in content]
    if missing:
        last = Path(path).with_name("last.ckpt")
        beside = f"go on with resume={last}, or " if last.is_file() and last != Path(path) else ""
        raise UserError(
            f"{path} holds no state of training ({', '.join(missing)}), perhaps only weights; {beside}start a new run "
            "from them with init_from="
        )
    loops: Any = content["loops"]
    loop = loops.get("fit_loop") if isinstance(loops, dict) else None
    needed = ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress")
    progress = {key: value for key, value in loop.items() if "progress" in key} if isinstance(loop, dict) else {}
    sound = all(
        isinstance(progress.get(key), dict)
        and all(isinstance(progress[key].get(part), dict) for part in ("total", "current"))
        and all(progress[key][part].keys() == COUNTED for part in ("total", "current"))
        for key in needed
    )
    if not sound or not _are_counts([progress, content["global_step"]]):
        raise UserError(
            f"{path} is damaged: how far its run had come can't be read; give another checkpoint of the run, or start "
            "a new one from its weights with init_from="
        )


def _are_counts(value: Any) -> bool:
    """Whether all that ``value`` holds are flags and numbers of things."""
    if isinstance(value, (dict, list)):
        return all(map(_are_counts, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool) or (type(value) is int and 0 <= value < 2**53)
