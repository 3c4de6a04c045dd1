"""Which options of the head and codec groups fit each other, for the sentences that refuse a pair."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from lightpose.checkpoint import assemble
from lightpose.cli.groups import group_files, read_option
from lightpose.models.net import fits
from lightpose.skeleton import Skeleton
from lightpose.structures import Spec


def fitting_heads(spec: Spec) -> list[str]:
    """Options of the ``head`` group that go with a codec; variants, which only change another option, are left out.

    A wrapper goes with the head that it wraps by default, or is given with another one: ``visibility head.head=simcc``.
    """
    files = group_files("head")
    whole = {name for name, path in files.items() if "_target_" in read_option(path)}
    return [words for name in files if name in whole for words, head in _heads(name, files, whole) if _pair(head, spec)]


def fitting_codecs(config: dict[str, Any], skeleton: Skeleton) -> list[str]:
    """Options of the ``codec`` group that go with the chosen head."""
    fitting, files = [], group_files("codec")
    for name in files:
        with suppress(Exception):  # of a user's codecs, those that can't be built
            codec = assemble(_option(name, files), skeleton=skeleton, input_hw=config["input_hw"], grid=config["grid"])
            if _pair(config["head"], codec.spec):
                fitting.append(name)
    return fitting


def _heads(name: str, files: Mapping[str, Path], whole: set[str]) -> Iterator[tuple[str, Any]]:
    """What to type for a head, and its configuration; for a wrapper once for each head that it may wrap."""
    head = _option(name, files)
    yield name, head
    for place, (default, replaceable) in _inside(read_option(files[name])).items():
        for other in sorted(whole - {name, default}) if replaceable else ():
            if not _inside(read_option(files[other])):
                yield f"{name} head.{place}={other}", {**head, place: _option(other, files)}


def _option(name: str, files: Mapping[str, Path]) -> Any:
    """Content of an option, with that of the options inside it."""
    option = read_option(files[name])
    inside = {place: _option(other, files) for place, (other, _) in _inside(option).items() if other in files}
    option.pop("defaults", None)
    return OmegaConf.merge(inside.pop("", {}), inside, option)


def _inside(option: Any) -> dict[str, tuple[str, bool]]:
    """Place → name of the option there, and whether another may be chosen: `heatmap@head` or `/head@head: heatmap`."""
    found = {}
    for entry in option.get("defaults", []):
        if entry == "_self_":
            continue
        replaceable = OmegaConf.is_dict(entry)
        key, other = next(iter(entry.items())) if replaceable else (str(entry), str(entry).partition("@")[0])
        found[str(key).partition("@")[2]] = str(other), replaceable
    return found


def _pair(head: Any, spec: Spec) -> bool:
    """Whether a head can be built for a codec, and fits it."""
    with suppress(Exception), torch.device("meta"):
        return fits(assemble(head, in_channels=(8,), strides=(4,), stages=1, spec=spec), spec)
    return False
