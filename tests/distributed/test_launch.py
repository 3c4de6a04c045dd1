"""Runs of two processes, started in every way there is."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

TRAIN = [sys.executable, "-m", "lightpose.cli.train"]
EVAL = [sys.executable, "-m", "lightpose.cli.eval"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *TRAIN[1:]]
STRANGERS = Path(__file__).parents[1] / "contract/strangers"
SMALL = ["input_hw=[64,64]", "head.channels=8", "data.num_workers=0", "trainer.precision=32-true"]
SMALL += ["callbacks.progress=null", "logger.tensorboard=null"]
CNN = ["backbone=timm/any", "backbone.model=test_resnet"]
VIT = ["experiment=topdown_vitpose_small", "backbone.model=test_vit", "backbone.num_heads=null"]
CPU, CUDA = ["trainer.accelerator=cpu"], ["trainer.accelerator=cuda"]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


def start(call: list[str], arguments: list[Any], cwd: Path, **environment: Any) -> "subprocess.Popen[str]":
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "NVIDIA_TF32_OVERRIDE": "0"}
    settings |= {name: str(value) for name, value in environment.items()}
    return subprocess.Popen(
        [*call, *map(str, arguments)],
        cwd=cwd,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(*processes: "subprocess.Popen[str]") -> str:
    """What they printed."""
    try:
        printed = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), "\n".join(printed)
    return "".join(printed)


def content(folder: Path, name: str = "last") -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True, map_location="cpu")
    return loaded


def validation_losses(folder: Path) -> list[float]:
    """One of each epoch."""
    with (folder / "csv/version_0/metrics.csv").open() as file:
        return [float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]]


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest, of weights."""
    ours, theirs = one["state_dict"], other["state_dict"]
    assert ours.keys() == theirs.keys()
    return max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours)


@pytest.fixture(scope="module")
def sixteen(people: Path) -> Path:
    """A data set of sixteen people."""
    file = people.with_name("sixteen.json")
    truth = json.loads(people.read_text())
    file.write_text(json.dumps({**truth, "annotations": truth["annotations"][:16]}))
    return file


def test_torchrun_makes_one_run_that_exchanges_gradients_alone(sixteen: Path, tmp_path: Path) -> None:
    arguments = [*CNN, *SMALL, *CPU, f"data.train={sixteen}", f"data.val={sixteen}", "data.batch_size=2"]
    spy = ["+callbacks.spy._target_=spy.Collectives", f"+callbacks.spy.file={tmp_path}/spied"]
    printed = finish(start(TORCHRUN, [*arguments, *spy, "trainer.devices=2", "trainer.max_epochs=1"], tmp_path))
    [folder] = (tmp_path / "outputs/custom").iterdir()
    assert (folder / "config.yaml").is_file() and content(folder)["global_step"] == 4
    assert printed.count("run folder") == printed.count("report: ") == 1 and str(folder) in printed
    assert printed.count("annotations, 16 usable") == 2  # of train and val
    labels = sum(entry["num_keypoints"] for entry in json.loads(sixteen.read_text())["annotations"])
    assert f"<b>{labels}</b>keypoints compared" in (folder / "report/index.html").read_text()  # of both processes
    found = [json.loads((tmp_path / f"spied.{rank}").read_text()) for rank in (0, 1)]
    for process in found:
        assert process["step"] and set(process["step"]) == {"c10d::allreduce_"}
        assert process["validation batches"] == []
    assert found[0]["buffers"] == found[1]["buffers"]


@pytest.mark.parametrize("graphed", [False, True])
def test_two_nodes_under_srun_equal_one_process(sixteen: Path, tmp_path: Path, graphed: bool) -> None:
    arguments = [*VIT, *SMALL, *CPU, f"data.train={sixteen}", f"data.val={sixteen}", "backbone.drop_path_rate=0"]
    arguments += ["augment=none", "trainer.max_epochs=3"]  # one step an epoch, on all samples
    arguments += ["head=heatmap_bilinear", "optimizer=sgd", "optimizer.lr=1"]  # no BatchNorm, which knows its process
    slurm = {"SLURM_JOB_NAME": "train", "SLURM_NTASKS": 2, "SLURM_NNODES": 2, "SLURM_NTASKS_PER_NODE": 1}
    slurm |= {"SLURM_JOB_ID": 10_000 + os.getpid() % 1_000, "SLURM_NODELIST": "127.0.0.1", "SLURM_LOCALID": 0}
    both = [*arguments, "trainer.devices=1", "trainer.num_nodes=2"]
    both += ["data.batch_size=4", "trainer.accumulate_grad_batches=2"] if graphed else ["data.batch_size=8"]
    both += ["+callbacks.spy._target_=spy.AsIfGraphed"] if graphed else []
    ranks = [{"SLURM_PROCID": rank, "SLURM_NODEID": rank} for rank in (0, 1)]
    finish(*(start(TRAIN, both, tmp_path, **slurm, **rank) for rank in ranks))
    finish(start(TRAIN, [*arguments, "data.batch_size=16", "output_dir=alone"], tmp_path))
    [folder] = (tmp_path / "outputs/topdown_vitpose_small").iterdir()
    two, one = content(folder), content(tmp_path / "alone")
    assert two["global_step"] == one["global_step"] == 3
    assert difference(two, one) < 1e-6
    found, expected = (validation_losses(run) for run in (folder, tmp_path / "alone"))
    assert len(set(expected)) == 3
    assert found == pytest.approx(expected, rel=1e-5)


