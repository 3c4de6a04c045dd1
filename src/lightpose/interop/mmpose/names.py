"""What published checkpoints call the tensors of each kind of part, as a few patterns per kind."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

Rename = tuple[str, str | Callable[[re.Match[str]], str]]
"""A pattern of our names, and what stands in its place; all are applied, one after the other."""
Change = tuple[str, Callable[[Tensor], Tensor]]
"""A pattern of our names, and what makes such a tensor of the published one."""


@dataclass(frozen=True, slots=True)
class Family:
    """How a kind of part calls its tensors.

    Attributes:
        renames: from our names to published ones.
        changes: of values, where ours are not the published ones.
        idle: pattern of published names → why nothing here needs such tensors. They may be there or not.
    """

    renames: tuple[Rename, ...] = ()
    changes: tuple[Change, ...] = ()
    idle: Mapping[str, str] = field(default_factory=dict)

    def published(self, name: str) -> str:
        """The published name of the tensor that we call ``name``."""
        return renamed(name, self.renames)

    def ours(self, name: str, value: Tensor) -> Tensor:
        """Our tensor ``name`` from the published one."""
        for pattern, change in self.changes:
            if re.search(pattern, name):
                value = change(value)
        return value


def renamed(name: str, renames: tuple[Rename, ...]) -> str:
    """A name after all replacements."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def _part(match: re.Match[str]) -> str:
    """``conv`` and ``bn`` for the first and second of a row of a convolution and its norm."""
    return "bn" if int(match["part"]) % 2 else "conv"


def _stem(match: re.Match[str]) -> str:
    index = int(match[1])
    return f"stem.{index // 3}.{'bn' if index % 3 else 'conv'}."


_MOBILENET_BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # of each layer


def _mobilenet(match: re.Match[str]) -> str:
    """Published layers hold blocks of one size; here all blocks stand in a row, from 1 to 17."""
    index, rest = int(match[1]), match[2].split(".")
    part = {"0": "conv", "1": "bn"}
    if index in (0, 18):
        return f"conv{1 if index == 0 else 2}.{part[rest[0]]}.{rest[-1]}"
    layer, block = 1, index - 1
    for count in _MOBILENET_BLOCKS:
        if block < count:
            break
        layer, block = layer + 1, block - count
    last = 1 if layer == 1 else 2  # of the convolutions
    conv, place = (int(rest[1]), rest[2]) if len(rest) == 4 else (last, str(int(rest[1]) - last))
    return f"layer{layer}.{block}.conv.{conv}.{part[place]}.{rest[-1]}"


_SHUFFLENET_CONVS = {"branch1": (0, 0, 1, 1, 1), "branch2": (0, 0, 0, 1, 1, 2, 2, 2)}
_SHUFFLENET_NORMS = {"branch1": (1, 3), "branch2": (1, 4, 6)}


def _shufflenet(match: re.Match[str]) -> str:
    stage, block, branch, index = int(match[1]) - 2, match[2], match[3], int(match[4])
    part = "bn" if index in _SHUFFLENET_NORMS[branch] else "conv"
    return f"layers.{stage}.{block}.{branch}.{_SHUFFLENET_CONVS[branch][index]}.{part}."


def _vgg(match: re.Match[str]) -> str:
    """Published layers hold a convolution, its norm and its ReLU; the pools between them count as well."""
    index = int(match[1])
    pools = sum(index > pool for pool in (6, 13, 23, 33))
    layer, part = divmod(index - pools, 3)
    return f"features.{layer + pools}.{('conv', 'bn')[part]}."


def _merged(weights: Tensor) -> Tensor:
    """Channels of four neighbours: published by channel, then row and column; here by column, row, then channel."""
    four = weights.unflatten(-1, (-1, 2, 2))  # (..., C, row, column)
    return four.movedim(-3, -1).transpose(-3, -2).flatten(-3)


