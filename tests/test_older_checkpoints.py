"""Checkpoints of earlier versions load, give what they gave, and go on."""

from pathlib import Path

import numpy as np
import pytest
import torch

import lightpose
from lightpose.cli import eval as eval_command
from lightpose.cli import train

FOLDER = Path(__file__).parent / "data_files/checkpoints"
"""Runs of two epochs on six drawn images, and what their networks made of the inputs below with flipped ones."""
HEATMAP = ("backbone=timm/any", "backbone.model=test_efficientnet", "backbone.out_indices=[1]")
OFFSET = (
    *("backbone=vit_small", "backbone.model=test_vit", "backbone.num_heads=null", "backbone.out_indices=[0]"),
    *("head=heatmap_offset", "codec=heatmap_offset", "metric=pck", "callbacks=ema", "optimizer=adamw"),
    *("scheduler=cosine", "grid=udp", "callbacks.progress=null"),
)


@pytest.mark.parametrize("name", ["heatmap", "heatmap_offset"])
def test_outputs_are_those_of_the_version_that_wrote_it(name):
    cells = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    inputs = torch.from_numpy(cells.repeat(8, 2).repeat(8, 3))
    estimator = lightpose.load(FOLDER / f"{name}.ckpt")
    with torch.inference_mode():
        outputs = estimator.outputs(inputs)
    recorded = np.load(FOLDER / f"{name}.npz")
    assert outputs.keys() == set(recorded)
    for key, output in outputs.items():
        expected = torch.from_numpy(recorded[key])
        assert (output - expected).norm() / expected.norm() < 1e-5
        assert (output - expected).norm() / (expected - expected.mean()).norm() < 1e-3  # maps of a few steps are flat


def test_one_that_mirrored_without_pairs_still_does(tmp_path):
    content = torch.load(FOLDER / "heatmap.ckpt", weights_only=True)
    skeleton = content["lightpose"]["skeleton"]
    assert "mirrors" not in skeleton and content["lightpose"]["config"]["estimator"]["flip_test"]
    count = len(skeleton["keypoints"])
    skeleton |= {"keypoints": tuple(f"point{i}" for i in range(count)), "swap": tuple(range(count))}
    torch.save(content, tmp_path / "older.ckpt")
    assert lightpose.load(tmp_path / "older.ckpt").flip_test


@pytest.mark.parametrize("name", ["heatmap", "heatmap_offset"])
def test_it_predicts_in_the_crops_of_its_evaluation(name, people):
    """Its configuration has all transforms in one list."""
    predictor = lightpose.Predictor(FOLDER / f"{name}.ckpt", device="cpu")
    pipeline = predictor.cropper.transforms
    assert [type(step).__name__ for step in (*pipeline.geometry, pipeline.warp)] == ["CropBox", "Warp"]
    assert not pipeline.pixels
    assert len(predictor(str(next((people.parent / "images").iterdir())))[0]) == 1


@pytest.mark.parametrize("name", ["heatmap", "heatmap_offset"])
def test_it_is_evaluated(run, people, tmp_path, name):
    """Its configuration has the reader among the data module's options."""
    given = (f"annotations={people}", f"images={people.parent / 'images'}", f"out={tmp_path}/out", "num_workers=0")
    code, out, err = run(eval_command.main, f"ckpt={FOLDER}/{name}.ckpt", *given, "metric=oks")
    assert code == 0, out + err
    assert (tmp_path / "out/predictions.json").exists()


@pytest.mark.parametrize(("name", "parts"), [("heatmap", HEATMAP), ("heatmap_offset", OFFSET)])
def test_its_run_goes_on(run, tiny, people, tmp_path, name, parts):
    rest = [option for option in tiny if not option.startswith("backbone")]
    data = [f"data.train={people}", f"data.val={people}", f"output_dir={tmp_path}/run", "trainer.max_epochs=3"]
    code, out, err = run(train.main, *parts, *rest, *data, f"resume={FOLDER}/{name}.ckpt", "callbacks.pictures=null")
    assert code == 0, out + err
    content = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert content["epoch"] == 2 and content["global_step"] > 4
