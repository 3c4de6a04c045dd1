"""Names of configurations that were not recorded, and models of the same families that nobody published."""

import numpy as np
import pytest
import torch
from zoo_records import RECORDS

from lightpose.errors import UserError
from lightpose.export.inputs import cropper_of
from lightpose.inference.crops import Job
from lightpose.interop.mmpose.build import build_like, resolved, skeleton_option
from lightpose.interop.mmpose.config_names import config_of
from lightpose.interop.mmpose.configs import families, overrides, settings
from lightpose.interop.mmpose.settings import Settings
from lightpose.interop.mmpose.tested import differences
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
    "td-hm_swin-l-p4-w7_8xb32-210e_coco-384x288": {"backbone=timm/swin_large"},
    "rtmo-t_8xb32-600e_body7-416x416": {"backbone=cspdarknet_tiny", "estimator=bottomup", "margin_grey=114"},
    "internet_res50_4xb16-20e_interhand3d-256x256": {"head=hands", "reader=interhand", "metric=[hands,epe]"},
    "image-pose-lift_tcn_8xb64-200e_h36m": {"backbone=simplebaseline3d", "reader.frames=1"},
    "motionbert_dstformer-ft-243frm_8xb32-120e_h36m": {"reader.stride=81", "codec.rooted=true"},
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


def with_test_set(*transforms: dict[str, object], kind: str = "CocoDataset", **further: object) -> dict[str, object]:
    data_set = {"type": kind, "pipeline": [{"type": "LoadImage"}, *transforms], **further}
    return {"test_dataloader": {"batch_size": 32, "dataset": data_set}}


def test_test_images_say_how_inputs_are_made() -> None:
    config = config_of("td-hm_res50_8xb64-210e_coco-256x192")
    box, warp = {"type": "GetBBoxCenterScale", "padding": 0.9}, {"type": "TopdownAffine", "input_size": (192, 256)}
    chosen = set(overrides({**config, **with_test_set(box, warp)}))
    assert {"augment.train.geometry.crop.padding=0.9", "input_hw=[256,192]"} <= chosen
    with pytest.raises(UserError, match=r"test inputs of \[256, 256\] with a codec for \[256, 192\]"):
        overrides({**config, **with_test_set({**warp, "input_size": (256, 256)})})
    for name in (
        "hand_2d_keypoint/x/td-hm_res50_8xb64-100e_freihand2d-224x224",
        "td-hm_res50_8xb64-210e_zebra-160x160",
    ):
        assert "augment.train.geometry.crop.padding=0.8" in overrides(config_of(name))


@pytest.mark.parametrize("name", ["dekr_hrnet-w32_8xb10-140e_coco-512x512", "cid_hrnet-w48_8xb20-140e_coco-512x512"])
def test_whole_images_become_as_large_as_the_configuration_says(name: str) -> None:
    config = config_of(name)
    resize = {"type": "BottomupResize", "input_size": (512, 512), "size_factor": 32}
    assert "augment=bottomup_published" in overrides(config)
    own = overrides({**config, **with_test_set({**resize, "resize_mode": "expand"})})
    assert {"augment=bottomup_published", "augment.eval.geometry.crop.multiple=32"} <= set(own)
    assert "augment=bottomup" in overrides({**config, **with_test_set(resize)})  # fit is what MMPose does unless told


def test_sides_of_whole_images_are_the_multiples_that_are_published() -> None:
    multiples = {"dekr_hrnet-w48_8xb10-140e_coco-640x640": True, "cid_hrnet-w32_8xb20-140e_coco-512x512": False}
    for name, of_32 in {**multiples, "ae_hrnet-w32_8xb24-300e_coco-512x512": True}.items():  # else 64, as ours
        assert ("augment.eval.geometry.crop.multiple=32" in overrides(config_of(name))) == of_32


