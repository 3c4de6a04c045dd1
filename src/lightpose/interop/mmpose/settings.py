"""Choices of groups and values of keys, as a command line gives them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from lightpose.errors import UserError

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
"""Of the pixels of ImageNet."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is chosen over the defaults of ``conf/train.yaml``.

    Attributes:
        groups: group → option.
        values: dotted key → value, plain data.
    """

    groups: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    def __or__(self, other: Self) -> Self:
        """Both; what ``other`` says counts where both say something."""
        return type(self)({**self.groups, **other.groups}, {**self.values, **other.values})

    def also(self, **values: Any) -> Self:
        """With further values; a double underscore in a name is a dot."""
        return self | type(self)({}, {key.replace("__", "."): value for key, value in values.items()})

    def overrides(self) -> list[str]:
        """What to type behind ``lightpose-train``."""
        groups = [f"{group}={option}" for group, option in self.groups.items()]
        return groups + [f"{key}={as_text(value)}" for key, value in self.values.items()]


def as_text(value: Any) -> str:
    """Plain data as Hydra reads it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(as_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{as_text(item)}' for key, item in value.items())}}}"
    return str(value)


def refused(what: str, instead: str) -> UserError:
    """The error for a configuration that is of a kind known here, but for a detail."""
    return UserError(f"{what} can't be converted; lightpose takes {instead}")
