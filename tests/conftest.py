import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # also of the commands that tests start: several tests run side by side

import pytest
import torch

os.environ.setdefault("LIGHTPOSE_CACHE", "/nonexistent")  # tests read annotation files, not a cache of the developer's

sys.path.append(str(Path(__file__).parent / "contract/strangers"))  # as a user's PYTHONPATH would

SAMPLES = Path(__file__).parents[1] / "../shared/samples"

TINY = [
    "backbone=timm/any",
    "backbone.model=test_resnet",
    "input_hw=[64,64]",
    "head.channels=8",
    "data.num_workers=0",
    "data.batch_size=8",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "callbacks.progress=null",
    "callbacks.report=null",
    "logger.tensorboard=null",
    "trainer.enable_model_summary=false",
    "trainer.log_every_n_steps=1",
]


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _signals():
    """Ctrl-C reaches the tests also where a shell runs them in the background, and so has it ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def people(tmp_path_factory):
    """The annotation file of a small drawn data set; its images are in the folder beside it."""
    from lightpose.data.synthetic.generate import generate

    return generate(tmp_path_factory.mktemp("people") / "data", images=12, seed=5)


@pytest.fixture(scope="session")
def coco_samples():
    """The folder of a few real COCO photographs, or a skip."""
    folder = SAMPLES / "coco"
    if not folder.is_dir():
        pytest.skip("real samples are not here")
    return folder.resolve()


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a console script in this process: ``run(main, "key=value", ...)`` gives (exit code, stdout, stderr)."""

    def call(main, *arguments):
        monkeypatch.setattr(sys, "argv", [main.__module__.rsplit(".", 1)[-1], *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="session")
def tiny():
    """Overrides that make any top-down training small."""
    return TINY


@pytest.fixture(scope="session")
def trained(people, tmp_path_factory):
    """The run folder of a short training on `people`: two epochs, with last.ckpt, best.ckpt and a report."""
    from lightpose.cli import train

    folder = tmp_path_factory.mktemp("trained") / "run"
    before = sys.argv
    sys.argv = ["train", f"data.train={people}", f"data.val={people}", f"output_dir={folder}", "trainer.max_epochs=2"]
    sys.argv += [option for option in TINY if option != "callbacks.report=null"]
    try:
        train.main()
    finally:
        sys.argv = before
    return folder
