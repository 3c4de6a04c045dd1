"""Runs lightpose-eval with the overrides given, and writes where the time of its validation goes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import PassThroughProfiler
from timing import Marks, synchronize


class Waits(PassThroughProfiler):
    """The host's time in the loader, from the calls that Lightning makes to its profiler."""

    def __init__(self, host: Marks) -> None:
        super().__init__()
        self.host, self.begun = host, 0.0

    def start(self, action_name: str) -> None:
        """It may begin to wait."""
        if action_name.endswith(".val_next"):
            self.begun = self.host.now()

    def stop(self, action_name: str) -> None:
        """It may have what it waited for."""
        if action_name.endswith(".val_next"):
            self.host.add("data wait", self.begun, self.host.now())


def after_device(device: torch.device, host: Marks, compute: Callable[[], Any]) -> Callable[[], Any]:
    """``compute``, which begins when the device has done all that it was given; the wait is counted as ``device``."""

    def call() -> Any:
        begin = host.now()
        synchronize(device)
        host.add("device", begin, host.now())
        return compute()

    return call


def measured(validate: Any, out: Path) -> Any:
    """``Trainer.validate`` that writes its times to ``out``."""

    def call(trainer: L.Trainer, estimator: Any, *args: Any, **kwargs: Any) -> Any:
        device = trainer.strategy.root_device
        marks, host = Marks(device), Marks(torch.device("cpu"))
        trainer.profiler = Waits(host)
        net, codec, warm_up, begun = estimator.net, estimator.codec, estimator.warm_up, []

        def get_ready(*sizes: int) -> None:
            begin = host.now()
            warm_up(*sizes)
            synchronize(device)
            marks.spans.clear()
            host.add("net, getting ready", begin, host.now())

        estimator.warm_up = get_ready
        net.features = marks.wrap("net", net.features)
        net.head.register_forward_pre_hook(lambda *_: begun.append(marks.now()))
        net.head.register_forward_hook(lambda *_: marks.add("net", begun.pop(), marks.now()))
        codec.decode = marks.wrap("decode", codec.decode)
        for metric in estimator.metrics:
            metric.update = marks.wrap("metric, rows", metric.update)
            metric.compute = after_device(device, host, metric.compute)
        estimator.on_validation_epoch_end = host.wrap("end", estimator.on_validation_epoch_end)
        start = host.now()
        figures = validate(trainer, estimator, *args, **kwargs)
        synchronize(device)
        total = host.now() - start
        seconds = {name: marks.seconds(name) for name in ("net", "decode", "metric, rows")}
        seconds["net, getting ready"] = host.seconds("net, getting ready")
        seconds["metric, figures"] = host.seconds("end") - host.seconds("device")
        waits = host.spans["data wait"]
        seconds["before the data"] = waits[0][0] - start - seconds["net, getting ready"]
        seconds["data wait, first batch"] = waits[0][1] - waits[0][0]
        seconds["data wait"] = host.seconds("data wait") - seconds["data wait, first batch"]
        samples = len(trainer.val_dataloaders.dataset)  # type: ignore[union-attr]
        out.write_text(json.dumps({"samples": samples, "total_s": total, "parts_s": seconds}))
        return figures

    return call


if __name__ == "__main__":
    from lightpose.cli.eval import main

    L.Trainer.validate = measured(L.Trainer.validate, Path(sys.argv[1]))  # type: ignore[method-assign]
    del sys.argv[1]
    main()