def test_how_people_are_told_from_copies_is_read() -> None:
    config = config_of("dekr_hrnet-w32_8xb10-140e_coco-512x512")
    assert not any(each.startswith("codec.nms") for each in overrides(config))  # ours are as published
    given = {**config["model"], "test_cfg": {"nms_joints_thr": 5}}
    assert {"codec.nms_distance=0.0", "codec.nms_joints=5"} <= set(overrides({**config, "model": given}))


def test_where_peaks_of_tagged_keypoints_are_looked_for_is_read() -> None:
    config = config_of("ae_hrnet-w32_8xb24-300e_coco-512x512")
    places = ("grid", "codec.offset", "codec.enlarge")

    def chosen(test: dict[str, object], **codec: object) -> list[str]:
        model = {**config["model"], "test_cfg": {"flip_test": True, **test}}
        given = {**config, "model": model, "codec": {**config["codec"], **codec}}
        return [each for each in overrides(given) if each.startswith(places)]

    enlarged = {"restore_heatmap_size": True, "align_corners": False}
    assert chosen(enlarged) == ["grid=stride", "codec.offset=0.5", "codec.enlarge=true"]
    decoder = {"type": "AssociativeEmbedding", "input_size": (512, 512), "heatmap_size": (512, 512), "sigma": 2}
    model = {**config["model"], "head": {**config["model"]["head"], "decoder": decoder}}
    found = overrides({**config, "model": model})  # as published, with no shift
    assert [each for each in found if each.startswith(places)] == [
        "grid=stride",
        "codec.offset=0.375",
        "codec.enlarge=true",
    ]
    assert chosen({}) == ["grid=stride", "codec.offset=0.5"]
    assert chosen({}, decode_center_shift=0.0) == ["grid=stride"]
    udp = {"use_udp": True, "decode_center_shift": 0.0}
    assert chosen({**enlarged, "align_corners": True}, **udp) == ["grid=udp", "codec.enlarge=true"]


UDP_CROPS = with_test_set({"type": "TopdownAffine", "input_size": (192, 256), "use_udp": True})
COLOURED = with_test_set({"type": "BottomupResize", "input_size": (640, 640), "pad_val": (104, 116, 124)})
OTHER_CORNERS = {
    "model": {
        **config_of("ae_hrnet-w32_8xb24-300e_coco-512x512")["model"],
        "test_cfg": {"restore_heatmap_size": True, "align_corners": True},
    }
}


@pytest.mark.parametrize(
    ("name", "further", "told"),
    [
        ("td-hm_res50_8xb64-210e_coco-256x192", {}, ""),
        ("td-hm_res50_8xb64-210e_coco-256x192", UDP_CROPS, "crops by the codec's pixel grid (stride)"),
        ("cspnext-m_udp_8xb64-210e_mpii-256x256", {}, "crops by the codec's pixel grid (udp)"),
        ("cspnext-m_udp_8xb256-210e_coco-256x192", {}, ""),
        ("cspnext-m_udp_8xb256-210e_aic-coco-256x192", {}, "lightpose gives all of them"),
        ("yoloxpose_s_8xb32-300e_coco-640", {}, ""),
        ("yoloxpose_s_8xb32-300e_coco-640", COLOURED, "black"),
        ("ae_hrnet-w32_8xb24-300e_coco-512x512", {}, ""),
        ("ae_hrnet-w32_8xb24-300e_coco-512x512", OTHER_CORNERS, "by another pixel grid than that of its codec"),
        ("dekr_hrnet-w32_8xb10-140e_coco-512x512", {}, "MMPose scores them anew"),
    ],
)
def test_what_is_done_otherwise_is_known(name: str, further: dict[str, object], told: str) -> None:
    config = {**config_of(name), **further}
    found = differences(config, settings(config))
    assert len(found) == bool(told) and told in "".join(found)


