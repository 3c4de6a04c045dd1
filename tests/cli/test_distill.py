"""Distillation as users run it: a teacher, its student, and a new head; with a teacher that moves, and without one."""

import shutil

import pytest
import torch

import lightpose
from lightpose.cli import train
from lightpose.estimators.distillation import Distillation

SIMCC = ("head=simcc", "codec=simcc", "trainer.max_epochs=2", "data.batch_size=4", "callbacks.pictures=null")


@pytest.fixture(scope="module")
def distilled(people, tiny, tmp_path_factory):
    """A folder with a trained ``teacher.ckpt``, and the run folder ``student`` of what it taught."""
    folder = tmp_path_factory.mktemp("distilled")
    shares = []
    forward = Distillation.forward

    def recorded(self, inputs, features, targets, head, share_done):
        shares.append(share_done)
        return forward(self, inputs, features, targets, head, share_done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Distillation, "forward", recorded)
        patch.setattr("sys.argv", ["train", f"data.train={people}", *tiny, *SIMCC, f"output_dir={folder}/known"])
        train.main()
        shutil.move(folder / "known/checkpoints/last.ckpt", folder / "teacher.ckpt")
        files = [f"data.train={people}", f"data.val={people}", f"output_dir={folder}/student"]
        options = ["distill=dwpose", f"distill.teacher={folder}/teacher.ckpt", "callbacks=ema"]
        options += ["callbacks.last.every_n_epochs=null", "callbacks.last.every_n_train_steps=2"]
        options += ["callbacks.last.save_top_k=-1", "callbacks.last.filename='{step}'"]
        patch.setattr("sys.argv", ["train", *files, *tiny, *SIMCC, *options, "trainer.gradient_clip_val=1"])
        train.main()
    return folder, shares


def test_a_student_is_an_ordinary_network_that_goes_on_learning(run, people, tiny, distilled, tmp_path):
    folder, shares = distilled
    steps = len(shares)
    assert steps > 4 and shares == pytest.approx([step / steps for step in range(steps)])
    header = next((folder / "student/csv").rglob("metrics.csv")).read_text().splitlines()[0].split(",")
    assert {"train/distill_feature", "train/distill_logit", "train/x", "lr-Adam/distillation"} <= set(header)
    first, last = (
        torch.load(folder / f"student/checkpoints/step={step}.ckpt", weights_only=True)["state_dict"]
        for step in (2, steps)
    )
    moved = (first["distillation.align.weight"] - last["distillation.align.weight"]).abs().max()
    assert moved > 1e-5 and not any("teacher" in name for name in last)

    shutil.move(folder / "teacher.ckpt", tmp_path / "elsewhere.ckpt")
    try:
        student = lightpose.load(folder / "student/checkpoints/best.ckpt")
        assert student.distillation is None
        images = torch.randint(256, (2, 3, 64, 64)).byte()
        outputs = student.outputs(images)
        assert outputs.keys() == {"x", "y"} and all(output.isfinite().all() for output in outputs.values())
        again = [f"data.train={people}", *tiny, *SIMCC, "callbacks=ema", "distill=dwpose"]
        again += [f"resume='{folder}/student/checkpoints/step=2.ckpt'", f"output_dir={tmp_path}/resumed"]
        code, _, err = run(train.main, *again, f"distill.teacher={folder}/teacher.ckpt")
        assert code == 1 and "teacher.ckpt: there is no such file, perhaps it has moved; give the place" in err
        shares.clear()
        code, _, err = run(train.main, *again, f"distill.teacher={tmp_path}/elsewhere.ckpt")
        assert code == 0, err
    finally:
        shutil.move(tmp_path / "elsewhere.ckpt", folder / "teacher.ckpt")
    resumed = torch.load(tmp_path / "resumed/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert resumed.keys() == last.keys()
    for name, value in last.items():
        torch.testing.assert_close(resumed[name], value, rtol=0, atol=1e-6)
    again = [each for each in again if each != "distill=dwpose"]
    code, _, err = run(train.main, *again, f"output_dir={tmp_path}/labels")
    assert code == 1 and "is of a run that learns from a teacher by lightpose.estimators.distillation" in err
    assert "and this one from labels alone; give distill= and distill.teacher= as there" in err


def test_a_new_head_learns_on_a_backbone_that_stays_the_same_to_the_bit(run, people, tiny, distilled, tmp_path):
    teacher = next((distilled[0] / "student/checkpoints").glob("best.ckpt"))
    options = ("distill=dwpose_head", f"distill.teacher={teacher}", "callbacks=ema", f"output_dir={tmp_path}/run")
    code, out, err = run(train.main, f"data.train={people}", *tiny, *SIMCC, *options)
    assert code == 0, err
    assert "random weights" not in out + err
    old, new = (
        torch.load(path, weights_only=True)["state_dict"] for path in (teacher, tmp_path / "run/checkpoints/last.ckpt")
    )
    same = {name: torch.equal(value, old[name]) for name, value in new.items() if name.startswith("net.")}
    assert new.keys() < old.keys() and not any(name.startswith("distillation.") for name in new)
    assert all(same[name] for name in same if not name.startswith("net.head."))
    assert not any(same[name] for name in same if name.startswith("net.head.") and name.endswith("weight"))
    lightpose.load(tmp_path / "run/checkpoints/last.ckpt")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["distill.teacher=???"], "distill.teacher not given; add distill.teacher=..."),
        (["trainer=fsdp"], "leave out trainer=fsdp, or distill="),
    ],
)
def test_a_run_that_can_not_be_taught_is_refused(run, people, tiny, distilled, tmp_path, options, said):
    teaching = ["distill=dwpose", f"distill.teacher={distilled[0]}/teacher.ckpt"]
    code, _, err = run(
        train.main, f"data.train={people}", *tiny, *SIMCC, *teaching, *options, f"output_dir={tmp_path}/run"
    )
    assert code == 1 and said in err and not (tmp_path / "run").exists()
