"""Lifting through the commands: data, training, evaluation, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import lightpose
from lightpose.checkpoint import assemble
from lightpose.cli import data, predict, train
from lightpose.cli import eval as eval_command
from lightpose.data.pixels.device import collate
from lightpose.data.synthetic.sequences import generate_sequences

QUICK = (
    *("trainer.accelerator=cpu", "trainer.precision=32-true", "callbacks.progress=null", "callbacks.report=null"),
    *("logger.tensorboard=null", "data.num_workers=0", "trainer.check_val_every_n_epoch=1"),
)


SAMPLES = Path(__file__).parents[3] / "shared" / "samples"
WHOLE_BODY = "skeleton=coco_wholebody", "codec.root=[left_hip,right_hip]", "metric.mpjpe.root=[left_hip,right_hip]"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return generate_sequences(tmp_path_factory.mktemp("moving") / "data", 2, seed=0)


def test_it_is_trained_evaluated_and_loaded(run, clips, people, tmp_path):
    code, said, err = run(data.main, "synthetic", f"out={tmp_path}/train", "sequences=2", "seed=5")
    assert code == 0 and "2 clips of 100 frames" in said, err
    files = f"data.train={tmp_path}/train/sequences.npz", f"data.val={clips}"
    small = "backbone.width=16", "trainer.max_epochs=1", "data.batch_size=64", f"output_dir={tmp_path}/run"
    code, said, err = run(train.main, "experiment=quickstart_lifting", *files, *small, *QUICK)
    assert code == 0 and "val/MPJPE_mm" in said, err
    assert "starts from published ones" not in said
    checkpoint = tmp_path / "run/checkpoints/best.ckpt"
    code, said, err = run(eval_command.main, f"ckpt={checkpoint}", f"annotations={clips}", f"out={tmp_path}/scored")
    assert code == 0, err
    figures = json.loads((tmp_path / "scored/metrics.json").read_text())
    names = {
        f"{name}{action}"
        for name in ("MPJPE_mm", "P-MPJPE_mm", "N-MPJPE_mm", "MPJVE_mm")
        for action in ("", "/Facing", "/Turning")
    }
    assert names < set(figures)
    assert figures["P-MPJPE_mm"] < figures["N-MPJPE_mm"] < 1000

    estimator = lightpose.load(checkpoint).eval()
    dataset = assemble(estimator.config["data"], skeleton=estimator.skeleton).dataset("val")
    batch = collate([dataset[index] for index in range(0, 200, 20)])
    with torch.inference_mode():
        poses = estimator.predict_step(batch, 0)
        estimator.flip_test = True
        joined = estimator.predict_step(batch, 0)
    assert poses.keypoints.shape == joined.keypoints.shape == (10, 17, 3)
    assert not torch.equal(poses.keypoints, joined.keypoints)
    off = (poses.keypoints - batch.instances.keypoints[:, 0]).mean(1)  # a network of one epoch is seen where they were
    assert (off[:, :2].norm(dim=-1) < 0.2 * batch.instances.keypoints[:, 0, 0, 2]).all()
    code, _, err = run(predict.main, f"ckpt={checkpoint}", f"source={people}", f"out={tmp_path}/poses")
    assert code == 1 and "takes sequences of keypoints, not images" in err


@pytest.mark.parametrize("experiment", ["lifting_motionbert", "lifting_motionagformer_xs"])
def test_poses_of_every_frame_are_trained_and_evaluated(run, clips, tmp_path, experiment):
    files = f"data.train={clips}", f"data.val={clips}", f"output_dir={tmp_path}/run", "data.batch_size=4"
    small = "reader.frames=27", "reader.stride=9", "backbone.width=16", "backbone.depth=1", "trainer.max_epochs=1"
    code, _, err = run(train.main, f"experiment={experiment}", *files, *small, *QUICK)
    assert code == 0, err
    checkpoint = tmp_path / "run/checkpoints/best.ckpt"
    code, _, err = run(eval_command.main, f"ckpt={checkpoint}", f"out={tmp_path}/scored")
    assert code == 0, err
    figures = json.loads((tmp_path / "scored/metrics.json").read_text())
    assert 0 < figures["P-MPJPE_mm"] < figures["MPJPE_mm"] < 2000 and figures["MPJVE_mm/Turning"] > 0


def test_sequences_without_labels_are_learnt_from_beside_others(run, clips, tmp_path):
    with np.load(clips) as file:
        np.savez(tmp_path / "others.npz", imgname=file["imgname"], part=file["part"])
    (tmp_path / "cameras.json").write_text((clips.parent / "cameras.json").read_text())
    files = f"data.train=[{clips},{tmp_path}/others.npz]", f"data.val={clips}", f"output_dir={tmp_path}/run"
    small = "data.ratios=[1,1]", "backbone.width=16", "trainer.max_epochs=1", "data.batch_size=64", "reader.frames=9"
    code, said, err = run(train.main, "experiment=lifting_videopose3d_semi", *files, *small, *QUICK)
    assert code == 0 and "50.0 % of those that are drawn" in said, err
    assert (tmp_path / "run/checkpoints/best.ckpt").is_file()


def test_a_file_without_labels_alone_is_refused(run, clips, tmp_path):
    with np.load(clips) as file:
        np.savez(tmp_path / "others.npz", imgname=file["imgname"], part=file["part"])
    (tmp_path / "cameras.json").write_text((clips.parent / "cameras.json").read_text())
    for files, what_for in (
        ((f"data.train={tmp_path}/others.npz",), "learn from"),
        ((f"data.train={clips}", f"data.val={tmp_path}/others.npz"), "measure on"),
    ):
        code, _, err = run(train.main, "experiment=quickstart_lifting", *files, f"output_dir={tmp_path}/run", *QUICK)
        assert code == 1 and f"others.npz, so there is nothing to {what_for}" in err


def test_batches_of_one_sample_are_refused_where_norms_need_more(run, clips, tmp_path):
    options = f"data.train={clips}", f"output_dir={tmp_path}/run", "data.batch_size=1", "backbone.width=16"
    code, _, err = run(train.main, "experiment=quickstart_lifting", *options, *QUICK)
    assert code == 1 and "give two samples or more, and data.batch_size=2 or more" in err


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("h36m/test_h36m_body3d.npz", ()),
        (
            "mpi_inf_3dhp/test_3dhp_train.npz",
            ("reader.cameras={}/mpi_inf_3dhp/cameras_train.pkl", "skeleton=mpi_inf_3dhp"),
        ),
        ("h3wb/h3wb_train_bbox_subset.npz", WHOLE_BODY),
    ],
)
def test_an_epoch_trains_on_published_files(run, tmp_path, file, options):
    path = SAMPLES / file
    if not path.is_file():
        pytest.skip("needs the samples of public data sets")
    files = f"data.train=[{path},{path}]", f"data.val={path}", f"output_dir={tmp_path}/run"  # norms need two samples
    given = *(option.format(SAMPLES) for option in options), "trainer.max_epochs=1", "data.epoch_steps=2"
    code, said, err = run(train.main, "experiment=quickstart_lifting", *files, *given, "backbone.width=16", *QUICK)
    assert code == 0, err
    assert ("lengths of bones" in said + err) == file.startswith("h3wb")  # whose sample is of random numbers
    assert (tmp_path / "run/checkpoints/best.ckpt").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["experiment=quickstart_lifting", "estimator=topdown"],
            "a sample of PoseSequences is a sequence of keypoints, but TopDown takes one person in a box; use reader=",
        ),
        (
            ["experiment=quickstart_lifting", "data=topdown"],
            "a sample of CocoInstances is one person in a box, but PoseLifter takes a sequence of keypoints; use "
            "reader=sequences, or another estimator",
        ),
        (
            ["experiment=quickstart", "data=sequences"],
            "a sample of PoseSequences is a sequence of keypoints, but TopDown",
        ),
        (["experiment=quickstart", "estimator=lifter"], "but PoseLifter takes a sequence of keypoints"),
        (["experiment=quickstart_lifting", "skeleton=coco17", "codec.root=[hip]"], "has no keypoint hip; it has nose"),
        (["experiment=quickstart_lifting", "head=simcc"], "codec expects ['joints']; use head=lifting"),
        (["experiment=lifting_motionbert", "codec=lifting"], "head=lifting"),
        (["experiment=lifting_motionbert", "reader.stride=null", "backbone.width=16"], "give reader.stride"),
        (["experiment=quickstart_lifting", "reader.stride=3"], "has one pose for a sample"),
        (["experiment=quickstart_lifting", "reader.frames=11"], "backbone.frames=11 can't be seen"),
    ],
)
def test_what_does_not_fit_is_refused(run, clips, tmp_path, options, message):
    code, _, err = run(train.main, *options, f"data.train={clips}", f"output_dir={tmp_path}/run", *QUICK)
    assert code == 1
    assert message in err


def test_sequences_have_no_preview(run, clips, tmp_path):
    code, _, err = run(
        data.main, "preview", "experiment=quickstart_lifting", f"data.train={clips}", f"out={tmp_path}/a.png"
    )
    assert code == 1 and "which has no picture" in err


@pytest.mark.slow
def test_the_quickstart_is_three_times_better_than_the_mean_pose(run, tmp_path):
    files = [generate_sequences(tmp_path / name, count, seed) for name, count, seed in (("a", 600, 0), ("b", 20, 1))]
    given = f"data.train={files[0]}", f"data.val={files[1]}", f"output_dir={tmp_path}/run"
    code, _, err = run(train.main, "experiment=quickstart_lifting", *given, "callbacks.report=null")
    assert code == 0, err
    known, asked = (1000 * np.load(path)["S"][..., :3] for path in files)
    known, asked = known - known[:, :1], asked - asked[:, :1]
    mean_pose = np.linalg.norm(asked - known.mean(0), axis=-1).mean()
    code, _, err = run(eval_command.main, f"ckpt={tmp_path}/run/checkpoints/best.ckpt", f"out={tmp_path}/scored")
    assert code == 0, err
    figures = json.loads((tmp_path / "scored/metrics.json").read_text())
    assert figures["MPJPE_mm"] < mean_pose / 3
    assert figures["P-MPJPE_mm"] < figures["MPJPE_mm"]
