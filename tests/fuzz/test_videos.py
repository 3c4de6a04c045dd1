"""Damaged videos of every container."""

import random

import pytest
from videos import CODECS, write_video
from watch import damaged, read_by_child, summary

from lightpose.inference.sources import open_source

EACH = 12
MOST_MB = 1200
"""Of a process, whose videos are small."""


@pytest.mark.slow
def test_of_damaged_videos_every_announced_frame_is_given_or_named(tmp_path):
    rng, files = random.Random(0), []
    for name, how in CODECS.items():
        whole = write_video(tmp_path / f"whole_{name}", *how)
        assert len(list(open_source(str(whole)).frames())) == 40
        for number in range(EACH):
            files.append(tmp_path / f"{number:02d}_{name}")
            files[-1].write_bytes(damaged(whole.read_bytes(), rng))
    results = read_by_child("videos", files)
    opened = [result for result in results if result["outcome"] == "read"]
    frames = {key: sum(result[key] for result in opened) for key in ("announced", "predicted", "named")}
    print(summary(results), frames)
    assert [result for result in results if result["outcome"] not in ("read", "refused")] == []
    assert all(result["named"] for result in results if result["outcome"] == "refused")
    assert all(result["announced"] == result["predicted"] + result["named"] for result in opened)
    assert max(result["seconds"] for result in results) < 10
    assert max(result["peak_mb"] for result in results) < MOST_MB
    assert len(opened) > len(results) / 2
