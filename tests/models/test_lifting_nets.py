"""Networks that lift: agreement with recorded ones, both forms of the convolutions, what they see."""

import pytest
import torch
from recorded import record, recorded_input, relative_error, weight

from lightpose.errors import UserError
from lightpose.interop.mmpose.names import BACKBONES, HEADS
from lightpose.models.backbones.tcn import TCN
from lightpose.models.heads.lifting import LiftingHead
from lightpose.models.losses.lifting import MPJPE
from lightpose.structures import Spec

RECORDED = record("lifting")


def recorded_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape, 1) if name == "final.weight" else shape


def head(count: int, channels: int) -> LiftingHead:
    return LiftingHead((channels,), (1,), Spec({"joints": (count, 3)}, None), MPJPE())


def randomised(net: TCN) -> TCN:
    """In evaluation, with statistics of norms as training leaves them."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval()


@torch.inference_mode()
@pytest.mark.parametrize("name", RECORDED)
def test_the_network_computes_the_recorded_outputs(name: str):
    case = RECORDED[name]
    backbone = TCN(17, case["frames"], case["blocks"]).eval()
    lifting = head(case["outputs"][0]["shape"][1], 1024)
    parts = {"backbone": (backbone, BACKBONES["TCN"]), "head": (lifting, HEADS["TemporalRegressionHead"])}
    for part, (module, family) in parts.items():
        module.load_state_dict(
            {
                key: weight(f"{part}.{family.published(key)}", recorded_shape(key, tuple(each.shape))).view(each.shape)
                for key, each in module.state_dict().items()
            }
        )
    assert sum(each.numel() for module in (backbone, lifting) for each in module.parameters()) == case["params"]
    sequences = recorded_input(case["input"]).mT.unflatten(-1, (17, 2))  # (B, T, K, 2)
    features = backbone(sequences)
    outputs = [lifting(features)["joints"], features[0]]
    assert max(map(relative_error, outputs, case["outputs"])) < 1e-4


@torch.inference_mode()
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("frames", "blocks"), [(1, 2), (9, None), (27, None), (25, 1)])
def test_windows_one_by_one_give_what_a_whole_sequence_gives(frames: int, blocks: int | None, causal: bool):
    net = randomised(TCN(5, frames, blocks, width=16, causal=causal))
    sequence = torch.randn(2, frames + 12, 5, 2)
    (whole,) = net(sequence)
    assert whole.shape == (2, 16, 13)
    windows = [net(sequence[:, start : start + frames])[0] for start in range(13)]
    torch.testing.assert_close(torch.cat(windows, -1), whole, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_what_a_block_passes_on_is_of_the_middle_or_of_the_last_frame():
    """With convolutions that give nothing, the features of the stem alone come through."""
    for causal, frame in ((False, slice(12, 15)), (True, slice(24, 27))):
        net = randomised(TCN(5, 27, width=16, causal=causal))
        for block in net.blocks:
            torch.nn.init.zeros_(block.narrow.norm.weight)
            torch.nn.init.zeros_(block.narrow.norm.bias)
        sequence = torch.randn(2, 27, 5, 2)
        changed = sequence.clone()
        changed[:, frame] += 1  # the stem reduced these to one
        assert not torch.equal(net(changed)[0], net(sequence)[0])
        changed = sequence + 1
        changed[:, frame] = sequence[:, frame]
        torch.testing.assert_close(net(changed)[0], net(sequence)[0])


@torch.inference_mode()
def test_every_frame_is_seen():
    net, sequence = randomised(TCN(5, 27, width=64)), torch.randn(1, 27, 5, 2)
    for frame in range(27):
        changed = sequence.clone()
        changed[:, frame] += 1
        assert not torch.equal(net(changed)[0], net(sequence)[0])


@pytest.mark.parametrize(("frames", "blocks"), [(10, None), (26, None), (8, 2), (1, None), (0, None)])
def test_numbers_of_frames_that_no_kernel_sees_are_refused(frames: int, blocks: int | None):
    with pytest.raises(UserError, match=rf"backbone.frames={frames} can't be seen .* 9, 27, 81 or 243"):
        TCN(5, frames, blocks)


def test_short_sequences_are_refused_with_both_ways_out():
    with pytest.raises(UserError, match=r"9 frames, .* sees 27 .* reader.frames=27, or backbone.frames=9"):
        TCN(5, 27, width=8)(torch.zeros(1, 9, 5, 2))


def test_the_head_reads_the_middle_frame_and_is_not_rounded_under_autocast():
    lifting, features = head(5, 8), torch.randn(2, 8, 5)
    changed = features.clone()
    changed[..., [0, 1, 3, 4]] += 1
    with torch.autocast("cpu", torch.bfloat16):
        outputs = lifting([features.bfloat16()])["joints"]
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(lifting([changed])["joints"], lifting([features])["joints"])
    torch.testing.assert_close(outputs, lifting([features.bfloat16().float()])["joints"], atol=1e-6, rtol=1e-6)