@pytest.mark.parametrize(
    ("resize", "grey"),
    [
        ({}, 114),
        ({"type": "BottomupResize", "input_size": (640, 640)}, 0),
        ({"type": "BottomupResize", "input_size": (640, 640), "pad_val": [50.0] * 3}, 50),
    ],
)
def test_a_one_stage_network_sees_the_grey_of_test_images(resize: dict[str, object], grey: int) -> None:
    config = {**config_of("yoloxpose_tiny_4xb64-300e_coco-416"), **(with_test_set(resize) if resize else {})}
    assert resolved(settings(config))["data"]["margin_grey"] == grey


def test_a_converted_network_and_its_recipe_see_grey_beside_an_image() -> None:
    estimator = build_like(config_of("yoloxpose_tiny_4xb64-300e_coco-416"))
    (sample,) = cropper_of(estimator).samples(Job(np.full((100, 200, 3), 255, np.uint8), None, 0))
    assert (sample.image[106:310] == 255).all()
    assert (sample.image[:102] == 114).all() and (sample.image[314:] == 114).all()
    assert resolved(Settings({"experiment": "bottomup_rtmo_l"}))["data"]["margin_grey"] == 114


def test_a_one_stage_network_takes_the_size_of_test_images() -> None:
    config = config_of("yoloxpose_s_8xb32-300e_coco-640")
    resize = {"type": "BottomupResize", "input_size": (416, 384)}
    assert "input_hw=[384,416]" in overrides({**config, **with_test_set(resize)})


@pytest.mark.parametrize(
    ("further", "skeleton"),
    [
        (with_test_set(kind="AP10KDataset"), "ap10k"),
        (with_test_set(kind="CombinedDataset", metainfo={"from_file": "configs/_base_/datasets/ap10k.py"}), "ap10k"),
        ({}, "coco17"),  # a guess, from their number
        (with_test_set(kind="CocoDataset", metainfo={"keypoint_info": {}}), None),
        (with_test_set(kind="MacaqueDataset"), None),
        (with_test_set(kind="AnimalPoseDataset"), None),  # which has 20
        ({"val_dataloader": {"dataset": {"type": "RepeatDataset", "dataset": {"type": "AP10KDataset"}}}}, "ap10k"),
    ],
)
def test_keypoints_are_those_of_the_data_set_that_is_tested_with(
    further: dict[str, object], skeleton: str | None
) -> None:
    chosen = settings({**config_of("td-hm_res50_8xb64-210e_coco-256x192"), **further})
    assert chosen.groups.get("skeleton") == skeleton


def test_keypoints_of_a_model_count_before_those_of_its_data_set() -> None:
    config = config_of("td-hm_hrnet-w32_8xb64-210e_coco-aic-256x192-combine")
    model = {**config["model"], "metainfo": {"from_file": "configs/_base_/datasets/coco_aic.py"}}
    assert settings({**config, "model": model, **with_test_set()}).groups["skeleton"] == "coco_aic"
    large = {**config["model"], "head": {**config["model"]["head"], "out_channels": 294}}
    described = with_test_set(metainfo={"from_file": "configs/_base_/datasets/deepfashion2.py"})
    assert "skeleton" not in settings({**config, "model": large, **described}).groups  # lightpose has none of these


def test_either_way_of_exchanging_red_and_blue_is_read() -> None:
    config = config_of("td-hm_res50_8xb64-210e_coco-256x192")
    for order, chosen in ({"rgb_to_bgr": True}, False), ({}, True):
        pixels = {"data_preprocessor": {**order, "mean": [1, 2, 3], "std": [4, 5, 6]}}
        assert ("preprocessor.order=bgr" in overrides({**config, "model": {**config["model"], **pixels}})) == chosen


def test_lifters_have_the_keypoints_of_human36m() -> None:
    assert settings(config_of("motionbert_dstformer-243frm_8xb32-240e_h36m")).groups["skeleton"] == "h36m"


