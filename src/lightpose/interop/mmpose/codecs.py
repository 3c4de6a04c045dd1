"""The codec of an MMPose configuration as options of ours, with which it decodes the same."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lightpose.errors import UserError
from lightpose.geometry import screen_from_image
from lightpose.interop.mmpose.backbones import Part, kind_of
from lightpose.interop.mmpose.settings import Settings, refused
from lightpose.structures import Array

H36M_HW = (1001, 1000)
"""Of the images of Human3.6M: those of two of its cameras are 1000 pixels high, and 1002 those of the two others."""


def input_hw_of(given: Part) -> tuple[int, int] | None:
    """Height and width of the network's input; None where inputs are no images."""
    size = given.get("input_size", given.get("image_size"))
    return None if size is None else (int(size[1]), int(size[0]))


def _stride(given: Part) -> dict[str, Any]:
    """Input pixels per cell, if not 4.

    Raises:
        UserError: where it is no whole number, or another one along x than along y.
    """
    steps = {side / cells for side, cells in zip(given["input_size"], given["heatmap_size"], strict=True)}
    stride = steps.pop()
    if steps or stride != int(stride):
        raise refused(
            f"maps of {list(given['heatmap_size'])} cells for inputs of {list(given['input_size'])} pixels",
            "maps whose cells are squares of whole pixels",
        )
    return {} if stride == 4 else {"codec.stride": int(stride)}


def _unless(usual: Any, key: str, value: Any) -> dict[str, Any]:
    return {} if value == usual else {key: value}


def _msra(given: Part) -> Settings:
    values = {**_stride(given), **_unless(2.0, "codec.sigma", float(given.get("sigma", 2)))}
    if given.get("unbiased"):
        values |= {"codec.blur_border": "zero", "codec.dark_step": 2}
        values |= _unless(11, "codec.blur_kernel", given.get("blur_kernel_size", 11))
    else:
        values |= {"codec.centers": "rounded", "codec.truncate": 3.0, "codec.refine": "quarter"}
    return Settings({"codec": "heatmap"}, {"grid": "stride", **values})


def _udp(given: Part) -> Settings:
    blur = _unless(11, "codec.blur_kernel", given.get("blur_kernel_size", 11))
    if given.get("heatmap_type", "gaussian") == "combined":
        radius = _unless(0.0546875, "codec.radius_factor", given.get("radius_factor", 0.0546875))
        return Settings({"codec": "heatmap_offset"}, {"grid": "udp", **_stride(given), **radius, **blur})
    sigma = _unless(2.0, "codec.sigma", float(given.get("sigma", 2)))
    border = {"codec.truncate": 3.0, "codec.blur_border": "zero"}
    return Settings({"codec": "heatmap"}, {"grid": "udp", **_stride(given), **sigma, **border, **blur})


def _megvii(given: Part) -> Settings:
    kernels = given["kernel_size"]
    kernels = list(kernels) if isinstance(kernels, Sequence) else [kernels]
    usual = _unless([15, 11, 9, 7, 5], "codec.kernels", kernels)
    return Settings({"codec": "megvii"}, {"grid": "stride", **_stride(given), **usual})


def _simcc(given: Part) -> Settings:
    split = float(given.get("simcc_split_ratio", 2.0))
    if split != int(split):
        raise refused(f"SimCCLabel with simcc_split_ratio={split}", "a whole number of bins per pixel")
    values = {"grid": "stride", **_unless(2, "codec.split", int(split))}
    if given.get("smoothing_type", "gaussian") == "standard":
        values |= {"codec.target": "one_hot", "codec.label_smoothing": given.get("label_smooth_weight", 0.0)}
    else:
        sigma = given.get("sigma", 6.0)
        values["codec.sigma"] = list(sigma) if isinstance(sigma, Sequence) else [sigma, sigma]
        values |= _unless(False, "codec.normalize", bool(given.get("normalize", True)))
    return Settings(
        {"codec": "simcc"}, values | _unless("none", "codec.refine", "dark" if given.get("use_dark") else "none")
    )


