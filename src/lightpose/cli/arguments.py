"""Arguments that name files, written so that Hydra takes them as they stand, whatever characters they have."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightpose.errors import UserError

_DATA = [f"{group}.{key}" for group in ("data", "dataset") for key in ("train", "val", "images", "val_images", "boxes")]
_TRAIN = [*_DATA, "dataset.root", "resume", "init_from", "backbone.weights", "distill.teacher"]
_TRAIN += ["output_dir", "hydra.run.dir"]
PATHS = {
    "train": frozenset([*_TRAIN, "callbacks.*.dirpath", "callbacks.*.folder", "logger.*.save_dir"]),
    "eval": frozenset({"ckpt", "predictions", "annotations", "images", "boxes", "out", "hydra.run.dir"}),
    "export": frozenset({"ckpt", "annotations", "images", "out"}),
    "predict": frozenset({"ckpt", "lift", "source", "images", "boxes", "out", "detector.weights"}),
    "convert_mmpose": frozenset({"src", "out"}),
    "data_convert": frozenset({"source", "out", "images"}),
    "data_suggest": frozenset({"ckpt", "source", "boxes", "out", "detector.weights"}),
    "data_check": frozenset({"data.train", "data.images"}),
    "data_preview": frozenset([*_TRAIN, "out"]),
    "data_synthetic": frozenset({"out"}),
}
"""Keys of each command whose values are paths; a star stands for any name."""

LISTS = frozenset(f"{group}.{key}" for group in ("data", "dataset") for key in ("train", "images"))
"""Those of them that may be lists, as in ``data.train=[a.json,b.json]``."""

_INNER = re.compile(r"^(head|codec)\.\1=(?![{$])")
"""Not where the value is a part itself."""
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_SWEEP = re.compile(r"(choice|glob|sort|shuffle|tag|extend_list)\(.*\)", re.DOTALL)


def is_sweep(arguments: Iterable[str]) -> bool:
    """Whether the command runs several jobs."""
    return any(argument in ("-m", "--multirun", "hydra.mode=MULTIRUN") for argument in arguments)


def with_literal_paths(arguments: Sequence[str], command: str) -> list[str]:
    """The arguments, with paths in quotes where Hydra would take them for numbers, lists or mistakes.

    What stays as it is: ``null``, the number of a camera, an interpolation (``${...}``), what is quoted already, and in
    a sweep the commas between its paths; so do those of a list in brackets, for the `LISTS`. A file of that very name
    is always that file.

    Args:
        arguments: of the command line.
        command: a key of `PATHS`.

    Raises:
        UserError: for an empty path.
    """
    sweep = is_sweep(arguments)
    return [_literal(argument, PATHS[command], sweep) for argument in arguments]


def with_inner_options(arguments: Sequence[str]) -> list[str]:
    """The arguments, with ``head.head=simcc``, an option inside a wrapper, as ``head@head.head=simcc`` for Hydra."""
    return [_INNER.sub(r"\1@\1.\1=", argument) for argument in arguments]


def path_given(arguments: Iterable[str], key: str) -> str | None:
    """The path that ``key=`` names, without quotes; None if it isn't given or null."""
    values = [argument.partition("=")[2] for argument in arguments if argument.lstrip("+").startswith(f"{key}=")]
    if not values or values[-1] == "null":
        return None
    return _unquoted(values[-1])


def _literal(argument: str, keys: Iterable[str], sweep: bool) -> str:
    name, equals, value = argument.partition("=")
    key = name.lstrip("+")
    if not equals or re.sub(r"^(callbacks|logger)\.\w+\.", r"\1.*.", key) not in keys:
        return argument
    if not value:
        raise UserError(f"{key}= names no file or folder; give one, leave {key}= out, or say {key}=null for none")
    if key == "hydra.run.dir":  # Lightning puts it between quotes, but doesn't escape those in it
        value = re.sub(r'^"(.*)"$', r"\1", value, flags=re.DOTALL)
    values = [value]
    if sweep and not os.path.lexists(value):
        if _SWEEP.fullmatch(value):
            return argument
        together = r"\[[^\]]*\]|" if key in LISTS else ""
        values = [item.strip() for item in re.findall(rf"(?:{together}{_QUOTED}|[^,])+", value)]
    return f"{name}=" + ",".join(_as_list(key, item) for item in values)


def _as_list(key: str, value: str) -> str:
    """A path, or where the key may have several, those between brackets."""
    if key not in LISTS or not re.fullmatch(r"\[.*\]", value, re.DOTALL) or os.path.lexists(value):
        return _as_string(key, value)
    items = [item.strip() for item in re.findall(rf"(?:{_QUOTED}|[^,])+", value[1:-1])]
    return f"[{','.join(_as_string(key, item) for item in items)}]"


def _as_string(key: str, value: str) -> str:
    if value == "null" or "${" in value:
        return value
    if key == "source" and value.isdecimal() and not os.path.lexists(value):
        return value
    path = _unquoted(value)
    if path.startswith("~") and os.path.lexists(path):
        path = str(Path(path).absolute())  # nobody's home
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), path)
    return f"'{escaped}'"


def _unquoted(value: str) -> str:
    """What stands between the quotes that a user typed for Hydra's sake."""
    if not re.fullmatch(_QUOTED, value, re.DOTALL) or os.path.lexists(value):
        return value
    return re.sub(rf"(\\+)({value[0]}|\Z)", lambda found: found[1][: len(found[1]) // 2] + found[2], value[1:-1])
