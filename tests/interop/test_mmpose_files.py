"""Checkpoints of MMPose as files: today's and earlier ones, what they say of themselves, and bad ones of every kind."""

import json
import logging
import pickle
import re
import shlex
import sys
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from recorded import recorded_input
from torch import Tensor
from zoo_records import find, state_of

import lightpose
from lightpose.errors import UserError
from lightpose.interop.mmpose.convert import convert, load_file
from lightpose.interop.mmpose.files import read_config, read_file, todays
from lightpose.interop.mmpose.weights import load, raw_outputs

TINY = "cspnext-tiny_udp_8xb256-210e_coco-256x192"
COCO = ["nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"]
COCO += ["right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee"]
COCO += ["left_ankle", "right_ankle"]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return state_of(find(TINY))


@pytest.fixture(scope="module")
def outputs(state: dict[str, Tensor]) -> Tensor:
    return raw_outputs(load(TINY, state), images())[0]


def images() -> Tensor:
    return recorded_input([1, 3, 256, 192])


def saved(path: Path, state: Any, **further: Any) -> Path:
    torch.save({"state_dict": OrderedDict(state), **further}, path)
    return path


def source_of(config: dict[str, Any]) -> str:
    """A configuration as MMPose writes it into checkpoints: Python source text, with other statements."""

    def text(value: Any) -> str:
        if isinstance(value, dict):
            return f"dict({', '.join(f'{key}={text(item)}' for key, item in value.items())})"
        return f"[{', '.join(map(text, value))}]" if isinstance(value, list) else repr(value)

    model = text(config["model"]).replace(text(config["codec"]), "codec")
    lines = ["import os", "secret = os.environ.copy()", "auto_scale_lr = dict(base_batch_size=512)"]
    return "\n".join([*lines, f"codec = {text(config['codec'])}", f"model = {model}"])


def meta_of(record: dict[str, Any]) -> dict[str, Any]:
    data_set = {
        "dataset_name": "coco",
        "keypoint_id2name": dict(enumerate(COCO)),
        "flip_indices": [0, *(index + 1 if index % 2 else index - 1 for index in range(1, 17))],
        "sigmas": np.full(17, 0.05, np.float32),
        "skeleton_links": [(15, 13), (13, 11)],
        "keypoint_colors": np.zeros((17, 3), np.uint8),
        "upper_body_ids": list(range(11)),
        "dataset_keypoint_weights": np.full(17, 1.5, np.float32),
    }
    return {"mmengine_version": "0.10", "epoch": np.float64(210), "cfg": source_of(record), "dataset_meta": data_set}


def test_a_converted_checkpoint_loads_and_computes_the_same(tmp_path: Path, state: Any, outputs: Tensor) -> None:
    out = tmp_path / "new/model.ckpt"
    convert(saved(tmp_path / "a.pth", state), out, TINY)
    estimator = lightpose.load(out)
    assert torch.equal(raw_outputs(estimator, images())[0], outputs)
    assert estimator.skeleton.keypoints == tuple(COCO) and estimator.input_hw == (256, 192) and estimator.grid == "udp"
    assert [path.name for path in out.parent.iterdir()] == ["model.ckpt"]


def test_the_configuration_and_keypoints_in_a_checkpoint_are_read_and_not_run(
    tmp_path: Path, state: Any, outputs: Tensor
) -> None:
    src = saved(tmp_path / "a.pth", state, meta=meta_of(find(TINY)))
    found = read_file(src)
    assert "secret" not in found.config and found.config["auto_scale_lr"] == {"base_batch_size": 512}
    assert found.config["model"]["head"]["decoder"] == found.config["codec"]
    estimator = load_file(src)
    assert torch.equal(raw_outputs(estimator, images())[0], outputs)
    assert estimator.skeleton.swap[:3] == (0, 2, 1) and estimator.skeleton.links == ((15, 13), (13, 11))
    assert len(estimator.skeleton.upper) == 11 and estimator.skeleton.weights == (1.5,) * 17


def test_configurations_that_are_no_data_are_left_out() -> None:
    text = "a = 1\nb = a\nc = print('hello')\nd = {'x': [a, (2.5, None)]}\ne = {**d}\nf = dict(**d)\ng = [-1, 2]"
    assert read_config(text) == {"a": 1, "b": 1, "d": {"x": [1, [2.5, None]]}, "g": [-1, 2]}
    assert read_config("a = (") == read_config(None) == read_config(b"a = 1") == {}
    assert read_config("/home/somebody/config.py\na = 1") == {"a": 1}