_MODEL: Rename = (r"^model\.", "")  # what a library's network stands in
_RESNET = Family((_MODEL, (r"\.se\.fc(\d)", r".se_layer.conv\1.conv")))
_DEEP_RESNET = Family(
    (
        *_RESNET.renames,
        (r"^conv1\.(\d)\.", _stem),
        (r"^bn1\.", "stem.2.bn."),
        (r"^layer1\.0\.downsample\.1", "layer1.0.downsample.0"),
        (r"^layer1\.0\.downsample\.2", "layer1.0.downsample.1"),
    )
)
_FFN: tuple[Rename, ...] = ((r"\.mlp\.fc1", ".ffn.layers.0.0"), (r"\.mlp\.fc2", ".ffn.layers.1"))
_PATCHES: Rename = (r"patch_embed\.proj\.", "patch_embed.projection.")
_MADE = "it follows from the sizes of the network"

BACKBONES: dict[str, Family] = {
    "CPM": Family(),
    "CSPDarknet": Family(),
    "CSPNeXt": Family(),
    "DSTFormer": Family(
        (
            (r"^joints_first\.(\d+)\.0\.(\w+?)(\d?)\.", r"blocks_st.\1.\2\3_s."),
            (r"^joints_first\.(\d+)\.1\.(\w+?)(\d?)\.", r"blocks_st.\1.\2\3_t."),
            (r"^frames_first\.(\d+)\.0\.(\w+?)(\d?)\.", r"blocks_ts.\1.\2\3_t."),
            (r"^frames_first\.(\d+)\.1\.(\w+?)(\d?)\.", r"blocks_ts.\1.\2\3_s."),
            (r"^fusions\.(\d+)\.weigh", r"attn_regress.\1"),
            (r"attention_", "attn_"),
            (r"\.fc1", ".0"),
            (r"\.fc2", ".2"),
            (r"^embedding", "joints_embed"),
            (r"^joints$", "spat_embed"),
            (r"^frames$", "temp_embed"),
        )
    ),
    "HRFormer": Family(idle={r"\.relative_position_index$": _MADE}),
    "HRNet": Family(),
    "HourglassNet": Family(idle={r"^inters\.": "nothing reads what comes behind the last hourglass"}),
    "LiteHRNet": Family(),
    "MSPN": Family(),
    "MobileNetV2": Family((_MODEL, (r"^features\.(\d+)\.(.*)$", _mobilenet))),
    "PyramidVisionTransformer": Family(),
    "PyramidVisionTransformerV2": Family(
        (
            _MODEL,
            (r"^patch_embed\.", "stages.0.downsample."),
            (r"^stages\.(\d)\.downsample\.proj", r"layers.\1.0.projection"),
            (r"^stages\.(\d)\.downsample", r"layers.\1.0"),
            (r"^stages\.(\d)\.blocks", r"layers.\1.1"),
            (r"^stages\.(\d)\.norm", r"layers.\1.2"),
            (r"mlp\.fc1", "ffn.layers.0"),
            (r"mlp\.dwconv", "ffn.layers.1"),
            (r"mlp\.fc2", "ffn.layers.4"),
            (r"attn\.(q|kv)\.", "attn.attn.in_proj_"),
            (r"attn\.proj\.", "attn.attn.out_proj."),
        ),
        (
            (r"\.attn\.q\.", lambda whole: whole[: len(whole) // 3]),
            (r"\.attn\.kv\.", lambda whole: whole[len(whole) // 3 :]),
        ),
    ),
    "RSN": Family(),
    "ResNeSt": _DEEP_RESNET,
    "ResNeXt": _RESNET,
    "ResNet": _RESNET,
    "ResNetV1d": _DEEP_RESNET,
    "SCNet": Family(),
    "SEResNet": _RESNET,
    "ShuffleNetV1": Family(),
    "ShuffleNetV2": Family(
        (
            _MODEL,
            (r"^conv1\.(?P<part>\d)", lambda match: f"conv1.{_part(match)}"),
            (r"^conv5\.(?P<part>\d)", lambda match: f"layers.3.{_part(match)}"),
            (r"^stage(\d)\.(\d+)\.(branch\d)\.(\d)\.", _shufflenet),
        )
    ),
    "SwinTransformer": Family(
        (
            _MODEL,
            _PATCHES,
            *_FFN,
            (r"^layers\.(\d)\.downsample", lambda match: f"stages.{int(match[1]) - 1}.downsample"),
            (r"^layers\.", "stages."),
            (r"\.attn\.", ".attn.w_msa."),
            (r"^norm\.", "norm3."),
        ),
        ((r"downsample\.(norm|reduction)", _merged),),
        {r"\.relative_position_index$": _MADE},
    ),
    "TCN": Family(
        (
            (r"\bblocks\.(\d+)\.wide", r"tcn_blocks.\1.conv1.0"),
            (r"\bblocks\.(\d+)\.narrow", r"tcn_blocks.\1.conv2.0"),
            (r"stem", "expand_conv"),
            (r"norm", "bn"),
        )
    ),
    "VGG": Family((_MODEL, (r"^features\.(\d+)\.", _vgg))),
    "ViPNAS_MobileNetV3": Family(),
    "ViPNAS_ResNet": Family(),
    "VisionTransformer": Family(
        (_MODEL, _PATCHES, *_FFN, (r"^blocks\.", "layers."), (r"\.norm(\d)\.", r".ln\1."), (r"^norm\.", "ln1."))
    ),
}

_TRANSFORMER: tuple[Rename, ...] = (
    (r"^encoder\.self_attn\.", "encoder.0.layers.0.self_attn.attn."),
    (r"^encoder\.linear1\.", "encoder.0.layers.0.ffn.layers.0.0."),
    (r"^encoder\.linear2\.", "encoder.0.layers.0.ffn.layers.1."),
    (r"^encoder\.norm1\.", "encoder.0.layers.0.norms.0."),
    (r"^encoder\.norm2\.", "encoder.0.layers.0.norms.1."),
)
NECKS: dict[str, Family] = {
    "CSPNeXtPAFPN": Family(),
    "HybridEncoder": Family(_TRANSFORMER, idle={r"^sincos_pos_enc\.dim_t$": _MADE}),
    "YOLOXPAFPN": Family(),
}

_HEATMAP: tuple[Rename, ...] = (
    (r"^upsample\.", "deconv_layers."),
    (r"^hidden\.", "conv_layers."),
    (r"^final\.", "final_layer."),
)
_GAU: tuple[Rename, ...] = (
    (r"gau\.out\.", "gau.o."),
    (r"gau\.norm\.gain", "gau.ln.g"),
    (r"gau\.shortcut", "gau.res_scale.scale"),
)
_RTMCC: tuple[Rename, ...] = (
    *_GAU,
    (r"^final\.", "final_layer."),
    (r"^norm\.gain", "mlp.0.g"),
    (r"^embed\.", "mlp.1."),
    (r"^to_([xy])\.", r"cls_\1."),
)
_SIMCC: tuple[Rename, ...] = ((r"^to_([xy])\.", r"mlp_head_\1."),)
_ONE_STAGE = {r"^loss_oks\.sigmas$": "the skeleton has them"}


def _coarsest_first(match: re.Match[str]) -> str:
    """There, the four levels of a stage stand coarsest first."""
    stage, level = divmod(int(match[1]), 4)
    return f"predict_layers.{4 * stage + 3 - level}.conv_layers."


def _disks_first(weights: Tensor) -> Tensor:
    """Rows for disk and offsets of each keypoint in turn, as rows for all disks, then for the offsets of each."""
    rows = weights.unflatten(0, (-1, 3))
    return torch.cat([rows[:, 0], rows[:, 1:].flatten(0, 1)])


HEADS: dict[str, Family] = {
    "AssociativeEmbeddingHead": Family(_HEATMAP),
    "CIDHead": Family(
        (
            (r"^coupled", "iia_module.keypoint_root_conv"),
            (r"^shared", "gfd_module.conv_down"),
            (r"^(channel|spatial)\.", r"gfd_module.\1_attention.atn."),
            (r"^mask", "gfd_module.spatial_attention.conv"),
            (r"^fuse", "gfd_module.fuse_attention"),
            (r"^final", "gfd_module.heatmap_conv"),
        )
    ),
    "CPMHead": Family(((r"^predict\.", "multi_final_layers."),)),
    "DEKRHead": Family(
        (
            (r"^heatmap\.0", "heatmap_conv_layers.0.conv"),
            (r"^heatmap\.1", "heatmap_conv_layers.0.bn"),
            (r"^heatmap\.3", "heatmap_conv_layers.1"),
            (r"^heatmap\.4", "heatmap_conv_layers.2"),
            (r"^displacement\.0", "displacement_conv_layers.0.conv"),
            (r"^displacement\.1", "displacement_conv_layers.0.bn"),
            (r"^displacement\.([34])\.affine", r"displacement.\1.transform_matrix_conv"),
            (r"^displacement\.([34])\.weight", r"displacement.\1.adapt_conv.weight"),
            (r"^rescoring\.layers\.([024])", lambda match: f"rescore_net.l{int(match[1]) // 2 + 1}"),
            (r"^displacement\.([345])", lambda match: f"displacement_conv_layers.{int(match[1]) - 2}"),
        ),
        idle={
            r"^displacement_conv_layers\.\d+\.regular_matrix$": _MADE,
            r"^rescore_net\.": "where it is here, but not taken, its links are not known",
        },
    ),
    "DSNTHead": Family(
        (
            (r"^(upsample|final)\.", r"simplebaseline_head.\1."),
            (r"\.upsample\.", ".deconv_layers."),
            (r"\.final\.", ".final_layer."),
            (r"^columns$", "linspace_x"),
            (r"^rows$", "linspace_y"),
        )
    ),
    "HeatmapHead": Family(_HEATMAP),
    "HeatmapHead of offsets": Family(_HEATMAP, ((r"^final\.", _disks_first),)),
    "InternetHead": Family(
        (
            (r"^(right|left)\.upsample\.", r"\1_hand_head.deconv_layers."),
            (r"^(right|left)\.final\.", r"\1_hand_head.final_layer."),
            (r"^root_depth\.", "root_head.fc."),
            (r"^hands\.", "hand_type_head.fc."),
        )
    ),
    "MSPNHead": Family(((r"^predict\.(\d+)\.", _coarsest_first),)),
    "MotionRegressionHead": Family(((r"^hidden\.", "pre_logits.fc."), (r"^final\.", "fc."))),
    "RLEHead": Family(
        (
            (r"^final\.", "fc."),
            (r"criterion\.flow\.scale\.", "loss_module.flow_model.s."),
            (r"criterion\.flow\.shift\.", "loss_module.flow_model.t."),
        ),
        idle={r"^loss_module\.flow_model\.(loc|cov|mask)$": _MADE},
    ),
    "RTMCCHead": Family(_RTMCC),
    "RTMOHead": Family(
        (*_GAU, (r"^(?!dcc\.)", "head_module.")),
        idle={**_ONE_STAGE, r"^dcc\.([xy]_bins|spe\.dim_t)$": _MADE},
    ),
    "RTMWHead": Family(
        (
            (r"^fine\.final\.", "final_layer2."),
            (r"^fine\.norm\.gain", "mlp2.0.g"),
            (r"^fine\.embed\.", "mlp2.1."),
            (r"^shuffled\.", "conv_dec."),
            (r"^coarse\.(final|norm|embed)\.", r"\1."),
            *_RTMCC,
        )
    ),
    "RegressionHead": Family(((r"^final\.", "fc."),)),
    "SimCCHead": Family((*_SIMCC, (r"^final\.", "final_layer."))),
    "SimCCHead of deconvolutions": Family(
        (*_SIMCC, (r"^upsample\.", "deconv_head.deconv_layers."), (r"^final\.", "deconv_head.final_layer."))
    ),
    "TemporalRegressionHead": Family(((r"^final", "conv"),)),
    "ViPNASHead": Family(_HEATMAP),
    "VisPredictHead": Family(
        (
            (r"^visible\.final\.", "vis_head.2."),
            (r"^head\.(.*)$", lambda match: f"pose_head.{renamed(match[1], _HEATMAP)}"),
        )
    ),
    "YOLOXPoseHead": Family(((r"^", "head_module."),), idle=_ONE_STAGE),
}
