"""Any path that the shell passes is that path."""

import json
import shutil

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lightpose.cli import data, eval, predict, train
from lightpose.cli.arguments import path_given, with_literal_paths
from lightpose.errors import UserError

ODD = ["2024_05_17", "a b (1).jpg", "a=b", "a,b", "[x]", "{x}", "it's", 'say "hi"', "$x", "#1", "a:b", "~x", "a*b"]
ODD += ["what?", "hey!", " lead", "trail ", "äöü日本", r"C:\dir\x.json", "dir\\", "a\\'b", "\\\\", "true", "1e5"]
ODD += ["0x10", "7", "'", "'a' and 'b'", "None", "%d", "`x`", "a;b|c&d", "<x>", "-x", "--help", "@x", "new\nline", "(a"]
ODD += ["a]", "inf", "a::b"]


def parsed(argument):
    return OverridesParser.create().parse_override(argument).value()


@pytest.mark.parametrize("path", ODD)
def test_hydra_gets_what_the_shell_passes(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for key in ("ckpt", "+boxes", "++images"):
        [argument] = with_literal_paths([f"{key}={path}"], "predict")
        assert parsed(argument) == path and isinstance(parsed(argument), str)
        assert parsed(*with_literal_paths([argument], "predict")) == path  # as a second process gets it
    assert path_given([f"out={path}"], "out") == path


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("out=null", None),
        ("out='a b'", "a b"),
        ('out="a b"', "a b"),
        ("out='it\\'s'", "it's"),
        ("source=0", 0),
        ("batch_size=4", 4),
        ("trust=[a,b]", ["a", "b"]),
        ("out=${ckpt}/x", "${ckpt}/x"),
    ],
)
def test_what_stays_as_it_is(argument, value):
    assert parsed(*with_literal_paths([argument], "predict")) == value


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("data.train=[a.json,b c.json]", ["a.json", "b c.json"]),
        ("data.images=['a,b', 7/,null]", ["a,b", "7/", None]),
        ("dataset.train=[x]", ["x"]),
        ("data.val=[x]", "[x]"),
    ],
)
def test_several_files_stand_in_brackets(argument, values, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parsed(*with_literal_paths([argument], "train")) == values
    name = argument.partition("=")[2]
    if "/" not in name:
        (tmp_path / name).touch()
        assert parsed(*with_literal_paths([argument], "train")) == name


def test_a_sweep_goes_over_lists_of_files():
    _, argument = with_literal_paths(["-m", "data.train=[a,b],c,[1]"], "train")
    assert argument == "data.train=['a','b'],'c',['1']"


def test_a_file_of_that_very_name_is_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("0", "'a b'", "a,b", "~x"):
        (tmp_path / name).mkdir()
        found = parsed(*with_literal_paths(["-m", f"source={name}"], "predict")[1:])
        assert found == (str(tmp_path / name) if name == "~x" else name)


def test_each_command_has_its_own_paths():
    assert parsed(*with_literal_paths(["images=1_000"], "data_synthetic")) == 1000
    assert parsed(*with_literal_paths(["data.images=1_000"], "data_check")) == "1_000"
    assert parsed(*with_literal_paths(["data.images=1_000"], "train")) == "1_000"
    assert parsed(*with_literal_paths(["callbacks.pictures.folder=1_000"], "train")) == "1_000"
    with pytest.raises(UserError, match="out= names no file"):
        with_literal_paths(["out="], "predict")


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("data.train=a b.json,2024_05_17", ["a b.json", "2024_05_17"]),
        ("data.train='a,b', c", ["a,b", "c"]),
        ("data.train=choice(a,b)", ["a", "b"]),
        ("optimizer.lr=1e-3,5e-4", [1e-3, 5e-4]),
    ],
)
def test_commas_separate_jobs_of_a_sweep(argument, values):
    [_, argument] = with_literal_paths(["-m", argument], "train")
    override = OverridesParser.create().parse_override(argument)
    assert [getattr(item, "text", item) for item in override.value().list] == values


def test_commands_find_files_of_odd_names(run, people, tiny, tmp_path, monkeypatch):
    """One name with everything in it, and one that is a number, in every command that takes paths."""
    monkeypatch.chdir(tmp_path)
    for name in ("2024_05_17", 'a b (1) = [x], {y} it\'s "z" $#~:*?! ä'):
        shutil.copytree(people.parent / "images", name)
        shutil.copy(people, f"{name}.json")
        files = [f"data.train={name}.json", f"data.val={name}.json", f"data.images={name}"]
        code, _, err = run(train.main, *tiny, *files, "trainer.max_steps=1", f"output_dir=run {name}")
        assert code == 0, err
        last = tmp_path / f"run {name}" / "checkpoints/last.ckpt"
        saved = torch.load(last, weights_only=True)["lightpose"]["config"]
        written = OmegaConf.to_container(OmegaConf.load(tmp_path / f"run {name}/config.yaml"))
        for config in (saved, written):
            assert config["data"]["train"] == f"{name}.json" and config["data"]["images"] == name
        resume = f"resume=run {name}/checkpoints/last.ckpt"
        assert run(train.main, *tiny, *files, "trainer.max_steps=2", resume)[0] == 0
        assert torch.load(last, weights_only=True)["global_step"] == 2
        last.rename(f"{name}.ckpt")
        found = [f"annotations={name}.json", f"images={name}", f"out=scored {name}", "num_workers=0"]
        assert run(eval.main, f"ckpt={name}.ckpt", *found)[0] == 0
        assert run(eval.main, f"predictions=scored {name}/predictions.json", f"annotations={name}.json")[0] == 0
        options = [
            f"ckpt={name}.ckpt",
            f"source={name}",
            f"out=found {name}",
            "draw=false",
            "num_workers=0",
            "device=cpu",
        ]
        assert run(predict.main, *options)[0] == 0
        assert json.loads((tmp_path / f"found {name}/predictions.json").read_text())
        assert "usable" in run(data.main, "check", f"data={name}.json", f"images={name}")[1]
        assert sorted(path.name for path in tmp_path.iterdir() if name in path.name) == sorted(
            [name, f"{name}.json", f"{name}.ckpt", f"run {name}", f"scored {name}", f"found {name}"]
        )
