from types import SimpleNamespace

import torch

from lightpose.callbacks import progress


def test_figures_are_read_once_a_second(monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(progress.RichProgressBar, "get_metrics", lambda *_: {"val/AP": 0.5})
    metrics = {"train/loss": torch.tensor(1.0), "train/heatmap": torch.tensor(1.0)}
    trainer = SimpleNamespace(callback_metrics=metrics)
    bar = progress.ProgressBar()
    assert bar.get_metrics(trainer, None) == {"val/AP": 0.5, "train/loss": 1.0}
    metrics["train/loss"] = torch.zeros((), device="meta")  # which can't be read
    now = 100.9
    assert bar.get_metrics(trainer, None)["train/loss"] == 1.0
    metrics["train/loss"] = torch.tensor(0.5)
    now = 101.1
    assert bar.get_metrics(trainer, None)["train/loss"] == 0.5
