"""MMPose's configurations from their names, by the parts that these are made of."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from lightpose.errors import UserError
from lightpose.interop.mmpose import h36m
from lightpose.interop.mmpose.backbones import ALEXNET
from lightpose.interop.mmpose.named_backbones import Part, csp_backbone, named_backbone
from lightpose.interop.mmpose.parts_of_names import EXAMPLE, Named, read_name
from lightpose.interop.mmpose.settings import MEAN, STD

IMAGENET = {"mean": MEAN, "std": STD, "bgr_to_rgb": True}
RAW = {"mean": [0, 0, 0], "std": [1, 1, 1]}


def _config(
    kind: str, codec: Any, test: Mapping[str, Any] | None, backbone: Part, head: Part, neck: Part | None = None
) -> dict[str, Any]:
    pixels = (
        {} if kind == "PoseLifter" else {"data_preprocessor": RAW if backbone["type"] == "CSPDarknet" else IMAGENET}
    )
    model = {"type": kind, **pixels, "backbone": backbone, "head": head, "test_cfg": test}
    return {"model": {**model, "neck": neck} if neck else model, "codec": codec}


def _top_down(codec: Any, backbone: Part, head: Part, neck: Part | None = None, flip: bool = True) -> dict[str, Any]:
    return _config("TopdownPoseEstimator", codec, {"flip_test": flip}, backbone, head, neck)


def _heatmap_codec(named: Named, stride: int = 4) -> Part:
    maps = {"input_size": named.input_wh, "heatmap_size": [side // stride for side in named.input_wh]}
    large = named.input_hw == (384, 288) and "swin" not in named.words
    if "300w" in named.words:
        return {"type": "MSRAHeatmap", **maps, "sigma": 1.5}
    if "udp" in named.words:
        kind = {"heatmap_type": "combined"} if "regress" in named.words else {"sigma": 3 if large else 2}
        return {"type": "UDPHeatmap", **maps, **kind, "blur_kernel_size": 17 if large else 11}
    dark = {"unbiased": True, "blur_kernel_size": 17 if large else 11} if "dark" in named.words else {}
    return {"type": "MSRAHeatmap", **maps, "sigma": 3 if large else 2, **dark}


def _heatmaps(named: Named, match: re.Match[str]) -> dict[str, Any]:
    word = named.name.split("_")[1]
    backbone = named_backbone(word, named.name)
    kind = backbone["type"]
    if kind in ("MSPN", "RSN"):
        return _multi_stage(named, backbone)
    head: Part = {"type": "HeatmapHead", "out_channels": named.count}
    neck: Part | None = None
    stride = 8 if kind == "CPM" or word.endswith("-2deconv") else 4
    if kind in ("HRNet", "HRFormer", "LiteHRNet"):
        head["deconv_out_channels"] = None
    if word.startswith("hrnetv2"):
        width = int(word.rpartition("w")[2])
        neck, head = {"type": "FeatureMapProcessor", "concat": True}, {**head, "conv_out_channels": [15 * width]}
        head["conv_kernel_sizes"] = [1]
    if kind == "VisionTransformer":
        head |= {"deconv_out_channels": [256, 256], "deconv_kernel_sizes": [4, 4]}
        if word.endswith("-simple"):
            neck = {"type": "FeatureMapProcessor", "scale_factor": 4.0, "apply_relu": True}
            head |= {"deconv_out_channels": [], "deconv_kernel_sizes": [], "final_layer": {"kernel_size": 3}}
    if word.endswith("-2deconv"):
        head |= {"deconv_out_channels": [256, 256], "deconv_kernel_sizes": [4, 4]}
    if word.startswith("swin-b") and named.input_hw == (384, 288):  # the large one keeps its windows there
        backbone["window_size"] = 12
    if kind == "CPM":
        backbone["out_channels"] = named.count
        head = {"type": "CPMHead", "out_channels": named.count, "final_layer": None}
    if kind == "HourglassNet":
        head = {"type": "CPMHead", "out_channels": named.count}
    if kind.startswith("ViPNAS"):
        head = {"type": "ViPNASHead", "out_channels": named.count}
        head |= {"deconv_out_channels": [160] * 3, "deconv_num_groups": [160] * 3} if kind.endswith("V3") else {}
    if "awing" in named.words:
        head["loss"] = {"type": "AdaptiveWingLoss"}
    if kind == "VisionTransformer":  # all learnt with UDP
        named = replace(named, name=f"{named.name}_udp")
    codec = _heatmap_codec(named, stride)
    head["decoder"] = codec
    if codec.get("heatmap_type") == "combined":
        head["out_channels"] = 3 * named.count
    if match["vis"]:
        head = {"type": "VisPredictHead", "pose_cfg": head, "loss": {"type": "BCELoss", "loss_weight": 1e-3}}
    config = _top_down(codec, backbone, head, neck)
    tight = {"test_pipeline": [{"type": "GetBBoxCenterScale", "padding": 0.8}]}
    return {**config, **tight} if named.words & {"freihand2d", "locust", "zebra"} else config


def _cspnext(named: Named, match: re.Match[str]) -> dict[str, Any]:
    backbone = csp_backbone("CSPNeXt", match["size"], out_indices=[4])
    codec = _heatmap_codec(named)
    head = {"type": "HeatmapHead", "out_channels": named.count, "decoder": codec}
    flip = not re.search(r"wholebody|mpii|aic", named.name)  # as published for these
    return _top_down(codec, backbone, head, flip=flip)


def _multi_stage(named: Named, backbone: Part) -> dict[str, Any]:
    maps = {"input_size": named.input_wh, "heatmap_size": [side // 4 for side in named.input_wh]}
    kernels = [11, 9, 7, 5] if backbone["num_stages"] == 1 else [15, 11, 9, 7, 5]
    codec = [{"type": "MegviiHeatmap", **maps, "kernel_size": taps} for taps in kernels]
    head = {"type": "MSPNHead", "out_channels": named.count}
    return _config("TopdownPoseEstimator", codec, {"flip_test": True}, backbone, head)


def _rtmpose(named: Named, match: re.Match[str]) -> dict[str, Any]:
    """RTMPose, and DWPose, whose name has the size of the student last."""
    wide = match["kind"] == "rtmw"
    width, height = named.input_wh
    sigma = {192: 4.9, 256: 5.66, 288: 6.0, 384: 6.93}
    codec = {"type": "SimCCLabel", "input_size": [width, height], "normalize": False}
    codec["sigma"] = [sigma.get(side, round((side / 8) ** 0.5, 2)) for side in (width, height)]
    gau = {"hidden_dims": 256, "s": 128, "expansion_factor": 2, "act_fn": "SiLU"}
    loss = {"type": "KLDiscretLoss", "beta": 1.0 if wide else 10.0, "label_softmax": True}
    head = {"type": "RTMWHead" if wide else "RTMCCHead", "out_channels": named.count, "final_layer_kernel_size": 7}
    backbone = csp_backbone("CSPNeXt", match["size"], **({} if wide else {"out_indices": [4]}))
    neck = {"type": "CSPNeXtPAFPN", "norm_cfg": {"type": "BN"}} if wide else None
    return _top_down(codec, backbone, {**head, "gau_cfg": gau, "loss": loss}, neck)


def _regression(named: Named, match: re.Match[str]) -> dict[str, Any]:
    backbone = named_backbone(named.name.split("_")[1], named.name)
    kind = "RLEHead" if "rle" in named.words else "RegressionHead"
    codec = {"type": "RegressionLabel", "input_size": named.input_wh}
    head = {"type": kind, "num_joints": named.count}
    return _top_down(codec, backbone, head, {"type": "GlobalAveragePooling"})


def _integral(named: Named, match: re.Match[str]) -> dict[str, Any]:
    maps = {"input_size": named.input_wh, "heatmap_size": [side // 4 for side in named.input_wh]}
    codec = {"type": "IntegralRegressionLabel", **maps, "sigma": 2.0, "normalize": True}
    debias, dsnt = "debias" in named.words, "dsnt" in named.words
    losses = ["SmoothL1Loss", "JSDiscretLoss" if dsnt or debias else "KeypointMSELoss"]
    head: Part = {
        "type": "DSNTHead",
        "num_joints": named.count,
        "loss": {"losses": [{"type": each} for each in losses]},
    }
    head |= {"debias": True, "beta": 10.0} if debias else {}
    return _top_down(codec, named_backbone(named.name.split("_")[1], named.name), head)


def _simcc(named: Named, match: re.Match[str]) -> dict[str, Any]:
    backbone = named_backbone(named.name.split("_")[1], named.name)
    codec = {"type": "SimCCLabel", "input_size": named.input_wh, "sigma": 6.0}
    head: Part = {"type": "SimCCHead", "out_channels": named.count}
    if "wo" in named.words:
        head["deconv_out_channels"] = None
    elif backbone["type"].startswith("ViPNAS"):
        head |= {"deconv_type": "vipnas", "deconv_out_channels": [160] * 3, "deconv_num_groups": [160] * 3}
    return _top_down(codec, backbone, head)


SHORT_SIDE = {"test_pipeline": [{"type": "BottomupResize", "resize_mode": "expand", "size_factor": 32}]}
"""How DEKR and associative embedding resize test images. CID takes multiples of 64, as lightpose does."""


def _tags(named: Named, match: re.Match[str]) -> dict[str, Any]:
    maps = {"input_size": named.input_wh, "heatmap_size": [side // 4 for side in named.input_wh], "sigma": 2}
    codec = {"type": "AssociativeEmbedding", **maps, "decode_center_shift": 0.5, "decode_max_instances": 30}
    head = {"type": "AssociativeEmbeddingHead", "num_keypoints": named.count, "deconv_out_channels": None}
    backbone = named_backbone(named.name.split("_")[1], named.name)
    test = {"flip_test": True, "restore_heatmap_size": True}
    return {**_config("BottomupPoseEstimator", codec, test, backbone, head), **SHORT_SIDE}


def _people(named: Named, match: re.Match[str]) -> dict[str, Any]:
    """DEKR and CID, whose heads are as wide as their HRNet."""
    word = named.name.split("_")[1]
    if not word.startswith("hrnet-w"):
        raise UserError(
            f"name={named.name!r} has {word!r} where {match['kind'].upper()} has an HRNet, such as hrnet-w32"
        )
    width = int(word.rpartition("w")[2])
    maps = {"input_size": named.input_wh, "heatmap_size": [side // 4 for side in named.input_wh]}
    if match["kind"] == "cid":
        codec: Part = {"type": "DecoupledHeatmap", **maps}
        head: Part = {"type": "CIDHead", "num_keypoints": named.count, "gfd_channels": width}
    else:
        codec = {"type": "SPR", **maps, "sigma": [4, 2], "minimal_diagonal_length": 32**0.5}
        head = {"type": "DEKRHead", "num_keypoints": named.count, "num_heatmap_filters": width}
        head["displacement_loss"] = {"loss_weight": 0.004 if named.data_set == "crowdpose" else 0.002}
    neck = {"type": "FeatureMapProcessor", "concat": True}
    test = {"flip_test": True, "nms_dist_thr": 0.05}
    config = _config("BottomupPoseEstimator", codec, test, named_backbone(word, named.name), head, neck)
    return config if match["kind"] == "cid" else {**config, **SHORT_SIDE}


ONE_STAGE = {"tiny": (0.33, 0.375), "t": (0.33, 0.375), "s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0)}


def _rtmo(named: Named, match: re.Match[str]) -> dict[str, Any]:
    deepen, widen = ONE_STAGE[match["size"]]
    backbone = {"type": "CSPDarknet", "widen_factor": widen, "deepen_factor": deepen}
    neck = {"type": "HybridEncoder", "deepen_factor": deepen, "widen_factor": widen}
    neck["projector"] = {"out_channels": int(512 * widen)}
    head = {"type": "RTMOHead", "num_keypoints": named.count, "dcc_cfg": {"num_bins": [192, 256]}}
    head["head_module_cfg"] = {"channels_per_group": 36, "widen_factor": widen}
    return _one_stage(named, backbone, neck, head, {"score_thr": 0.1, "nms_thr": 0.65})


def _yoloxpose(named: Named, match: re.Match[str]) -> dict[str, Any]:
    deepen, widen = ONE_STAGE[match["size"]]
    backbone = {"type": "CSPDarknet", "widen_factor": widen, "deepen_factor": deepen}
    neck = {"type": "YOLOXPAFPN", "num_csp_blocks": max(round(3 * deepen), 1)}
    head = {"type": "YOLOXPoseHead", "num_keypoints": named.count}
    return _one_stage(named, backbone, neck, head, {"score_thr": 0.01, "nms_thr": 0.65})


def _one_stage(named: Named, backbone: Part, neck: Part, head: Part, test: Part) -> dict[str, Any]:
    codec = {"type": "YOLOXPoseAnnotationProcessor", "input_size": named.input_wh}
    return _config("BottomupPoseEstimator", codec, test, {**backbone, "out_indices": [2, 3, 4]}, head, neck)


def _video(named: Named, match: re.Match[str]) -> dict[str, Any]:
    frames = int(match["frames"])
    blocks = {1: 4, 9: 1, 27: 2, 81: 3, 243: 4}.get(frames)
    if blocks is None:
        raise UserError(f"name={named.name!r} has {frames} frames; 1, 9, 27, 81 and 243 are published")
    kernels = [1 if frames == 1 else 3] * (blocks + 1)
    backbone = {"type": "TCN", "num_blocks": blocks, "kernel_sizes": kernels, "dropout": 0.25}
    codec = {"type": "VideoPoseLifting", "num_keypoints": 17}
    config = _config("PoseLifter", codec, None, backbone, {"type": "TemporalRegressionHead", "num_joints": 17})
    if match["kind"] == "semi":
        config["model"] |= {"traj_backbone": backbone, "traj_head": {"type": "TrajectoryRegressionHead"}}
    return config


def _image(named: Named, match: re.Match[str]) -> dict[str, Any]:
    backbone = {"type": "TCN", "num_blocks": 2, "kernel_sizes": [1, 1, 1], "dropout": 0.5}
    codec = {"type": "ImagePoseLifting", "num_keypoints": 17, "remove_root": True}
    codec |= {"keypoints_mean": h36m.KEYPOINTS_MEAN, "keypoints_std": h36m.KEYPOINTS_STD}
    codec |= {"target_mean": h36m.TARGET_MEAN, "target_std": h36m.TARGET_STD}
    head = {"type": "TemporalRegressionHead", "num_joints": 16, "loss": {"type": "MSELoss"}}
    return _config("PoseLifter", codec, None, backbone, head)


def _motionbert(named: Named, match: re.Match[str]) -> dict[str, Any]:
    codec = {"type": "MotionBERTLabel", "num_keypoints": 17, "rootrel": True}
    head = {"type": "MotionRegressionHead", "out_channels": 3, "embedding_size": 512}
    backbone = {"type": "DSTFormer", "seq_len": int(match["frames"])}
    return _config("PoseLifter", codec, {"flip_test": True}, backbone, head)


def _hands(named: Named, match: re.Match[str]) -> dict[str, Any]:
    codec = {"type": "Hand3DHeatmap", "image_size": named.input_wh, "sigma": 2.5, "max_bound": 255}
    codec["heatmap_size"] = [*(side // 4 for side in named.input_wh), 64]
    head: Part = {"type": "InternetHead", "root_head_cfg": {}, "hand_type_head_cfg": {}}
    head["keypoint_head_cfg"] = {"out_channels": named.count // 2 * 64, "depth_size": 64}
    return _top_down(codec, named_backbone(named.name.split("_")[1], named.name), head, flip=False)


def _without(message: str) -> Callable[[Named, re.Match[str]], dict[str, Any]]:
    def refuse(named: Named, match: re.Match[str]) -> dict[str, Any]:
        raise UserError(f"name={named.name!r}: {message}")

    return refuse


ALGORITHMS: tuple[tuple[str, Callable[[Named, re.Match[str]], dict[str, Any]]], ...] = (
    (r"td-hm_alexnet_", _without(ALEXNET)),
    (r"td-hm(?P<vis>-vis)?_", _heatmaps),
    (r"td-reg_", _regression),
    (r"cspnext-(?P<size>tiny|[smlx])_", _cspnext),
    (r"(?P<kind>rtmpose|rtmw)-(?P<size>[tsmlx])_", _rtmpose),
    (r"(?P<kind>dwpose|rtmpose)_[tsmlx]_dis_(?P<size>[tsmlx])_", _rtmpose),
    (r"(?P<kind>dwpose)_(?P<size>[tsmlx])-[tsmlx]{2}_", _rtmpose),
    (r"ipr_", _integral),
    (r"simcc_", _simcc),
    (r"ae_", _tags),
    (r"(?P<kind>dekr|cid)_", _people),
    (r"rtmo-(?P<size>[tsml])_", _rtmo),
    (r"yoloxpose_(?P<size>tiny|[sml])_", _yoloxpose),
    (r"video-pose-lift_tcn-(?P<frames>\d+)frm-(?P<kind>supv|semi)", _video),
    (r"image-pose-lift_tcn_", _image),
    (r"motionbert_dstformer(-ft)?-(?P<frames>\d+)frm_", _motionbert),
    (r"edpose_", _without("lightpose has no ED-Pose; give another model")),
    (r"internet_", _hands),
)
"""Pattern that a name begins with, and what makes its configuration."""


def config_of(name: str) -> dict[str, Any]:
    """``model`` and ``codec`` of the configuration of this name.

    Raises:
        UserError: for a name of no model that lightpose has.
    """
    named = read_name(name)
    for pattern, make in ALGORITHMS:
        if match := re.match(pattern, named.name):
            config = make(named, match)
            if re.search(r"udp.*(crowpose|mpii|wholebody|onehand10k|rhd2d|deepfashion)", named.name):
                config["test_pipeline"] = [{"type": "TopdownAffine"}]  # as published: UDP of the codec alone
            if named.data_set == "coco_aic":
                config["model"]["test_cfg"]["output_keypoint_indices"] = list(range(17))
            return config
    raise UserError(f"name={name!r} begins like no MMPose model that lightpose has; expected a name such as {EXAMPLE}")
