"""Swin transformers whose windows are shifted as published pose weights expect."""

from functools import partial
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformerBlock, window_partition, window_reverse
from torch import Tensor
from torch.nn import functional

from lightpose.models.backbones.timm import TimmBackbone


class Swin(TimmBackbone):
    """`TimmBackbone` for Swin (arXiv:2103.14030), where maps need not divide into windows.

    Args:
        pad_first: fill maps up to whole windows, then shift these, as published pose weights expect. timm shifts first,
            so zeros lie in the middle of its shifted maps. Both compute the same where windows divide the map.
        options: of `TimmBackbone`.
    """

    def __init__(self, *, pad_first: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if pad_first:
            for block in self.model.modules():
                if isinstance(block, SwinTransformerBlock):
                    block._attn = partial(_attention, block)


def _attention(block: Any, x: Tensor) -> Tensor:
    """(B, h, w, C) to the same shape, by attention within windows of the map that is padded and then shifted."""
    height, width = x.shape[1:3]
    window, (down, right) = block.window_size, block.shift_size
    padded = functional.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
    shifted = torch.roll(padded, (-down, -right), (1, 2))
    mask = block.get_attn_mask(shifted) if getattr(block, "dynamic_mask", False) else block.attn_mask
    windows = window_partition(shifted, window).flatten(1, 2)  # (B * windows, cells, C)
    attended = block.attn(windows, mask=mask).unflatten(1, tuple(window))
    shifted = window_reverse(attended, window, *padded.shape[1:3])
    unshifted: Tensor = torch.roll(shifted, (down, right), (1, 2))[:, :height, :width]
    return unshifted
