"""Which files a run keeps and removes, through the command."""

import copy
import csv
import json
import os
from pathlib import Path

import pytest
import torch

from lightpose.callbacks.checkpoints import ModelCheckpoint
from lightpose.cli import train
from lightpose.errors import UserError
from lightpose.runtime.background import BackgroundFiles


@pytest.fixture
def go(run, tiny, people):
    """Trains on ``people``, or goes on; gives stderr."""

    def call(*arguments):
        code, out, err = run(
            train.main,
            *tiny,
            *(f"data.train={people}", f"data.val={people}", "callbacks.pictures=null", "trainer.limit_train_batches=1"),
            *arguments,
        )
        assert code == 0, out + err
        return out + err

    return call


def scores(folder):
    """Epoch → the validation loss that was logged."""
    found = {}
    for path in folder.glob("csv/*/metrics.csv"):
        with path.open() as file:
            found |= {int(row["epoch"]): float(row["val/loss"]) for row in csv.DictReader(file) if row.get("val/loss")}
    return found


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def epoch_of(path):
    return torch.load(path, weights_only=True)["epoch"]


def test_several_best_files_have_names_of_their_own(go, tmp_path):
    folder = tmp_path / "run"
    arguments = ("callbacks.best.save_top_k=2", "monitor=val/loss", f"output_dir={folder}")
    go(*arguments, "trainer.max_epochs=3")
    by_loss = sorted(scores(folder).items(), key=lambda item: item[1])
    kept = [f"best_epoch{epoch:03d}_step{epoch + 1:06d}_{loss:.4f}.ckpt" for epoch, loss in by_loss[:2]]
    assert names(folder) == sorted([*kept, "best.ckpt", "last.ckpt"])
    assert epoch_of(folder / "checkpoints/best.ckpt") == by_loss[0][0]
    go(*arguments, "trainer.max_epochs=6", f"resume={folder}/checkpoints/last.ckpt")
    by_loss = sorted(scores(folder).items(), key=lambda item: item[1])
    assert len(by_loss) == 6 and len(names(folder)) == 4
    assert epoch_of(folder / "checkpoints/best.ckpt") == by_loss[0][0]
    assert {epoch_of(folder / "checkpoints" / name) for name in names(folder) if "_" in name} == {
        epoch for epoch, _ in by_loss[:2]
    }


def test_a_file_of_every_epoch(go, tmp_path):
    folder = tmp_path / "run"
    go("callbacks.last.save_top_k=-1", "callbacks.best=null", f"output_dir={folder}", "trainer.max_epochs=2")
    assert names(folder) == ["last.ckpt", "last_epoch000_step000001.ckpt", "last_epoch001_step000002.ckpt"]
    assert epoch_of(folder / "checkpoints/last.ckpt") == 1


def test_the_end_is_saved_and_the_best_are_averaged_weights(go, tmp_path, monkeypatch):
    folder, saved, save = tmp_path / "run", [], BackgroundFiles.save_checkpoint

    def recorded(self, checkpoint, path, storage_options=None):
        saved.append(Path(path).name)
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(BackgroundFiles, "save_checkpoint", recorded)
    monkeypatch.setattr(BackgroundFiles, "is_pending", lambda self, path: True)  # so those in between are left out
    steps = (
        "callbacks.last.every_n_epochs=null",
        "callbacks.last.every_n_train_steps=1",
        "callbacks.best.save_top_k=-1",
    )
    go("callbacks=ema", *steps, f"output_dir={folder}", "trainer.max_epochs=3")
    assert saved.count("last.ckpt") == 1 and len(saved) == 4
    last = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    [path] = (folder / "checkpoints").glob("best_epoch002_*.ckpt")
    best = torch.load(path, weights_only=True)
    assert last["global_step"] == best["global_step"] == 3 and epoch_of(folder / "checkpoints/last.ckpt") == 2
    assert not {"optimizer_states", "lr_schedulers", "loops", "callbacks", "current_model_state"} & best.keys()
    assert all(torch.equal(tensor, last["state_dict"][name]) for name, tensor in best["state_dict"].items())
    assert any(
        not torch.equal(tensor, best["state_dict"][name]) for name, tensor in last["current_model_state"].items()
    )
    states = [state for key, state in last["callbacks"].items() if "val/AP" in key]
    assert [len(state["best_k_models"]) for state in states] == [3]  # that of the last validation, too