def test_a_head_decodes_with_its_own_codec() -> None:
    config = config_of("td-hm_res50_8xb64-210e_coco-256x192")
    dark = {**config["codec"], "unbiased": True}
    config["model"]["head"]["decoder"] = dark
    assert "codec.dark_step=2" in overrides(config)


@pytest.mark.parametrize("part", [{"type": "ResNet"}, {"type": "ResNet", "depth": [50]}, {"type": "HRNet", "extra": 3}])
def test_what_a_configuration_lacks_is_told_in_one_sentence(part: dict[str, object]) -> None:
    config = config_of("td-hm_res50_8xb64-210e_coco-256x192")
    with pytest.raises(UserError, match="lacks something, or has another kind of value there"):
        build_like({**config, "model": {**config["model"], "backbone": part}})


def test_other_kinds_of_values_than_mmposes_are_told_in_one_sentence() -> None:
    config = config_of("td-hm_res50_8xb64-210e_coco-256x192")
    config["model"]["head"]["decoder"] = {**config["codec"], "heatmap_size": [0, 64]}
    with pytest.raises(UserError, match=r"another kind of value there than MMPose's own \(ZeroDivisionError"):
        build_like(config)
    lifter = {**config_of("image-pose-lift_tcn_8xb64-200e_h36m"), "test_pipeline": True}
    assert differences(lifter, settings(lifter)) == []


def test_what_mmpose_takes_when_nothing_is_given_may_lack() -> None:
    config = config_of("rtmpose-l_8xb256-420e_coco-256x192")
    part = {"type": "CSPNeXt", "out_indices": [4], "norm_cfg": {"type": "BN"}}
    assert "backbone=cspnext_l" in overrides({**config, "model": {**config["model"], "backbone": part}})


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("backbone", {"type": "ResNet", "depth": 77}, "ResNet of depth 77 can't be converted; lightpose takes one of"),
        ("backbone", {"type": "Mystery"}, "no backbone like MMPose's Mystery; those that it has are CPM,"),
        ("backbone", {"type": "AlexNet"}, "AlexNet has maps whose cells are no squares of whole pixels"),
        ("backbone", {"type": "ResNet", "depth": 50, "style": "caffe"}, "ResNet with style=caffe can't be converted"),
        ("backbone", {"type": "ResNet", "depth": 50, "strides": (1, 2, 2, 1)}, r"takes strides=\[1, 2, 2, 2\]"),
        ("backbone", {"type": "CSPNeXt", "norm_cfg": {"type": "BN"}, "act_cfg": {"type": "ReLU"}}, "act_cfg.type=ReLU"),
        ("backbone", {"type": "CSPNeXt"}, r"norms of eps=0\.001 can't"),  # MMPose's own default
        ("backbone", {"type": "VisionTransformer", "out_type": "cls_token"}, "takes out_type=featmap"),
        ("backbone", {"type": "VisionTransformer", "arch": {"embed_dims": 768, "num_heads": 8}}, "takes num_heads=12"),
        (
            "backbone",
            {"type": "ResNet", "depth": 50, "conv_cfg": {"type": "ConvWS"}},
            "ResNet with ConvWS convolutions",
        ),
        ("neck", {"type": "FeatureMapProcessor", "align_corners": True}, "takes align_corners=False"),
        ("head", {"type": "RTMCCHead", "out_channels": 17}, "attention with ReLU, which is the default, can't"),
        (
            "head",
            {"type": "HeatmapHead", "deconv_out_channels": None, "final_layer": {"kernel_size": 3}},
            "go together",
        ),
        ("head", {"type": "Mystery", "out_channels": 17}, "no head like MMPose's Mystery"),
        ("type", "TopDown", "no estimator like MMPose's TopDown"),
    ],
)
def test_what_lightpose_does_without_is_named(part: str, value: object, message: str) -> None:
    config = config_of("td-hm_res50_8xb64-210e_coco-256x192")
    with pytest.raises(UserError, match=message):
        overrides({**config, "model": {**config["model"], part: value}})
