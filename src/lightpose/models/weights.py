"""Weights from files: load what fits by name and shape, and say what doesn't."""

import itertools
import logging
import math
import pickle
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightpose.errors import UserError, in_short
from lightpose.trust import DEEPEST, MOST_ENTRIES, NoPlainData, check_data

WRAPPERS = ("state_dict", "model", "module", "model_state_dict", "state_dict_ema", "net")
"""Keys under which training scripts put the state dict."""
WRAPPING = frozenset({"module", "model", "net", "backbone", "encoder", "student", "teacher", "_orig_mod", "state_dict"})
"""Parts of names that only say what a network was wrapped in, in a file or in a model."""
SHOWN = 4
_multiarray: Any = np._core.multiarray  # type: ignore[attr-defined]
_NUMPY: list[Any] = [
    *(_multiarray._reconstruct, _multiarray.scalar, np.ndarray, np.dtype),
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")),
    (_multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    (_multiarray.scalar, "numpy.core.multiarray.scalar"),
]
"""What arrays and numbers of NumPy are made by, under the names of NumPy 2 and 1."""


class _Inert:
    """What comes out in place of an object of another program. It takes whatever it is given, and keeps nothing."""

    __slots__ = ()

    def __init__(self, *given: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_LOGS: list[Any] = [
    (_Inert, "mmengine.logging.history_buffer.HistoryBuffer"),
    *((_Inert, f"{module}.getattr") for module in ("builtins", "__builtin__")),  # methods of it, never Python's own
]
"""What the logs of a training of MMEngine are made by."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of the tensors of a file.

    Attributes:
        source: the file.
        loaded: names, in the model, of the tensors that were loaded.
        skipped: name in the file → why it was not loaded.
        missing: names, in the model, of the tensors that keep their initial values.
    """

    source: str
    loaded: tuple[str, ...]
    skipped: Mapping[str, str]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        """A few lines: counts, and the first names of each kind."""
        lines = [f"loaded {len(self.loaded)} of {len(self.loaded) + len(self.missing)} tensors from {self.source}"]
        if self.missing:
            lines.append(f"  {len(self.missing)} keep their initial values: {_first(self.missing)}")
        if self.skipped:
            reasons = _first([f"{name} ({reason})" for name, reason in self.skipped.items()])
            lines.append(f"  {len(self.skipped)} in the file skipped: {reasons}")
        return "\n".join(lines)


def load_weights(module: nn.Module, path: str | Path, prefix: str = "") -> LoadReport:
    """Load the tensors of a file that fit ``module`` by name and shape; leave all others as they are.

    Position and patch embeddings of plain ViTs are resampled where the size differs.

    Args:
        module: receives the weights, in place.
        path: PyTorch or ``.safetensors`` file with a state dict, also inside ``{"state_dict": ...}`` and the like.
        prefix: what the wanted names begin with in the file; empty finds it: names in the file and in the model may
            begin with other words of `WRAPPING`.

    Raises:
        UserError: when the file is missing, unreadable or holds more than data, or when nothing in it fits.
    """
    return fit_weights(module, read_weights(path), str(path), prefix)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a file, on the CPU. No code in the file is run.

    Raises:
        UserError: when the file is missing, unreadable, holds more than data, or holds no tensor.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist; give the path of a PyTorch or .safetensors file")
    content = load_data(path, f"weights file {path}")
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    names = content if isinstance(content, Mapping) else {}
    state = {str(name): value for name, value in names.items() if isinstance(value, Tensor)}
    if not state:
        raise UserError(
            f"weights file {path} holds no named tensors, at the top or under {', '.join(WRAPPERS)}; save a state dict"
        )
    return state


def load_data(path: Path, what: str, whole: bool = False, only: Sequence[str] = ()) -> Any:
    """Content of a ``.safetensors`` file, or of one that torch.save wrote, on the CPU.

    No code in it is run, and it takes no more memory than the file is long.

    Args:
        path: a file that exists.
        what: it is, for messages.
        whole: compare the content with its check sums, which some programs leave out.
        only: of a file of MMEngine: the keys that count at its top, where one of them is there. NumPy's arrays in them
            come out as lists; logs beside them are let in, and left out.

    Raises:
        NoPlainData: when it holds more than tensors and plain data.
        UserError: when it is damaged.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:
            is_archive = file.read(4) == b"PK\x03\x04"
        if is_archive:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
                if unpacked > path.stat().st_size:  # torch.save compresses nothing
                    raise ValueError(f"its {path.stat().st_size} bytes would unpack to {unpacked}")
                if whole and (damaged := archive.testzip()):
                    raise ValueError(f"the check sum of {damaged} is wrong")
        elif whole:
            raise ValueError("it is no archive of torch.save")
        with torch.serialization.safe_globals([*_NUMPY, *_LOGS] if only else []), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the protocol of other programs' pickles
            content = torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise NoPlainData(
            f"{what} is damaged or holds more than plain data, which could run code when read; if you trust it, save "
            "torch.load(path, weights_only=False)['state_dict'] to a new file and load that"
        ) from error
    except Exception as error:  # a damaged file raises whatever the place of the damage leads to
        reason = in_short(error)
        raise UserError(f"{what} can't be read as a PyTorch or .safetensors file ({reason}); fetch it again") from error
    if isinstance(content, Mapping) and any(key in content for key in only):
        content = {key: content[key] for key in only if key in content}
    content = _without_arrays(content) if only else content
    check_data(content, what)
    storages = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in _tensors(content)}
    if sum(storages.values()) > path.stat().st_size:
        raise UserError(f"{what} names tensors that are larger than itself; get it from a source you trust")
    return content


def _without_arrays(content: Any, depth: int = 0, count: list[int] | None = None) -> Any:
    """The same data, with lists in place of NumPy's arrays and numbers; what `check_data` refuses stays as it is."""
    count = [0] if count is None else count
    count[0] += 1
    if isinstance(content, (np.ndarray, np.generic)):
        return content.tolist()
    if depth > DEEPEST or count[0] > MOST_ENTRIES:
        return content
    if isinstance(content, Mapping):
        return {key: _without_arrays(value, depth + 1, count) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_arrays(value, depth + 1, count) for value in content]
    return content


def _tensors(content: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(content) if isinstance(leaf, Tensor)]


def fit_weights(module: nn.Module, state: Mapping[str, Tensor], source: str, prefix: str = "") -> LoadReport:
    """`load_weights` from a state dict; ``source`` names it in the report, which is also logged.

    Raises:
        UserError: when nothing fits, with names of both sides.
    """
    target = module.state_dict()

    def fits(name: str, value: Tensor) -> bool:
        return name in target and value.shape == target[name].shape

    def renamed(start: str, own: str) -> dict[str, Tensor]:
        return {own + name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}

    starts = [prefix] if prefix else _starts(state)
    start, own = max(
        itertools.product(starts, _starts(target)), key=lambda pair: sum(fits(*item) for item in renamed(*pair).items())
    )
    offered = _resample(module, renamed(start, own))
    fitting = {name: value for name, value in offered.items() if fits(name, value)}
    if not fitting:
        raise UserError(
            f"no tensor of {source} fits the model: the file has {_first(state)}, the model {_first(target)}; "
            "give weights of the same architecture"
        )
    module.load_state_dict(fitting, strict=False)
    skipped = {}
    for name in state:
        known = own + name.removeprefix(start)
        if not name.startswith(start) or known not in target:
            skipped[name] = "not in the model"
        elif known not in fitting:
            skipped[name] = f"shape {tuple(state[name].shape)} in the file, {tuple(target[known].shape)} in the model"
    missing = tuple(name for name in target if name not in fitting)
    report = LoadReport(source, tuple(fitting), skipped, missing)
    _log.info("%s", report)
    return report


def _starts(names: Iterable[str]) -> list[str]:
    """What names begin with that only wraps, shortest first: nothing, ``module.``, ``module.backbone.``."""
    found = {""}
    for name in names:
        words = [*itertools.takewhile(WRAPPING.__contains__, name.split("."))]
        found |= {"".join(f"{word}." for word in words[: count + 1]) for count in range(len(words))}
    return sorted(found, key=len)


def _first(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _resample(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with the embeddings of plain ViTs brought to the input and patch size of those in ``module``."""
    state = dict(state)
    for name, part in module.named_modules():
        if not isinstance(part, VisionTransformer):
            continue
        positions, patches = (f"{name}.{leaf}".lstrip(".") for leaf in ("pos_embed", "patch_embed.proj.weight"))
        if positions in state and part.pos_embed is not None:
            state[positions] = _resample_positions(state[positions], part)
        if patches in state and state[patches].ndim == 4:
            state[patches] = resample_patch_embed(state[patches], list(part.patch_embed.patch_size))
    return state


def _resample_positions(positions: Tensor, vit: Any) -> Tensor:
    """(1, N, C) position embeddings for the token grid of ``vit``; unchanged where their own grid can't be told.

    The grid of a file has the aspect of ``vit``'s or is square, with or without a class token.
    """
    height, width = grid = vit.patch_embed.grid_size
    prefix_tokens = 0 if vit.no_embed_class else vit.num_prefix_tokens
    if positions.shape[1] == height * width + prefix_tokens:
        return positions
    for aspect in (height / width, 1.0):
        for extra in (0, 1):
            count = positions.shape[1] - extra
            rows = round(math.sqrt(count * aspect))
            if rows and rows * round(rows / aspect) == count and extra >= prefix_tokens:
                resampled = resample_abs_pos_embed(
                    positions, list(grid), old_size=[rows, count // rows], num_prefix_tokens=extra
                )
                return resampled[:, extra - prefix_tokens :]
    return positions
