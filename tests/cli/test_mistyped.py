"""Mistyped options of every command: one sentence that names them, no traceback, and nothing left."""

import pytest

from lightpose.cli import data, eval, predict, train

TRAIN = """
skeleton=null backbone=null head=null codec=null estimator=null trainer=null data=null metric=null hydra=null
backbone={a:1} +foo=1 ++foo=1 +foo.bar=1 +neck@x=fpn +dataset.foo=1 +data.foo=1 +trainer.foo=1 +skeleton.foo=1
+augment.foo=1 +metric.foo=1 +hydra.foo=1 ~seed ~speed --resolve --foo seed=-1 seed=a
"""
EVAL = """
+foo=1 foo=1 skeleton=null skeleton=coco17 metric=foo batch_size=0 batch_size=abc batch_size=1.5 num_workers=-1
num_workers=abc flip_test=abc precision=foo speed=foo devices=0 devices=abc trust=3 trust=null +metric.x=1 ~batch_size
"""
PREDICT = """
+foo=1 skeleton=coco17 detector=foo +detector.foo=1 +detector.threshold=1 batch_size=0 batch_size=abc batch_size=null
num_workers=abc device=meta draw=maybe draw=null threshold=abc threshold=[1] out=null trust=3 images=/ ~draw ~out
image_bits=abc on_bad_image=null
"""
CHECK = "+foo=1 foo=1 decode=abc decode=null skeleton=null +skeleton.foo=1 data=null skeleton=foo"
PREVIEW = """
+foo=1 +data.foo=1 +augment.train.geometry.affine.foo=1 augment.train.geometry.affine.rotate_degrees=abc
count=0 count=-1 count=abc
count=null columns=0 columns=abc names=abc seed=-1 seed=abc data.batch_size=abc out=null input_hw=abc
"""
SYNTHETIC = """
+foo=1 imgaes=2 images=abc images=1.5 images=null images=0 seed=-1 seed=abc image_hw=64 image_hw=[64] image_hw=[a,b]
image_hw=[0,0] image_hw=[100000,100000] image_hw=null out=null
"""


@pytest.fixture
def refused(run, tmp_path, monkeypatch):
    """Gives the sentence that a command is refused with."""
    monkeypatch.chdir(tmp_path)

    def call(main, *arguments):
        code, out, err = run(main, *arguments)
        [line] = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 1 and "Traceback" not in out + err
        assert list(tmp_path.iterdir()) == []
        return line

    return call


def names(line, option):
    """Whether a sentence names the key of an option, or its last part."""
    key = option.lstrip("+~-").partition("=")[0]
    return key.rpartition("@")[2].rpartition(".")[2] in line


@pytest.mark.parametrize("option", TRAIN.split())
def test_train(refused, people, tiny, option):
    assert names(refused(train.main, f"data.train={people}", *tiny, option), option)


@pytest.mark.parametrize("option", EVAL.split())
def test_eval(refused, people, trained, option):
    given = [f"ckpt={trained}/checkpoints/last.ckpt", f"annotations={people}", "out=out"]
    assert names(refused(eval.main, *given, option), option)


@pytest.mark.parametrize("option", PREDICT.split())
def test_predict(refused, people, trained, option):
    given = [f"ckpt={trained}/checkpoints/last.ckpt", f"source={people.parent / 'images'}"]
    assert names(refused(predict.main, *given, option), option)


@pytest.mark.parametrize("option", CHECK.split())
def test_check(refused, people, option):
    assert names(refused(data.main, "check", f"data={people}", option), option.replace("data=", "data.train="))


@pytest.mark.parametrize("option", PREVIEW.split())
def test_preview(refused, people, option):
    assert names(refused(data.main, "preview", f"data.train={people}", option), option) or option.startswith("input_hw")


@pytest.mark.parametrize("option", SYNTHETIC.split())
def test_synthetic(refused, option):
    assert names(refused(data.main, "synthetic", "out=x", "images=1", option), option)


def test_what_scores_a_model_is_refused_beside_a_predictions_file(refused, people):
    line = refused(eval.main, f"predictions={people}", f"annotations={people}", "batch_size=3", "metric=pck")
    assert "batch_size=" in line and "metric=" in line


def test_a_key_that_another_value_refers_to_is_obeyed(run, people, tiny, tmp_path):
    options = ["+size=64", "input_hw=[${size},${size}]", f"output_dir={tmp_path}/run", "trainer.max_epochs=1"]
    few = [option for option in tiny if not option.startswith("input_hw")]
    assert run(train.main, f"data.train={people}", *few, *options)[0] == 0


def test_a_refused_sweep_leaves_nothing_and_a_file_of_the_users_stays(refused, run, tmp_path, people, tiny):
    given = [f"data.train={people}", *tiny, "seed=1,2", "output_dir=sweep"]
    assert "optimizer.lr=abc" in refused(train.main, "-m", *given, "optimizer.lr=abc")
    (tmp_path / "multirun.yaml").write_text("mine")
    run(predict.main, "-m", "ckpt=a,b", "source=c")
    assert (tmp_path / "multirun.yaml").read_text() == "mine"


def test_flags_after_keys(refused, people):
    assert "flags such as -m" in refused(train.main, f"data.train={people}", "-m", "seed=1,2")
