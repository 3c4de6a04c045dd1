"""Composes configurations as the commands do, with the toys' groups beside those of the package."""

import functools
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

import lightpose.cli.app  # noqa: F401 - makes the resolvers that the configuration uses
from lightpose.checkpoint import assemble
from lightpose.cli.groups import conf_dir
from lightpose.cli.setup import resolved
from lightpose.skeleton import Skeleton

TOYS = Path(__file__).parent / "toys"
FOLDERS = (conf_dir(), TOYS / "conf")

sys.path.append(str(TOYS))  # as a user's PYTHONPATH would


def options(group: str, folder: Path = FOLDERS[0]) -> list[str]:
    """Names of the options of a group."""
    return sorted(
        path.relative_to(folder / group).with_suffix("").as_posix() for path in (folder / group).rglob("*.yaml")
    )


@functools.cache
def _compose(name: str | None, overrides: tuple[str, ...]) -> DictConfig:
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        search = f"hydra.searchpath=[file://{TOYS / 'conf'}]"
        return hydra.compose(name, overrides=[*overrides, search], return_hydra_config=name is not None)


def compose(*overrides: str) -> dict[str, Any]:
    """What ``lightpose-train`` hands to its task, resolved."""
    config = _compose("train", overrides)
    HydraConfig.instance().set_config(config)
    return resolved(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))


def compose_option(group: str, option: str) -> Any:
    """One option of a group alone, as plain data, interpolations as they stand."""
    path = next(path for folder in FOLDERS if (path := folder / group / f"{option}.yaml").is_file())
    config = OmegaConf.load(path)
    if "defaults" not in config:  # ten times as fast
        return {group: OmegaConf.to_container(config)}
    return OmegaConf.to_container(
        _compose(None, ("+reader=coco", f"+{group}={option}") if group == "data" else (f"+{group}={option}",))
    )


@functools.cache
def coco17() -> Skeleton:
    """The skeleton of most configurations."""
    skeleton: Skeleton = assemble(compose("skeleton=coco17")["skeleton"])
    return skeleton
