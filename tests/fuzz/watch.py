"""Damages files, and watches a process that reads them."""

import json
import os
import random
import selectors
import subprocess
import sys
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("child.py")
FIRST_S, EACH_S = 120, 10
"""For the imports and the first file, and for any other."""


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The data cut off, with bytes changed, lost or added, most often near the beginning."""
    content, size = bytearray(data), len(data)
    near = rng.choice([64, 400, size])
    place = rng.randrange(min(near, size))
    kind = rng.choice(["cut", "bits", "bytes", "zeros", "ones", "lost", "added"])
    if kind == "cut":
        return data[: rng.randrange(size)]
    if kind == "bits":
        content[place] ^= 1 << rng.randrange(8)
    elif kind == "bytes":
        for _ in range(rng.choice([1, 5, 50])):
            content[rng.randrange(min(near, size))] = rng.randrange(256)
    elif kind in ("zeros", "ones"):
        length = rng.choice([1, 2, 4, 200, 2000])
        content[place : place + length] = (b"\0" if kind == "zeros" else b"\xff") * len(content[place : place + length])
    elif kind == "lost":
        del content[place : place + rng.choice([1, 20, 1000])]
    else:
        content[place:place] = rng.randbytes(rng.choice([1, 20, 1000]))
    return bytes(content)


def read_by_child(kind: str, files: list[Path]) -> list[dict[str, Any]]:
    """What became of each file: ``read``, ``refused``, ``traceback``, ``died`` or ``hang``."""
    results: list[dict[str, Any]] = []
    while len(results) < len(files):
        rest = [str(file) for file in files[len(results) :]]
        with (
            subprocess.Popen(
                [sys.executable, str(CHILD), kind, *rest],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                text=True,
            ) as child,
            selectors.DefaultSelector() as selector,
        ):
            assert child.stdout is not None
            selector.register(child.stdout, selectors.EVENT_READ)
            patience = FIRST_S
            while len(results) < len(files):
                line = child.stdout.readline() if selector.select(patience) else None
                if not line:
                    child.kill()
                    outcome = "hang" if line is None else f"died ({child.wait()})"
                    results.append({"file": str(files[len(results)]), "outcome": outcome})
                    break
                results.append(json.loads(line))
                patience = EACH_S
    return results


def summary(results: list[dict[str, Any]]) -> str:
    """How many there were of each outcome, for whoever runs the test with ``-s``."""
    outcomes = sorted({result["outcome"] for result in results})
    counts = [f"{outcome} {sum(result['outcome'] == outcome for result in results)}" for outcome in outcomes]
    slowest = max(result.get("seconds", 0) for result in results)
    peak_mb = max(result.get("peak_mb", 0) for result in results)
    return f"{len(results)} files: {', '.join(counts)}; slowest {slowest:.1f} s, most memory {peak_mb} MB"
