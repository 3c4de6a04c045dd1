"""Each codec of one person is decoded by the exported file as it is by PyTorch, whatever the size of the batch."""

from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_export import HEADS, LOSSES, SMALL, TRUST, config, heatmap_head, part, save

from lightpose.checkpoint import load
from lightpose.export.onnx import export

CODECS = "lightpose.codecs"
KL = {"_target_": f"{LOSSES}.profiles.ProfileKL"}
L1 = {"_target_": f"{LOSSES}.regression.SmoothL1"}
MEANS = {"_target_": f"{LOSSES}.integral.KeypointsAndHeatmap", "keypoints": L1, "heatmap": None}
INTEGRAL = partial(part, f"{HEADS}.integral.IntegralHead", channels=8, criterion=MEANS)
HEATMAP = partial(part, f"{CODECS}.heatmap.HeatmapCodec")
REGRESSION = f"{CODECS}.regression.RegressionCodec"
slow = pytest.mark.slow

CASES = {
    "quarter": (heatmap_head(), HEATMAP(refine="quarter"), "stride"),
    "dark of published code": (heatmap_head(), HEATMAP(dark_step=2, blur_border="zero"), "stride"),
    "heatmap_offset": (
        part(
            f"{HEADS}.heatmap.HeatmapOffsetHead",
            channels=8,
            criterion={"_target_": f"{LOSSES}.heatmap.HeatmapOffsetMSE"},
        ),
        part(f"{CODECS}.heatmap_offset.HeatmapOffsetCodec"),
        "udp",
    ),
    "simcc": (part(f"{HEADS}.simcc.SimCCHead", criterion=KL), part(f"{CODECS}.simcc.SimCCCodec"), "stride"),
    "simcc dark": (
        part(f"{HEADS}.simcc.SimCCHead", criterion=KL),
        part(f"{CODECS}.simcc.SimCCCodec", refine="dark"),
        "half_pixel",
    ),
    "rtmcc": (part(f"{HEADS}.rtmcc.RTMCCHead", criterion=KL), part(f"{CODECS}.simcc.SimCCCodec"), "half_pixel"),
    "regression": (part(f"{HEADS}.regression.RegressionHead", criterion=L1), part(REGRESSION), "half_pixel"),
    "rle": (
        part(f"{HEADS}.regression.RLEHead", criterion={"_target_": f"{LOSSES}.rle.RLE"}),
        part(REGRESSION, sigmas=True),
        "udp",
    ),
    "integral": (INTEGRAL(), part(f"{CODECS}.integral.IntegralCodec"), "half_pixel"),
    "integral debiased": (INTEGRAL(debiased=True), part(f"{CODECS}.integral.IntegralCodec"), "stride"),
    "megvii": (heatmap_head(), part(f"{CODECS}.megvii.MegviiCodec", kernels=[11]), "stride"),
    "probpose": (
        part(
            f"{HEADS}.probpose.ProbPoseHead",
            channels=8,
            width=8,
            criterion={"_target_": f"{LOSSES}.probpose.ProbPoseLoss"},
        ),
        part(f"{CODECS}.probpose.ProbPoseCodec"),
        "half_pixel",
    ),
    "visibility": (
        part(f"{HEADS}.visibility.VisibilityHead", head=heatmap_head(), width=8),
        part(f"{CODECS}.visibility.VisibilityCodec", codec=HEATMAP(refine="none")),
        "half_pixel",
    ),
}
IN_DEFAULT_RUN = ("simcc", "rle")
MORE = {"probpose": {"visibility", "presence", "expected_oks"}, "visibility": {"visibility"}}


def check(settings, folder, flip_test, more=frozenset()):
    """Export, and compare on other pixels than the export itself."""
    checkpoint = save(folder / "tiny.ckpt", settings)
    difference = export(checkpoint, folder / "model.onnx", flip_test, trust=TRUST)
    assert difference.keypoints == 30
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert set(names) == {"keypoints", "keypoint_scores", "scores", *more}
    estimator = load(checkpoint, TRUST)
    estimator.flip_test = flip_test
    for size in (1, 2, 7):
        pixels = np.random.default_rng(size).integers(0, 256, (size, 64, 48, 3), np.uint8)
        found = dict(zip(names, session.run(names, {"images": pixels}), strict=True))
        with torch.inference_mode():
            poses = estimator.codec.decode(estimator.outputs(torch.from_numpy(pixels).permute(0, 3, 1, 2)))
        assert np.abs(found["keypoints"] - poses.keypoints.numpy()).max() < 0.02
        assert np.ptp(found["keypoints"], axis=1).max() > 0.01
        for other in names[1:]:
            expected = poses.extras[other] if other in poses.extras else getattr(poses, other)
            assert np.abs(found[other] - expected.numpy()).max() < 1e-4


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in IN_DEFAULT_RUN else slow) for name in CASES])
def test_codec(name, tmp_path):
    head, codec, grid = CASES[name]
    check(config(head, codec, grid, backbone=SMALL), tmp_path, True, MORE.get(name, set()))


@pytest.mark.slow
def test_whole_images(tmp_path):
    check(config(heatmap_head(), HEATMAP(), kind="WholeImage", backbone=SMALL), tmp_path, False)
