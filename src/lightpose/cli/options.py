"""Finds options that don't fit their class before anything is built, and names those that a library refuses."""

import difflib
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Union

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from lightpose.cli.groups import group_files, read_option
from lightpose.errors import UserError, place_in_own_code

_NUMBERS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
_SEQUENCES = (list, tuple, set, frozenset, Sequence, Collection, typing.Iterable)
_MAPPINGS = (dict, Mapping)


LEAST = {
    "data.batch_size": 1,
    "data.epoch_steps": 1,
    "data.eval_batch_size": 1,
    "data.late_epochs": 0,
    "data.num_workers": 0,
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.gradient_clip_val": 0,
    "trainer.log_every_n_steps": 0,
    "scheduler.warmup_steps": 0,
    "estimator.base_batch": 1,
    "callbacks.nan_guard.patience": 1,
    "batch_size": 1,
    "detect_every": 1,
    "tracker.keep_s": 0,
    "tracker.confirm_frames": 1,
    "num_workers": 0,
    "images": 1,
    "count": 1,
    "columns": 1,
    "seed": 0,
    "max_input_pixels": 1024,
}
"""The smallest number that makes sense, where a class would take a smaller one."""

TYPES: Mapping[str, Mapping[str, Any]] = {
    "train": {"seed": int, "max_input_pixels": int},
    "eval": {
        "tracks": bool,
        "batch_size": int,
        "num_workers": int | None,
        "flip_test": bool | None,
        "device": str | None,
    },
    "export": {
        "format": str,
        "out": str,
        "overwrite": bool,
        "flip_test": bool,
        "tolerance_px": float,
        "precision": int | str,
        "device": str,
        "people": int,
        "most_loss_px": float,
        "most_loss_ap": float,
    },
    "predict": {
        "source": str | int,
        "lift": str | None,
        "image_hw": tuple[int, int] | None,
        "out": str,
        "detect_every": int,
        "batch_size": int,
        "num_workers": int | None,
        "hwaccel": str | None,
        "draw": bool,
        "threshold": float,
    },
    "convert_mmpose": {"name": str | None, "trust": bool, "overwrite": bool},
    "data_convert": {"source": str, "out": str, "images": str | None, "on_bad_image": str, "overwrite": bool},
    "data_suggest": {"source": str | int, "out": str, "count": int, "batch_size": int, "threshold": float},
    "data_check": {"data.train": str | Sequence[str], "decode": bool},
    "data_preview": {"max_input_pixels": int, "out": str, "count": int, "columns": int, "names": bool, "seed": int},
    "data_synthetic": {
        "out": str,
        "images": int,
        "sequences": int | None,
        "videos": int | None,
        "people": int | None,
        "seconds": float,
        "fps": float,
        "seed": int,
        "image_hw": tuple[int, int],
    },
}
"""Command → keys of its own → what they take, where nothing else checks it."""

PARTS = re.compile(r"(callbacks|logger|metric|data\.transforms\.\w+\.\w+)\.\w+")
"""Entries that are built: each is a mapping with a ``_target_``, or null to leave it out."""
NEEDED = re.compile(r"preprocessor|backbone|neck|head|codec|optimizer|scheduler|reader|estimator|data|trainer")
"""Entries that are built and can't be left out."""
BUILDERS = re.compile(r"neck|head|codec|optimizer|scheduler|reader|metric\.\w+")
"""Entries that more arguments are given to when they are built."""


def check_options(config: Any, place: str = "") -> None:
    """Compare what a configuration says of each class with what the class takes.

    Args:
        config: plain data, resolved.
        place: where in the whole configuration it stands.

    Raises:
        UserError: for an option that a class doesn't have, or a value of another type than it is annotated with, or
            that is too small.
    """
    if isinstance(config, list):
        for number, item in enumerate(config):
            check_options(item, f"{place}.{number}")
    if not isinstance(config, dict):
        return
    taken = _taken(config["_target_"], place) if isinstance(config.get("_target_"), str) else None
    if taken is not None and taken[1]:
        _check_known(config, taken[0], place)
    for key, value in config.items():
        where = f"{place}.{key}" if place else str(key)
        if taken is not None and not str(key).startswith("_"):
            hint = taken[0].get(key, Any)
            if not _fits(value, hint):
                swapped = [where] if where.partition(".")[0] in keys_given() else []
                raise UserError(f"{given(where, value)}: expected {_words(hint)}{_left_over(swapped)}")
        if PARTS.fullmatch(where) and not (value is None or (isinstance(value, dict) and "_target_" in value)):
            raise UserError(f"{given(where, value)}: expected a part with its _target_, or null to leave it out")
        if NEEDED.fullmatch(where) and not (isinstance(value, dict) and "_target_" in value):
            raise UserError(f"{given(where, value)}: expected a part with its _target_, such as my_parts.MyHead")
        if BUILDERS.fullmatch(where) and value and not value.get("_partial_"):
            raise UserError(
                f"{given(where, value['_target_'])}: the YAML of this part lacks _partial_: true; it is built later, "
                "when more of its arguments are known"
            )
        _check_least(where, value)
        check_options(value, where)


