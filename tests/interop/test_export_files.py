"""Exported files in place of checkpoints, and what is refused."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from tiny_export import config, heatmap_head, part, save

import lightpose
from lightpose.checkpoint import load
from lightpose.cli.eval import main as eval_main
from lightpose.cli.export import main as export_main
from lightpose.cli.predict import main as predict_main
from lightpose.codecs.heatmap import HeatmapCodec
from lightpose.errors import UserError
from lightpose.export.onnx import export
from lightpose.interop.onnx.description import read
from lightpose.interop.onnx.graph import to_graph
from lightpose.models.heads.heatmap import HeatmapHead

DOCS = Path(__file__).parents[2] / "docs/deploy.md"


def test_the_command_predicts_the_same_json_and_poses(run, checkpoint, people, tmp_path):
    out = tmp_path / "model.onnx"
    arguments = [f"ckpt={checkpoint}", "format=onnx", f"out={out}", "flip_test=true", f"annotations={people}"]
    code, _, err = run(export_main, *arguments)
    assert code == 0, err
    found = {}
    for name, ckpt in (("checkpoint", checkpoint), ("file", out)):
        folder = tmp_path / name
        given = [f"ckpt={ckpt}", f"source={people}", "draw=false", "device=cpu", "num_workers=0", f"out={folder}"]
        code, _, err = run(predict_main, *given)
        assert code == 0, err
        found[name] = json.loads((folder / "predictions.json").read_text())
    assert len(found["file"]) == len(found["checkpoint"]) > 5
    for one, other in zip(found["file"], found["checkpoint"], strict=True):
        assert one.keys() == other.keys()
        assert one["image_id"] == other["image_id"]
        assert np.abs(np.subtract(one["keypoints"], other["keypoints"])).max() < 0.02
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_the_file_says_what_it_is_and_not_where_it_was_made(model):
    content = onnx.load(model)
    about = json.loads({each.key: each.value for each in content.metadata_props}["lightpose"])
    assert about["mirror_pairs"] == [["left_eye", "right_eye"]]
    assert (about["input_hw"], about["grid"], about["padding"]) == ([64, 48], "half_pixel", 1.25)
    assert about.pop("margin_grey") == 0
    assert read(json.dumps(about), model)[0].margin_grey == 0  # as files before it was known don't say
    assert (about["version"], about["flip_test"], about["precision"]) == (lightpose.__version__, True, "float32")
    assert content.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert b"site-packages" not in model.read_bytes()
    assert b"src/lightpose" not in model.read_bytes()


def test_evaluation_gives_the_figures_of_the_checkpoint(run, trained, people, tmp_path, monkeypatch):
    checkpoint, out = trained / "checkpoints/best.ckpt", tmp_path / "model.onnx"
    export(checkpoint, out, flip_test=True)
    figures = {}
    for name, ckpt in (("checkpoint", checkpoint), ("file", out)):
        code, _, err = run(eval_main, f"ckpt={ckpt}", f"annotations={people}", f"out={tmp_path / name}", "speed=eager")
        assert code == 0, err
        figures[name] = json.loads((tmp_path / name / "metrics.json").read_text())
    figures["checkpoint"].pop("loss")
    assert figures["file"] == pytest.approx(figures["checkpoint"], abs=1e-4, nan_ok=True)
    code, _, err = run(eval_main, f"ckpt={out}", f"annotations={people}", "flip_test=false")
    assert code == 1
    assert "was exported with flip_test=true" in err


def test_the_program_in_the_docs_runs_without_torch_and_lightpose(model, tmp_path):
    [program] = [part.partition("```")[0] for part in DOCS.read_text().split("```python\n")[1:]]
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8), (320, 240))
    cv2.imwrite(str(tmp_path / "photo.png"), image[..., ::-1])
    program = program.replace("photo.jpg", "photo.png")
    blocked = "import sys\nsys.modules.update(torch=None, lightpose=None)\n"
    last = "np.savez('found.npz', **poses)\nassert 'cv2' not in sys.modules\n"
    (tmp_path / "model.onnx").symlink_to(model)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    made = subprocess.run(
        [sys.executable, "-c", blocked + program + last], cwd=tmp_path, env=environment, capture_output=True, timeout=60
    )
    assert made.returncode == 0, made.stderr.decode()
    assert made.stdout.startswith(b"nose [")
    found = np.load(tmp_path / "found.npz")
    [expected] = lightpose.Predictor(model, device="cpu")(image, [[60, 40, 200, 220], [120, 30, 180, 200]])
    assert np.abs(found["keypoints"] - expected.keypoints).max() < 3.5  # a pixel of the input: Pillow rounds otherwise
    assert np.abs(found["scores"] - expected.scores).max() < 0.05


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_a_file_predicts_without_torch_what_the_checkpoint_does(model, checkpoint, tmp_path, device):
    """In a process of its own also since OpenVINO brings handlers of logging that close what pytest captures."""
    if device == "openvino" and find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8), (320, 240))
    cv2.imwrite(str(tmp_path / "photo.png"), image[..., ::-1])
    boxes = [[60, 40, 200, 220], [120, 30, 180, 200]]
    program = f"""