def _regression(given: Part) -> Settings:
    return Settings({"codec": "regression"}, {"grid": "stride"})


def _integral(given: Part) -> Settings:
    sigma = _unless(2.0, "codec.sigma", float(given.get("sigma", 2)))
    centers = {} if given.get("unbiased") else {"codec.centers": "rounded", "codec.truncate": 3.0}
    return Settings({"codec": "integral"}, {"grid": "stride", **_stride(given), **sigma, **centers})


def _displacement(given: Part) -> Settings:
    center, keypoint = given.get("sigma") or (4, 2)
    values = {
        **_stride(given),
        **_unless(2.0, "codec.sigma", float(keypoint)),
        **_unless(4.0, "codec.center_sigma", float(center)),
        "codec.published": True,
        "codec.smallest": given.get("minimal_diagonal_length", 5.0),
        **_unless(5, "codec.peak_kernel", given.get("decode_nms_kernel", 5)),
        **_unless(0.01, "codec.threshold", given.get("decode_thr", 0.01)),
        **_unless(30, "codec.max_people", given.get("decode_max_instances", 30)),
    }
    return Settings({"codec": "displacement"}, {"grid": "stride", **values})


def _cid(given: Part) -> Settings:
    overlap = _unless(0.7, "codec.overlap", given.get("heatmap_min_overlap", 0.7))
    return Settings({"codec": "cid"}, {"grid": "half_pixel", **_stride(given), **overlap})


def _tags(given: Part) -> Settings:
    """Peaks are moved by ``decode_center_shift`` cells of the maps in which they are looked for."""
    stride, enlarged, udp = _stride(given), bool(given.get("restore_heatmap_size")), bool(given.get("use_udp"))
    offset, times = given.get("decode_center_shift", 0.0), stride.get("codec.stride", 4)
    if enlarged:  # without UDP, a cell of maps is then what is in the middle of its pixels
        offset = (offset + (0 if udp else (times - 1) / 2)) / times
    values = {
        **stride,
        **_unless(2.0, "codec.sigma", float(given.get("sigma", 2))),
        **({} if udp else {"codec.centers": "rounded", "codec.refine": "quarter"}),
        **_unless(5, "codec.nms_kernel", given.get("decode_nms_kernel", 5)),
        **_unless(30, "codec.max_people", given.get("decode_max_instances") or given.get("decode_topk", 30)),
        **_unless(0.1, "codec.score_threshold", given.get("decode_keypoint_thr", 0.1)),
        **_unless(1.0, "codec.tag_threshold", given.get("decode_tag_thr", 1.0)),
        **_unless(0.0, "codec.offset", offset),
        **_unless(False, "codec.enlarge", enlarged),
    }
    return Settings({"codec": "associative_embedding"}, {"grid": "udp" if udp else "stride", **values})


def _hands(given: Part) -> Settings:
    width, height, depth = given.get("heatmap_size", [64, 64, 64])
    theirs = {
        "codec.depth": (depth, 64),
        "codec.sigma": (float(given.get("sigma", 2)), 2.5),
        "codec.height": (float(given.get("max_bound", 1)), 255.0),
        "codec.depth_bound_mm": (float(given.get("heatmap3d_depth_bound", 400)), 400.0),
        "codec.root_bound_mm": (float(given.get("root_depth_bound", 400)), 400.0),
    }
    stride = _stride({"input_size": given.get("image_size", [256, 256]), "heatmap_size": [width, height]})
    values = {key: value for key, (value, usual) in theirs.items() if value != usual}
    return Settings({"codec": "hands"}, {"grid": "stride", **stride, **values})


def _one_stage(given: Part) -> Settings:
    return Settings({"codec": "onestage"})


