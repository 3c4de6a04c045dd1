import shutil
import subprocess
import sys

import pytest
from hydra._internal.hydra import Hydra

from lightpose.cli import app, convert, data, eval, predict, train
from lightpose.cli.groups import conf_dir


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimiser.lr=1", "optimizer"),
        ("optimizer.lrr=1", "optimizer.lr"),
        ("trainer.max_epoch=3", "trainer.max_epochs"),
        ("backbone=resnet50", "timm/resnet50"),
        ("backbone=hrnet_w23", "hrnet_w32"),
        ("experiment=topdown_hrnet_upd", "topdown_hrnet_udp"),
        ("data.trian=x.json", "data.train"),
    ],
)
def test_mistyped_names_get_the_nearest(run, override, expected):
    code, out, err = run(train.main, override)
    assert code == 1 and out == ""
    assert err.startswith("error: ") and expected in err and "Traceback" not in err


def test_missing_value_is_named(run):
    code, _, err = run(data.main, "synthetic")
    assert code == 1 and "out is not given" in err


def test_debug_shows_the_traceback(run, monkeypatch):
    monkeypatch.setenv("LIGHTPOSE_DEBUG", "1")
    code, _, err = run(train.main, "data.train=nowhere.json")
    assert code == 1 and "Traceback" in err and "nowhere.json" in err


@pytest.mark.parametrize("main", [train.main, eval.main, predict.main])
def test_help_lists_the_keys(run, main):
    code, out, _ = run(main, "--help")
    assert code == 0 and "Keys (key=value)" in out


def test_help_has_the_comments_of_keys_and_no_empty_heading(run):
    _, out, _ = run(convert.main, "mmpose", "--help")
    assert "src: ???          # checkpoint of MMPose (.pth)\n" in out and "Groups" not in out and "hydra" not in out


def test_help_lists_groups_and_options(run):
    _, out, _ = run(train.main, "--help")
    assert "output_dir: outputs/${experiment:}/" in out and "half_pixel | stride | udp\n" in out
    for name in ("hrnet_w32", "topdown_vitpose_base", "heatmap_offset", "coco17", "resnet50"):
        assert name in out


def test_data_lists_its_commands(run):
    assert "preview" in run(data.main)[1]
    code, _, err = run(data.main, "prewiev")
    assert code == 1 and "preview" in err


@pytest.mark.parametrize("module", ["train", "eval", "predict", "data"])
def test_help_imports_nothing_heavy(module):
    code = (
        f"import sys; sys.argv = ['x', '--help']\nfrom lightpose.cli import {module}\n"
        f"try: {module}.main()\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'lightning' not in sys.modules and 'cv2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)


@pytest.mark.parametrize("sweeps", [False, True])
def test_the_configuration_is_composed_once_unless_a_file_may_ask_for_a_sweep(monkeypatch, tmp_path, sweeps):
    shutil.copytree(conf_dir(), tmp_path / "conf")
    if sweeps:
        text = "# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 1,2\n"
        (tmp_path / "conf/experiment/seeds.yaml").write_text(text)
    composed, jobs, whole = [], [], Hydra.compose_config
    monkeypatch.setattr(app, "conf_dir", lambda: tmp_path / "conf")
    monkeypatch.setattr(Hydra, "compose_config", lambda *args, **given: composed.append(1) or whole(*args, **given))
    given = ["experiment=seeds"] if sweeps else []
    monkeypatch.setattr("sys.argv", ["train", "data.train=x", f"output_dir={tmp_path}/run", *given])
    app.run("train", lambda config: jobs.append(config.seed))
    assert jobs == ([1, 2] if sweeps else [0])
    assert sweeps or len(composed) == 1
