"""Options of another kind than expected: a sentence that names them, and nothing left."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lightpose.cli import train
from lightpose.cli.options import check_options
from lightpose.errors import UserError

WRONG = """
trainer.max_epochs=abc trainer.max_epochs=1.5 trainer.max_epochs=-2 trainer.max_steps=abc data.batch_size=0
data.batch_size=-1 data.batch_size=1.5 data.batch_size=null data.batch_size=[1] data.eval_batch_size=0 input_hw=[64]
input_hw=64 input_hw=[0,0] input_hw=[64,64,64] input_hw=[-64,64] input_hw=abc input_hw=null data.num_workers=-1
data.num_workers=abc trainer.devices=0 trainer.devices=abc trainer.accelerator=foo trainer.accelerator=tpu
trainer.strategy=foo trainer.precision=foo trainer.precision=8 trainer.accumulate_grad_batches=0
trainer.accumulate_grad_batches=-1 trainer.gradient_clip_val=abc trainer.check_val_every_n_epoch=0
trainer.limit_train_batches=2.5 trainer.num_nodes=0 trainer.deterministic=abc trainer.sync_batchnorm=abc
+trainer.foo=1 +trainer.profiler=foo optimizer.lr=abc optimizer.lr=-1 optimizer.lr=null optimizer.betas=1
optimizer.betas=[1,2] optimizer.betas=[0.9] optimizer.weight_decay=-1 optimizer.fused=abc +optimizer.foo=1
optimizer._target_=foo.Bar scheduler.warmup_steps=abc scheduler.warmup_steps=-5 scheduler.milestones=3
scheduler.milestones=[2] scheduler=null seed=-1 seed=abc seed=1.5 seed=null codec.sigma=0 codec.sigma=abc
codec.refine=foo grid=foo speed=foo head.channels=abc head.channels=-3 head.criterion=foo neck=null augment=null
trainer=null callbacks=null backbone.model=foo backbone.pretrained=abc augment.train.geometry.affine.rotate_degrees=abc
augment.train.geometry.affine.scale=1 augment.train.geometry.affine.scale=[2] augment.train.geometry.flip=abc
augment.train.geometry.crop.padding=abc augment.train=abc augment.train.geometry=abc augment.train.flip=null
callbacks.last=foo +callbacks.x=1 +callbacks.x={_target_:foo.Bar} callbacks.last.every_n_epochs=abc
callbacks.last.every_n_epochs=-1 callbacks.last.every_n_train_steps=2 callbacks.last.train_time_interval=abc
callbacks.last.filename=3
callbacks.last.save_top_k=-2 callbacks.nan_guard.patience=0 callbacks.reseed.seed=abc logger.csv=1 monitor=foo
monitor_mode=foo data.decode=foo data.group_by_image=abc reader.on_bad_image=foo estimator.flip_test=abc
estimator.base_batch=0 skeleton.sigmas=1 preprocessor.mean=abc trainer.limit_val_batches=abc output_dir=
"""


@pytest.fixture
def refused(run, people, tiny, tmp_path, monkeypatch):
    """Gives the sentence that a training is refused with; it leaves nothing."""
    monkeypatch.chdir(tmp_path)

    def call(*options):
        keys = {option.lstrip("+").partition("=")[0] for option in options}
        few = [option for option in tiny if option.partition("=")[0] not in keys]
        code, _, err = run(train.main, f"data.train={people}", *few, "trainer.limit_train_batches=1", *options)
        [line] = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 1 and "Traceback" not in err
        assert list(tmp_path.iterdir()) == []
        return line

    return call


@pytest.mark.parametrize("option", WRONG.split())
def test_the_option_is_named(refused, option):
    key = option.lstrip("+").partition("=")[0]
    assert key.rpartition(".")[2] in refused(option)


def test_a_place_that_is_no_folder(refused, people):
    assert "/dev/null/x" in refused("output_dir=/dev/null/x")
    assert str(people) in refused(f"output_dir={people}")


LIGHTNING = "lightning.pytorch"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (f"+logger.w={{_target_:{LIGHTNING}.loggers.WandbLogger}}", "wandb"),
        (f"+logger.w={{_target_:{LIGHTNING}.loggers.MLFlowLogger}}", "mlflow"),
        (f"+callbacks.x={{_target_:{LIGHTNING}.callbacks.EarlyStopping}}", "data.val"),
        (f"+callbacks.x={{_target_:{LIGHTNING}.callbacks.EarlyStopping,monitor:val/AP}}", "data.val"),
        (f"+callbacks.x={{_target_:{LIGHTNING}.callbacks.ModelCheckpoint,monitor:val/x}}", "data.val"),
        (f"+callbacks.x={{_target_:{LIGHTNING}.callbacks.ModelCheckpoint,save_top_k:2}}", "save_top_k"),
        (f"+callbacks.x={{_target_:{LIGHTNING}.callbacks.Timer,duration:abc}}", "abc"),
    ],
)
def test_a_part_that_lacks_something_is_named(refused, part, expected):
    line = refused(part)
    assert expected in line and ("callbacks.x" in line or "logger.w" in line)


def test_a_figure_that_no_metric_gives(refused, people):
    part = f"+callbacks.x={{_target_:{LIGHTNING}.callbacks.EarlyStopping,monitor:val/PCK}}"
    assert "val/AP" in refused(part, f"data.val={people}")


def test_a_figure_that_is_missed_in_training(run, people, tiny, tmp_path):
    part = f"+callbacks.x={{_target_:{LIGHTNING}.callbacks.EarlyStopping,monitor:train/los}}"
    options = [part, "trainer.max_epochs=2", f"output_dir={tmp_path}/run"]
    code, _, err = run(train.main, f"data.train={people}", *tiny, *options)
    assert code == 1 and "train/los" in err and "callbacks.x" in err and "Traceback" not in err


def test_errors_of_a_step_keep_their_traceback(run, people, tiny, tmp_path, monkeypatch):
    def broken(self, batch, batch_idx):
        raise ValueError("a fault of the code")

    monkeypatch.setattr("lightpose.estimators.base.PoseEstimator.training_step", broken)
    with pytest.raises(ValueError, match="a fault of the code"):
        run(train.main, f"data.train={people}", *tiny, f"output_dir={tmp_path}/run")
    assert not (tmp_path / "run").exists()


def test_a_refused_run_leaves_what_was_there(run, people, tiny, tmp_path):
    options = [f"data.train={people}", *tiny, f"output_dir={tmp_path}/run"]
    (tmp_path / "run").mkdir()
    assert run(train.main, *options, "optimizer.lr=-1")[0] == 1
    assert list((tmp_path / "run").iterdir()) == []
    assert run(train.main, *options, "trainer.max_epochs=1")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert run(train.main, *options, "optimizer.lr=-1")[0] == 1
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_a_bad_first_image_leaves_nothing(run, people, tiny, tmp_path):
    bad = tmp_path / "bad"
    bad.mkdir()
    for image in (people.parent / "images").iterdir():
        (bad / image.name).write_bytes(b"junk")
    code, _, err = run(train.main, f"data.train={people}", f"data.images={bad}", *tiny, f"output_dir={tmp_path}/a/b")
    assert code == 1 and "bad/" in err
    assert list(tmp_path.iterdir()) == [bad]


class Part:
    def __init__(self, size: int, share: float = 0.5, name: str | None = None, pair: tuple[int, int] = (1, 2)) -> None:
        """Takes what its annotations say."""

    def options(self, anything=None, **rest: int) -> None:
        """Takes all."""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"size": 1, "share": 1, "name": None, "pair": [3, 4]}, None),
        ({"size": 1.0}, "part.size=1.0: expected a whole number"),
        ({"size": True}, "expected a whole number"),
        ({"share": "1"}, "expected a number"),
        ({"name": 3}, "expected a text or null"),
        ({"pair": [1]}, "expected a list, each of it a whole number"),
        ({"pair": [1, 2, 3]}, "expected a list"),
        ({"sise": 3}, "has no such option; it has size, share, name, pair"),
    ],
)
def test_values_are_compared_with_annotations(options, expected):
    config = {"part": {"_target_": f"{Part.__module__}.Part", "_partial_": True, **options}}
    if expected is None:
        check_options(config)
        return
    with pytest.raises(UserError) as error:
        check_options([config])
    assert expected in str(error.value)


def test_every_option_of_ours_passes(run, people, tiny):
    """The configurations of every experiment are what their classes take."""
    root = Path(train.__file__).parents[3] / "conf"
    for path in sorted((root / "experiment").glob("*.yaml")):
        given = (f"experiment={path.stem}", f"data.train={people}", "input_hw=[64,64]")  # and not auto
        code, out, err = run(train.main, *given, "--cfg", "job", "--resolve")
        assert code == 0, err
        config = OmegaConf.to_container(OmegaConf.create(out))
        config.pop("callbacks")  # null there until the metric is known
        config["trainer"]["precision"] = "32-true"
        check_options(config)
