"""lightpose: train and run keypoint models on PyTorch Lightning.

``lightpose.load`` and ``lightpose.Predictor`` are imported on first use, so that ``import lightpose`` stays instant.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightpose.checkpoint import load
    from lightpose.inference.predictor import Predictor

__all__ = ["Predictor", "__version__", "load"]
__version__ = version("lightpose")


def __getattr__(name: str) -> Any:
    if name == "load":
        from lightpose.checkpoint import load

        return load
    if name == "Predictor":
        from lightpose.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'lightpose' has no attribute {name!r}")