def _check_known(config: dict[str, Any], known: Collection[str], place: str) -> None:
    """Refuse options that a class doesn't have, and say how to remove those that an experiment sets for another."""
    unknown = [key for key in config if key not in known and not str(key).startswith("_")]
    if not unknown:
        return
    places = [f"{place}.{key}" if place else str(key) for key in unknown]
    names = " ".join(given(where, config[key]) for where, key in zip(places, unknown, strict=True))
    said = f"{names}: {config['_target_']} has no such option; it has {', '.join(known) or 'none'}"
    raise UserError(said + _left_over(places))


def _left_over(places: list[str]) -> str:
    """How to remove those of the keys that an experiment sets for another part than the one chosen; or nothing."""
    left = [where for where in places if where not in keys_given() and _in_experiment(where)]
    if not left:
        return ""
    other, removed = left[0].partition(".")[0], " ".join(f"'~{where}'" for where in left)
    return (
        f". experiment={_experiment()} has another {other}, and sets {' and '.join(left)} for it; remove that with "
        f"{removed}"
    )


def _experiment() -> str | None:
    """Name of the chosen experiment."""
    return HydraConfig.get().runtime.choices.get("experiment") if HydraConfig.initialized() else None


def _in_experiment(where: str) -> bool:
    """Whether the chosen experiment, or one that it begins with, sets a key."""
    files, names = group_files("experiment"), [_experiment()]
    for name in names:
        option = read_option(files[name]) if name in files else OmegaConf.create()
        if OmegaConf.select(option, where) is not None:
            return True
        names += [entry for entry in option.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    return False


def check_types(config: DictConfig, command: str) -> None:
    """Compare what a command's own keys have with what they take (`TYPES`); a key that must be given may be missing.

    Raises:
        UserError: for a value of another type, or one that is too small.
    """
    for key, hint in TYPES[command].items():
        try:
            value = OmegaConf.select(config, key, throw_on_missing=True)
        except MissingMandatoryValue:
            continue
        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        if not _fits(value, hint):
            raise UserError(f"{given(key, value)}: expected {_words(hint)}")
        _check_least(key, value)


def _check_least(where: str, value: Any) -> None:
    if where in LEAST and isinstance(value, (int, float)) and value < LEAST[where]:
        raise UserError(f"{given(where, value)}: expected at least {LEAST[where]}")


def given(where: str, value: Any) -> str:
    """``key=value`` as the user gave it, perhaps by the key it comes from, such as ``input_hw`` for a crop's size."""
    leaf = where.rpartition(".")[2]
    same = [override for override in _overrides() if _key(override).rpartition(".")[2] == leaf]
    same += [override for override in _overrides() if _key(override) == where]
    return same[-1] if same else f"{where}={'null' if value is None else value}"  # the last one counts


@contextmanager
def preparing(part: str = "") -> Iterator[None]:
    """Turn what a library says of an option in here into a `UserError` that names the option.

    Args:
        part: of the configuration, that is built in here.

    Raises:
        UserError: for any exception but those of the system, such as a full disk.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(mistake(error, part)) from error


def mistake(error: Exception, part: str = "") -> str:
    """A sentence for an exception that an option has caused: the options that it may mean, and what it says.

    Args:
        error: by whatever library.
        part: of the configuration, that was being built.
    """
    if isinstance(error, InstantiationException):
        key = re.search(r"full_key: ([\w.]+)", str(error))
        part = ".".join(filter(None, [part, key[1] if key else ""]))
        part = part.replace("data.transforms", "augment").replace("estimator.metrics", "metric")
        part = part.replace("data.reader", "reader")
        while error.__cause__ is not None:
            error = error.__cause__  # type: ignore[assignment]
    said = " ".join(str(error).split())
    if not said or isinstance(error, (AttributeError, LookupError, NameError, AssertionError)):
        said = f"{type(error).__name__} {said}"  # those say little
    words = {word.rstrip("s") for word in re.findall(r"(?<![\w/])\w+(?![\w/])", said)}
    values = set(said.replace("zero", "0").translate(str.maketrans("'`=,;:()", "        ")).split())
    inside = [override for override in _overrides() if part and f"{_key(override)}.".startswith(f"{part}.")]
    options = [override for override in _overrides() if "." in _key(override)]
    guesses = [
        inside if len(inside) == 1 else [],
        [override for override in options if _key(override).rpartition(".")[2].rstrip("s") in words],
        [override for override in _overrides() if len(_value(override)) > 1 and _value(override) in values],
        [override for override in _overrides() if _value(override) in values],
        inside,
    ]
    meant = next(filter(None, guesses), [])
    place = place_in_own_code(error)
    about = f"{'one of ' if len(meant) > 1 else ''}{' '.join(meant)}" if 0 < len(meant) < 6 else part
    about = about or ("a part of your own" if place else "an option")
    return f"{about}: {said[:600]}{place} (LIGHTPOSE_DEBUG=1 shows where this comes from)"


def keys_given() -> list[str]:
    """Keys and groups that the command line sets."""
    return [_key(override) for override in _overrides()]


def _overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _value(override: str) -> str:
    return override.partition("=")[2].strip("'\"")


def needed_options(target: Any) -> set[str]:
    """Options that a class or function needs; an empty set if nobody can tell."""
    if not isinstance(target, str):  # Hydra would log an error of its own
        return set()
    try:
        parameters = inspect.signature(get_object(target)).parameters.values()
    except Exception:  # whoever builds it will say what is wrong
        return set()
    return {parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty}


def find(target: str, place: str) -> Any:
    """What a ``_target_`` names.

    Args:
        target: dotted path of a class or function.
        place: of the part in the configuration.

    Raises:
        UserError: saying which module isn't there or can't be imported, and why, or what it lacks.
    """
    try:
        return get_object(target)
    except Exception as error:
        raise UserError(f"{place}._target_={target}: {_why_not_found(target)}") from error


def _why_not_found(target: str) -> str:
    parts = target.split(".")
    if len(parts) == 1:
        return "a path with its module is expected, such as my_parts.MyHead"
    found: Any = None
    for number, part in enumerate(parts):
        name = ".".join(parts[: number + 1])
        if hasattr(found, part):
            found = getattr(found, part)
            continue
        try:
            found = importlib.import_module(name)
        except Exception as error:
            if not isinstance(error, ModuleNotFoundError) or not name.startswith(str(error.name)):
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                return f"{name} can't be imported ({reason}{place_in_own_code(error)}); install or mend what fails"
            if not number:
                return (
                    f"there is no module {part}; the folder with {part}.py must be that of --config-dir, or stand in "
                    "PYTHONPATH"
                )
            break
    public = [(name, value) for name, value in vars(found).items() if not name.startswith("_")]
    known = [name for name, value in public if callable(value) or isinstance(value, types.ModuleType)]
    near = difflib.get_close_matches(part, known, n=3, cutoff=0.6)
    file = getattr(found, "__file__", None)
    owner = ".".join(parts[:number]) + (f" ({file})" if file else "")
    return f"{owner} has no {part}; " + (f"did you mean {' or '.join(near)}?" if near else "mend the path")


def _taken(target: str, place: str) -> tuple[dict[str, Any], bool] | None:
    """Option → type that a class or function takes, and whether it takes no others."""
    found = find(target, place)
    if getattr(getattr(found, "__init__", None), "__module__", "") == "torch.nn.modules.module":
        return {}, True  # a module without an __init__ of its own
    try:
        parameters = inspect.signature(found).parameters.values()
        annotated = found.__init__ if isinstance(found, type) else found  # type: ignore[misc]
        hints = typing.get_type_hints(annotated)
    except Exception:  # built by machine: whoever builds it will say what is wrong
        return None
    kinds = {parameter.kind for parameter in parameters}
    named = [parameter.name for parameter in parameters if parameter.kind not in (2, 4)]
    return {name: hints.get(name, Any) for name in named}, inspect.Parameter.VAR_KEYWORD not in kinds


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value may be of a type; True if nobody can tell."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if hint is None or hint is type(None):
        return value is None
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    kind = origin or hint
    if kind in _SEQUENCES:
        if not isinstance(value, list) or not inner:
            return isinstance(value, list)
        exact = kind is tuple and Ellipsis not in inner
        return all(_fits(item, inner[number if exact else 0]) for number, item in enumerate(value[: len(inner)])) and (
            len(value) == len(inner) if exact else all(_fits(item, inner[0]) for item in value)
        )
    if kind in _MAPPINGS:
        return isinstance(value, dict)
    if isinstance(kind, type) or kind is Callable:
        return isinstance(value, dict) or not isinstance(value, (bool, int, float, str, list, type(None)))
    return True


def _words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(one) for one in inner))
    if origin is Literal:
        return " or ".join(dict.fromkeys(map(str, inner)))
    if hint in _NUMBERS:
        return _NUMBERS[hint]
    if (origin or hint) in _SEQUENCES:
        return f"a list, each of it {_words(inner[0])}" if inner else "a list"
    return "another part" if isinstance(hint, type) or origin is Callable else str(hint)
