"""What a search may choose: values of keys and options of groups, from a YAML file and from the command line."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lightpose.errors import UserError

Space = dict[str, BaseDistribution]
"""Key or group → what it may be. Choices are texts, as one would type them."""

_FORMS = "a range {low: 1.0, high: 3.0}, which may have log: true or step: 0.5, or a list of choices"
_PLAIN = re.compile(r"(?!(null|true|false|nan|inf)$)[a-z_][\w./-]*", re.IGNORECASE)


def read_space(written: Mapping[str, Any], overrides: Sequence[Override]) -> tuple[Space, list[str]]:
    """The space, and the arguments that are the same in all trials.

    Args:
        written: key → range or choices, from a YAML file.
        overrides: of the command line. What they say of a key comes first, be it a range or one value.

    Raises:
        UserError: for what is neither range nor choices, and when there is nothing to search.
    """
    space = {key: _from_yaml(key, given) for key, given in written.items()}
    fixed = []
    for override in overrides:
        key = override.get_key_element()
        if override.is_sweep_override():
            space[key] = _from_override(override)
        else:
            space.pop(key, None)
            fixed.append(str(override.input_line))
    if not space:
        raise UserError(
            "there is nothing to search; take a space, such as sweep=lr_sigma, or give ranges and choices, such as "
            "'optimizer.lr=tag(log,interval(1e-4,1e-2))' or head.channels=64,128"
        )
    return space, fixed


def ends(distribution: BaseDistribution) -> list[Any]:
    """The values that are worth a look before a search begins: all choices, or the ends of a range."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]


def as_arguments(values: Mapping[str, Any]) -> list[str]:
    """Values of a trial as arguments of the command."""
    return [f"{key}={value}" for key, value in values.items()]


def typed(value: Any) -> str:
    """A value as one would type it on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(typed, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{typed(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else QuotedString(value, Quote.single).with_quotes()
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _from_yaml(key: str, given: Any) -> BaseDistribution:
    if isinstance(given, list):
        return _made(key, given, CategoricalDistribution, choices=[typed(choice) for choice in given])
    if not isinstance(given, dict) or not {"low", "high"} <= given.keys() <= {"low", "high", "log", "step"}:
        raise UserError(f"sweep.space: {key}: {typed(given)}: expected {_FORMS}")
    numbers = all(_is_number(given[name]) for name in given.keys() - {"log"})
    if not numbers or not isinstance(given.get("log", False), bool):
        raise UserError(f"sweep.space: {key}: {typed(given)}: expected {_FORMS}")
    whole = isinstance(given["low"], int) and isinstance(given["high"], int)
    return _made(key, given, IntDistribution if whole else FloatDistribution, **given)


def _from_override(override: Override) -> BaseDistribution:
    key, value = override.get_key_element(), override.value()
    written = str(override.input_line).partition("=")[2]
    log = {"log": True} if "log" in getattr(value, "tags", ()) else {}
    if isinstance(value, IntervalSweep):
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        kind = IntDistribution if whole else FloatDistribution
        return _made(key, written, kind, low=value.start, high=value.end, **log)
    if isinstance(value, RangeSweep) and isinstance(numbers := value.range(), range) and numbers and numbers.step > 0:
        return _made(key, written, IntDistribution, low=numbers[0], high=numbers[-1], step=numbers.step, **log)
    return _made(key, written, CategoricalDistribution, choices=list(override.sweep_string_iterator()))


def _made(key: str, given: Any, kind: type[BaseDistribution], **options: Any) -> BaseDistribution:
    try:
        return kind(**options)
    except (TypeError, ValueError) as error:
        shown = given if isinstance(given, str) else typed(given)
        raise UserError(f"{key}={shown} is no range or choice to search ({error}); give {_FORMS}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