@pytest.mark.parametrize("wrapped", ["module.", "_orig_mod.", "ema", "ema of 0.x", "early"])
def test_wrapped_and_earlier_checkpoints_load(tmp_path: Path, state: Any, outputs: Tensor, wrapped: str) -> None:
    further: dict[str, Any] = {}
    if wrapped == "ema":
        raw = {f"module.{name}": value * 0 for name, value in state.items()}
        further["ema_state_dict"] = {**raw, "steps": torch.tensor(3)}
    elif wrapped == "ema of 0.x":
        raw = {f"ema_{name.replace('.', '_')}": value * 0 for name, value in state.items()}
        state = {**state, **raw}
    elif wrapped == "early":
        state = {re.sub(r"^head\.", "keypoint_head.", name): value for name, value in state.items()}
    else:
        state = {f"{wrapped}{name}": value for name, value in state.items()}
    state = {**state, "data_preprocessor.mean": torch.zeros(3, 1, 1)}
    estimator = load_file(saved(tmp_path / "a.pth", state, **further), TINY)
    assert torch.equal(raw_outputs(estimator, images())[0], outputs)


def test_a_row_of_last_layers_of_earlier_checkpoints_has_names_of_today() -> None:
    last = {"0.weight": "conv_layers.0.weight", "1.bias": "conv_layers.1.bias", "3.bias": "final_layer.bias"}
    early = {f"keypoint_head.final_layer.{name}": torch.zeros(1) for name in [*last, "3.weight"]}
    assert todays(early).keys() == {f"head.{name}" for name in [*last.values(), "final_layer.weight"]}
    assert todays({"head.final_layer.weight": torch.zeros(1)}).keys() == {"head.final_layer.weight"}


def test_constants_may_be_there_or_not() -> None:
    record = find("td-hm_swin-t")
    state = state_of(record)
    constants = {name: torch.zeros(shape) for name, shape in record["state"] if name in record["kept"]}
    assert constants
    for given in (state, {**state, **constants}):
        load(record["name"], given)


class HistoryBuffer:
    """As MMEngine's, whose state names its methods; those of some versions do so in every file."""

    def __init__(self) -> None:
        self.values, self.methods = np.ones(3), {"mean": HistoryBuffer.mean}

    def mean(self) -> float:
        return float(self.values.mean())


def test_logs_beside_the_weights_are_read_over(
    tmp_path: Path, state: Any, outputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        for name in ("mmengine", "mmengine.logging", module.__name__):
            patch.setitem(sys.modules, name, module)
        patch.setattr(HistoryBuffer, "__module__", module.__name__)
        logs = {"log_scalars": OrderedDict({"train/lr": HistoryBuffer()})}
        src = saved(tmp_path / "a.pth", state, message_hub=logs, optimizer={"state": {}})
    for trust in (False, True):
        assert torch.equal(raw_outputs(load_file(src, TINY, trust), images())[0], outputs)


def test_pythons_own_getattr_is_never_called(tmp_path: Path, state: Any) -> None:
    from lightpose.models.weights import load_data

    class Reaching:
        def __reduce__(self) -> Any:
            return getattr, (OrderedDict, "fromkeys")

    src = saved(tmp_path / "a.pth", state, meta={"x": Reaching()})
    with pytest.raises(UserError, match="could run code when read"):
        read_file(src)
    with pytest.raises(UserError, match="could run code when read"):
        load_data(src, "it")


class Hostile:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("touched_by_a_checkpoint"),)


