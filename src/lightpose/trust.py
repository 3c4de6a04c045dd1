"""What a file may bring to life: parts of lightpose, torch and timm, and what the user trusts by name.

A configuration that comes out of a file is copied to plain data first (`plain`), and that copy is what is checked
(`check_targets`) and built from. So there is no container in which a ``_target_`` could hide from the check.
"""

import importlib
import json
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightpose.errors import UserError, place_in_own_code

MOST_ENTRIES, DEEPEST = 500_000, 100
"""Of the data in a file. What refers to itself, or doubles at every level, ends there and not in a full memory."""

NETWORK = ("lightpose.codecs", "lightpose.estimators", "lightpose.metrics", "lightpose.models")
"""Packages whose classes make an estimator. What is beside them in lightpose may read files, or write them."""
TRANSFORMS = (
    "lightpose.data.image_transforms",
    "lightpose.data.pixels.albumentations",
    "lightpose.data.pixels.photometric",
    "lightpose.data.transforms",
)
"""Modules whose classes make the network's input of an image."""
DATA = (
    *TRANSFORMS,
    "lightpose.data.coco.dataset",
    "lightpose.data.coco.frames",
    "lightpose.data.datamodule",
    "lightpose.data.interhand",
    "lightpose.data.sequences",
)
"""Modules whose classes make a data module."""
SCHEDULES = (
    "lightpose.estimators.optim.warmup_cosine",
    "lightpose.estimators.optim.warmup_multistep",
    "lightpose.estimators.optim.exponential",
    "lightpose.estimators.optim.quadratic_warmup_cosines",
)
"""The only functions among the parts."""
LIBRARIES: Mapping[str, str] = {
    "torch.nn": "torch.nn:Module",
    "torch.optim": "torch.optim:Optimizer",
    "torch.optim.lr_scheduler": "torch.optim.lr_scheduler:LRScheduler",
    "timm.layers": "torch.nn:Module",
    "timm.optim": "torch.optim:Optimizer",
}
"""Module → the base of those of its classes that are parts. Only a file that names one needs it to be loaded."""

Trust = str | Sequence[str]
"""Names of packages, modules or classes; a string is one name."""

_FILED = (str, int, float, bool, type(None), bytes, complex)


class NoPlainData(UserError):
    """A file holds more than tensors and plain data, or is damaged so that it seems to."""


def plain(value: Any, what: str) -> Any:
    """A copy of nested data in dictionaries with text as keys, lists and scalars, as JSON has them.

    Args:
        value: what `check_data` let pass.
        what: it is, for the message.

    Raises:
        UserError: for anything that JSON doesn't have.
    """
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{what} is more than plain data ({error}); get it from a source you trust") from error


def check_data(value: Any, what: str, depth: int = 0, count: list[int] | None = None) -> None:
    """Refuse what no training run writes: objects that are neither tensors nor plain data, and data without end.

    Args:
        value: content of a file.
        what: it is, for the message.
        depth: of ``value`` in the content.
        count: of the entries so far.

    Raises:
        NoPlainData: naming the kind of the first such thing.
        UserError: for data without end, and for tensors larger than their content.
    """
    import torch

    count = [0] if count is None else count
    count[0] += 1
    if depth > DEEPEST or count[0] > MOST_ENTRIES:
        raise UserError(
            f"{what} holds more than {DEEPEST} levels or {MOST_ENTRIES} entries, or refers to itself; get it from a "
            "source you trust"
        )
    if isinstance(value, torch.Tensor):
        dense = value.layout == torch.strided and not value.is_meta and not value.is_quantized
        if not dense or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UserError(f"{what} holds a tensor that is larger than its content; get it from a source you trust")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_data(key, what, depth + 1, count)
            check_data(item, what, depth + 1, count)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            check_data(item, what, depth + 1, count)
    elif not isinstance(value, (*_FILED, torch.dtype, torch.device)):
        raise NoPlainData(f"{what} holds a {type(value).__name__}, no plain data; get it from a source you trust")


def trusted_names(trust: Trust) -> tuple[str, ...]:
    """The names, without a dot at their end.

    Raises:
        UserError: for what is no name of a package, module or class.
    """
    names = list(trust) if isinstance(trust, (list, tuple, set, frozenset)) else [trust]
    cleaned = [name.removesuffix(".") if isinstance(name, str) else "" for name in names]
    bad = [given for given, name in zip(names, cleaned, strict=True) if not _is_path(name)]
    if bad:
        raise UserError(
            f"trust names packages, modules or classes, such as trust=[my_heads,other.codecs.Codec]; {bad[0]!r} is none"
        )
    return tuple(cleaned)


