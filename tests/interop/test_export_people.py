"""Models of any number of people, and lifters, as files: they find what the checkpoint finds."""

from functools import partial
from unittest.mock import Mock

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from scipy.optimize import linear_sum_assignment
from tiny_export import HEADS, LOSSES, SMALL, TRUST, config, part, save

import lightpose
from lightpose import testing
from lightpose.checkpoint import load
from lightpose.codecs.onestage import OneStageCodec
from lightpose.codecs.people import best_boxes
from lightpose.data.synthetic.sequences import generate_sequences
from lightpose.errors import UserError
from lightpose.estimators.bottomup import BottomUp
from lightpose.export.onnx import export
from lightpose.inference.crops import Job
from lightpose.inference.lifting import Lifter, Seen
from lightpose.interop.onnx.description import describe, written
from lightpose.interop.onnx.graph import check_exportable, to_graph
from lightpose.models.heads.yoloxpose import YOLOXPoseHead
from lightpose.skeleton import Skeleton

CODECS = "lightpose.codecs"
ONE_STAGE = {
    "_target_": f"{LOSSES}.onestage.OneStageLoss",
    "assigner": {"_target_": f"{HEADS}.assigners.simota.SimOTA"},
}
TAGS = {
    "_target_": f"{LOSSES}.associative_embedding.AssociativeEmbeddingLoss",
    "heatmap": {"_target_": f"{LOSSES}.heatmap.KeypointMSE"},
}
SEEN = {"score_threshold": 1e-7, "most_candidates": 24}
FEW = {"stride": 8, "score_threshold": 1e-3, "max_people": 5}
CASES = {
    "yoloxpose": (
        part(f"{HEADS}.yoloxpose.YOLOXPoseHead", criterion=ONE_STAGE, depth=1),
        part(f"{CODECS}.onestage.OneStageCodec", **SEEN),
        False,
        (24, 3, 2),
    ),
    "yoloxpose that refines": (
        part(f"{HEADS}.yoloxpose.YOLOXPoseHead", criterion=ONE_STAGE, depth=1, refinements=2),
        part(f"{CODECS}.onestage.OneStageCodec", **SEEN),
        False,
        (24, 3, 2),
    ),
    "rtmo": (
        part(f"{HEADS}.rtmo.RTMOHead", criterion=ONE_STAGE, depth=1, groups=2, bins=[8, 8], tokens=8, candidates=20),
        part(f"{CODECS}.onestage.OneStageCodec", **SEEN),
        False,
        (20, 3, 2),
    ),
    "dekr": (
        part(
            f"{HEADS}.dekr.DEKRHead",
            heatmap_channels=8,
            branch_channels=2,
            rescoring={"links": [[0, 1]], "norm": [0]},
            criterion={"_target_": f"{LOSSES}.displacement.DisplacementLoss"},
        ),
        part(f"{CODECS}.displacement.DisplacementCodec", stride=8, max_people=6, threshold=1e-6),
        True,
        (6, 3, 2),
    ),
    "cid": (
        part(f"{HEADS}.cid.CIDHead", channels=4, criterion={"_target_": f"{LOSSES}.cid.CIDLoss"}),
        part(f"{CODECS}.cid.CIDCodec", stride=8, max_people=4, threshold=1e-4),
        True,
        (4, 3, 2),
    ),
    "tags": (
        part(f"{HEADS}.associative_embedding.AssociativeEmbeddingHead", channels=8, criterion=TAGS),
        part(f"{CODECS}.associative_embedding.AssociativeEmbeddingCodec", **FEW),
        True,
        (3, 5, 2),
    ),
    "enlarged tags": (
        part(f"{HEADS}.associative_embedding.AssociativeEmbeddingHead", channels=8, criterion=TAGS),
        part(f"{CODECS}.associative_embedding.AssociativeEmbeddingCodec", enlarge=True, refine="quarter", **FEW),
        True,
        (3, 5, 2),
    ),
}


def test_a_network_that_finds_nobody_is_exported(tmp_path):
    head, codec, _, _ = CASES["rtmo"]
    settings = config(head, {**codec, "score_threshold": 1.0}, "half_pixel", "BottomUp", SMALL)
    checkpoint = save(tmp_path / "tiny.ckpt", settings, std=0.1)
    assert export(checkpoint, tmp_path / "model.onnx", False, trust=TRUST).keypoints == 0
    (found,) = lightpose.Predictor(tmp_path / "model.onnx", device="cpu")([np.zeros((64, 48, 3), np.uint8)])
    assert len(found) == 0


