"""Files that a thread writes: what is in them, in which order they come, and what is left when something goes wrong."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch

from lightpose.runtime import whole_files
from lightpose.runtime.background import WAITING, BackgroundFiles


@pytest.fixture
def files():
    made = BackgroundFiles(lambda path: torch.load(path, weights_only=True))
    yield made
    made.teardown()


@pytest.fixture
def gate(monkeypatch):
    """The thread stops before it ends a file, until this is set; ``gate.entered`` is set when it has come so far."""
    event, entered, sync = threading.Event(), threading.Event(), os.fsync

    def held(descriptor):
        entered.set()
        assert event.wait(30)
        sync(descriptor)

    monkeypatch.setattr(whole_files.os, "fsync", held)
    event.entered = entered
    yield event
    event.set()


def content(value):
    weight = torch.full((4, 3), float(value))
    return {"state_dict": {"weight": weight}, "lightpose": {}, "loops": {"counts": [value, {"done": value}]}}


def number(path):
    return float(torch.load(path, weights_only=True)["state_dict"]["weight"][0, 0])


def test_round_trip(files, tmp_path):
    weight = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    state = OrderedDict(weight=weight, again=weight, part=weight[1:], wide=torch.ones(1).expand(5))
    saved = {"state_dict": state, "lr_schedulers": [{"milestones": Counter([3]), "betas": (0.9, 0.99)}], "none": None}
    files.save_checkpoint(saved, tmp_path / "folder/x.ckpt")
    files.wait()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["x.ckpt"]
    read = torch.load(tmp_path / "folder/x.ckpt", weights_only=False)
    found = read["state_dict"]
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    assert found["weight"].stride() == weight.stride() and found["weight"].data_ptr() == found["again"].data_ptr()
    assert {key: read[key] for key in ("lr_schedulers", "none")} == {
        key: saved[key] for key in ("lr_schedulers", "none")
    }


def test_a_checkpoint_is_what_it_was_when_it_was_saved(files, gate, tmp_path):
    files.save_checkpoint(content(0), tmp_path / "before.ckpt")
    saved = content(1)
    files.save_checkpoint(saved, tmp_path / "x.ckpt")
    with torch.no_grad():
        saved["state_dict"]["weight"] += 1
    saved["loops"]["counts"][1]["done"] = saved["loops"]["counts"][0] = 2
    gate.set()
    files.wait()
    assert number(tmp_path / "x.ckpt") == 1
    assert torch.load(tmp_path / "x.ckpt", weights_only=True)["loops"] == content(1)["loops"]


def test_saving_does_not_wait_and_the_newest_is_written(files, gate, tmp_path):
    path = tmp_path / "x.ckpt"
    for value in range(6):
        files.save_checkpoint(content(value), path)
        assert value or gate.entered.wait(30)
        assert files.is_pending(path) and not path.exists()
    gate.set()
    seen = []
    files.afterwards(lambda: seen.append(number(path)))
    files.wait()
    assert not files.is_pending(path) and number(path) == 5 and seen == [5]


def test_a_newer_checkpoint_is_written_in_the_place_of_the_one_that_waits(files, gate, tmp_path, monkeypatch):
    order, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda part, path: order.append(path.name) or replace(part, path))
    files.save_checkpoint(content(0), tmp_path / "first.ckpt")
    assert gate.entered.wait(30)
    for value, name in enumerate(("best", "last", "best")):
        files.save_checkpoint(content(value), tmp_path / f"{name}.ckpt")
    files.afterwards(lambda: order.append("call"))
    threading.Timer(0.2, gate.set).start()
    files.save_checkpoint(content(7), tmp_path / "last.ckpt")  # not before the call
    files.wait()
    assert order == ["first.ckpt", "best.ckpt", "last.ckpt", "call", "last.ckpt"]
    assert (number(tmp_path / "best.ckpt"), number(tmp_path / "last.ckpt")) == (2, 7)


def test_few_wait(files, gate, tmp_path):
    for value in range(1 + WAITING):
        files.save_checkpoint(content(value), tmp_path / f"{value}.ckpt")
    threading.Timer(0.2, gate.set).start()
    files.save_checkpoint(content(9), tmp_path / "9.ckpt")
    assert (tmp_path / "0.ckpt").exists()
    files.wait()
    assert number(tmp_path / "9.ckpt") == 9


def test_removals_and_links_keep_their_place(files, gate, tmp_path):
    one, two = tmp_path / "one.ckpt", tmp_path / "two.ckpt"
    seen = []
    files.save_checkpoint(content(1), one)
    files.afterwards(lambda: seen.append(number(one)))
    files.save_checkpoint(content(2), two)
    files.remove_checkpoint(one)
    gate.set()
    files.wait()
    assert seen == [1] and not one.exists() and number(two) == 2


def test_reading_comes_after_writing(files, tmp_path):
    files.save_checkpoint(content(3), tmp_path / "x.ckpt")
    assert float(files.load_checkpoint(tmp_path / "x.ckpt")["state_dict"]["weight"][0, 0]) == 3


@pytest.mark.parametrize("surfaces", ["save_checkpoint", "wait", "teardown"])
def test_an_error_of_the_thread_is_raised_once(files, tmp_path, monkeypatch, surfaces):
    path = tmp_path / "x.ckpt"
    files.save_checkpoint(content(1), path)
    files.wait()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(whole_files.os, "fsync", full)
    files.save_checkpoint(content(2), path)
    deadline = time.monotonic() + 30
    while files.is_pending(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(OSError, match="No space left") as raised:
        files.save_checkpoint(content(3), path) if surfaces == "save_checkpoint" else getattr(files, surfaces)()
    assert raised.value.errno == errno.ENOSPC
    assert number(path) == 1 and list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    files.teardown()
    files.save_checkpoint(content(4), path)
    files.teardown()
    assert number(path) == 4


def test_another_error_is_not_hidden_by_one_of_the_thread(files, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="first"):
        try:
            files.save_checkpoint(content(1), tmp_path / "file/x.ckpt")
            raise ValueError("first")
        except ValueError:
            files.teardown()
            raise
    assert "could not be written" in caplog.text


def test_a_file_that_may_not_grow(files, tmp_path):
    path = tmp_path / "x.ckpt"
    files.save_checkpoint(content(1), path)
    files.wait()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        files.save_checkpoint(content(2) | {"more": torch.rand(200_000)}, path)
        with pytest.raises(OSError, match="File too large") as raised:
            files.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.errno == errno.EFBIG
    assert number(path) == 1 and list(tmp_path.iterdir()) == [path]


KILLED = """
import sys, torch
from lightpose.runtime.background import BackgroundFiles
files = BackgroundFiles(torch.load)
files.save_checkpoint({"state_dict": {"weight": torch.ones(1, 1)}}, sys.argv[1])
files.wait()
print("whole", flush=True)
while True:
    files.save_checkpoint({"state_dict": {"weight": torch.full((3000, 3000), 2.0)}}, sys.argv[1])
    files.wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.11])
def test_kill_leaves_a_whole_file(tmp_path, delay):
    path = tmp_path / "x.ckpt"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "whole\n"
    part, deadline = tmp_path / ".x.ckpt.part", time.monotonic() + 60
    while not part.exists() and time.monotonic() < deadline:
        pass
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert number(path) in (1, 2)


def test_a_gpu_tensor_is_copied_before_it_changes(files, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    weight = torch.zeros(2000, 2000, device="cuda")
    for value in range(4):
        weight.fill_(value)
        torch.cuda._sleep(100_000_000)
        files.save_checkpoint({"state_dict": {"weight": weight}}, tmp_path / f"{value}.ckpt")
        weight.fill_(-1)
    files.wait()
    for value in range(4):
        saved = torch.load(tmp_path / f"{value}.ckpt", weights_only=True)["state_dict"]["weight"]
        assert saved.device.type == "cpu" and (saved == value).all()