def test_code_in_a_checkpoint_is_refused_unless_trusted(
    tmp_path: Path, state: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    src, out = saved(tmp_path / "a.pth", state, message_hub=Hostile()), tmp_path / "b.ckpt"
    with pytest.raises(UserError, match=r"holds more than tensors and plain data, .* say so with trust=true"):
        convert(src, out, TINY)
    assert not out.exists() and not Path("touched_by_a_checkpoint").exists()
    convert(src, out, TINY, trust=True)
    assert out.exists() and Path("touched_by_a_checkpoint").exists()


def missing(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != "head.final_layer.bias"}


BAD = {
    "other": (
        lambda state: {"fc.weight": torch.zeros(3, 3)},
        TINY,
        r"of its tensors are missing .* 1 others are there",
    ),
    "missing": (missing, TINY, r"1 of its tensors are missing \(head\.final_layer\.bias\); give a name that fits"),
    "surplus": (lambda s: {**s, "head.more.bias": torch.zeros(1)}, TINY, r"1 others are there \(head\.more\.bias\)"),
    "shape": (
        lambda s: {**s, "head.final_layer.bias": torch.zeros(16)},
        TINY,
        r"1 of its tensors have another shape \(head\.final_layer\.bias is \(16,\) and not \(17,\)\)",
    ),
    "config": (
        lambda s: s,
        "cspnext-m_udp_8xb256-210e_coco-256x192",
        r"are missing .*; give a name that fits: body_2d_keypoint/\S+/cspnext-tiny_udp_8xb256-210e_coco-256x192$",
    ),
    "nameless": (lambda s: {"fc.weight": torch.zeros(3)}, None, r"those of no published configuration .* give name="),
    "empty": (lambda s: {"a": 3}, TINY, r"holds no named tensors"),
    "data set": (lambda s: s, "cspnext-tiny_udp_8xb256-210e_somewhere-256x192", "names no data set of MMPose's"),
    "size": (lambda s: s, "cspnext-tiny_udp_8xb256-210e_coco", "has no size of inputs; expected a name such as"),
    "algorithm": (lambda s: s, "pose-net_coco-256x192", "begins like no MMPose model that lightpose has"),
    "backbone": (lambda s: s, "td-hm_convnext_coco-256x192", "'convnext' where a backbone is expected"),
    "absent": (lambda s: s, "edpose_res50_8xb2-50e_coco-800x1333", "lightpose has no ED-Pose"),
    "absent and fitting": (lambda s: s, "edpose_coco", r"; the tensors fit body_2d_keypoint/\S+/cspnext-tiny_udp_\S+$"),
    "near": (
        lambda s: {"a": torch.zeros(1)},
        "td-hm_hrnt-w32_8xb64-210e_coco-256x192",
        "like it are td-hm_hrnet-w32_8xb",
    ),
    "no HRNet": (lambda s: s, "dekr_res50_8xb10-140e_coco-512x512", "'res50' where DEKR has an HRNet"),
    "lifter": (lambda s: s, "rtmpose-m_h36m", "has no size of inputs"),
    "no pixels": (lambda s: s, "td-hm_res50_coco-000x000", "has inputs of 0x0; expected 32 or more"),
    "nan": (
        lambda s: {**s, "head.final_layer.bias": torch.full((17,), float("nan"))},
        TINY,
        r"tensors of \S+ hold numbers that are not finite \(head\.final_layer\.bias\): .* give an earlier checkpoint$",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_told_in_one_sentence_and_nothing_is_written(tmp_path: Path, state: Any, kind: str) -> None:
    change, name, message = BAD[kind]
    out = tmp_path / "b.ckpt"
    with pytest.raises(UserError, match=message) as error:
        convert(saved(tmp_path / "a.pth", change(state)), out, name)
    assert "\n" not in str(error.value)
    assert not out.exists() and [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_truncated_missing_and_occupied_files_are_refused(
    tmp_path: Path, state: Any, recwarn: pytest.WarningsRecorder
) -> None:
    src, out = saved(tmp_path / "a.pth", state), tmp_path / "b.ckpt"
    for place in (out, src):
        with pytest.raises(UserError, match=r"there is no checkpoint src=.*nothing\.pth"):
            convert(tmp_path / "nothing.pth", place, TINY)
    short = tmp_path / "short.pth"
    short.write_bytes(src.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"can't be read .*; fetch it again"):
        convert(short, out, TINY)
    bits = bytearray(src.read_bytes())
    bits[len(bits) // 2] ^= 1
    short.write_bytes(bits)
    with pytest.raises(UserError, match=r"can't be read .*the check sum of .* is wrong"):
        convert(short, out, TINY)
    short.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="damaged or holds more than tensors"):
        convert(short, out, TINY)
    assert not recwarn
    out.write_text("precious")
    with pytest.raises(UserError, match=r"is there already; give another file, or overwrite=true"):
        convert(src, out, TINY)
    with pytest.raises(UserError, match="is src itself"):
        convert(src, src, TINY, overwrite=True)
    with pytest.raises(UserError, match="is a folder"):
        convert(src, tmp_path, TINY)
    assert out.read_text() == "precious"
    convert(src, out, TINY, overwrite=True)
    assert lightpose.load(out).input_hw == (256, 192)


def test_a_name_may_be_left_out_where_the_tensors_tell(
    tmp_path: Path, state: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """CSPNeXt-tiny of 17 keypoints is published in one form; a ResNet-50 of 17 in many."""
    estimator = load_file(saved(tmp_path / "a.pth", state))
    assert estimator.grid == "udp" and estimator.skeleton.name == "coco17"
    assert caplog.messages[0].endswith(f"/{TINY}, whose data set, input size and codec are taken")
    record = find("td-hm_res50_8xb64-210e_ap10k")
    with pytest.raises(UserError, match=r"fit \d+ configurations, which differ .*/td-hm_res50_8xb64-210e_coco-256x192"):
        load_file(saved(tmp_path / "b.pth", state_of(record)))


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path, state: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("unexpected pos 1984 vs 1878")  # as torch says

    src = saved(tmp_path / "a.pth", state)
    monkeypatch.setattr("lightpose.interop.mmpose.convert.torch.save", full)
    with pytest.raises(UserError, match=r"out=\S+ can't be written; see to its rights and space"):
        convert(src, tmp_path / "b.ckpt", TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_what_was_chosen_is_told_and_names_that_nobody_published(
    tmp_path: Path, state: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    src = saved(tmp_path / "a.pth", state)
    load_file(src, TINY)
    assert caplog.messages == ["skeleton coco17, inputs of 256x192 pixels (height x width), pixel grid udp"]
    caplog.clear()
    load_file(src, TINY.replace("udp", "upd"))
    assert "is no configuration that MMPose publishes" in caplog.messages[0] and f"are {TINY}" in caplog.messages[0]
    assert caplog.messages[1].endswith("pixel grid stride")


def test_a_data_set_that_is_named_gives_the_keypoints_and_else_a_guess_is_told(
    tmp_path: Path, state: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)  # another test may have asked for more
    source = source_of(find(TINY))
    named = saved(tmp_path / "a.pth", state, meta={"cfg": f"dataset_type = 'AP10KDataset'\n{source}"})
    assert load_file(named).skeleton.name == "ap10k" and not caplog.messages
    unnamed = saved(tmp_path / "b.pth", state, meta={"cfg": source.replace("'CSPNeXt'", "'mmdet.CSPNeXt'")})
    assert load_file(unnamed).skeleton.name == "coco17"
    assert "taken to be those of coco17, as there are 17" in caplog.messages[0]
    caplog.clear()
    unknown = saved(tmp_path / "c.pth", state, meta={"cfg": f"dataset_type = 'MacaqueDataset'\n{source}"})
    estimator = load_file(unknown)
    assert estimator.skeleton.name == "17 keypoints" and not estimator.flip_test
    assert "doesn't know the 17 keypoints of" in caplog.messages[0] and "(Macaque): they are" in caplog.messages[0]


def test_a_name_that_the_configuration_contradicts_counts_and_is_told(
    tmp_path: Path, state: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    source = source_of(find(TINY))
    load_file(saved(tmp_path / "a.pth", state, meta={"cfg": source}), TINY)
    assert not caplog.messages
    source = source.replace("[192, 256]", "[256, 192]").replace("[48, 64]", "[64, 48]")
    assert load_file(saved(tmp_path / "b.pth", state, meta={"cfg": source}), TINY).input_hw == (256, 192)
    assert caplog.messages[0].endswith("b.pth says input_hw=[192,256] and not [256,192]")


def test_a_configuration_of_before_1_0_is_not_used(tmp_path: Path, state: Any) -> None:
    old = {"cfg": "model = dict(type='TopDown', backbone=dict(type='ResNet'), keypoint_head=dict(type='Mystery'))"}
    assert load_file(saved(tmp_path / "a.pth", state, meta=old)).grid == "udp"  # what the tensors say
    scoped = source_of(find(TINY)).replace("'TopdownPoseEstimator'", "'mmpose.TopdownPoseEstimator'")
    scoped = scoped.replace("[192, 256]", "[256, 192]").replace("[48, 64]", "[64, 48]")
    assert load_file(saved(tmp_path / "b.pth", state, meta={"cfg": scoped})).input_hw == (192, 256)


def test_the_command_converts_and_predicts(
    tmp_path: Path, state: Any, monkeypatch: Any, coco_samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightpose.cli import convert as command
    from lightpose.cli import predict

    src, out = saved(tmp_path / "a.pth", state), tmp_path / "my b.ckpt"
    annotations = next(coco_samples.glob("*.json"))
    content = json.loads(annotations.read_text())
    image = next(each for each in content["images"] if each["file_name"].endswith("000000000785.jpg"))
    ours = [each for each in content["annotations"] if each["image_id"] == image["id"]]
    chosen = tmp_path / "one.json"
    chosen.write_text(json.dumps({**content, "images": [image], "annotations": ours}))
    monkeypatch.setattr("sys.argv", ["lightpose-convert", "mmpose", f"src={src}", f"out={out}", f"name={TINY}"])
    command.main()
    advice = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("train it further by: "))
    assert {f"init_from={out}", "backbone=cspnext_tiny", "input_hw=[256,192]"} <= set(shlex.split(advice))
    folder = next(path.parent for path in coco_samples.rglob("000000000785.jpg"))
    arguments = [f"ckpt={out}", f"source={chosen}", f"images={folder}", f"out={tmp_path / 'poses'}", "device=cpu"]
    monkeypatch.setattr("sys.argv", ["lightpose-predict", *arguments, "num_workers=0", "draw=false", "speed=eager"])
    predict.main()
    poses = json.loads((tmp_path / "poses/predictions.json").read_text())
    assert len(poses) == len(ours) and all(len(each["keypoints"]) == 51 for each in poses)
