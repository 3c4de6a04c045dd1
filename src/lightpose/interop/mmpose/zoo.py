"""Which published configurations have the tensors that a checkpoint has."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from torch import Tensor

from lightpose.estimators.base import PoseEstimator
from lightpose.interop.mmpose.names import BACKBONES, HEADS, NECKS, Family

FILE = Path(__file__).with_name("zoo.txt")
"""Of each published configuration its fingerprint, the number of its parameters and its name, as
``scripts/mmpose_zoo.py`` writes it."""


def fingerprint(sizes: Iterable[tuple[str, int]]) -> str:
    """Of an architecture, from the names and sizes of its tensors."""
    lines = sorted(f"{name} {size}" for name, size in sizes if not name.endswith("num_batches_tracked"))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def of_state(state: Mapping[str, Tensor]) -> str:
    """The fingerprint of a checkpoint, whatever constants it holds."""
    return fingerprint((name, value.numel()) for name, value in state.items() if not _is_constant(name))


def of_estimator(estimator: PoseEstimator, parts: Mapping[str, Family]) -> str:
    """The fingerprint that checkpoints for an estimator have."""
    sizes: dict[str, int] = {}
    for part, family in parts.items():
        for name, value in estimator.net.get_submodule(part).state_dict().items():
            published = f"{part}.{family.published(name)}"
            sizes[published] = sizes.get(published, 0) + value.numel()  # one of theirs may be several of ours
    return fingerprint(item for item in sizes.items() if not _is_constant(item[0]))


@cache
def _names() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        key, _, name = line.split()
        found.setdefault(key, []).append(name)
    return found


def names_that_fit(state: Mapping[str, Tensor]) -> list[str]:
    """Published configurations whose tensors are those of a checkpoint by name and size."""
    return _names().get(of_state(state), [])


def all_names() -> list[str]:
    """The published configurations that lightpose has."""
    return [name for names in _names().values() for name in names]


@cache
def _idle() -> tuple[str, ...]:
    parts = {"backbone": BACKBONES, "neck": NECKS, "head": HEADS}
    return tuple(
        f"{part}\\.{pattern.lstrip('^')}" if pattern.startswith("^") else f"{part}\\..*{pattern}"
        for part, kinds in parts.items()
        for pattern in {pattern for family in kinds.values() for pattern in family.idle}
    )


def _is_constant(name: str) -> bool:
    return any(re.match(pattern, name) for pattern in _idle())
