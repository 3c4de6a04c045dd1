"""Searches: their spaces, what they record, how they go on after the end of the process, and every launcher."""

import csv
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from lightpose.cli import train
from lightpose.cli.groups import conf_dir
from lightpose.cli.sweep.space import read_space
from lightpose.cli.sweep.study import RunningTrial, Search
from lightpose.cli.sweep.sweeper import Sweep
from lightpose.errors import UserError
from lightpose.runtime.processes import submitted

SETTINGS = {
    "sampler": {"_target_": "optuna.samplers.TPESampler"},
    "pruner": {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 2, "n_warmup_steps": 0},
    "retries": 1,
}
BRUTE_FORCE = ["sweep.sampler._target_=optuna.samplers.BruteForceSampler"]  # all choices
BRUTE_FORCE += ["~sweep.sampler.n_startup_trials", "~sweep.sampler.constant_liar"]
LR = {"optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True)}


def space(written=None, *arguments):
    return read_space(written or {}, OverridesParser.create().parse_overrides(list(arguments)))


def rows(folder):
    """The table that a search wrote."""
    with (folder / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def search(people, tiny, tmp_path):
    """Arguments of a search in ``tmp_path/sweep``."""
    data = [f"data.train={people}", f"data.val={people}", f"output_dir={tmp_path}/sweep"]
    return ["-m", "sweep=search", "trainer.max_epochs=1", "callbacks.pictures=null", *tiny, *data]


# -- the space ---------------------------------------------------------------------------------------------------


def test_ranges_and_choices_of_a_file():
    found, fixed = space(
        {
            "optimizer.lr": {"low": 1e-4, "high": 1e-2, "log": True},
            "codec.sigma": {"low": 1.0, "high": 3.0, "step": 0.5},
            "head.layers": {"low": 1, "high": 4},
            "backbone": ["hrnet_w32", "timm/any"],
            "input_hw": [[256, 192], [64, 64]],
            "scheduler.warmup": [None, True, 0.5, "a b's"],
        }
    )
    assert found == {
        **LR,
        "codec.sigma": FloatDistribution(1.0, 3.0, step=0.5),
        "head.layers": IntDistribution(1, 4),
        "backbone": CategoricalDistribution(["hrnet_w32", "timm/any"]),
        "input_hw": CategoricalDistribution(["[256,192]", "[64,64]"]),
        "scheduler.warmup": CategoricalDistribution(["null", "true", "0.5", r"'a b\'s'"]),
    }
    assert fixed == []


def test_the_command_line_comes_first():
    written = {"optimizer.lr": {"low": 0.1, "high": 1.0}, "codec.sigma": [1, 2], "head.channels": [8, 16]}
    own = [
        "optimizer.lr=tag(log,interval(1e-4,1e-2))",
        "head.layers=range(1,5)",
        "neck=fpn,concat",
        "seed=int(interval(1,9))",
    ]
    found, fixed = space(written, *own, "codec.sigma=2", "head.channels=choice(32,64)", "~x.y")
    assert found == {
        **LR,
        "head.layers": IntDistribution(1, 4),
        "neck": CategoricalDistribution(["fpn", "concat"]),
        "seed": IntDistribution(1, 9),
        "head.channels": CategoricalDistribution(["32", "64"]),
    }
    assert fixed == ["codec.sigma=2", "~x.y"]


@pytest.mark.parametrize(
    "given",
    [
        *(3, [], {"low": 1}, {"low": 2, "high": 1}, {"low": 0.0, "high": 1.0, "log": True}, {"low": 1, "high": "b"}),
        *({"low": 1, "high": 2, "lgo": True}, {"low": 1, "high": 2, "log": 3}),
    ],
)
def test_what_is_no_space_is_refused(given):
    with pytest.raises(UserError, match=r"optimizer\.lr.*a range \{low: 1\.0, high: 3\.0\}"):
        space({"optimizer.lr": given})
    with pytest.raises(UserError, match="nothing to search"):
        space({}, "seed=1")


def test_a_search_that_cannot_be_is_refused_before_its_first_trial(run, search, tmp_path):
    for argument, said in (
        ("optimizer.lrr=interval(1,2)", "did you mean optimizer.lr"),
        ("neck=identity,fnp", "fnp is not an option"),
        ("codec.sigma=1,2 sweep.trials=0", "sweep.trials=0: expected a whole number from 1"),
        ("codec.sigma=1,2 data.val=null", "add data.val=val.json"),
        ("codec.sigma=1,2 monitor=val/foo", "monitor=val/foo"),
    ):
        code, _, err = run(train.main, *search, *argument.split())
        assert code == 1 and said in err and "Traceback" not in err, err
    code, _, err = run(train.main, *search[1:])
    assert code == 1 and "begin it with -m" in err
    code, _, err = run(train.main, "-m", *search[2:], "codec.sigma=interval(1,2)")
    assert code == 1 and "add sweep=search" in err
    assert list(tmp_path.iterdir()) == []


# -- what is recorded --------------------------------------------------------------------------------------------


def test_a_refused_trial_is_recorded_and_the_others_go_on(run, search, tmp_path):
    options = ["codec.refine=none,foo", "sweep.trials=2", *BRUTE_FORCE]
    code, out, err = run(train.main, *search, *options)
    assert code == 0, err
    found = {row["codec.refine"]: row for row in rows(tmp_path / "sweep")}
    assert found["none"]["state"] == "finished" and 0 <= float(found["none"]["val/AP"]) <= 1
    assert found["foo"]["state"] == "refused" and "codec.refine=foo: expected dark" in found["foo"]["said"]
    assert "best val/AP" in out and "codec.refine=none" in out and (tmp_path / "sweep/sweep.png").stat().st_size > 1000
    assert f"refused: {found['foo']['said']}" in err
    code, out, _ = run(train.main, *search, *options)  # all is done
    assert code == 0 and "best val/AP" in out and len(rows(tmp_path / "sweep")) == 2


def test_a_trial_that_is_far_worse_is_stopped_early(run, search, tmp_path):
    before = Search(tmp_path / "sweep", LR, "val/loss", False, SETTINGS, seed=0)
    for _ in range(2):
        [(number, _)] = before.ask(1)
        running = RunningTrial(tmp_path / "sweep", {**SETTINGS, "trial": number})
        assert not running.stops(1e-9, 1) and not running.stops(1e-9, 2)
        before.tell(number, 1e-9)
    options = ["optimizer.lr=tag(log,interval(1e-4,1e-2))", "monitor=val/loss", "trainer.max_epochs=3"]
    code, _, err = run(train.main, *search, *options, "sweep.trials=3", "sweep.pruner.n_startup_trials=2")
    assert code == 0, err
    assert [row["state"] for row in rows(tmp_path / "sweep")] == ["finished", "finished", "stopped early"]
    with (tmp_path / "sweep/2/csv/version_0/metrics.csv").open() as file:
        validated = [row["epoch"] for row in csv.DictReader(file) if row["val/loss"]]
    assert validated == ["0", "1"]  # the first never ends a trial


def test_trials_that_an_end_cut_short_are_tried_again(tmp_path):
    first = Search(tmp_path, LR, "val/AP", True, SETTINGS, seed=0)
    first.tell(first.ask(1)[0][0], 0.5)
    [(cut, values)] = first.ask(1)
    second = Search(tmp_path, LR, "val/AP", True, SETTINGS, seed=0)
    assert [trial.number for trial in second.trials] == [0]
    [(again, same), (_, other)] = second.ask(2)
    assert again > cut and same == values != other
    third = Search(tmp_path, LR, "val/AP", True, {**SETTINGS, "retries": 1}, seed=0)
    assert [(trial.number, trial.state) for trial in third.trials] == [(0, "finished"), (again, "refused")]
    assert "ended 2 times" in third.trials[-1].said
    states = [trial.state for trial in third._study.get_trials()]
    assert states.count(TrialState.WAITING) == 1 and TrialState.RUNNING not in states


def test_a_run_that_ended_is_recorded_though_nobody_waited_for_it(run, search, tmp_path, monkeypatch):
    launched = Sweep._launched

    def lost(self, jobs, first=0):
        launched(self, jobs, first)
        raise RuntimeError("a job of the batch is lost")

    monkeypatch.setattr(Sweep, "_launched", lost)
    with pytest.raises(RuntimeError, match="a job of the batch is lost"):
        run(train.main, *search, "codec.sigma=1,2", "sweep.trials=1", *BRUTE_FORCE)
    assert not (tmp_path / "sweep/sweep.csv").exists()
    monkeypatch.setattr(Sweep, "_launched", launched)
    code, out, err = run(train.main, *search, "codec.sigma=1,2", "sweep.trials=2", *BRUTE_FORCE)
    assert code == 0 and "1 of 2 trials are recorded" in out, err
    assert [row["state"] for row in rows(tmp_path / "sweep")] == ["finished", "finished"]


def test_a_folder_of_another_search_is_refused(tmp_path):
    Search(tmp_path, LR, "val/AP", True, SETTINGS, seed=0)
    for space, monitor in ((LR, "val/loss"), ({"codec.sigma": IntDistribution(1, 2)}, "val/AP")):
        with pytest.raises(UserError, match=r"a search over optimizer\.lr for val/AP"):
            Search(tmp_path, space, monitor, True, SETTINGS, seed=0)


def test_figures_that_are_none_are_refused(tmp_path):
    search = Search(tmp_path, LR, "val/AP", True, SETTINGS, seed=0)
    for result in (None, float("nan"), UserError("no")):
        search.tell(search.ask(1)[0][0], result)
    assert [trial.said for trial in search.trials] == ["the run gave no figure", "the figure is nan", "no"]


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "sweep.journal").write_text("{}\nfoo\n{}\n")
    with pytest.raises(UserError, match=r"sweep\.journal is damaged"):
        Search(tmp_path, LR, "val/AP", True, SETTINGS, seed=0)
    assert (tmp_path / "sweep.journal").read_text() == "{}\nfoo\n{}\n"


@pytest.mark.parametrize("name", ["processes", "slurm"])
def test_launchers_compose(name):
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = hydra.compose("train", [f"hydra/launcher={name}"], return_hydra_config=True)
    assert composed.hydra.launcher._target_.startswith("hydra_plugins.hydra_")


# -- processes ---------------------------------------------------------------------------------------------------


def started(arguments, cwd, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "lightpose.cli.train", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finished(process):
    try:
        printed = process.communicate(timeout=300)[0]
    finally:
        process.kill()
    assert process.returncode == 0, printed
    return printed


@pytest.mark.slow
def test_a_killed_search_goes_on(search, tmp_path):
    options = [*search, "optimizer.lr=interval(1e-4,1e-2)", "sweep.trials=6"]
    process = started(options, tmp_path)
    folder = tmp_path / "sweep"
    while not (folder / "2/checkpoints").exists():  # the third runs
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(rows(folder)) == 2
    printed = finished(started(options, tmp_path))
    found = rows(folder)
    assert "2 of 6 trials are recorded" in printed and "best val/AP" in printed
    assert [row["state"] for row in found] == ["finished"] * 6 and "2" not in [row["trial"] for row in found]
    assert all((folder / row["trial"] / "checkpoints/best.ckpt").is_file() for row in found)


@pytest.mark.slow
def test_two_processes_for_each_trial(search, tmp_path):
    options = [*search, "codec.sigma=interval(1,3)", "sweep.trials=2", "trainer.devices=2", "data.batch_size=4"]
    printed = finished(started(options, tmp_path))
    folder = tmp_path / "sweep"
    assert [row["state"] for row in rows(folder)] == ["finished"] * 2, printed
    assert printed.count("run folder") == 2 and printed.count(" steps of 8 ") == 2  # each trial once, both processes
    assert sorted(place.name for place in folder.iterdir() if place.is_dir()) == ["0", "1"]
    assert {place.name for place in tmp_path.iterdir()} == {"sweep"}  # no run of a process elsewhere


SBATCH = """
import os, subprocess, sys
for task in "01":
    ids = {"SLURM_ARRAY_JOB_ID": "1000", "SLURM_ARRAY_TASK_ID": task, "SLURM_JOB_ID": f"100{task}", "SLURM_PROCID": "0"}
    ids |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}
    ids |= {"SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_NAME": "lightpose"}
    subprocess.Popen(["bash", sys.argv[1]], env={**os.environ, **ids}, stdout=-3, stderr=-3)  # to nowhere
print("Submitted batch job 1000")
"""
SRUN = """
import os, sys
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
start = next(place for place, each in enumerate(sys.argv) if os.path.basename(each).startswith("python"))
os.execv(sys.argv[start], sys.argv[start:])
"""


RAY = pytest.mark.skipif(find_spec("hydra_plugins.hydra_ray_launcher") is None, reason="needs lightpose[ray]")


@pytest.fixture
def cluster(tmp_path):
    """A folder with commands that look like those of SLURM and run its jobs here."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", "print('JobID|State|NodeList')")):
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
        (folder / name).chmod(0o755)
    return folder


def test_submitit_alone_starts_jobs_of_slurm_again(monkeypatch):
    assert submitted() == []
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "lightpose", "SUBMITIT_EXECUTOR": "slurm"}.items():
        monkeypatch.setenv(name, value)
    [environment] = submitted()
    assert not environment.auto_requeue


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["processes", "slurm", pytest.param("ray", marks=RAY)])
def test_jobs_in_other_processes(search, tmp_path, cluster, launcher):
    """Two trials together, one of which is refused."""
    options = [*search, f"hydra/launcher={launcher}", "codec.refine=none,foo", "sweep.trials=2", "sweep.at_once=2"]
    paths = os.pathsep.join([str(cluster), os.environ["PATH"]])
    printed = finished(started([*options, *BRUTE_FORCE], tmp_path, PATH=paths))
    found = {row["codec.refine"]: row for row in rows(tmp_path / "sweep")}
    assert found["none"]["state"] == "finished", printed
    assert "codec.refine=foo: expected dark" in found["foo"]["said"]
