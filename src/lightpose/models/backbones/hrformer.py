"""HRFormer: HRNet with windows of self-attention in place of its basic blocks."""

from collections.abc import Sequence
from pathlib import Path

from timm.layers import DropPath
from timm.models.swin_transformer import WindowAttention, window_partition, window_reverse
from torch import Tensor, nn
from torch.nn import functional

from lightpose.models.backbones.hrnet import Fusion, HighResolutionModule, HighResolutionNet
from lightpose.models.backbones.layers import check_divides, separable
from lightpose.models.weights import load_weights

MODULES = (1, 4, 2)  # of stages 2, 3 and 4
BLOCKS = 2  # of each branch of a module
WINDOW = 7
EXPANSION = 4


class HRFormer(HighResolutionNet):
    """High-resolution transformer (arXiv:2110.09408).

    (B, 3, H, W) normalised RGB to maps of ``width * 2**i`` channels at stride ``4 * 2**i``. H and W must divide by 32.
    Tensors are called as in the published code, so published pose weights fit by name.

    Args:
        width: channels of the finest branch: 32 in HRFormer-S, 78 in HRFormer-B.
        num_heads: attention heads of the finest branch: 1 in HRFormer-S, 2 in HRFormer-B; each coarser one has twice
            as many.
        out_indices: which of the four maps to give, finest first; negative ones count from the end; None gives all.
        drop_path_rate: stochastic depth of the last block (arXiv:1603.09382), rising from 0 at the first.
        weights: file to start from (`lightpose.models.weights.load_weights`).
        input_hw: input size, to be refused here if it doesn't divide.

    Raises:
        UserError: for an input size that doesn't divide, an index that isn't there, or weights that can't be had.
    """

    def __init__(
        self,
        width: int = 32,
        num_heads: int = 1,
        out_indices: Sequence[int] | None = (0,),
        *,
        drop_path_rate: float = 0.1,
        weights: str | Path | None = None,
        input_hw: Sequence[int] | None = None,
    ) -> None:
        check_divides("HRFormer", input_hw)

        def module(channels: Sequence[int], rows: Sequence[int]) -> HighResolutionModule:
            branches = [
                nn.Sequential(*(HRFormerBlock(width, num_heads * 2**i) for _ in range(BLOCKS)))
                for i, width in enumerate(channels)
            ]
            return HighResolutionModule(branches, Fusion(channels, rows, separable, upsampling="bilinear"))

        super().__init__([width * 2**i for i in range(4)], 2, MODULES, module, out_indices)
        last = sum(MODULES) * BLOCKS - 1
        for before, each in enumerate([*self.stage2, *self.stage3, *self.stage4]):
            for branch in each.branches:
                for i, block in enumerate(branch):
                    block.drop_path.drop_prob = drop_path_rate * (before * BLOCKS + i) / last
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
        if weights is not None:
            load_weights(self, weights)

    def no_weight_decay(self) -> set[str]:
        """Patterns of the parameters that never decay."""
        return {"*relative_position_bias_table"}


class HRFormerBlock(nn.Module):
    """Attention within windows, then a pointwise network with a 3x3 convolution in it, which joins the windows."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = LocalAttention(channels, heads)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.ffn = CrossWindowFFN(channels)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        x = x.permute(0, 2, 3, 1)  # (B, h, w, C)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        inner = self.ffn(self.norm2(x).permute(0, 3, 1, 2))
        return x.permute(0, 3, 1, 2) + self.drop_path(inner)


class LocalAttention(nn.Module):
    """Self-attention within windows of 7x7; zeros around the map, as many on each side, make it divide."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attn = WindowAttention(channels, heads, window_size=WINDOW)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) to the same shape."""
        height, width = x.shape[1:3]
        down, right = -height % WINDOW, -width % WINDOW
        top, left = down // 2, right // 2
        x = functional.pad(x, (0, 0, left, right - left, top, down - top))
        windows = window_partition(x, (WINDOW, WINDOW)).flatten(1, 2)  # (B * windows, 49, C)
        y: Tensor = self.attn(windows).unflatten(1, (WINDOW, WINDOW))
        y = window_reverse(y, (WINDOW, WINDOW), height + down, width + right)  # (B, h + down, w + right, C)
        return y[:, top : top + height, left : left + width]


class CrossWindowFFN(nn.Module):
    """1x1, depthwise 3x3 and 1x1 convolution, each with batch norm and GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = channels * EXPANSION
        self.fc1 = nn.Conv2d(channels, wide, 1)
        self.norm1 = nn.BatchNorm2d(wide)
        self.dw3x3 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.norm2 = nn.BatchNorm2d(wide)
        self.fc2 = nn.Conv2d(wide, channels, 1)
        self.norm3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same shape."""
        x = functional.gelu(self.norm1(self.fc1(x)))
        x = functional.gelu(self.norm2(self.dw3x3(x)))
        return functional.gelu(self.norm3(self.fc2(x)))
