"""Files as nobody should write them: JSON whose values are of other types, and text whose bytes are others."""

import copy
import json
import random
from typing import Any

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 3, 1.5, 1.0, -0.0, 2**31, 2**63, 2**70, -(2**63), 10**400, 1e39, 1e300, -1e300),
    *(float("nan"), float("inf"), float("-inf"), "", "0", "1", "2", "1.5", "nan", "text", "x" * 5000, "a\0b", "\ud800"),
    *("../../x", "/etc/passwd", "é", "\x1b[2J", "1" * 5000, [], [[]], [None], ["a", "b"], [1, 2], [[1, 2, 2]] * 3, {}),
    *({"a": 1}, {"id": 1}, [{}], [[[[[[[[]]]]]]]], list(range(9)), list(range(51))),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, inside in items:
        found += [(*path, key), *places(inside, (*path, key))]
    return found


def inside(value: Any, path: tuple[Any, ...]) -> Any:
    """What is at a path."""
    for key in path:
        value = value[key]
    return value


def changed_once(value: Any, rng: random.Random) -> Any:
    """A copy with one change; shallow places are as likely as the many deep ones."""
    value = copy.deepcopy(value)
    paths = places(value)
    if not paths:
        return rng.choice(ODD)
    depth = rng.choice(sorted({len(path) for path in paths}))
    *above, key = rng.choice([path for path in paths if len(path) == depth])
    holder = inside(value, tuple(above))
    old = holder[key]
    kind = rng.choice(["odd", "odd", "odd", "remove", "text", "wrap", "elsewhere", "scale", "repeat", "rename", "bare"])
    if kind == "remove":
        del holder[key]
    elif kind == "text":
        holder[key] = json.dumps(old)
    elif kind == "wrap":
        holder[key] = rng.choice([[old], {"value": old}, [old, old]])
    elif kind == "elsewhere":
        holder[key] = copy.deepcopy(inside(value, rng.choice(paths)[: rng.choice([1, 2, 3])]))
    elif kind == "scale" and isinstance(old, (int, float)):
        holder[key] = old * rng.choice([-1, 0, 3, 10**4, 10**9, 10**30])
    elif kind == "repeat" and isinstance(holder, list):
        holder[key:key] = [copy.deepcopy(old)] * rng.choice([1, 3])
    elif kind == "rename" and isinstance(holder, dict):
        holder[rng.choice(["id", "Id", "name", "keypoints", "x"])] = holder.pop(key)
    elif kind == "bare" and old and isinstance(old, (list, dict)):
        holder[key] = rng.choice(list(old.values()) if isinstance(old, dict) else old)
    else:
        holder[key] = copy.deepcopy(rng.choice(ODD))
    return value


def changed(value: Any, rng: random.Random) -> Any:
    """A copy with a few changes."""
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        value = changed_once(value, rng)
    return value


def changed_text(text: bytes, rng: random.Random) -> bytes:
    """Text with one change that knows nothing of its meaning."""
    place = rng.randrange(len(text) + 1)
    end = place + rng.choice([1, 2, 10, 200])
    kind = rng.choice(["flip", "cut", "remove", "insert", "repeat", "number", "nest", "encoding", "twice"])
    if kind == "flip":
        data = bytearray(text)
        for _ in range(min(len(data), rng.choice([1, 3, 30]))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)
    if kind == "encoding":
        how = rng.choice(["utf-16", "utf-32", "utf-8-sig", "utf-16-be"])
        return text.decode(errors="replace").encode(how)
    if kind == "number":
        digits = [number for number, byte in enumerate(text) if 48 <= byte < 58]
        place = rng.choice(digits) if digits else 0
        number = rng.choice([b"1e999", b"-1e999", b"NaN", b"1" * 5000, b"1" * 300, b"1e39", b"-0", b"0x1", b"1_0"])
        return text[:place] + number + text[place + 1 :]
    if kind == "twice":  # a key, with another value
        key = rng.choice([b'"id"', b'"images"', b'"keypoints"', b'"image_id"', b'"bbox"', b'"score"'])
        return text.replace(key, key + b": 7, " + key, 1)
    middle = {
        "cut": b"",
        "remove": b"",
        "insert": rng.choice([b"\0", b"null", b",", b'"', b"]", b"{}", b"\xff\xfe", b"\r\n", b"//", b"\\ud800", b";"]),
        "repeat": text[place:end] * 2,
        "nest": b"[" * 5000 + b"]" * 5000,
    }[kind]
    return text[:place] + middle + (b"" if kind == "cut" else text[end if kind in ("remove", "repeat") else place :])


def damaged_json(value: Any, rng: random.Random) -> bytes:
    """JSON text of changed values, or changed text, or both."""
    kind = rng.random()
    text = json.dumps(changed(value, rng) if kind < 0.85 else value, ensure_ascii=rng.random() < 0.9)
    encoded = text.encode(errors="replace")
    return changed_text(encoded, rng) if kind > 0.75 else encoded
