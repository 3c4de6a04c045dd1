"""Settings that change at an epoch."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from torch import nn

from lightpose.errors import UserError


class Switches(L.Callback):
    """Gives numbers and flags of the estimator's parts other values from an epoch on.

    A resumed run begins with the values that the interrupted one had: they follow from the epoch alone.

    Args:
        switches: name → ``epoch``, counted from 0 or, if negative, from the end of the run; and ``values``, a mapping
            from attributes, such as ``net.head.criterion.offsets``, to what they become. None leaves a switch out.
    """

    def __init__(self, switches: Mapping[str, Mapping[str, Any] | None]) -> None:
        self.switches = {name: switch for name, switch in switches.items() if switch is not None}
        for name, switch in self.switches.items():
            if set(switch) != {"epoch", "values"}:
                raise UserError(f"the switch {name} has {', '.join(switch) or 'nothing'}; give it epoch and values")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find mistakes before the run."""
        for name, switch in self.switches.items():
            self._start(trainer, name)
            for path, value in switch["values"].items():
                owner, attribute = _place(pl_module, path, name)
                before = getattr(owner, attribute)
                if isinstance(before, bool) != isinstance(value, bool) or not isinstance(before, (bool, int, float)):
                    raise UserError(f"the switch {name} makes {path} {value!r}, but it is {before!r}")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Also where a run goes on within an epoch."""
        self._apply(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What is due, in the order of epochs."""
        self._apply(trainer, pl_module)

    def _apply(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        starts = sorted((self._start(trainer, name), name) for name in self.switches)
        for start, name in starts:
            if trainer.current_epoch >= start:
                for path, value in self.switches[name]["values"].items():
                    setattr(*_place(pl_module, path, name), value)

    def _start(self, trainer: L.Trainer, name: str) -> int:
        epoch: int = self.switches[name]["epoch"]
        if epoch >= 0:
            return epoch
        if (trainer.max_epochs or -1) < 0:
            raise UserError(f"the switch {name} counts from the end of the run; give trainer.max_epochs")
        return (trainer.max_epochs or 0) + epoch


def _place(estimator: nn.Module, path: str, name: str) -> tuple[Any, str]:
    """The owner of an attribute, and the attribute."""
    parent, _, attribute = path.rpartition(".")
    owner: Any = estimator
    for part in parent.split(".") if parent else []:
        owner = getattr(owner, part, None)
    if not hasattr(owner, attribute):
        raise UserError(
            f"the switch {name} sets {path}, which the estimator doesn't have; name a number or flag, such as "
            "net.head.criterion.offsets"
        )
    return owner, attribute
