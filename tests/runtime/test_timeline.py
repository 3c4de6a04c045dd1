import time

import pytest

from lightpose.cli import train
from lightpose.runtime import timeline


@pytest.fixture
def debugging(monkeypatch):
    monkeypatch.setattr(timeline, "_marks", [])
    monkeypatch.setenv("LIGHTPOSE_DEBUG", "1")


def test_parts_add_up_to_the_whole(debugging, monkeypatch, capsys):
    start = timeline.process_start()
    assert time.time() - 3600 < start <= timeline._loaded
    moments = iter([start + 1.25, start + 1.5, start + 4.0])
    monkeypatch.setattr(timeline.time, "time", lambda: next(moments))
    monkeypatch.setattr(timeline, "process_start", lambda: start)
    for part in ("imports", "network", "imports"):
        timeline.mark(part)
    timeline.finish()
    assert capsys.readouterr().err == "first step after 4.0 s\n  3.75 s  imports\n  0.25 s  network\n"
    timeline.mark("more")
    timeline.finish()
    assert capsys.readouterr().err == "" and not timeline.wanted()


def test_nothing_is_said_unless_asked(monkeypatch, capsys):
    monkeypatch.setattr(timeline, "_marks", [])
    monkeypatch.delenv("LIGHTPOSE_DEBUG", raising=False)
    timeline.mark("imports")
    timeline.finish()
    assert capsys.readouterr().err == ""


def test_a_training_tells_what_its_first_step_waited_for(debugging, run, people, tiny, tmp_path):
    given = [f"data.train={people}", f"output_dir={tmp_path}/run", "trainer.max_steps=2", *tiny]
    code, _, err = run(train.main, *given, "trainer.accumulate_grad_batches=2")
    assert code == 0, err
    assert err.count("first step after") == 1
    assert all(f" s  {part}\n" in err for part in ("configuration", "imports", "network", "rehearsal", "first step"))
