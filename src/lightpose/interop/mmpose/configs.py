"""An MMPose configuration as choices over ``conf/train.yaml``."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightpose.errors import UserError
from lightpose.interop.mmpose.backbones import Part, backbone_settings, kind_of, neck_settings
from lightpose.interop.mmpose.codecs import codec_settings, input_hw_of, one_codec
from lightpose.interop.mmpose.heads import has_deconvs, head_settings, keypoint_count
from lightpose.interop.mmpose.names import BACKBONES, HEADS, NECKS, Family
from lightpose.interop.mmpose.settings import MEAN, STD, Settings, refused
from lightpose.interop.mmpose.tested import ONE_STAGE, name_of_data_set, skeleton_named, with_crops

SKELETONS = {17: "coco17", 42: "interhand3d", 133: "coco_wholebody"}
"""Of models of bodies and of two hands whose configuration names no data set."""


def settings(config: Mapping[str, Any], skeleton: str | None = None) -> Settings:
    """What to choose for a model that computes what MMPose's does, and decodes the same.

    Args:
        config: with ``model`` and ``codec``, as MMPose's configuration has them.
        skeleton: option of the group; None finds it by the data set that the configuration tests with, or else by the
            number of keypoints.

    Raises:
        UserError: for a model that lightpose doesn't have, and for a configuration that is none of MMPose's.
    """
    try:
        return _settings(config, skeleton)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"the MMPose configuration lacks something, or has another kind of value there than MMPose's own "
            f"({type(error).__name__}: {error}); mend it, or give name="
        ) from error


def _settings(config: Mapping[str, Any], skeleton: str | None) -> Settings:
    model = _model(config)
    backbone, neck, head = model["backbone"], model.get("neck"), model["head"]
    codec = codec_of(config)
    paradigm = PARADIGMS[kind_of(model)](model, codec)
    found = paradigm | backbone_settings(backbone, neck or {}) | neck_settings(neck, backbone) | head_settings(head)
    found |= codec_settings(codec)
    if model.get("traj_head"):
        found |= Settings(
            {"backbone": "videopose3d_trajectory", "neck": "all", **dict.fromkeys(("head", "codec"), "trajectory")}
        )
    if kind_of(head) == "RLEHead":
        found |= Settings({"codec": "rle"})
    if kind_of(head) == "VisPredictHead":
        values = {key.replace("codec.", "codec.codec.", 1): value for key, value in found.values.items()}
        found = Settings({**found.groups, "codec": "visibility", "codec@codec.codec": found.groups["codec"]}, values)
    if kind_of(head) == "RTMOHead":
        found = found.also(grid="half_pixel")
    if kind_of(model) != "PoseLifter":
        found = with_crops(found, config)
    if bool((neck or {}).get("apply_relu")) != (found.groups["head"] == "heatmap_bilinear"):
        raise UserError("FeatureMapProcessor with apply_relu and a head of one 3x3 convolution go together; give both")
    count = keypoint_count(head, codec)
    option = skeleton or skeleton_named(config, count) or found.groups.get("skeleton")
    if not option and not name_of_data_set(config):
        option = SKELETONS.get(count)
    return found | (Settings({"skeleton": option}) if option else Settings())


def overrides(config: Mapping[str, Any], skeleton: str | None = None) -> list[str]:
    """`settings` as ``lightpose-train`` takes them."""
    return settings(config, skeleton).overrides()


def codec_of(config: Mapping[str, Any]) -> Part:
    """The codec of a configuration: what its head decodes with, if it is not one of several.

    Raises:
        UserError: when there is none.
    """
    model = _model(config)
    inner = model["head"].get("pose_cfg") or model["head"]
    codec: Any = config.get("codec")
    decoder: Any = inner.get("decoder")
    if not codec and not decoder:
        raise UserError("the MMPose configuration has no codec, and no decoder in its head; give name= instead")
    if isinstance(codec, Mapping) and kind_of(decoder or codec) == "AssociativeEmbedding":
        restored = (model.get("test_cfg") or {}).get("restore_heatmap_size")
        own = {**(decoder or codec), "heatmap_size": codec["heatmap_size"]}  # it may decode maps as large as the input
        return {**own, "restore_heatmap_size": restored}
    return one_codec(codec if isinstance(codec, Sequence) or not decoder else decoder)


def families(config: Mapping[str, Any]) -> dict[str, Family]:
    """How the parts of a model call their tensors, of those that have any."""
    model = _model(config)
    head = kind_of(model["head"])
    head = {"IntegralRegressionHead": "DSNTHead"}.get(head, head)
    if head == "SimCCHead" and has_deconvs(model["head"]):
        head = "SimCCHead of deconvolutions"
    if head == "HeatmapHead" and codec_of(config).get("heatmap_type") == "combined":
        head = "HeatmapHead of offsets"
    found = {"backbone": BACKBONES[kind_of(model["backbone"])], "head": HEADS[head]}
    neck = kind_of(model.get("neck") or {})
    return {**found, "neck": NECKS[neck]} if neck in NECKS else found


def _model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    model = config.get("model")
    if not isinstance(model, Mapping) or not all(isinstance(model.get(key), Mapping) for key in ("backbone", "head")):
        raise UserError("the MMPose configuration has no model with a backbone and a head; give that of a pose model")
    if kind_of(model) not in PARADIGMS:
        raise UserError(f"lightpose has no estimator like MMPose's {kind_of(model)}; it has {', '.join(PARADIGMS)}")
    return model


def _pixels(model: Part) -> Settings:
    """How pixels are normalised."""
    given = model.get("data_preprocessor") or {}
    mean, std = (list(map(float, given.get(key) or usual)) for key, usual in (("mean", [0] * 3), ("std", [1] * 3)))
    order = {} if given.get("bgr_to_rgb") or given.get("rgb_to_bgr") else {"preprocessor.order": "bgr"}
    if (mean, std) == (MEAN, STD):
        return Settings({"preprocessor": "imagenet"}, order)
    if mean == [0.0] * 3 and std == [1.0] * 3:
        return Settings({"preprocessor": "raw"}, order)
    return Settings({"preprocessor": "raw"}, {"preprocessor.mean": mean, "preprocessor.std": std, **order})


def _input(codec: Part) -> Settings:
    hw = input_hw_of(codec)
    if hw is None:
        raise UserError("the codec of the MMPose configuration has no input_size; give name= instead")
    return Settings({}, {"input_hw": list(hw)})


def _top_down(model: Part, codec: Part) -> Settings:
    flip = {} if (model.get("test_cfg") or {}).get("flip_test") else {"estimator.flip_test": False}
    return _pixels(model) | _input(codec) | Settings({}, flip)


def _bottom_up(model: Part, codec: Part) -> Settings:
    test = model.get("test_cfg") or {}
    head = kind_of(model["head"])
    one_stage = head in ONE_STAGE
    augment = "onestage" if one_stage else "bottomup_published"
    groups = {"estimator": "bottomup", "data": "bottomup", "augment": augment, "metric": "[oks]"}
    values: dict[str, Any] = {} if test.get("flip_test") else {"estimator.flip_test": False}
    if one_stage:
        values |= {"grid": "stride", "codec.score_threshold": test.get("score_thr", 0.01)}
        values |= {"codec.nms_threshold": test.get("nms_thr", 1.0)}
    theirs: dict[str, tuple[Any, Any]] = {}
    if head == "DEKRHead":
        theirs = {"codec.nms_distance": (test.get("nms_dist_thr", 0.0), 0.05)}
        theirs["codec.nms_joints"] = (test.get("nms_joints_thr"), None)
    if head == "CIDHead":
        if test.get("blur_kernel_size", 3) != 3:
            raise refused(f"CIDHead with blur_kernel_size={test['blur_kernel_size']}", "3")
        theirs = {"codec.threshold": (test.get("score_threshold", 0.01), 0.01)}
        theirs["codec.max_people"] = (test.get("max_instances", 30), 30)
    values |= {key: value for key, (value, usual) in theirs.items() if value != usual}
    values |= {"metric.oks.score_mode": "keypoint" if head in ("DEKRHead", "CIDHead") else "bbox"}
    return _pixels(model) | _input(codec) | Settings(groups, {**values, "metric.oks.nms": "none"})


def _lifter(model: Part, codec: Part) -> Settings:
    groups = {
        "estimator": "lifter",
        "data": "sequences",
        "augment": "lifting",
        "preprocessor": "none",
        "metric": "mpjpe",
        "skeleton": "h36m",
    }
    flip = {"estimator.flip_test": True} if (model.get("test_cfg") or {}).get("flip_test") else {}
    return Settings(groups, {"input_hw": None, **flip})


PARADIGMS = {"TopdownPoseEstimator": _top_down, "BottomupPoseEstimator": _bottom_up, "PoseLifter": _lifter}
