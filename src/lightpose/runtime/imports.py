"""Large libraries, loaded in less time. Imports nothing heavy."""

import gc
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_SIGNAL = "scipy.signal"
_EXTRAS = ("transformers", "matplotlib")
"""Of torchmetrics; nothing here uses what it does with them."""


@contextmanager
def quick_imports() -> Iterator[None]:
    """Imports in here take less time.

    Python looks for garbage again and again among the objects of all libraries, though imports leave none. Torchmetrics
    loads `scipy.signal` to see whether that has an attribute, which no version has lacked for long and nothing uses.
    And where they are installed it loads `transformers` for metrics of text and matplotlib for pictures of its own,
    which it then does without.
    """
    from lightning_utilities.core.imports import RequirementCache

    parts: Any = RequirementCache
    look = parts._check_available
    parts._check_available = _without_extras(look)
    collecting = gc.isenabled()
    gc.disable()
    if _SIGNAL not in sys.modules:
        sys.modules[_SIGNAL] = _Signal(_SIGNAL)
    try:
        yield
    finally:
        parts._check_available = look
        _forget_stand_in()
        if collecting:
            gc.enable()


def _without_extras(look: Callable[[Any], None]) -> Callable[[Any], None]:
    def check(cache: Any) -> None:
        if str(cache.requirement).startswith(_EXTRAS):
            cache.available, cache.message = False, f"lightpose trains without {cache.requirement}"
        look(cache)

    return check


class _Signal(types.ModuleType):
    """Stands in for `scipy.signal` until somebody asks for more than the attribute that torchmetrics looks for."""

    hamming = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # asked of every module, such as by inspect
            raise AttributeError(name)
        _forget_stand_in()
        return getattr(importlib.import_module(_SIGNAL), name)


def _forget_stand_in() -> None:
    if isinstance(sys.modules.get(_SIGNAL), _Signal):
        del sys.modules[_SIGNAL]