def _is_path(name: str) -> bool:
    return all(word.isidentifier() for word in name.split("."))


def check_targets(config: Any, trust: Trust = (), rooms: Sequence[str] = NETWORK) -> None:
    """Refuse to build from a configuration that names anything but parts, or that is not what it seems.

    Args:
        config: plain data, as `plain` makes it.
        trust: names that the user trusts. A package or module lets in the classes that it defines; the full name of a
            class or function lets that one in.
        rooms: where the parts of lightpose are that this configuration may name.

    Raises:
        UserError: naming the strangers, and how to trust them; and for an interpolation, which Hydra would resolve.
    """
    if any("${" in text for text in _texts(config)):
        raise UserError(
            "the checkpoint's configuration holds an interpolation (${...}), which lightpose never writes there and "
            "which could run code; get the checkpoint from a source you trust"
        )
    if found := strangers(config, trust, rooms):
        names, unknown = trusted_names(trust), sorted({str(target)[:200] for target in found})
        packages = sorted({target.split(".")[0] for target in unknown if _is_path(target)})
        covered = sorted({target for target in unknown if target.startswith(tuple(f"{name}." for name in names))})
        advice = f"trust={packages[0]}" if len(packages) == 1 else f"trust=[{','.join(packages)}]"
        advice = advice if packages else "a checkpoint that names classes"
        if covered:  # not a class, or defined elsewhere
            advice = f"trust=[{','.join([*names, *covered])}]: what is no class of a trusted module is named in full"
        raise UserError(
            f"the checkpoint wants to run {', '.join(unknown)}, which is not part of lightpose; if you trust its "
            f"source, say so with {advice}"
        )


def strangers(config: Any, trust: Trust = (), rooms: Sequence[str] = NETWORK) -> list[Any]:
    """Each ``_target_`` in plain data that is neither a part nor trusted; arguments as in `check_targets`."""
    names = trusted_names(trust)
    return [target for target in _targets(config) if not (_is_trusted(target, names) or is_part(target, rooms))]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _targets(value: Any) -> Iterator[Any]:
    """Every ``_target_`` in plain data, whatever stands there."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield value["_target_"]
        for item in value.values():
            yield from _targets(item)
    elif isinstance(value, list):
        for item in value:
            yield from _targets(item)


def is_part(target: Any, rooms: Sequence[str] = NETWORK) -> bool:
    """Whether a ``_target_`` is a class that can do nothing but be a part of what is built.

    What counts is the object and where it is defined, not the path that names it. Nothing outside ``rooms`` is imported
    to find out.
    """
    if not isinstance(target, str) or not _is_path(target):
        return False
    if target in SCHEDULES:
        return "lightpose.estimators" in rooms
    module, _, name = target.rpartition(".")
    if module in LIBRARIES:
        base = pkgutil.resolve_name(LIBRARIES[module])
        found = vars(importlib.import_module(module)).get(name)
        library = module.partition(".")[0]
        return isinstance(found, type) and issubclass(found, base) and _home(found).startswith(f"{library}.")
    if not f"{module}.".startswith(tuple(f"{room}." for room in rooms)):
        return False
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return isinstance(found, type) and _home(found).startswith(tuple(f"{room}." for room in rooms))


def _is_trusted(target: Any, names: Sequence[str]) -> bool:
    if not isinstance(target, str) or not _is_path(target):
        return False
    if target in names:
        return True
    prefixes = tuple(f"{name}." for name in names)
    if not prefixes or not target.startswith(prefixes):
        return False
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        if "." in module and isinstance(error, ImportError) and error.name == module:
            return False
        raise UserError(
            f"the checkpoint needs {target}, but {module} can't be imported ({type(error).__name__}: {error}"
            f"{place_in_own_code(error)}); add its folder to PYTHONPATH, or give it to the command as --config-dir"
        ) from error
    return isinstance(found, type) and _home(found).startswith(prefixes)


def _home(found: type) -> str:
    """Where a class is defined, with a dot at the end: ``torch.nn.modules.linear.Linear.``."""
    return f"{found.__module__}.{found.__qualname__}."
