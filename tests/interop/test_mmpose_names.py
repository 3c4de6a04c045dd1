"""Names of configurations that were not recorded, and models of the same families that nobody published."""

import pytest
import torch
from zoo_records import RECORDS

from lightpose.errors import UserError
from lightpose.interop.mmpose.build import build_like, skeleton_option
from lightpose.interop.mmpose.config_names import config_of
from lightpose.interop.mmpose.configs import families, overrides, settings
from lightpose.interop.mmpose.weights import load_like, raw_outputs
from lightpose.interop.mmpose.zoo import FILE, of_estimator

ZOO = [line.split() for line in FILE.read_text().splitlines()]
RELATED = sorted({name for record in RECORDS.values() for name in record["also"]})
CHOICES = {
    "td-hm_hrnet-w48_dark-8xb32-210e_coco-384x288": {
        "backbone=hrnet_w48",
        "input_hw=[384,288]",
        "grid=stride",
        "codec.sigma=3.0",
        "codec.blur_kernel=17",
        "codec.dark_step=2",
        "skeleton=coco17",
    },
    "td-hm_hrnet-w32_udp-regress-8xb64-210e_coco-256x192": {"head=heatmap_offset", "codec=heatmap_offset", "grid=udp"},
    "rtmpose-l_8xb512-700e_body8-halpe26-384x288": {"backbone=cspnext_l", "head=rtmcc", "skeleton=halpe26"},
    "dwpose_l_dis_m_coco-256x192": {"backbone=cspnext_m", "head=rtmcc", "skeleton=coco_wholebody"},
    "td-hm_swin-l-p4-w7_8xb32-210e_coco-384x288": {"backbone=timm/swin_large_window12"},
    "rtmo-t_8xb32-600e_body7-416x416": {"backbone=cspdarknet_tiny", "estimator=bottomup", "input_hw=[416,416]"},
    "video-pose-lift_tcn-243frm-supv_8xb128-160e_h36m": {"backbone=videopose3d", "reader.frames=243"},
    "yoloxpose_m_8xb32-300e_coco-640": {"preprocessor.order=bgr", "neck.blocks=2", "codec.nms_threshold=0.65"},
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_name_is_read_by_its_parts(name: str) -> None:
    assert CHOICES[name] <= set(overrides(config_of(name), skeleton_option(name)))


@pytest.mark.parametrize("name", RELATED)
def test_related_names_are_of_the_recorded_architecture(name: str) -> None:
    record = next(record for record in RECORDS.values() if name in record["also"])
    config = config_of(name)
    assert families(config).keys() == families(record).keys()
    ours, theirs = settings(config).groups, settings(record).groups
    assert ours["backbone"] == theirs["backbone"] and ours["estimator" if "estimator" in ours else "head"]


def test_every_published_name_can_be_read() -> None:
    assert len(ZOO) > 250
    for *_, name in ZOO:
        overrides(config_of(name))


@pytest.mark.parametrize("part", ["cspnext-tiny_udp_8xb256-210e_coco-256x192", "td-hm_res50_8xb64-210e_coco-256x192"])
def test_the_list_of_published_names_is_not_stale(part: str) -> None:
    key, count, name = next(line for line in ZOO if line[2].endswith(part))
    estimator = build_like(config_of(name))
    assert of_estimator(estimator, families(config_of(name))) == key
    assert sum(parameter.numel() for parameter in estimator.parameters()) == int(count)


def test_a_model_that_nobody_published_loads_by_the_same_tables() -> None:
    """HRNet of width 8 with 5 keypoints, at another size."""
    channels = [8, 16, 32, 64]
    stages = {
        f"stage{count}": {"num_modules": modules, "num_blocks": [4] * count, "num_channels": channels[:count]}
        for count, modules in ((2, 1), (3, 4), (4, 3))
    }
    codec = {"type": "UDPHeatmap", "input_size": [96, 64], "heatmap_size": [24, 16], "sigma": 1.5}
    model = {
        "type": "TopdownPoseEstimator",
        "data_preprocessor": {"mean": [100, 110, 120], "std": [50, 50, 50], "bgr_to_rgb": True},
        "backbone": {"type": "HRNet", "extra": stages},
        "head": {"type": "HeatmapHead", "out_channels": 5, "deconv_out_channels": None, "decoder": codec},
    }
    torch.manual_seed(0)
    config = {"model": model}
    source = build_like(config)
    named = families(config)
    state = {
        f"{part}.{named[part].published(name)}": torch.rand_like(value) if value.is_floating_point() else value
        for part in named
        for name, value in source.net.get_submodule(part).state_dict().items()
    }
    estimator = load_like(config, state, "mine")
    assert torch.equal(estimator.net.backbone.conv1.weight, state["backbone.conv1.weight"])
    assert estimator.skeleton.num_keypoints == 5 and not estimator.flip_test and estimator.grid == "udp"
    (maps,) = raw_outputs(estimator, torch.randn(2, 3, 64, 96))
    assert maps.shape == (2, 5, 16, 24)
    assert estimator.net.preprocessor.mean.flatten().tolist() == [100, 110, 120]


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("backbone", {"type": "ResNet", "depth": 77}, "ResNet of depth 77 can't be converted; lightpose takes one of"),
        ("backbone", {"type": "Mystery"}, "no backbone like MMPose's Mystery; those that it has are AlexNet,"),
        ("head", {"type": "Mystery", "out_channels": 17}, "no head like MMPose's Mystery"),
        ("type", "TopDown", "no estimator like MMPose's TopDown"),
    ],
)
def test_what_lightpose_does_without_is_named(part: str, value: object, message: str) -> None:
    config = config_of("td-hm_res50_8xb64-210e_coco-256x192")
    with pytest.raises(UserError, match=message):
        overrides({**config, "model": {**config["model"], part: value}})
