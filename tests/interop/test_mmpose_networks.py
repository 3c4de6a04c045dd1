"""Every recorded model of MMPose, loaded by its name: all tensors used, and the recorded outputs."""

import gc
import json
from typing import Any

import pytest
import torch
from recorded import recorded_input, relative_error, weight
from torch.nn import functional
from zoo_records import RECORDS, find, state_of

from lightpose.errors import UserError
from lightpose.interop.mmpose.config_names import config_of
from lightpose.interop.mmpose.configs import families, settings
from lightpose.interop.mmpose.parts_of_names import read_name
from lightpose.interop.mmpose.weights import load, raw_outputs

TOLERANCE = 1e-3
REFUSED = {
    "td-hm_alexnet_8xb64-210e_coco-256x192": "maps whose cells are no squares of whole pixels",
}
"""Models that can't be loaded → what the error says of them."""
ROUNDED = {"td-hm_resnest269_8xb16-210e_coco-384x288": 0.05}
"""Models whose recorded outputs hang on how sums are rounded → how far apart those of float32 and float64 are, at
least. With weights drawn at random, their 269 layers make a small difference large."""
IDLE_PARAMETERS = {"HourglassNet": "layers behind the last stage"}
"""Parts whose published parameters are more than ours → those that nothing reads."""
SAMPLE = (
    *("rtmpose-t_8xb256-120e_face6", "td-hm_hrnetv2-w18_8xb64-60e_aflw", "td-hm_res50_8xb64-210e_locust"),
    *("td-hm_ViTPose-small_", "td-hm_swin-t", "simcc_vipnas", "td-reg_mobilenetv2_rle", "yoloxpose_tiny"),
    *("image-pose-lift", "td-hm-vis_res50", "ipr_res50", "rtmw-m"),
)
"""Small ones, of every kind of head and neck but those that are compared elsewhere in the default run."""
SIBLINGS = sorted(RECORDS, key=lambda name: (json.dumps(RECORDS[name]["model"]["backbone"]), name))
"""Those with the same backbone stand side by side, since they share its weights."""
RESULTS: dict[str, dict[str, Any]] = {}


@pytest.fixture(autouse=True)
def built_without_a_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shapes are not asked for: every network is run in earnest here."""
    monkeypatch.setattr("lightpose.models.net.check_shapes", lambda net, spec: None)


def check(name: str) -> None:
    record = RECORDS[name]
    short = name.rpartition("/")[2]
    if short in REFUSED:
        with pytest.raises(UserError, match=REFUSED[short]):
            load(name, state_of(record))
        return
    estimator = load(name, state_of(record))
    outputs = raw_outputs(estimator, recorded_input(record["input"]))
    count = sum(parameter.numel() for parameter in estimator.parameters())
    errors = [relative_error(*pair) for pair in zip(outputs, record["outputs"], strict=True)]
    RESULTS[name] = {"error": max(errors), "counts": count == record["params"]}
    if short in ROUNDED:
        precise = raw_outputs(estimator.double(), recorded_input(record["input"]).double())
        apart = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(outputs, precise, strict=True)]
        assert max(errors) > TOLERANCE and max(apart) > ROUNDED[short]
    else:
        assert max(errors) < TOLERANCE
    del estimator
    gc.collect()
    kinds = {part["type"] for part in record["model"].values() if isinstance(part, dict) and "type" in part}
    assert (count == record["params"]) == (not kinds & IDLE_PARAMETERS.keys()), (count, record["params"])


def summary(names: list[str]) -> str:
    done = [RESULTS[name] for name in names if name in RESULTS]
    close = [each["error"] for each in done if each["error"] < TOLERANCE]
    equal = sum(each["counts"] for each in done)
    return (
        f"{len(done)} of {len(names)} loaded strictly, {len(close)} within {TOLERANCE:g} relative of the recorded "
        f"outputs (worst {max(close, default=0):.1e}), {equal} parameter counts equal"
    )


@pytest.mark.parametrize("part", SAMPLE)
def test_a_sample_computes_the_recorded_outputs(part: str) -> None:
    check(find(part)["name"])


@pytest.mark.slow
@pytest.mark.parametrize("name", SIBLINGS)
def test_every_model_computes_the_recorded_outputs(name: str) -> None:
    check(name)


def test_a_half_supervised_lifter_holds_a_second_network_for_the_root() -> None:
    """None was recorded; its network of poses is that of the lifter that was."""
    record = find("video-pose-lift_tcn-27frm-supv_8xb128-160e_h36m")
    state = state_of(record)
    place = weight("traj_head.conv.weight", (3, 1024, 1)), weight("traj_head.conv.bias", (3,))
    second = {f"traj_{name}": value for name, value in state.items() if name.startswith("backbone.")}
    second |= dict(zip(("traj_head.conv.weight", "traj_head.conv.bias"), place, strict=True))
    estimator = load("video-pose-lift_tcn-27frm-semi-supv_8xb64-200e_h36m", {**state, **second})
    inputs = recorded_input(record["input"])
    joints, root = raw_outputs(estimator, inputs)
    assert relative_error(joints, record["outputs"][0]) < TOLERANCE
    (features,) = estimator.net.backbone.trajectory(inputs.mT.unflatten(-1, (17, 2)))
    torch.testing.assert_close(root, functional.conv1d(features, *place)[..., 0])


def test_what_was_loaded_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """After all others here."""
    sampled = [find(part)["name"] for part in SAMPLE]
    names = list(RECORDS) if len(RESULTS) > len(SAMPLE) else [name for name in sampled if name in RESULTS]
    with capsys.disabled():
        print(f"\n{summary(names)}")


@pytest.mark.slow
def test_all_of_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    test_what_was_loaded_is_told(capsys)


def test_a_table_of_reasons_names_recorded_models() -> None:
    for short in (*REFUSED, *ROUNDED):
        assert find(short)["name"].endswith(short)


BESIDE = {
    "yoloxpose_tiny_4xb64-300e_coco-416": "input_hw",
    **dict.fromkeys(
        ("td-hm_res50_8xb64-210e_locust-160x160", "td-hm_res101_8xb64-210e_zebra-160x160"),
        "augment.train.geometry.crop.padding",
    ),
    **dict.fromkeys(
        (
            "ae_hrnet-w32_8xb24-300e_coco-512x512",
            "dekr_hrnet-w32_8xb10-140e_coco-512x512",
            "dekr_hrnet-w48_8xb10-140e_coco-640x640",
            "dekr_hrnet-w32_8xb10-300e_crowdpose-512x512",
        ),
        "augment.eval.geometry.crop.multiple",
    ),
}
"""Names that say otherwise than their recorded configuration, and of what: records have no pipelines, and the codec of
tiny is that of its larger siblings."""


@pytest.mark.parametrize("name", [name for name in RECORDS if name.rpartition("/")[2] not in REFUSED])
def test_a_name_says_what_the_recorded_configuration_says(name: str) -> None:
    record = RECORDS[name]
    named = settings(config_of(name), read_name(name).data_set)
    written = settings(record, read_name(name).data_set)
    assert named.groups == written.groups
    beside = BESIDE.get(name.rpartition("/")[2], "nothing")
    differ = {key for key in {**named.values, **written.values} if named.values.get(key) != written.values.get(key)}
    assert all(key.startswith(beside) for key in differ), differ
    assert families(config_of(name)) == families(record)
