"""Large libraries, loaded in less time. Imports nothing heavy."""

import gc
import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNAL = "scipy.signal"


@contextmanager
def quick_imports() -> Iterator[None]:
    """Imports in here take less time.

    Python looks for garbage ever again among the objects of all libraries, though imports leave none. And torchmetrics
    loads `scipy.signal` to see whether that has an attribute, which no version has lacked for long and nothing uses.
    """
    collecting = gc.isenabled()
    gc.disable()
    if _SIGNAL not in sys.modules:
        sys.modules[_SIGNAL] = _Signal(_SIGNAL)
    try:
        yield
    finally:
        _forget_stand_in()
        if collecting:
            gc.enable()


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