def _image_lifting(given: Part) -> Settings:
    if given.get("root_index", 0) != 0:
        raise refused(f"ImagePoseLifting with root_index={given['root_index']}", "a root that is the first joint")
    settings = Settings({"codec": "lifting"}, {"codec.root_left_out": True} if given.get("remove_root") else {})
    if (target := _statistics(given, "target")) is not None:
        roots = ([[0.0] * 3], [[1.0] * 3]) if given.get("remove_root") else ([], [])
        settings = settings.also(codec__mean=roots[0] + target[0].tolist(), codec__std=roots[1] + target[1].tolist())
    if (pixels := _statistics(given, "keypoints")) is not None:
        if len(pixels[0]) != 17:
            raise refused(
                f"keypoints_mean of {len(pixels[0])} keypoints, in pixels of images whose size it doesn't say,",
                "that of the 17 of Human3.6M, or none",
            )
        settings |= Settings({"preprocessor": "keypoints"})
        settings = settings.also(
            preprocessor__mean=screen_from_image(pixels[0], H36M_HW).tolist(),
            preprocessor__std=(pixels[1] * 2 / H36M_HW[1]).tolist(),
        )
    return settings


def _video_lifting(given: Part) -> Settings:
    for option, usual in {"zero_center": True, "remove_root": False, "root_index": 0}.items():
        if given.get(option, usual) != usual:
            raise refused(f"VideoPoseLifting with {option}={given[option]}", f"{option}={usual}")
    return Settings({"codec": "lifting"})


def _motionbert(given: Part) -> Settings:
    if given.get("root_index", 0) != 0:
        raise refused(f"MotionBERTLabel with root_index={given['root_index']}", "a root that is the first joint")
    return Settings({"codec": "motionbert"}, {"codec.rooted": True} if given.get("rootrel") else {})


def _statistics(given: Part, what: str) -> tuple[Array, Array] | None:
    """Mean and deviation (K, D), whatever further dimensions of 1 stand before them; one alone counts for nothing."""
    both = [given.get(f"{what}_{kind}") for kind in ("mean", "std")]
    if any(each is None for each in both):
        return None
    mean, std = (np.array(each, np.float64) for each in both)
    return mean.reshape(-1, mean.shape[-1]), std.reshape(-1, std.shape[-1])


CODECS: dict[str, Callable[[Part], Settings]] = {
    "AssociativeEmbedding": _tags,
    "DecoupledHeatmap": _cid,
    "Hand3DHeatmap": _hands,
    "ImagePoseLifting": _image_lifting,
    "IntegralRegressionLabel": _integral,
    "MSRAHeatmap": _msra,
    "MegviiHeatmap": _megvii,
    "MotionBERTLabel": _motionbert,
    "RegressionLabel": _regression,
    "SPR": _displacement,
    "SimCCLabel": _simcc,
    "UDPHeatmap": _udp,
    "VideoPoseLifting": _video_lifting,
    "YOLOXPoseAnnotationProcessor": _one_stage,
}


def one_codec(given: Part | Sequence[Part]) -> Part:
    """Several codecs of a network with several levels as one."""
    if isinstance(given, Mapping):
        return given
    kinds = {kind_of(each) for each in given}
    if kinds == {"MegviiHeatmap"}:
        return {**given[-1], "kernel_size": [each["kernel_size"] for each in given]}
    raise refused(f"several codecs of {' and '.join(sorted(kinds))}", "several of MegviiHeatmap alone")


def codec_settings(given: Part | Sequence[Part]) -> Settings:
    """The codec of an MMPose configuration, and its pixel grid.

    Raises:
        UserError: for one that lightpose doesn't have.
    """
    codec = one_codec(given)
    kind = kind_of(codec)
    if kind not in CODECS:
        raise UserError(
            f"lightpose has no codec like MMPose's {kind}; those that it has are {', '.join(sorted(CODECS))}"
        )
    return CODECS[kind](codec)
