"""Networks of ours that compute what MMPose's compute."""

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from lightpose.checkpoint import Sketch, assemble, build
from lightpose.codecs.base import Codec
from lightpose.conf_files import conf_dir
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.interop.mmpose.codecs import codec_settings, input_hw_of
from lightpose.interop.mmpose.configs import codec_of, settings
from lightpose.interop.mmpose.heads import keypoint_count
from lightpose.interop.mmpose.parts_of_names import read_name
from lightpose.interop.mmpose.settings import Settings
from lightpose.skeleton import Skeleton


def resolved(choices: Settings) -> dict[str, Any]:
    """The whole configuration of a training with these choices, as plain data."""
    config = deepcopy(_composed(tuple(choices.groups.items())))
    for key, value in choices.values.items():
        OmegaConf.update(config, key, value)
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return plain


@cache
def _composed(groups: tuple[tuple[str, str], ...]) -> DictConfig:
    """Kept, since many models have the same groups, and reading the files of one takes half a second."""
    running = GlobalHydra.instance().hydra  # of a command
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("train", [*Settings(dict(groups)).overrides(), "output_dir=."])
    finally:
        GlobalHydra.instance().hydra = running


def build_like(config: Mapping[str, Any], skeleton: Skeleton | str | None = None) -> PoseEstimator:
    """An estimator with fresh weights that computes what the model of an MMPose configuration computes.

    Args:
        config: with ``model`` and ``codec``.
        skeleton: of the data set that the model is for, or its option in the group. None takes COCO's where there are
            17 or 133 keypoints, InterHand2.6M's where there are 42, and otherwise one of numbered keypoints, which
            mirrors nothing.

    Raises:
        UserError: for a model that lightpose doesn't have.
    """
    choices = settings(config, skeleton if isinstance(skeleton, str) else None)
    count = keypoint_count(config["model"]["head"], codec_of(config))
    plain = resolved(choices)
    if not isinstance(skeleton, Skeleton):
        option = plain["skeleton"]
        skeleton = assemble(option) if "_target_" in option else numbered(count)
    if skeleton.num_keypoints != count:
        raise UserError(
            f"the model has {count} keypoints, but skeleton {skeleton.name} has {skeleton.num_keypoints}; give that of "
            "its data set"
        )
    plain = {**plain, "skeleton": {"_target_": "lightpose.skeleton.Skeleton.from_dict", "data": skeleton.to_dict()}}
    with Sketch():
        estimator = build(plain, skeleton, training=True)
    return estimator.eval()


def codec(config: Mapping[str, Any], skeleton: Skeleton | None = None) -> Codec:
    """Our codec that encodes and decodes as an MMPose codec does.

    Args:
        config: of the codec, with its ``type``.
        skeleton: gives K and the mirror pairs; None is COCO's 17 keypoints, or as many numbered ones as the
            configuration says.

    Raises:
        UserError: for a codec that lightpose doesn't have.
    """
    choices = codec_settings(config)
    plain = resolved(choices)
    if skeleton is None:
        count = int(config.get("num_keypoints", 17))
        option = resolved(Settings({"skeleton": "coco17"}))["skeleton"]
        skeleton = assemble(option) if count == 17 else numbered(count)
    made: Codec = assemble(plain["codec"], skeleton=skeleton, input_hw=input_hw_of(config), grid=plain["grid"])
    return made


def skeleton_option(name: str) -> str | None:
    """The option of the group ``skeleton`` for the data set that a configuration is named after; None for none."""
    option = read_name(name).data_set
    return option if (conf_dir() / "skeleton" / f"{option}.yaml").is_file() else None


def numbered(count: int) -> Skeleton:
    """The skeleton of a data set of which nothing is known but how many keypoints it has; it mirrors nothing."""
    return Skeleton.build([f"keypoint_{number}" for number in range(count)], f"{count} keypoints")