def test_two_processes_distil_as_one_does(sixteen: Path, tmp_path: Path) -> None:
    arguments = ["backbone=vit_small", *VIT[1:], *SMALL, *CPU, "head=simcc", "codec=simcc", f"data.train={sixteen}"]
    arguments += ["backbone.drop_path_rate=0", "augment=none", "trainer.max_steps=1"]
    arguments += ["optimizer=sgd", "optimizer.weight_decay=0"]
    finish(start(TRAIN, [*arguments, "data.batch_size=16", "seed=1", "output_dir=known"], tmp_path))
    taught = [*arguments, "distill=dwpose", f"distill.teacher={tmp_path}/known/checkpoints/last.ckpt"]
    runs = {"alone": [16, 1], "ddp": [8, 2], "graphed": [8, 2, "+callbacks.spy._target_=spy.AsIfGraphed"]}
    gradients = []
    for name, (batch, devices, *more) in runs.items():
        options = [f"data.batch_size={batch}", f"trainer.devices={devices}", f"output_dir={name}", *more]
        finish(start(TRAIN, [*taught, *options], tmp_path))
        [state] = content(tmp_path / name)["optimizer_states"]
        [group] = [each for each in state["param_groups"] if each["name"] == "distillation"]
        gradients.append([state["state"][place]["momentum_buffer"] for place in group["params"]])  # after one step
    for one, *others in zip(*gradients, strict=True):  # this loss is a mean over the batch
        assert one.abs().max() > 1e-6 and all(torch.allclose(one, each, rtol=1e-4, atol=1e-8) for each in others)


def test_two_processes_evaluate_and_write_what_one_does(sixteen: Path, tmp_path: Path) -> None:
    files = {"PYTHONPATH": os.pathsep.join([str(STRANGERS), os.environ.get("PYTHONPATH", "")])}
    small = [option.replace("head.channels", "head.head.channels") for option in (*CNN, *SMALL, *CPU)]
    arguments = ["--config-dir", STRANGERS / "conf", "head=reach", "codec=reach", f"data.train={sixteen}"]
    arguments += [*small, f"data.val={sixteen}", "trainer.max_epochs=1", "output_dir=run"]
    finish(start(TRAIN, arguments, tmp_path, **files))
    found, tables = [], []
    for devices in (1, 2):
        given = ["ckpt=run/checkpoints/best.ckpt", "trust=reach", f"devices={devices}", f"out={devices}"]
        printed = finish(start(EVAL, [*given, "batch_size=3"], tmp_path, CUDA_VISIBLE_DEVICES="", **files))
        assert [printed.count(line) for line in ("AP75 ", "written to", "annotations, 16 usable")] == [1, 1, 1]
        found.append(json.loads((tmp_path / f"{devices}/predictions.json").read_text()))
        tables.append((tmp_path / f"{devices}/predictions.csv").read_text().splitlines())
    assert [len(table) - 1 for table in tables] == [len(poses) for poses in found] and len(found[0]) > 8
    assert tables[0][0] == tables[1][0] and "nose_reach" in tables[0][0]
    for one, two in zip(*found, strict=True):
        assert one["image_id"] == two["image_id"]
        assert two["reach"] == pytest.approx(one["reach"], abs=1e-4)
        assert two["keypoints"] == pytest.approx(one["keypoints"], abs=1e-2)
    assert len({tuple(pose["reach"]) for pose in found[1]}) == len(found[1])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=two_gpus)])
def test_split_weights_train_and_resume_as_whole_ones(sixteen: Path, tmp_path: Path, device: str) -> None:
    arguments = [*VIT, *SMALL, f"trainer.accelerator={device}", f"data.train={sixteen}", f"data.val={sixteen}"]
    arguments += ["data.batch_size=4", "trainer.devices=2", "trainer.max_epochs=2", "backbone.checkpointing=true"]
    arguments += ["callbacks.last.save_top_k=-1", "callbacks.last.filename='{epoch}'"]
    if device == "cuda":  # Adam would make a large difference out of a small one
        arguments += ["optimizer=sgd", "optimizer.lr=0.1"]

    def run(folder: str, *more: str) -> dict[str, Any]:
        finish(start(TRAIN, [*arguments, *more, f"output_dir={tmp_path}/{folder}"], tmp_path))
        return content(tmp_path / folder, "epoch=1")

    def resumed(folder: str) -> str:
        return f"resume='{tmp_path}/{folder}/checkpoints/epoch=0.ckpt'"

    whole, split = run("whole"), run("split", "trainer=fsdp")
    tolerance = 1e-6 if device == "cpu" else 1e-4
    assert difference(whole, content(tmp_path / "whole", "epoch=0")) > 0
    assert difference(split, whole) < tolerance  # so that either may be resumed in the place of the other
    assert split["optimizer_states"][0]["param_groups"] == whole["optimizer_states"][0]["param_groups"]
    assert difference(run("split_then_split", "trainer=fsdp", resumed("split")), whole) < tolerance
    assert difference(run("split_then_whole", resumed("split")), whole) < tolerance


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("callbacks=ema", "use callbacks=default"),
        ("trainer.sync_batchnorm=true", "leave it out"),
        ("trainer.precision=16-mixed", "use trainer.precision=bf16-mixed"),
    ],
)
def test_what_does_not_go_with_split_weights_is_refused(
    sixteen: Path, tmp_path: Path, option: str, remedy: str
) -> None:
    arguments = [*VIT, *SMALL, *CPU, f"data.train={sixteen}", "trainer=fsdp", "trainer.devices=1", option]
    process = start(TRAIN, arguments, tmp_path)
    printed = process.communicate(timeout=300)[0]
    assert process.returncode == 1 and "Traceback" not in printed
    [message] = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert option in message and remedy in message
