"""What counts as the same, and what doesn't."""

import numpy as np
import onnx
import pytest
import torch

from lightpose.codecs.heatmap import HeatmapCodec
from lightpose.errors import UserError
from lightpose.export.onnx import export
from lightpose.export.proof import compare
from lightpose.interop.onnx.graph import HEAD
from lightpose.structures import Poses
from lightpose.testing import SKELETON

CODEC = HeatmapCodec(SKELETON, (64, 96), "half_pixel", refine="quarter")


FIELDS = ("keypoints", "keypoint_scores", "scores")


def poses(columns):
    return Poses(**{name: columns[name] for name in FIELDS}, batch_index=columns["rows"])


def decoded(columns):
    found = CODEC.decode({"heatmap": torch.from_numpy(columns[f"{HEAD}heatmap"])}).numpy()
    return poses({**{name: getattr(found, name) for name in FIELDS}, "rows": columns["rows"]})


def columns(maps, people=1):
    """Of maps of so many people in each input."""
    outputs = {f"{HEAD}heatmap": maps, "rows": np.arange(len(maps)) // people}
    found = decoded(outputs)
    return {**{name: getattr(found, name) for name in FIELDS}, **outputs}


def compared(one, other, tolerance_px=0.02, many=False):
    return compare(one, other, poses, decoded, tolerance_px, many)


@pytest.fixture
def maps():
    maps = np.random.default_rng(0).uniform(0, 0.5, (10, 5, 16, 24)).astype(np.float32)
    maps[..., 3, 5] = 1
    return maps


def test_rounding_between_two_equal_cells_is_counted_and_left_out(maps):
    maps[2, 1, 9, 20] = 1 - 1e-7
    other = maps.copy()
    other[2, 1, 9, 20] = 1 + 1e-7
    difference = compared(columns(maps), columns(other))
    assert (difference.undecided, difference.keypoints) == (1, 50)
    assert difference.largest["keypoints"] == 0


def test_a_jump_without_a_tie_is_a_fault(maps):
    found = columns(maps)
    found["keypoints"] = found["keypoints"].copy()
    found["keypoints"][3, 2, 0] += 0.05
    with pytest.raises(UserError, match=r"^keypoints of the exported file differs by 0\.05 px"):
        compared(columns(maps), found)
    assert compared(columns(maps), found, 0.06).largest["keypoints"] == pytest.approx(0.05, abs=1e-4)


def test_maps_that_differ_are_a_fault_though_decoding_agrees(maps):
    other = maps.copy()
    other[4, 0, 9, 20] = 1.5
    with pytest.raises(UserError, match=r"^head/heatmap of the exported file differs"):
        compared(columns(maps), columns(other))


def test_scores_count(maps):
    found = columns(maps)
    found["scores"] = found["scores"] + 0.01
    with pytest.raises(UserError, match=r"^scores of the exported file differs"):
        compared(columns(maps), found)


def test_maps_full_of_ties_prove_nothing(maps):
    maps[:, :, 9, 20] = 1 - 1e-7
    other = maps.copy()
    other[:, :, 9, 20] = 1 + 1e-7
    with pytest.raises(UserError, match="train further"):
        compared(columns(maps), columns(other))


def test_people_in_another_order_are_the_same_people(maps):
    maps[3, :, 3, 5], maps[3, :, 12, 8] = 0, 1
    one, exchanged = columns(maps, 2), np.arange(10)
    exchanged[[2, 3]] = 3, 2
    difference = compared(one, {**one, **{name: one[name][exchanged] for name in FIELDS}}, many=True)
    assert (difference.largest["keypoints"], difference.undecided, difference.keypoints) == (0, 0, 50)


def test_maps_of_people_in_another_order_are_compared_person_by_person(maps):
    """A head that has maps for each of two candidates, of which nobody else is there."""
    maps[2, 1, 9, 20], maps[3, :, 3, 5], maps[3, :, 12, 8] = 1 - 1e-7, 0, 1
    other = maps[[0, 1, 3, 2, *range(4, 10)]]
    other[3, 1, 9, 20] = 1 + 1e-7

    def given(maps):
        head = {f"{HEAD}heatmap": maps.reshape(5, 2, *maps.shape[1:]), "valid": np.ones((5, 2), bool)}
        return {**columns(maps, 2), **head}

    def decoded_each(found):
        return decoded({**found, f"{HEAD}heatmap": found[f"{HEAD}heatmap"].reshape(maps.shape)})

    difference = compare(given(maps), given(other), poses, decoded_each, 0.02, many=True)
    assert (difference.largest["keypoints"], difference.undecided) == (0, 1)
    other[5, 0, 0, 0] = 0.9  # which nobody decodes
    with pytest.raises(UserError, match=r"^head/heatmap of the exported file differs"):
        compare(given(maps), given(other), poses, decoded_each, 0.02, many=True)


def test_somebody_who_is_missing_in_the_file_is_a_fault(maps):
    one, other = columns(maps, 2), columns(maps, 2)
    for name in (*FIELDS, "rows"):
        other[name] = other[name][:-2]
    with pytest.raises(UserError, match=r"^keypoints of the exported file are of 8 people"):
        compare(one, {**one, "few": other}, lambda each: poses(each.get("few", each)), decoded, 0.02, many=True)


def test_somebody_who_is_there_twice_in_the_place_of_another_is_a_fault(maps):
    maps = np.concatenate([maps] * 3)
    maps[7, :, 3, 5], maps[7, :, 12, 8] = 0, 1
    one, twice = columns(maps, 2), np.arange(30)
    twice[7] = 6
    found = {**one, **{name: one[name][twice] for name in FIELDS}}
    with pytest.raises(UserError, match=r"^keypoints of the exported file differs by \d"):
        compared(one, found, many=True)


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
