"""Swin where windows don't divide a map: zeros beside it, before or after windows are shifted."""

import pytest
import torch

from lightpose.models.backbones.swin import Swin
from lightpose.models.backbones.timm import TimmBackbone

MODEL = "swin_tiny_patch4_window7_224"


def made(kind: type[TimmBackbone], side: int, **options: bool) -> TimmBackbone:
    torch.manual_seed(0)
    args = {"always_partition": True, "depths": (2, 1), "embed_dim": 12, "num_heads": (1, 2)}
    net = kind(model=MODEL, input_hw=(side, side), model_args=args, **options).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


@torch.inference_mode()
@pytest.mark.parametrize(("side", "same"), [(56, True), (64, False)])
def test_the_order_of_padding_matters_where_windows_do_not_divide_a_map(side: int, same: bool) -> None:
    images = torch.randn(1, 3, side, side)
    plain, first, last = (
        net(images)[0]
        for net in (made(TimmBackbone, side), made(Swin, side, pad_first=True), made(Swin, side, pad_first=False))
    )
    assert torch.equal(plain, last)
    assert torch.allclose(plain, first, atol=1e-5) == same
