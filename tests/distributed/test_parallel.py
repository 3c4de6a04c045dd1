"""Two real processes exchange what they must, and no more."""

import copy
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh

from lightpose.models.backbones.vit import ViT
from lightpose.models.heads.heatmap import HeatmapHead
from lightpose.models.losses.heatmap import KeypointMSE
from lightpose.models.necks.identity import Identity
from lightpose.models.net import PoseNet
from lightpose.models.preprocessors import Normalize
from lightpose.runtime.processes import GradientMean, share_buffers
from lightpose.runtime.sharding import shard
from lightpose.structures import Spec

CONF = Path(__file__).parents[2] / "conf"
INPUT_HW = (64, 48)


def network() -> PoseNet:
    torch.manual_seed(0)
    vit = ViT("test_vit", INPUT_HW, checkpointing=True)
    head = partial(HeatmapHead, criterion=KeypointMSE(), channels=8)
    spec = Spec(outputs={"heatmap": (5, 16, 12)}, input_hw=INPUT_HW)
    net = PoseNet(Normalize([120.0] * 3, [60.0] * 3), vit, Identity, head, spec)
    for weight in net.head.parameters():
        if weight.ndim == 4:
            torch.nn.init.normal_(weight, std=0.2)  # else the gradients would be tiny, and any would do
    return net.eval().to(memory_format=torch.channels_last)  # BatchNorm's statistics would depend on the process


def gradients(net: PoseNet, images: Tensor) -> dict[str, Tensor]:
    net.head(net.features(images))["heatmap"].square().mean().backward()
    return {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}


def means(net: PoseNet, images: Tensor) -> dict[str, Any]:
    """Gradients of two passes over an image each, after one in which a bias was frozen."""
    mean = GradientMean(list(net.parameters()))
    bias = next(parameter for name, parameter in net.named_parameters() if name.endswith("bias"))
    for trained in (False, True):
        bias.requires_grad_(trained)
        net.zero_grad()
        for image in images:
            gradients(net, image[None])
        mean()
        assert (bias.grad is not None) == trained
    found = {
        name: parameter.grad.clone() / 2 for name, parameter in net.named_parameters() if parameter.grad is not None
    }
    bias.grad = torch.ones_like(bias) if distributed.get_rank() else None  # has no part in one process's loss
    mean()
    assert (bias.grad == 0.5).all()
    return found


@torch.no_grad()
def step_both(optimizer: str, single: PoseNet, split: PoseNet) -> float:
    """Mean difference that a step makes between weights of which one process has all and those shared out.

    The largest would be that of a weight whose gradient is all but 0: Adam makes whole steps of its rounding.
    """
    build = instantiate(OmegaConf.load(CONF / "optimizer" / f"{optimizer}.yaml"))
    for net in (single, split):
        build(net.parameters(), lr=1e-3).step()
    pairs = zip(single.parameters(), split.parameters(), strict=True)
    return float(torch.cat([(weight - shared.full_tensor()).abs().flatten() for weight, shared in pairs]).mean())


def take_part(rank: int, folder: str) -> dict[str, Any]:
    """What one of two processes finds: its share of the gradients, made whole, and its buffers."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=100)
    )
    try:
        images = torch.randint(0, 256, (4, 3, *INPUT_HW), generator=torch.Generator().manual_seed(0)).byte()
        net = network()
        single = copy.deepcopy(net)
        alone = gradients(single, images)
        mean = means(copy.deepcopy(net), images[2 * rank :][:2])
        shard(net, init_device_mesh("cpu", (2,)))
        found = gradients(net, images[2 * rank :][:2])
        share = max(
            parameter.to_local().numel() / parameter.numel() for parameter in net.backbone.model.blocks.parameters()
        )
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1e9)
        whole = {name: gradient.full_tensor() for name, gradient in found.items()}
        for buffer in net.buffers():
            buffer.fill_(rank + 1)
        share_buffers(net)
        stepped = {name: step_both(name, single, net) for name in ("adam", "adamw", "sgd")}
        buffers = {float(value) for buffer in net.buffers() for value in buffer.flatten()}
        return {
            "alone": alone,
            "mean": mean,
            "found": whole,
            "share": share,
            "norm": norm.full_tensor(),
            "buffers": buffers,
            "stepped": stepped,
        }
    finally:
        distributed.destroy_process_group()


def other_process(_: int, folder: str) -> None:
    take_part(1, folder)


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
def test_split_weights_learn_as_whole_ones_and_buffers_are_shared(tmp_path: Path) -> None:
    other = torch.multiprocessing.spawn(other_process, (str(tmp_path),), nprocs=1, join=False)
    found = take_part(0, str(tmp_path))
    assert other is not None and other.join()
    assert found["alone"].keys() == found["found"].keys() == dict(network().named_parameters()).keys()
    for way in ("mean", "found"):
        for name, gradient in found["alone"].items():
            assert (found[way][name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-6, (way, name)
    expected = torch.stack([gradient.norm() for gradient in found["alone"].values()]).norm()
    torch.testing.assert_close(found["norm"], expected, rtol=1e-5, atol=0)
    assert found["share"] == 0.5
    assert found["buffers"] == {1.0}
    assert max(found["stepped"].values()) < 1e-6  # a thousandth of one of Adam's steps
