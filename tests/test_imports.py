"""Which part of lightpose may import which."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"

LAYERS = (
    {"cli"},
    {"export"},
    {"inference", "interop"},
    {
        "building",
        "callbacks",
        "checkpoint",
        "report",
        "testing",
    },  # callbacks watch estimators; inference loads them through checkpoint
    {"estimators"},
    {"models", "codecs", "data", "metrics"},
    {"runtime", "draw", "trust"},  # draw knows skeletons and pixels; models read files of weights through trust
    {"structures", "skeleton", "names", "geometry", "errors", "conf_files"},
)
"""A part may import its own layer and those below."""
RUNTIME = {"runtime", "errors"}
"""What `runtime` may import: it knows nothing of poses."""
HYDRA = {"cli", "inference", "interop", "building", "checkpoint"}
"""What may import Hydra."""

PLACE = {part: depth for depth, layer in enumerate(LAYERS) for part in layer}
FILES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SRC.rglob("*.py"))
}
OWN = {name: path for name, path in FILES.items() if name.startswith("lightpose.")}  # lightpose itself: see below


def imported(path: Path) -> Iterator[str]:
    """All modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(module: str) -> str:
    return module.split(".")[1]


def test_every_part_has_a_place():
    assert {part(module) for module in OWN} <= PLACE.keys()


def test_imports_go_one_way():
    edges = [(module, other) for module, path in OWN.items() for other in imported(path) if other in OWN]
    assert len(edges) > 100
    wrong = [
        f"{module} imports {other}"
        for module, other in edges
        if PLACE[part(module)] > PLACE[part(other)] or (part(module) == "runtime" and part(other) not in RUNTIME)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_imports_go_in_a_circle():
    try:
        TopologicalSorter({module: set(imported(path)) & OWN.keys() for module, path in OWN.items()}).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_two_rooms_of_a_layer_import_each_other():
    rooms = {
        each: {
            part(other)
            for module, path in OWN.items()
            if part(module) == each
            for other in imported(path)
            if other in OWN
        }
        for each in PLACE
    }
    TopologicalSorter({each: others - {each} for each, others in rooms.items()}).prepare()


def test_hydra_stays_at_the_edge():
    users = {
        part(module)
        for module, path in OWN.items()
        if any(name.split(".")[0] in ("hydra", "omegaconf") for name in imported(path))
    }
    assert users and users <= HYDRA


def test_importing_lightpose_imports_no_torch():
    subprocess.run([sys.executable, "-c", "import lightpose, sys; assert 'torch' not in sys.modules"], check=True)