STD = {"yoloxpose": 0.1, "rtmo": 0.1}
"""Of weights of heads; RTMO's classifier magnifies rounding where boxes are large."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name != "rtmo" else name for name in CASES]
)
def test_a_file_finds_the_people_that_the_checkpoint_finds(name, tmp_path, monkeypatch):
    head, codec, flip_test, shape = CASES[name]
    settings = config(head, codec, "half_pixel", "BottomUp", SMALL)
    settings["estimator"]["flip_test"] = flip_test
    settings["data"] = {"margin_grey": 114}
    checkpoint, out = save(tmp_path / "tiny.ckpt", settings, std=STD.get(name, 1.0)), tmp_path / "model.onnx"
    assert export(checkpoint, out, flip_test, trust=TRUST).keypoints > 0
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    shapes = {output.name: output.shape for output in session.get_outputs()}
    places = "peaks" if "tags" in name else "keypoints"
    assert shapes[places] == ["N", *shape]
    assert shapes["valid"] == ["N", *shape[: 2 if "tags" in name else 1]]
    images = [np.random.default_rng(seed).integers(0, 256, (64, 48 - 4 * seed, 3), np.uint8) for seed in range(5)]
    of_checkpoint = lightpose.Predictor(checkpoint, device="cpu", trust=TRUST)
    expected = of_checkpoint(images, batch_size=2)
    reads = Mock(side_effect=onnx.load_model_from_string)
    monkeypatch.setattr(onnx, "load_model_from_string", reads)
    of_file = lightpose.Predictor(out, device="cpu")
    found = of_file(images, batch_size=2)
    for predictor in (of_checkpoint, of_file):  # as both see grey beside the image
        (sample,) = predictor.cropper.samples(Job(images[-1], None, 0))
        assert (sample.image[:, [0, -1]] == 114).all()
    assert reads.call_count == 1
    assert sum(map(len, expected)) >= 5
    for one, other in zip(expected, found, strict=True):
        assert len(one) == len(other)
        apart = np.abs(one.keypoints[:, None] - other.keypoints).max((2, 3))
        rows, same = linear_sum_assignment(apart)  # rounding may exchange two of nearly the same score
        assert apart[rows, same].max(initial=0) < 0.02
        assert np.abs(one.scores - other.scores[same]).max(initial=0) < 1e-3
        assert np.abs(one.boxes_xyxy - other.boxes_xyxy[same]).max(initial=0) < 0.02


def test_suppression_in_a_graph_is_that_of_torchvision(tmp_path):
    class Boxes(torch.nn.Module):
        def forward(self, boxes, scores):
            return best_boxes(boxes, scores, 0.5, 0.3)

    from lightpose.interop.onnx.graph import _suppression

    def random(batch):
        corner, size = torch.rand(2, batch, 40, 2).unbind(0)
        return torch.cat([100 * corner, 100 * corner + 40 * size], -1), torch.rand(batch, 40)

    torch.manual_seed(0)
    batch = torch.export.Dim("N")
    program = torch.export.export(Boxes(), random(2), dynamic_shapes=({0: batch}, {0: batch}), strict=False)
    table = {best_boxes._opoverload: _suppression}
    graph = torch.onnx.export(program, dynamo=True, opset_version=18, custom_translation_table=table, verbose=False)
    session = onnxruntime.InferenceSession(graph.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for size in (1, 2, 7):
        boxes, scores = random(size)
        expected = best_boxes(boxes, scores, 0.5, 0.3)
        assert 0 < expected.sum() < (scores > 0.3).sum()
        assert np.array_equal(session.run(None, {"boxes": boxes.numpy(), "scores": scores.numpy()})[0], expected)
    boxes, scores = random(1)
    assert not session.run(None, {"boxes": boxes.numpy(), "scores": scores.numpy() * 0.1})[0].any()


def lifter(codec, head, backbone, frames, out):
    skeleton = Skeleton.build([f"joint_{joint}" for joint in range(17)])
    settings = config(head, codec)
    estimator = {**settings["estimator"], "input_hw": None, "backbone": backbone, "flip_test": False}
    estimator |= {
        "_target_": "lightpose.estimators.lifter.PoseLifter",
        "preprocessor": {"_target_": "torch.nn.Identity"},
    }
    reader = {"_target_": "lightpose.data.sequences.PoseSequences", "_partial_": True, "frames": frames}
    augment = {"eval": {"geometry": {}, "pixels": {}}}
    return save(out, {"estimator": estimator, "data": {"reader": reader}, "augment": augment}, skeleton)


LIFTERS = {
    "one frame": partial(
        lifter,
        part(f"{CODECS}.lifting.LiftingCodec"),
        part(f"{HEADS}.lifting.LiftingHead", criterion={"_target_": f"{LOSSES}.lifting.MPJPE"}),
        part("lightpose.models.backbones.tcn.TCN", frames=9, width=16),
    ),
    "every frame": partial(
        lifter,
        part(f"{CODECS}.motionbert.MotionBertCodec"),
        part(f"{HEADS}.motion.MotionHead", representation=16, criterion={"_target_": f"{LOSSES}.lifting.MotionLoss"}),
        part("lightpose.models.backbones.dstformer.DSTFormer", frames=9, width=16, depth=1, heads=2),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LIFTERS)
def test_a_lifter_becomes_a_file(name, tmp_path):
    checkpoint, out = LIFTERS[name](9, tmp_path / "tiny.ckpt"), tmp_path / "model.onnx"
    people = generate_sequences(tmp_path / "people", 1, seed=0)
    difference = export(checkpoint, out, annotations=str(people))
    assert difference.unit == "mm"
    assert difference.keypoints == (90 if name == "every frame" else 10) * 17
    rng, names = np.random.default_rng(0), [f"joint_{joint}" for joint in range(17)]
    keypoints = rng.uniform(100, 900, (1, 17, 3)) + rng.normal(0, 5, (12, 17, 3))
    seen = [Seen(frame, f"{frame}.jpg", (1000, 1000), each, 1.0, None) for frame, each in enumerate(keypoints)]
    expected, found = (Lifter(path, "cpu")(seen, names) for path in (checkpoint, out))
    joints = np.stack([each.joints_mm for each in expected])
    assert len(found) == 12
    assert np.ptp(joints, axis=0).max() > 0.1
    assert np.abs(joints - np.stack([each.joints_mm for each in found])).max() < 0.02
    with pytest.raises(UserError, match="takes sequences of keypoints, not images"):
        lightpose.Predictor(out, device="cpu")


class Hidden(OneStageCodec):
    """Says nothing of its candidates."""

    candidates = property()


class Choosy(OneStageCodec):
    """Does something else where it finds somebody."""

    def candidates(self, outputs):
        columns = super().candidates(outputs)
        return {**columns, "scores": columns["scores"] / 2} if columns["valid"].any() else columns


def test_codecs_that_can_not_be_exported_are_named():
    head = partial(YOLOXPoseHead, criterion=lambda *_: {}, depth=1)
    hidden = testing.model(head, Hidden, kind=BottomUp, flip_test=False)
    with pytest.raises(UserError, match=r"^Hidden finds any number .* no methods candidates and chosen"):
        check_exportable(hidden)
    choosy = testing.model(head, Choosy, kind=BottomUp, flip_test=False).eval()
    with pytest.raises(UserError, match=r"^Choosy.candidates can't be traced .* choose codec=onestage"):
        to_graph(choosy)


def test_a_graph_of_somebody_else_is_refused_in_a_sentence(tmp_path):
    head, codec, *_ = CASES["tags"]
    about = describe(
        load(save(tmp_path / "tiny.ckpt", config(head, codec, kind="BottomUp", backbone=SMALL)), TRUST), 16
    )
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 64, 48, 3])
    for output, said in (("valid", "no poses can be made of what"), ("keypoints", "expected candidates and valid")):
        found = helper.make_tensor_value_info(output, TensorProto.BOOL, ["N", 64, 48, 3])
        cast = helper.make_node("Cast", ["images"], [output], to=TensorProto.BOOL)
        graph = helper.make_graph([cast], "g", [images], [found])
        content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        helper.set_model_props(content, {"lightpose": written(about)})
        onnx.save(content, tmp_path / "strange.onnx")
        with pytest.raises(UserError, match=said):
            lightpose.Predictor(tmp_path / "strange.onnx", device="cpu")(np.zeros((64, 48, 3), np.uint8))


@pytest.mark.slow
def test_images_of_any_proportion_fill_the_one_input(tmp_path):
    head, codec, *_ = CASES["dekr"]
    settings = config(head, codec, "half_pixel", "BottomUp", SMALL)
    crop = settings["augment"]["eval"]["geometry"]["crop"]
    crop |= {"_target_": "lightpose.data.image_transforms.ResizeImage", "fit": "short", "multiple": 16}
    checkpoint, out = save(tmp_path / "tiny.ckpt", settings), tmp_path / "model.onnx"
    export(checkpoint, out, trust=TRUST)
    wide = np.random.default_rng(0).integers(0, 256, (64, 200, 3), np.uint8)
    crop |= {"_target_": "lightpose.data.transforms.CropImage"}
    del crop["fit"], crop["multiple"]
    same = save(tmp_path / "same.ckpt", settings)
    [found], [expected] = (lightpose.Predictor(path, device="cpu", trust=TRUST)([wide]) for path in (out, same))
    assert len(expected) == len(found) > 0
    assert np.abs(expected.keypoints - found.keypoints).max() < 0.1  # an image pixel is a quarter of an input pixel
    assert load(checkpoint, TRUST).config["augment"]["eval"]["geometry"]["crop"]["fit"] == "short"
