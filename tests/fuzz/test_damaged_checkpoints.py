"""Damaged checkpoints end in a sentence, soon, and in little memory."""

import copy
import random
import resource
import time

import pytest
import torch

import lightpose
from lightpose.cli import train
from lightpose.errors import UserError
from lightpose.models.weights import read_weights

ODD = [
    None,
    "text",
    "",
    "x" * 5000,
    -1,
    0,
    3,
    1 << 70,
    1e300,
    float("nan"),
    True,
    [],
    {},
    [[]],
    (1, 2),
    b"bytes",
    "${x}",
]
MOST_SECONDS = 10
MOST_MEMORY = 4 << 30  # as lightpose.load says


def mutated_bytes(data: bytes, rng: random.Random) -> bytes:
    place, length = rng.randrange(len(data)), rng.choice([1, 4, 100, 5000])
    kind = rng.choice(["flip", "cut", "fill", "remove", "repeat", "head"])
    if kind == "flip":
        changed = bytearray(data)
        for _ in range(rng.choice([1, 10, 200])):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if kind == "head":  # where the pickle is
        changed = bytearray(data)
        for _ in range(rng.choice([1, 3])):
            changed[rng.randrange(20_000)] = rng.randrange(256)
        return bytes(changed)
    if kind == "cut":
        return data[:place]
    middle = {"fill": bytes(length), "remove": b"", "repeat": data[place : place + length] * 2}[kind]
    return data[:place] + middle + data[place + length :]


def places(value, path=()):
    """Paths of everything inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def mutated_content(content, rng: random.Random):
    content = copy.deepcopy(content)
    for _ in range(rng.choice([1, 1, 1, 3])):
        top = rng.choice([*content, "lightpose", "lightpose", "loops", "callbacks", "optimizer_states"])
        paths = list(places(content.get(top), (top,))) or [(top,)]
        *parents, last = rng.choice(paths)
        node = content
        for key in parents:
            node = node[key]
        if isinstance(node, dict) and rng.random() < 0.3:
            node.pop(last, None)
        elif isinstance(node, (dict, list)):
            node[last] = rng.choice([*ODD, torch.zeros(3), torch.zeros(0), torch.zeros(2, 2).long()])
    return content


@pytest.fixture(scope="module")
def whole(trained):
    path = trained / "checkpoints/last.ckpt"
    return path.read_bytes(), torch.load(path, weights_only=True)


@pytest.fixture
def limits():
    """Fails for a call that took too long, and in the end for a peak of memory."""

    def timed(action, *arguments):
        began = time.process_time()
        try:
            return action(*arguments)
        finally:
            assert time.process_time() - began < MOST_SECONDS

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield timed
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_MEMORY


@pytest.mark.slow
@pytest.mark.parametrize("opening", ["load", "read_weights"])
@pytest.mark.parametrize("kind", ["bytes", "content"])
def test_opening(whole, tmp_path, limits, opening, kind):
    data, content = whole
    path, outcomes = tmp_path / "x.ckpt", {"opened": 0, "refused": 0}
    for seed in range(75):
        rng = random.Random(seed)
        if kind == "bytes":
            path.write_bytes(mutated_bytes(data, rng))
        else:
            torch.save(mutated_content(content, rng), path)
        try:
            limits(lightpose.load if opening == "load" else read_weights, path)
            outcomes["opened"] += 1
        except UserError as error:
            assert str(error)
            outcomes["refused"] += 1
    print(opening, kind, outcomes)
    if opening == "load":
        assert not outcomes["opened"] if kind == "bytes" else outcomes["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bytes", "content"])
def test_resuming(whole, tmp_path, limits, run, tiny, people, kind):
    data, content = whole
    path, outcomes, odd = tmp_path / "x.ckpt", {"went on": 0, "refused": 0}, []
    for seed in range(1000, 1060):
        rng = random.Random(seed)
        if kind == "bytes":
            path.write_bytes(mutated_bytes(data, rng))
        else:
            torch.save(mutated_content(content, rng), path)
        out = tmp_path / f"out{seed}"
        arguments = [*tiny, f"data.train={people}", f"data.val={people}", f"resume={path}", f"output_dir={out}"]
        arguments += ["trainer.max_epochs=3", "trainer.limit_train_batches=2", "callbacks.pictures=null"]
        try:
            code, _, err = limits(run, train.main, *arguments)
        except Exception as error:
            odd.append((seed, repr(error)[:300]))
            continue
        outcomes["refused" if code else "went on"] += 1
        if "Traceback" in err or (code and "error: " not in err):
            odd.append((seed, err[-300:]))
    print("resume", kind, outcomes, *odd, sep="\n")
    assert not odd and outcomes["refused"]
