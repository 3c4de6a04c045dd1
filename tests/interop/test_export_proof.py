"""What counts as the same, and what doesn't."""

import numpy as np
import onnx
import pytest
import torch

from lightpose.codecs.heatmap import HeatmapCodec
from lightpose.errors import UserError
from lightpose.export.onnx import export
from lightpose.export.proof import compare
from lightpose.interop.onnx.graph import HEAD, columns_of
from lightpose.testing import SKELETON

CODEC = HeatmapCodec(SKELETON, (64, 96), "half_pixel", refine="quarter")


def decode(outputs):
    maps = torch.from_numpy(outputs[f"{HEAD}heatmap"])
    return {name: each.numpy() for name, each in columns_of(CODEC.decode({"heatmap": maps})).items()}


def columns(maps):
    outputs = {f"{HEAD}heatmap": maps}
    return {**decode(outputs), **outputs}


@pytest.fixture
def maps():
    maps = np.random.default_rng(0).uniform(0, 0.5, (10, 5, 16, 24)).astype(np.float32)
    maps[..., 3, 5] = 1
    return maps


def test_rounding_between_two_equal_cells_is_counted_and_left_out(maps):
    maps[2, 1, 9, 20] = 1 - 1e-7
    other = maps.copy()
    other[2, 1, 9, 20] = 1 + 1e-7
    difference = compare(columns(maps), columns(other), decode, 0.02)
    assert (difference.undecided, difference.keypoints) == (1, 50)
    assert difference.largest["keypoints"] == 0


def test_a_jump_without_a_tie_is_a_fault(maps):
    found = columns(maps)
    found["keypoints"] = found["keypoints"].copy()
    found["keypoints"][3, 2, 0] += 0.05
    with pytest.raises(UserError, match=r"^keypoints of the exported file differs by 0\.05 px"):
        compare(columns(maps), found, decode, 0.02)
    assert compare(columns(maps), found, decode, 0.06).largest["keypoints"] == pytest.approx(0.05, abs=1e-4)


def test_maps_that_differ_are_a_fault_though_decoding_agrees(maps):
    other = maps.copy()
    other[4, 0, 9, 20] = 1.5
    with pytest.raises(UserError, match=r"^head/heatmap of the exported file differs"):
        compare(columns(maps), columns(other), decode, 0.02)


def test_scores_count(maps):
    found = columns(maps)
    found["scores"] = found["scores"] + 0.01
    with pytest.raises(UserError, match=r"^scores of the exported file differs"):
        compare(columns(maps), found, decode, 0.02)


def test_maps_full_of_ties_prove_nothing(maps):
    maps[:, :, 9, 20] = 1 - 1e-7
    other = maps.copy()
    other[:, :, 9, 20] = 1 + 1e-7
    with pytest.raises(UserError, match="train further"):
        compare(columns(maps), columns(other), decode, 0.02)


def test_a_graph_that_is_off_is_not_kept(checkpoint, graph, tmp_path, monkeypatch):
    wrong = onnx.ModelProto()
    wrong.CopyFrom(graph)
    [node] = [node for node in wrong.graph.node if "keypoints" in node.output]
    node.output[list(node.output).index("keypoints")] = "before"
    wrong.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.1), "shift"))
    wrong.graph.node.append(onnx.helper.make_node("Add", ["before", "shift"], ["keypoints"]))
    monkeypatch.setattr("lightpose.export.onnx.to_graph", lambda _: wrong)
    with pytest.raises(UserError, match=r"^keypoints of the exported file differs by 0\.14"):
        export(checkpoint, tmp_path / "model.onnx", flip_test=True)
    assert not list(tmp_path.iterdir())
