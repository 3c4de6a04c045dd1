"""Parts as the files of their options build them."""

from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lightpose.models.base import FeatureModule

CONF = Path(__file__).parents[2] / "conf"


def from_yaml(name: str, input_hw: tuple[int, ...] = (64, 96), **options: Any) -> FeatureModule:
    with initialize_config_dir(str(CONF), version_base=None):
        config = compose(overrides=[f"+backbone={name}", f"+input_hw={list(input_hw)}"])
    net: FeatureModule = instantiate(OmegaConf.merge(config, {"backbone": options}).backbone)
    return net