import sys, numpy, lightpose
sys.modules.update(torch=None, lightning=None)
[poses] = lightpose.Predictor({str(model)!r}, device={device!r})("photo.png", {boxes}, box_scores=[0.5, 1])
numpy.savez("found.npz", keypoints=poses.keypoints, scores=poses.scores, boxes=poses.boxes_xyxy)
"""
    made = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, timeout=60)
    assert made.returncode == 0, made.stderr.decode()
    found = np.load(tmp_path / "found.npz")
    [expected] = lightpose.Predictor(checkpoint, device="cpu")(image, boxes, box_scores=[0.5, 1])
    assert np.abs(found["keypoints"] - expected.keypoints).max() < 0.05  # image pixels
    assert found["scores"] == pytest.approx(expected.scores, abs=1e-4)
    assert np.array_equal(found["boxes"], expected.boxes_xyxy)


def foreign(path, external=False, metadata=None):
    """An ONNX file of another program."""
    tensor = onnx.numpy_helper.from_array(np.ones(3, np.float32), "weight")
    if external:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../etc/passwd")
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph([helper.make_node("Add", ["x", "weight"], ["y"])], "g", [images], [result], [tensor])
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if metadata is not None:
        helper.set_model_props(content, {"lightpose": metadata})
    path.write_bytes(content.SerializeToString())
    return path


def test_files_that_are_no_models_are_refused_in_a_sentence(model, tmp_path):
    about = {each.key: each.value for each in onnx.load(model).metadata_props}["lightpose"]
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(model.read_bytes()[:-500])
    text = tmp_path / "text.onnx"
    text.write_text("not a model")
    empty = tmp_path / "empty.onnx"
    empty.write_bytes(b"")
    hollow = {**json.loads(about), "input_hw": [64]}
    cases = {
        "no ONNX file at": tmp_path / "none.onnx",
        "damaged.onnx can't be read": damaged,
        "text.onnx can't be read": text,
        "holds no graph": empty,
        "without lightpose's description": foreign(tmp_path / "foreign.onnx"),
        "no JSON": foreign(tmp_path / "no_json.onnx", metadata="{"),
        "lacks version, estimator": foreign(tmp_path / "lacks.onnx", metadata="{}"),
        "has a input_hw": foreign(tmp_path / "hollow.onnx", metadata=json.dumps(hollow)),
        "expected images of uint8": foreign(tmp_path / "other.onnx", metadata=about),
        "1 of its tensors in other files": foreign(tmp_path / "external.onnx", external=True),
    }
    for said, path in cases.items():
        with pytest.raises(UserError, match=said):
            lightpose.Predictor(path, device="cpu")


def test_configuration_in_a_file_runs_nothing_foreign(model, tmp_path):
    content = onnx.load(model)
    about = json.loads(content.metadata_props[0].value)
    about["config"]["augment"]["eval"]["geometry"]["crop"] = {"_target_": "os.system", "command": "touch ran"}
    helper.set_model_props(content, {"lightpose": json.dumps(about)})
    onnx.save(content, tmp_path / "evil.onnx")
    with pytest.raises(UserError, match=r"wants to run os\.system"):
        lightpose.Predictor(tmp_path / "evil.onnx", device="cpu")


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="there is one")
def test_a_provider_that_is_not_there_is_an_error(model):
    with pytest.raises(UserError, match="needs ONNX Runtime's CUDAExecutionProvider"):
        lightpose.Predictor(model, device="cuda")
    with pytest.raises(UserError, match="device=meta runs no ONNX file"):
        lightpose.Predictor(model, device="meta")
    with pytest.raises(UserError, match="needs ONNX Runtime's TensorrtExecutionProvider"):
        lightpose.Predictor(model, device="tensorrt:1")
    with pytest.raises(UserError, match="leave out precision"):
        lightpose.Predictor(model, device="cpu", precision="bf16-mixed")


def test_missing_packages_are_named_with_the_extra(run, checkpoint, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = run(export_main, f"ckpt={checkpoint}", f"out={tmp_path / 'a.onnx'}")
    assert code == 1
    assert 'onnxruntime, which can\'t be imported: pip install "lightpose[export]"' in err
    with pytest.raises(UserError, match="pip install"):
        lightpose.Predictor(model, device="cpu")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r'the package openvino, .* pip install "lightpose\[openvino\]"'):
        lightpose.Predictor(model, device="openvino")


def test_bad_input_is_refused_in_a_sentence_before_the_work(run, checkpoint, tmp_path):
    nobody = tmp_path / "nobody.json"
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 50, 3), np.uint8))
    image = {"id": 1, "file_name": "a.png", "width": 50, "height": 50}
    nobody.write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    out = f"out={tmp_path / 'model.onnx'}"
    folder = tmp_path / "folder/a.onnx"
    folder.mkdir(parents=True)
    taken = tmp_path / "folder/taken.onnx"
    taken.write_text("mine")
    cases = {
        "is there already": [f"out={taken}"],
        "is a folder": [f"out={folder}"],
        "doesn't end in .onnx": [f"out={tmp_path / 'model.pt'}"],
        "is exported already": [out, f"ckpt={taken}"],
        "make": [f"out={tmp_path / 'nowhere/model.onnx'}"],
        "format=coreml is unknown": [out, "format=coreml"],
        "give both": [out, f"images={tmp_path}"],
        "has no boxes of people": [out, f"annotations={nobody}"],
        "is no COCO JSON": [out, f"annotations={tmp_path}"],
        "must be a positive number": [out, "tolerance_px=0.0"],
    }
    for said, arguments in cases.items():
        code, _, err = run(export_main, f"ckpt={checkpoint}", *arguments)
        assert code == 1
        assert said in err
        assert err.count("\n") == 1
    assert not list(tmp_path.glob("*.onnx"))
    assert taken.read_text() == "mine"


class Unusual(HeatmapHead):
    """With an operator that ONNX lacks."""

    def forward(self, features):
        heatmap = super().forward(features)["heatmap"]
        return {"heatmap": heatmap + torch.special.bessel_j0(heatmap)}


class Choosy(HeatmapCodec):
    """Decodes what it finds."""

    def decode(self, outputs):
        poses = super().decode(outputs)
        return poses.select((poses.scores > 0.5).nonzero()[:, 0]) if poses.scores.max() > 0.5 else poses


def test_what_can_not_be_exported_is_named(tmp_path):
    estimator = load(save(tmp_path / "a.ckpt", config(heatmap_head(), part("lightpose.codecs.heatmap.HeatmapCodec"))))
    estimator.codec = Choosy(estimator.skeleton, estimator.input_hw, estimator.grid)
    estimator.flip_test = False
    with pytest.raises(UserError, match=r"^Choosy.decode can't be traced .* choose codec=heatmap"):
        to_graph(estimator)
    estimator.codec = HeatmapCodec(estimator.skeleton, estimator.input_hw, estimator.grid, refine="none")
    estimator.net.head.__class__ = Unusual
    with pytest.raises(UserError, match=r"the operator prims\.bessel_j0 has no counterpart in ONNX"):
        to_graph(estimator)