@pytest.mark.parametrize(
    "intervals",
    [
        {"every_n_epochs": 1, "every_n_train_steps": 5},
        {"every_n_epochs": 1, "train_time_interval": 5},
        {"every_n_train_steps": 5, "train_time_interval": 0.5},
    ],
)
def test_one_interval_at_most(intervals, tmp_path):
    with pytest.raises(UserError, match=" and ".join(f"{name}={value}" for name, value in intervals.items())):
        ModelCheckpoint("last", dirpath=tmp_path, **intervals)
    name, value = list(intervals.items())[-1]
    callback = ModelCheckpoint("last", dirpath=tmp_path, **{name: value})
    minutes = callback._train_time_interval and callback._train_time_interval.total_seconds() / 60
    assert (minutes, callback._every_n_train_steps) == ((value, 0) if name == "train_time_interval" else (None, value))


@pytest.mark.parametrize(
    "path",
    [
        "{victim}",
        "{checkpoints}/../../victim",
        "local://{victim}",
        "file://{victim}",
        "{checkpoints}/link",
        "{checkpoints}/folder",
        "{checkpoints}/notes.ckpt",
        "{checkpoints}/other.ckpt",
        "{victim}/other.ckpt",
        "",
    ],
)
def test_a_resumed_run_removes_what_it_wrote_and_nothing_else(go, trained, tmp_path, path):
    folder, victim = tmp_path / "run", tmp_path / "victim"
    checkpoints = folder / "checkpoints"
    victim.mkdir()
    checkpoints.mkdir(parents=True)
    (checkpoints / "folder").mkdir()
    (checkpoints / "link").symlink_to(victim)
    (checkpoints / "notes.ckpt").write_text("mine")
    content = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    torch.save(content | {"lightpose": content["lightpose"] | {"run": "another"}}, checkpoints / "other.ckpt")
    os.link(checkpoints / "other.ckpt", victim / "other.ckpt")
    hostile = path.format(victim=victim, checkpoints=checkpoints)
    content = copy.deepcopy(content)
    for state in (state for key, state in content["callbacks"].items() if key.startswith("ModelCheckpoint")):
        state |= {"dirpath": str(checkpoints), "best_model_path": hostile, "last_model_path": hostile}
        state |= {
            "kth_best_model_path": hostile,
            "kth_value": torch.tensor(-1.0),
            "best_model_score": torch.tensor(2.0),
        }
        state["best_k_models"] = {hostile: torch.tensor(-1.0)}
    torch.save(content, checkpoints / "hostile.ckpt")
    before = {str(file) for file in tmp_path.rglob("*")}
    for top in (1, 2):
        go(
            *(f"resume={checkpoints}/hostile.ckpt", f"output_dir={folder}", "trainer.max_epochs=4"),
            *(f"callbacks.best.save_top_k={top}", f"callbacks.last.save_top_k={top - 2 or 1}"),
        )
        assert before <= {str(file) for file in tmp_path.rglob("*")}
    assert (checkpoints / "notes.ckpt").read_text() == "mine"


def test_a_damaged_list_of_best_files(run, tiny, trained, people, tmp_path):
    content = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    for key, state in content["callbacks"].items():
        if key.startswith("ModelCheckpoint"):
            state["best_k_models"] = json.loads('{"x": "y"}')
    torch.save(content, tmp_path / "x.ckpt")
    data = (f"data.train={people}", f"data.val={people}", f"output_dir={tmp_path}/out", "trainer.max_epochs=4")
    code, _, err = run(train.main, *tiny, *data, f"resume={tmp_path}/x.ckpt")
    assert code == 1 and "list of best files is damaged" in err
