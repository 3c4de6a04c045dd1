"""Hidden keypoints of drawn people, among them those behind objects, are told from visible ones."""

import csv

import pytest

from lightpose.cli import train
from lightpose.data.synthetic.generate import generate

pytestmark = pytest.mark.slow

SMALL = [
    *("experiment=quickstart", "head=visibility", "codec=visibility", "metric=[epe,visibility]"),
    *("trainer.accelerator=cpu", "trainer.precision=32-true", "callbacks.progress=null", "callbacks.report=null"),
    *("logger.tensorboard=null", "trainer.enable_model_summary=false"),
]


def test_hidden_keypoints_are_told_from_visible_ones(tmp_path, monkeypatch):
    for name, images, seed in (("train", 1200, 0), ("val", 200, 1)):
        generate(tmp_path / name, images, seed)
    data = [f"data.train={tmp_path}/train/annotations.json", f"data.val={tmp_path}/val/annotations.json"]
    monkeypatch.setattr("sys.argv", ["train", *SMALL, *data, f"output_dir={tmp_path}/run", "trainer.max_epochs=4"])
    train.main()
    (path,) = (tmp_path / "run").glob("csv/*/metrics.csv")
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/occlusion_AP")]
    figures = {key.removeprefix("val/"): float(value) for key, value in rows[-1].items() if value}
    print(figures)
    assert figures["occlusion_AP"] >= 0.6
    assert figures["occlusion_AP"] > figures["occlusion_AP_of_scores"] + 0.3
