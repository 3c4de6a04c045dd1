"""The head of an MMPose configuration as options of ours."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from lightpose.errors import UserError
from lightpose.interop.mmpose.arithmetic import check_arithmetic
from lightpose.interop.mmpose.backbones import Part, kind_of
from lightpose.interop.mmpose.settings import Settings, refused

WINGS = {"AdaptiveWingLoss": "heatmap_awing"}


def _deconvs(given: Part, usual: tuple[int, ...] = (256, 256, 256), groups: tuple[int, ...] = ()) -> Settings:
    """Transposed convolutions, whose number follows from strides with us."""
    channels = given.get("deconv_out_channels", usual)
    kernels = given.get("deconv_kernel_sizes", (4,) * len(usual))
    groups = given.get("deconv_num_groups", groups)
    if not channels:
        return Settings()
    if len(set(channels)) > 1 or set(kernels) != {4} or len(set(groups)) > 1:
        raise refused(
            f"transposed convolutions of {list(channels)} channels, kernels {list(kernels)} and groups {list(groups)}",
            "4x4 kernels, and the same channels and groups in each",
        )
    settings = Settings() if channels[0] == 256 else Settings({}, {"head.channels": channels[0]})
    return settings | (Settings({}, {"head.groups": groups[0]}) if groups and groups[0] != 1 else Settings())


def _heatmap(given: Part) -> Settings:
    final = given.get("final_layer", {"kernel_size": 1})
    if final and final.get("kernel_size", 1) == 3:
        if given.get("deconv_out_channels"):
            raise refused("a last 3x3 convolution behind transposed ones", "it behind one resize")
        return Settings({"head": "heatmap_bilinear"})
    if not final or final.get("kernel_size", 1) != 1:
        raise refused(f"a last layer {final}", "a 1x1 or 3x3 convolution")
    loss = kind_of(given.get("loss") or {})
    combined = (given.get("decoder") or {}).get("heatmap_type") == "combined"
    settings = Settings({"head": "heatmap_offset" if combined else WINGS.get(loss, "heatmap")}) | _deconvs(given)
    if hidden := given.get("conv_out_channels"):
        if len(hidden) > 1 or list(given.get("conv_kernel_sizes", [1])) != [1]:
            raise refused(f"convolutions of {list(hidden)} channels before the last", "one of kernel 1")
        settings = settings.also(head__hidden=hidden[0])
    return settings


def _vipnas(given: Part) -> Settings:
    return Settings({"head": "heatmap"}) | _deconvs(given, (144, 144, 144), (16, 16, 16))


def _cpm(given: Part) -> Settings:
    settings = Settings({"head": "multi_stage"})
    return settings.also(head__layers=0) if given.get("final_layer", {}) is None else settings


def _mspn(given: Part) -> Settings:
    settings = Settings({"head": "mspn"})
    return settings.also(head__refine=True) if given.get("use_prm") else settings


def _simcc(given: Part) -> Settings:
    settings = Settings({"head": "simcc"})
    loss = given.get("loss") or {}
    if not loss.get("label_softmax"):
        settings = settings.also(head__criterion__beta=loss.get("beta", 1.0), head__criterion__label_beta=None)
    if not has_deconvs(given):
        return settings
    vipnas = given.get("deconv_type") == "vipnas"
    steps = len(given.get("deconv_out_channels", (256, 256, 256)))
    return settings.also(head__upsample_to=32 // 2**steps) | _deconvs(
        given, (144,) * 3 if vipnas else (256,) * 3, (16,) * 3 if vipnas else ()
    )


def has_deconvs(given: Part) -> bool:
    """Whether a SimCC head begins with transposed convolutions."""
    return bool(given.get("deconv_out_channels", (256, 256, 256)))


def _rtmcc(option: str) -> Callable[[Part], Settings]:
    def translate(given: Part) -> Settings:
        gau = given.get("gau_cfg") or {}
        theirs = {
            "kernel": given.get("final_layer_kernel_size", 1),
            "hidden": gau.get("hidden_dims", 256),
            "expansion": gau.get("expansion_factor", 2),
            "attention": gau.get("s", 128),
        }
        usual = {"kernel": 7, "hidden": 256, "expansion": 2, "attention": 128}
        if gau.get("use_rel_bias") or gau.get("pos_enc"):
            raise refused("attention with places or relative ones", "attention without")
        if gau.get("act_fn", "ReLU") != "SiLU":
            raise refused(f"gated attention with {gau.get('act_fn', 'ReLU, which is the default,')}", "SiLU")
        loss = given.get("loss") or {}
        beta = {} if loss.get("beta", 10.0) == 10.0 else {"head.criterion.beta": loss["beta"]}
        values = {f"head.{name}": value for name, value in theirs.items() if value != usual[name]}
        return Settings({"head": option}, {**values, **beta})

    return translate


def _dsnt(given: Part) -> Settings:
    losses = [kind_of(each) for each in (given.get("loss") or {}).get("losses", ())]
    option = "integral" if "JSDiscretLoss" not in losses else "dsnt"
    settings = Settings({"head": option}, {"head.stored_places": True}) | _deconvs(given)
    if given.get("debias"):
        settings |= Settings({"head": "integral_debiased"})
    beta = given.get("beta", 1.0)
    return settings if beta == (10.0 if given.get("debias") else 1.0) else settings.also(head__beta=beta)


def _visibility(given: Part) -> Settings:
    inner = head_settings(given["pose_cfg"])
    group = inner.groups["head"]
    values = {key.replace("head.", "head.head.", 1): value for key, value in inner.values.items()}
    loss = (given.get("loss") or {}).get("loss_weight", 1.0)
    weight = {} if loss == 1e-3 else {"head.loss_weight": loss}
    return Settings({"head": "visibility", "head@head.head": group}, {"head.width": None, **weight, **values})


def _dekr(given: Part) -> Settings:
    theirs = {
        "head.heatmap_channels": (given.get("num_heatmap_filters", 32), 32),
        "head.branch_channels": (given.get("num_displacement_filters_per_keypoint", 15), 15),
        "head.criterion.displacement_weight": ((given.get("displacement_loss") or {}).get("loss_weight", 0.002), 0.002),
    }
    values = {key: value for key, (value, usual) in theirs.items() if value != usual}
    if found := given.get("rescoring"):  # see `rescoring.with_rescoring`
        values["head.rescoring"] = found
    return Settings({"head": "dekr"}, values)


def _cid(given: Part) -> Settings:
    channels = given.get("gfd_channels", 32)
    return Settings({"head": "cid"}, {} if channels == 32 else {"head.channels": channels})


def _rtmo(given: Part) -> Settings:
    dcc, module = given["dcc_cfg"], given["head_module_cfg"]
    theirs = {
        "head.bins": (list(dcc.get("num_bins", [192, 256])), [192, 256]),
        "head.tokens": (dcc.get("feat_channels", 128), 128),
        "head.depth": (module.get("stacked_convs", 2), 2),
        "head.groups": (module.get("groups", 8), 8),
    }
    values = {key: value for key, (value, usual) in theirs.items() if value != usual}
    group_channels = int(module.get("channels_per_group", 36) * module.get("widen_factor", 1.0))
    return Settings({"head": "rtmo"}, {"head.group_channels": group_channels, **values})


def _hands(given: Part) -> Settings:
    keypoints, root, hands = (given.get(f"{part}_head_cfg") or {} for part in ("keypoint", "root", "hand_type"))
    hidden = [list(each.get("hidden_dims", [512])) for each in (root, hands)]
    if hidden[0] != hidden[1] or len(hidden[0]) != 1:
        raise refused(f"layers of {hidden[0]} before root depth and {hidden[1]} before hands", "one of the same width")
    theirs = {
        "head.hidden": (hidden[0][0], 512),
        "head.root_cells": (root.get("heatmap_size", 64), 64),
    }
    values = {key: value for key, (value, usual) in theirs.items() if value != usual}
    groups = {"head": "hands", "reader": "interhand", "metric": "[hands,epe]"}  # nothing else reads depths of hands
    return Settings(groups, values) | _deconvs(keypoints)


def _plain(option: str) -> Callable[[Part], Settings]:
    return lambda given: Settings({"head": option})


def _regression(given: Part) -> Settings:
    return Settings({"head": "regression"})


def _motion(given: Part) -> Settings:
    size = given.get("embedding_size", 512)
    return Settings({"head": "motion"}, {} if size == 512 else {"head.representation": size})


def _lifting(given: Part) -> Settings:
    settings = Settings({"head": "lifting"})
    if kind_of(given.get("loss") or {}) == "MSELoss":
        return settings.also(head__criterion___target_="lightpose.models.losses.lifting.JointMSE")
    return settings


HEADS: dict[str, Callable[[Part], Settings]] = {
    "AssociativeEmbeddingHead": _plain("associative_embedding"),
    "CIDHead": _cid,
    "CPMHead": _cpm,
    "DEKRHead": _dekr,
    "DSNTHead": _dsnt,
    "HeatmapHead": _heatmap,
    "IntegralRegressionHead": _dsnt,
    "InternetHead": _hands,
    "MSPNHead": _mspn,
    "MotionRegressionHead": _motion,
    "RLEHead": _plain("rle"),
    "RTMCCHead": _rtmcc("rtmcc"),
    "RTMOHead": _rtmo,
    "RTMWHead": _rtmcc("rtmw"),
    "RegressionHead": _regression,
    "SimCCHead": _simcc,
    "TemporalRegressionHead": _lifting,
    "ViPNASHead": _vipnas,
    "VisPredictHead": _visibility,
    "YOLOXPoseHead": _plain("yoloxpose"),
}


def head_settings(given: Part) -> Settings:
    """The head of an MMPose configuration.

    Raises:
        UserError: for one that lightpose doesn't have.
    """
    kind = kind_of(given)
    if kind not in HEADS:
        raise UserError(f"lightpose has no head like MMPose's {kind}; those that it has are {', '.join(sorted(HEADS))}")
    check_arithmetic(kind, given)
    return HEADS[kind](given)


def keypoint_count(head: Part, codec: Mapping[str, Any] | None) -> int:
    """K of an MMPose configuration.

    Raises:
        UserError: where it doesn't say.
    """
    inner = head.get("pose_cfg") or head
    if volumes := head.get("keypoint_head_cfg"):  # of each hand
        return 2 * int(volumes["out_channels"]) // int(volumes["depth_size"])
    for key in ("num_keypoints", "num_joints"):
        if key in inner:
            return int(inner[key]) + (1 if (codec or {}).get("remove_root") else 0)
    count = inner.get("out_channels")
    if kind_of(head) == "MotionRegressionHead":
        return int((codec or inner.get("decoder") or {}).get("num_keypoints", 17))
    if count is None:
        raise UserError("the MMPose configuration doesn't say how many keypoints there are; give name= instead")
    if (inner.get("decoder") or codec or {}).get("heatmap_type") == "combined":
        count = math.ceil(count / 3)
    return int(count)
