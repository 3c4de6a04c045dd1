"""Options of a training that are one word: a frozen part, an early end, another augmentation at the end."""

import csv

import torch

from lightpose.cli import train


def test_a_frozen_backbone_a_late_augmentation_and_an_early_end(run, people, trained, tiny, tmp_path):
    before = trained / "checkpoints/last.ckpt"
    files = (f"data.train={people}", f"data.val={people}", f"output_dir={tmp_path}/run", f"init_from={before}")
    early = ("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=1")
    late = ("+augment.late=${augment.eval}", "data.late_epochs=5.5", "trainer.max_epochs=6")
    code, out, err = run(train.main, *files, *tiny, *early, *late, "estimator.lr_factors={backbone:0,head:2}")
    assert code == 0, out + err
    old, new = (
        torch.load(path, weights_only=True)["state_dict"] for path in (before, tmp_path / "run/checkpoints/last.ckpt")
    )
    kept = {name: torch.equal(old[name], value) for name, value in new.items() if name.startswith("net.")}
    assert all(same for name, same in kept.items() if name.startswith("net.backbone."))  # running means, too
    assert not all(same for name, same in kept.items() if name.startswith("net.head."))
    with next((tmp_path / "run/csv").rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    assert {row["epoch"] for row in rows if row["val/AP"]} == {"0", "1"}  # an AP grows by less than 1
    assert "head/no_decay" in " ".join(rows[0])


def test_a_late_augmentation_that_is_not_there(run, people, tiny, tmp_path):
    files = (f"data.train={people}", f"output_dir={tmp_path}/run")
    code, _, err = run(train.main, *files, *tiny, "data.late_epochs=2")
    assert code == 1 and "data.late_epochs=2 needs augment.late, which is not there; give it the lists" in err
    assert not (tmp_path / "run").exists()
