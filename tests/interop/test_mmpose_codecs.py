"""MMPose's codecs as ours: they decode what was recorded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightpose.errors import UserError
from lightpose.geometry import screen_from_image
from lightpose.interop.mmpose.build import build_like, codec
from lightpose.interop.mmpose.codecs import codec_settings, one_codec
from lightpose.interop.mmpose.config_names import config_of

PARITY = Path(__file__).parents[1] / "data_files/parity"
MAPS = {"input_size": (192, 256), "heatmap_size": (48, 64)}
UDP = (torch.tensor([192, 256]) - 1) / torch.tensor(
    [192, 256]
)  # ours undoes its encoding, see the heatmap codec's test
CASES: dict[str, tuple[dict[str, Any], tuple[str, ...], Any]] = {
    "msra": ({"type": "MSRAHeatmap", **MAPS, "sigma": 2}, ("heatmap",), 1),
    "msra_dark": ({"type": "MSRAHeatmap", **MAPS, "sigma": 2, "unbiased": True}, ("heatmap",), 1),
    "udp": ({"type": "mmpose.UDPHeatmap", **MAPS, "sigma": 2}, ("heatmap",), UDP),
    "megvii": ({"type": "MegviiHeatmap", **MAPS, "kernel_size": 11}, ("heatmap",), 1),
    "simcc": (
        {"type": "SimCCLabel", "input_size": (192, 256), "sigma": (4.9, 5.66), "normalize": False},
        ("x", "y"),
        1,
    ),
    "simcc_normalized": ({"type": "SimCCLabel", "input_size": (192, 256), "sigma": 6.0}, ("x", "y"), 1),
    "regression": ({"type": "RegressionLabel", "input_size": (192, 256)}, ("keypoints",), 1),
}


@pytest.mark.parametrize("name", CASES)
def test_a_codec_decodes_what_was_recorded(name: str) -> None:
    config, outputs, factor = CASES[name]
    figures = {**np.load(PARITY / "msra.npz"), **np.load(PARITY / f"{name}.npz")}
    if outputs == ("heatmap",):
        given = {"heatmap": figures["decode_input"][None]}
    elif outputs == ("keypoints",):
        given = {"keypoints": figures["decode_input_xy_sigma"][..., :2]}
    else:
        given = {axis: figures[f"decode_{axis}"] for axis in outputs}
    poses = codec(config).decode({key: torch.from_numpy(value) for key, value in given.items()})
    expected = (torch.from_numpy(figures["decoded_keypoints"]) * factor).float()
    torch.testing.assert_close(poses.keypoints, expected, atol=1e-4, rtol=0)


def test_the_simple_baseline_reads_standardised_pixels_and_gives_standardised_joints() -> None:
    config = config_of("image-pose-lift_tcn_8xb64-200e_h36m")
    given = {key: np.array(value) for key, value in config["codec"].items() if key.endswith(("mean", "std"))}
    estimator = build_like(config)
    pixels = np.random.default_rng(0).uniform(300, 700, (1, 1, 17, 2))
    screen = np.concatenate([screen_from_image(pixels, (1001, 1000)), np.ones((1, 1, 17, 1))], -1)
    read = estimator.net.preprocessor(torch.from_numpy(screen))[..., :2]
    expected = (pixels - given["keypoints_mean"]) / given["keypoints_std"]
    torch.testing.assert_close(read, torch.from_numpy(expected).float())
    given_joints = torch.randn(1, 16, 3)
    joints = estimator.codec.decode({"joints": given_joints}).keypoints
    metres = given_joints.numpy() * given["target_std"] + given["target_mean"]
    np.testing.assert_allclose(joints[:, 1:], metres * 1000, atol=1e-3)
    assert not joints[:, 0].any() and estimator.skeleton.name == "h36m"


def test_pixels_of_images_of_unknown_size_are_refused() -> None:
    given = {"type": "ImagePoseLifting", "keypoints_mean": [[1.0, 2.0]] * 5, "keypoints_std": [[1.0, 1.0]] * 5}
    with pytest.raises(UserError, match=r"keypoints_mean of 5 keypoints, in pixels of images .* can't be converted"):
        codec_settings(given)


def test_several_codecs_of_one_network_are_one() -> None:
    several = [{"type": "MegviiHeatmap", **MAPS, "kernel_size": taps} for taps in (11, 9, 7, 5)]
    assert codec_settings(several).values["codec.kernels"] == [11, 9, 7, 5]
    with pytest.raises(UserError, match="several codecs of MSRAHeatmap can't be converted"):
        one_codec([{"type": "MSRAHeatmap"}])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "EDPoseLabel"}, "no codec like MMPose's EDPoseLabel; those that it has are Assoc"),
        ({"type": "VideoPoseLifting", "zero_center": False}, "takes zero_center=True"),
        ({"type": "MSRAHeatmap", "input_size": (192, 256), "heatmap_size": (40, 56)}, r"maps of \[40, 56\] cells"),
        (
            {"type": "SimCCLabel", "input_size": (192, 256), "simcc_split_ratio": 1.5},
            "a whole number of bins per pixel",
        ),
    ],
)
def test_what_lightpose_does_without_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        codec(config)
