"""Stops a run whose loss is no longer a number, and says at which step that began."""

from collections import deque
from typing import Any, NamedTuple, NoReturn

import lightning as L
import torch
from torch import Tensor

from lightpose.errors import UserError
from lightpose.structures import Batch


class Step(NamedTuple):
    """What the guard remembers of a training step; the tensors stay on the device."""

    number: int
    loss: Tensor
    terms: dict[str, Tensor]
    image_ids: Tensor
    annotation_ids: Tensor


class NanGuard(L.Callback):
    """Ends training after ``patience`` steps in a row with a NaN or infinite loss.

    Every ``patience`` steps it starts to copy the last losses to the host, and it reads them ``patience`` steps later.
    The copy has long arrived by then, so a GPU never waits. A checkpoint with weights that are not finite is never
    written.

    Args:
        patience: steps.
    """

    def __init__(self, patience: int = 10) -> None:
        self.patience = patience
        self.steps: deque[Step] = deque(maxlen=3 * patience)
        self.count = 0
        self.sent: tuple[Tensor, torch.cuda.Event | None] | None = None

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: dict[str, Any], batch: Batch, batch_idx: int
    ) -> None:
        """Remember the step; look every ``patience`` steps."""
        terms = {name: term.detach() for name, term in outputs["losses"].items()}
        self.steps.append(
            Step(trainer.global_step, outputs["loss"].detach(), terms, batch.image_ids, batch.instances.ids)
        )
        self.count += 1
        if self.count % self.patience == 0:
            before, self.sent = self.sent, self._send()
            if before is not None:
                finite, arrival = before
                if arrival is not None:
                    arrival.synchronize()
                if _run_length(finite) >= self.patience:
                    self._stop("the loss is not finite")

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to write weights that are not finite; the checkpoint before stays."""
        weights: dict[str, Tensor] = checkpoint["state_dict"]  # whole, also where processes share them out
        if not _are_finite([weight for weight in weights.values() if weight.is_floating_point() and weight.numel()]):
            if not self.steps or not _run_length(self._finite()):
                raise UserError(
                    "no checkpoint is written, as the weights are not finite, although the last losses are; look at "
                    "what the run started from (init_from, backbone.weights), or set trainer.gradient_clip_val=1"
                )
            self._stop("no checkpoint is written, as the weights are not finite; the loss is not finite")

    def _finite(self) -> Tensor:
        return torch.stack([step.loss for step in self.steps]).isfinite()

    def _send(self) -> tuple[Tensor, torch.cuda.Event | None]:
        finite = self._finite()
        if not finite.is_cuda:
            return finite, None
        arrival = torch.cuda.Event()
        copy = finite.to("cpu", non_blocking=True)
        arrival.record()
        return copy, arrival

    def _stop(self, what: str) -> NoReturn:
        step = self.steps[-_run_length(self._finite())]
        terms = [name for name, value in step.terms.items() if not value.isfinite()] or list(step.terms)
        ids = [number for number in step.annotation_ids.flatten().tolist() if number >= 0]
        raise UserError(
            f"{what} since step {step.number}: term {', '.join(terms)}, annotation ids {ids} of images "
            f"{step.image_ids.tolist()}. Look at these labels (lightpose-data preview), lower optimizer.lr, set "
            "trainer.gradient_clip_val=1, or use trainer.precision=32-true; then resume from the last checkpoint"
        )


def _are_finite(weights: list[Tensor]) -> bool:
    """Whether all of them are; each is read once, and a device is asked once."""
    flags = [torch.stack(torch.aminmax(weight)).isfinite().all() for weight in weights]
    return not flags or bool(torch.stack([flag.to(flags[0].device) for flag in flags]).all())


def _run_length(finite: Tensor) -> int:
    """How many of the last steps, in a row, had a loss that is not finite."""
    flags = finite.tolist()
    return next((count for count, is_finite in enumerate(reversed(flags)) if is_finite), len(flags))
