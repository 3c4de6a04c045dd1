"""Large libraries, loaded in less time. Imports nothing heavy."""

import gc
import importlib
import logging
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SIGNAL = "scipy.signal"
_EXTRAS = ("transformers", "matplotlib")
"""Of torchmetrics; nothing here uses what it does with them."""
_log = logging.getLogger(__name__)


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


def tell_if_not_compiled(module: types.ModuleType) -> None:
    """Say how to start sooner, where the bytecode of a module isn't kept: then Python compiles all libraries each time.

    Some container images forbid bytecode, and some installers write none. Compiling takes most of the time of imports.
    """
    kept = module.__spec__ and module.__spec__.cached
    if kept and not Path(kept).exists():
        _log.info(
            "Python compiles %s and its other libraries anew at each start, as %s can't be kept; unset "
            "PYTHONDONTWRITEBYTECODE, and if that folder can't be written, set PYTHONPYCACHEPREFIX to one that can",
            *(module.__name__, kept),
        )


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
