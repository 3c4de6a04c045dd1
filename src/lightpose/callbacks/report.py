"""A report of the run, when training ends."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from lightpose.callbacks.checkpoints import best_checkpoint
from lightpose.estimators.base import PoseEstimator
from lightpose.metrics.base import NamesFigures
from lightpose.metrics.matches import Matches
from lightpose.report.results import Instance, Validation
from lightpose.skeleton import Skeleton
from lightpose.structures import Array, Batch, Poses, Sample

log = logging.getLogger(__name__)

MOST = 4000
"""Points of a curve. Of a longer run, every second step is kept, then every fourth, and so on."""


class Report(L.Callback):
    """Writes curves, errors by keypoint, errors against scores and the worst instances, as PNG files and a page.

    The errors are those of the validation that chose ``best.ckpt``; of the last one, where nothing is monitored or the
    best one was before the run was resumed. If the report can't be written, the run says so and ends as it would have.

    Args:
        folder: where ``index.html`` and the pictures go.
        worst: how many instances of the largest errors are drawn.
        points: how many keypoints are drawn at most in the plot of error against score.
    """

    def __init__(self, folder: str, worst: int = 10, points: int = 20000) -> None:
        self.folder = Path(folder)
        self.worst, self.points = worst, points
        self.curves: dict[str, list[tuple[int, Any]]] = {}
        self.stride = 1
        self.kept: Validation | None = None
        self._matches: Matches | None = None
        self._best_before: tuple[str, float] | None = None
        self._step = 0  # of the latest validation

    # -- curves --------------------------------------------------------------------------------------------------

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: dict[str, Any], batch: Batch, batch_idx: int
    ) -> None:
        """Note loss and learning rate; the loss stays on the device."""
        step, losses = trainer.global_step, self.curves.setdefault("train/loss", [])
        if step % self.stride or (losses and losses[-1][0] == step):
            return
        loss, parts = outputs["loss"].detach(), trainer.accumulate_grad_batches
        losses.append((step, loss if parts == 1 else loss * parts))
        rate = max(group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups)
        self.curves.setdefault("lr", []).append((step, rate))
        if len(losses) > MOST:
            self.stride *= 2
            for name in ("train/loss", "lr"):
                self.curves[name] = [point for point in self.curves[name] if point[0] % self.stride == 0]

    def state_dict(self) -> dict[str, Tensor]:
        """The curves, each (n, 2) of steps and values, so that a resumed run goes on with them."""
        self._read()
        return {name: torch.tensor(points, dtype=torch.float64).reshape(-1, 2) for name, points in self.curves.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the curves of the run before; what is none is left out."""
        self.curves = {
            str(name): [(int(step), value) for step, value in points.tolist()]
            for name, points in state_dict.items()
            if isinstance(points, Tensor) and points.dtype == torch.float64 and points.shape[1:] == (2,)
            if points.isfinite()[:, 0].all()
        }

    def _read(self) -> None:
        """Bring the values from the device, each once, and those of a curve together: the host waits for each copy."""
        for name, points in self.curves.items():
            there = [value.reshape(1) for _, value in points if isinstance(value, Tensor)]
            read = iter(torch.cat(there).tolist() if there else ())
            self.curves[name] = [(step, next(read) if isinstance(value, Tensor) else value) for step, value in points]

    # -- validation ----------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: L.Trainer, pl_module: PoseEstimator) -> None:  # type: ignore[override]
        """Keep the validation before if it was the best; begin with no rows."""
        if trainer.sanity_checking:
            return
        self._keep(trainer)
        self._best_before = _best(trainer)
        in_images = pl_module.input_hw is not None
        self._matches = Matches(pl_module.skeleton).to(pl_module.device) if in_images else None

    def on_validation_batch_end(  # type: ignore[override]
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: dict[str, Poses],
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the poses of images."""
        if self._matches is not None:
            self._matches.update(outputs["poses"], batch)

    def on_validation_end(self, trainer: L.Trainer, pl_module: PoseEstimator) -> None:  # type: ignore[override]
        """Note the main figure of each metric."""
        if trainer.sanity_checking:
            return
        self._step = trainer.global_step
        named: Any = [metric for metric in pl_module.metrics if isinstance(metric, NamesFigures)]
        for name in ("val/loss", *(f"val/{figure}" for metric in named for figure in metric.figures[:1])):
            if name in trainer.callback_metrics:
                self.curves.setdefault(name, []).append((self._step, trainer.callback_metrics[name]))

    def _keep(self, trainer: L.Trainer, anyway: bool = False) -> None:
        """Gather the latest validation if ``best.ckpt`` is of it; all processes come here together.

        Only now is it known: Lightning writes checkpoints after the hooks of other callbacks.
        """
        best = _best(trainer)
        chosen = best is not None and best != self._best_before
        if self._matches is None or not (chosen or anyway):
            return
        rows = self._matches.compute()
        self._matches = None
        errors: Array = np.where(
            rows["visible"], np.nan_to_num(rows["distances"], nan=np.inf, posinf=np.inf), np.float32(np.nan)
        )
        labelled = np.any(rows["visible"], axis=1)
        means = np.full(len(errors), -1.0)
        means[labelled] = np.nanmean(errors[labelled], axis=1)
        worst = [row for row in np.argsort(-means, kind="stable")[: self.worst] if labelled[row]]
        self.kept = Validation(
            step=self._step,
            monitor=str(best_checkpoint(trainer).monitor) if chosen else "",  # type: ignore[union-attr]
            errors_px=errors,
            scores=rows["keypoint_scores"],
            left_out=int(rows["left_out"]),
            worst=[Instance(int(rows["sample_keys"][row, 0]), rows["keypoints"][row], errors[row]) for row in worst],
            oks=rows["oks"],
        )

    # -- the end -------------------------------------------------------------------------------------------------

    def on_train_end(self, trainer: L.Trainer, pl_module: PoseEstimator) -> None:  # type: ignore[override]
        """Write the report, by process 0."""
        self._keep(trainer, anyway=self.kept is None)
        if not trainer.is_global_zero or not self.curves:
            return
        try:
            self._write(trainer, pl_module.skeleton)
        except Exception as error:  # the run is done, and nothing that a plot or a disk does may spoil that
            log.warning("the report can't be written to %s (%s: %s)", self.folder, type(error).__name__, error)
        else:
            log.info("report: %s", self.folder / "index.html")

    def _write(self, trainer: L.Trainer, skeleton: Skeleton) -> None:
        from lightpose.report.page import write  # matplotlib takes a second to import

        def load(index: int) -> Sample:
            sample: Sample = trainer.val_dataloaders.dataset.load(index, np.random.default_rng(0))  # type: ignore[union-attr]
            return sample

        self._read()
        write(self.folder, self.curves, self.kept, load, skeleton, self.points)


def _best(trainer: L.Trainer) -> tuple[str, float] | None:
    """What tells the best checkpoint so far from all before; None where there is none."""
    checkpoint = best_checkpoint(trainer)
    if checkpoint is None or checkpoint.best_model_score is None:
        return None
    return checkpoint.best_model_path, float(checkpoint.best_model_score)
