"""Files of lower precision: what is lower in them, what it costs, and what is refused."""

import copy
import json
import subprocess
import sys
from importlib.util import find_spec

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto

import lightpose
from lightpose.cli.export import main as export_main
from lightpose.errors import UserError
from lightpose.export.onnx import export, told
from lightpose.export.precision import network


@pytest.fixture
def traced(graph, monkeypatch):
    """Tracing takes seconds, and conversion changes the graph."""
    monkeypatch.setattr("lightpose.export.onnx.to_graph", lambda _: copy.deepcopy(graph))


@pytest.mark.parametrize("precision", ["16", "int8"])
def test_only_the_network_is_of_lower_precision(traced, graph, checkpoint, model, people, tmp_path, precision):
    out = tmp_path / "lower.onnx"
    options = {"flip_test": True, "annotations": str(people), "precision": precision, "people": 10}
    difference = export(checkpoint, out, most_loss_px=20, most_loss_ap=1, **options)
    assert difference.loss is not None and difference.loss.people >= 10
    assert 0 < difference.loss.px < 20
    assert "AP" in told(difference)[-1]

    lower, exact = onnx.load(out), onnx.load(model)
    about = json.loads({each.key: each.value for each in lower.metadata_props}["lightpose"])
    assert about["precision"] == {"16": "float16", "int8": "int8"}[precision]
    assert out.stat().st_size < 0.6 * model.stat().st_size
    inside = network(graph)
    names = {name for node in exact.graph.node if node.name not in inside for name in node.input}
    kept = {each.name: each.data_type for each in lower.graph.initializer if each.name in names}
    assert kept["estimator.net.preprocessor.mean"] == TensorProto.FLOAT
    assert not {TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8} & set(kept.values())
    kinds = {each.data_type for each in lower.graph.initializer}
    assert {"16": TensorProto.FLOAT16, "int8": TensorProto.INT8}[precision] in kinds

    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    [rough], [fine] = (lightpose.Predictor(path, device="cpu")(image, [[60, 40, 200, 190]]) for path in (out, model))
    assert 0 < np.abs(rough.keypoint_scores - fine.keypoint_scores).max() < 0.1
    if find_spec("openvino") is not None:
        assert np.abs(by_openvino(out, image, [[60, 40, 200, 190]], tmp_path) - rough.keypoint_scores).max() < 0.1


def by_openvino(path, image, boxes, folder):
    """Scores of keypoints, found in a process of its own: OpenVINO's handlers close what pytest captures."""
    np.save(folder / "image.npy", image)
    program = f"""
import numpy, lightpose
[poses] = lightpose.Predictor({str(path)!r}, device="openvino")(numpy.load("image.npy"), {boxes})
numpy.save("scores.npy", poses.keypoint_scores)
"""
    made = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, timeout=60)
    assert made.returncode == 0, made.stderr.decode()
    return np.load(folder / "scores.npy")


def test_a_loss_past_the_limit_writes_nothing(traced, checkpoint, people, tmp_path):
    out, given = tmp_path / "lower.onnx", {"annotations": str(people), "people": 4, "precision": "16"}
    with pytest.raises(UserError, match=r"more than most_loss_px=1e-07; nothing was written"):
        export(checkpoint, out, flip_test=True, most_loss_px=1e-7, **given)
    with pytest.raises(UserError, match=r"by more than most_loss_ap=-1; nothing was written"):
        export(checkpoint, out, flip_test=True, most_loss_px=20, most_loss_ap=-1, **given)
    assert not list(tmp_path.iterdir())


def test_data_without_people_is_refused_before_the_work(run, checkpoint, people, tmp_path):
    unlabelled = tmp_path / "unlabelled.json"
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 50, 3), np.uint8))
    image = {"id": 1, "file_name": "a.png", "width": 50, "height": 50}
    category = {"id": 1, "name": "face", "keypoints": ["nose", "left_eye", "right_eye"]}
    person = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    person |= {"keypoints": [0] * 9, "num_keypoints": 0}
    unlabelled.write_text(json.dumps({"images": [image], "annotations": [person], "categories": [category]}))
    cases = {
        "precision=8 is unknown": ["precision=8", f"annotations={people}"],
        "the loss of precision=int8 is measured on people": ["precision=int8"],
        "has no people with labelled keypoints": ["precision=int8", f"annotations={unlabelled}"],
        "people=0 must be at least 1": ["people=0"],
        "device=npu runs no ONNX file": ["device=npu"],
    }
    for said, arguments in cases.items():
        code, _, err = run(export_main, f"ckpt={checkpoint}", f"out={tmp_path / 'model.onnx'}", *arguments)
        assert code == 1
        assert said in err
        assert err.count("\n") == 1
    assert not list(tmp_path.glob("*.onnx"))
