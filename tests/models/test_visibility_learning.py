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
OTHERS = {
    "simcc": ["head.head=simcc", "codec.codec=simcc", "~codec.sigma", "trainer.gradient_clip_val=1.0"],
    "rle": ["head.head=rle", "codec.codec=rle", "~codec.sigma", "trainer.gradient_clip_val=1.0"],
}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Gives the figures of a training on 1200 drawn pictures, and the first training, of heatmaps."""
    folder = tmp_path_factory.mktemp("hidden")
    for name, images, seed in (("train", 1200, 0), ("val", 200, 1)):
        generate(folder / name, images, seed)

    def run(name, *options):
        data = [f"data.train={folder}/train/annotations.json", f"data.val={folder}/val/annotations.json"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["train", *SMALL, *data, f"output_dir={folder}/{name}", *options])
            train.main()
        (path,) = (folder / name).glob("csv/*/metrics.csv")
        with path.open() as file:
            rows = [row for row in csv.DictReader(file) if row.get("val/occlusion_AP")]
        return {key.removeprefix("val/"): float(value) for key, value in rows[-1].items() if value}

    return run, folder / "heatmap/checkpoints/best.ckpt", run("heatmap", "trainer.max_epochs=8")


def test_with_heatmaps(learnt):
    figures = learnt[2]
    assert figures["occlusion_AP"] >= 0.8
    assert figures["occlusion_AP"] > figures["occlusion_AP_of_scores"] + 0.3


@pytest.mark.parametrize(("head", "least"), [("simcc", 0.75), ("rle", 0.3)])  # RLE soon makes other features
def test_with_other_heads_that_start_from_the_same_features(learnt, head, least):
    run, checkpoint, _ = learnt
    options = [f"init_from={checkpoint}", "optimizer.lr=1e-3", "trainer.max_epochs=1"]
    options += ["trainer.check_val_every_n_epoch=1"]
    figures = run(head, *options, *OTHERS[head])
    assert figures["occlusion_AP"] >= least
    assert figures["occlusion_AP"] > figures["occlusion_AP_of_scores"]
