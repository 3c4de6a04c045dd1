"""Networks that see joints and frames: agreement with recorded ones, published sizes, what they see."""

import pytest
import torch
from recorded import record, recorded_input, relative_error, weight
from torch import nn

from lightpose.errors import UserError
from lightpose.interop.mmpose.names import BACKBONES, HEADS
from lightpose.models.backbones.dstformer import DSTFormer
from lightpose.models.backbones.motionagformer import MotionAGFormer
from lightpose.models.heads.motion import MotionHead
from lightpose.models.losses.lifting import MotionLoss
from lightpose.structures import Spec

RECORDED = record("motionbert")["motionbert"]
LINKS = [(0, 1), (1, 2), (2, 3), (0, 4)]
SIZES = {"xs": (27, 64, 12, 2.2), "s": (81, 64, 26, 4.8), "b": (243, 128, 16, 11.7), "l": (243, 128, 26, 19.0)}


def head(channels: int, representation: int = 512) -> MotionHead:
    return MotionHead((channels,), (1,), Spec({"motion": (None, 17, 3)}, None), MotionLoss(), representation)


@torch.inference_mode()
def test_motionbert_computes_the_recorded_outputs():
    backbone, lifting = DSTFormer(17).eval(), head(512)
    parts = {"backbone": (backbone, BACKBONES["DSTFormer"]), "head": (lifting, HEADS["MotionRegressionHead"])}
    for part, (module, family) in parts.items():
        state = module.state_dict()
        module.load_state_dict(
            {key: weight(f"{part}.{family.published(key)}", tuple(each.shape)) for key, each in state.items()}
        )
    assert sum(each.numel() for module in (backbone, lifting) for each in module.parameters()) == RECORDED["params"]
    features = backbone(recorded_input(RECORDED["input"]))
    outputs = [lifting(features)["motion"], features[0].permute(0, 2, 3, 1)]
    for output, recorded in zip(outputs, RECORDED["outputs"], strict=True):
        assert relative_error(output, recorded) < 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_motionagformer_has_as_many_parameters_as_published(size: str):
    frames, width, depth, millions = SIZES[size]
    with torch.device("meta"):
        parts = MotionAGFormer(17, LINKS, frames, width, depth), head(width)
    count = sum(each.numel() for part in parts for each in part.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.06)


def nets(drop_path: float = 0.0) -> list[nn.Module]:
    torch.manual_seed(0)
    made = [
        DSTFormer(5, 9, 16, 2, 4, drop_path=drop_path),
        MotionAGFormer(5, LINKS, 9, 16, 2, 4, neighbours=3, drop_path=drop_path),
    ]
    for net in made:
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.3)
    return made


@torch.inference_mode()
@pytest.mark.parametrize("net", nets(), ids=lambda net: type(net).__name__)
def test_every_frame_and_joint_is_seen_from_every_other(net: nn.Module):
    net, sequence = net.eval().double(), torch.randn(1, 9, 5, 3, dtype=torch.float64)
    plain = net(sequence)[0]
    assert plain.shape == (1, 16, 9, 5)
    for frame, joint in ((0, 4), (8, 0)):
        changed = sequence.clone()
        changed[:, frame, joint] += 1
        if isinstance(net, DSTFormer):
            assert ((net(changed)[0] - plain).abs().amax(1) > 0).all()
        else:  # the attention sees all, and its streams reach far
            assert ((net(changed)[0] - plain).abs().amax(1) > 1e-12).all()


@pytest.mark.parametrize("net", nets(drop_path=0.3), ids=lambda net: type(net).__name__)
def test_all_parameters_are_learnt(net: nn.Module):
    (net(torch.randn(4, 9, 5, 3))[0] * torch.randn(4, 16, 9, 5)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())


@torch.inference_mode()
def test_joints_are_neighbours_where_the_skeleton_links_them():
    net = MotionAGFormer(5, LINKS, 1, 16, 1, 4, neighbours=1)
    graph = net.graphs[0][0].mixer
    for part in (graph.norm, net):
        part.eval()
    nodes = torch.rand(1, 5, 16)
    changed = nodes.clone()
    changed[:, 3] += 1
    moved = (graph(changed) - graph(nodes)).abs().amax(-1)[0] > 0
    assert moved.tolist() == [False, False, True, True, False]


@torch.inference_mode()
def test_frames_are_neighbours_where_a_joint_is_alike():
    net = MotionAGFormer(5, LINKS, 4, 16, 1, 4, neighbours=2)
    graph = net.graphs[0][1].mixer.eval()
    nodes = torch.zeros(1, 4, 16)
    nodes[0, [0, 2], 0], nodes[0, [1, 3], 1] = 1, 1
    changed = nodes.clone()
    changed[0, 2, 2] = 1
    moved = (graph(changed) - graph(nodes)).abs().amax(-1)[0] > 0
    assert moved.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DSTFormer(5, 9, 16, 1)(torch.zeros(1, 10, 5, 3)), "have 10 frames, .* reader.frames=9, or backbone"),
        (
            lambda: MotionAGFormer(5, LINKS, 9, 16, 1)(torch.zeros(1, 8, 5, 3)),
            "have 8 frames, .* takes 9; set reader.frames=9",
        ),
        (lambda: MotionAGFormer(5, (), 9, 16, 1), "needs a graph of joints; give skeleton.links"),
        (lambda: MotionAGFormer(5, LINKS, 9, 16, 1, neighbours=10), "neighbours=10 must be between 1 and"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
