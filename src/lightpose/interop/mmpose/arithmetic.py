"""Options of MMPose's parts that change what is computed, but no tensor, so that weights would load without a word."""

from collections.abc import Mapping
from typing import Any

from lightpose.interop.mmpose.settings import refused

_RESNET = {"strides": [1, 2, 2, 2], "dilations": [1, 1, 1, 1], "style": "pytorch"}
_PLAIN_STEM = {**_RESNET, "deep_stem": False, "avg_down": False}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "CSPDarknet": {"act_cfg.type": "SiLU", "spp_kernal_sizes": [5, 9, 13]},
    "CSPNeXt": {"act_cfg.type": "SiLU", "spp_kernel_sizes": [5, 9, 13]},
    "CSPNeXtPAFPN": {"act_cfg.type": "SiLU", "upsample_cfg.mode": "nearest"},
    "FeatureMapProcessor": {"align_corners": False},
    "HRFormer": {"extra.with_pad_mask": False, "transformer_norm_cfg.eps": 1e-6},
    "HRNet": {"extra.upsample.align_corners": False},
    "HybridEncoder": {
        "act_cfg.type": "SiLU",
        "encoder_cfg.ffn_cfg.act_cfg.type": "GELU",
        "encoder_cfg.self_attn_cfg.num_heads": 8,
        "pe_temperature": 10000,
        "use_encoder_idx": [2],
    },
    "MobileNetV2": {"act_cfg.type": "ReLU6"},
    "PyramidVisionTransformer": {"num_heads": [1, 2, 5, 8]},
    "PyramidVisionTransformerV2": {"num_heads": [1, 2, 5, 8]},
    "RTMOHead": {
        "bbox_padding": 1.25,
        "dcc_cfg.gau_cfg.act_fn": "SiLU",
        "dcc_cfg.gau_cfg.pos_enc": "add",
        "featmap_strides": [16, 32],
        "head_module_cfg.act_cfg.type": "SiLU",
        "head_module_cfg.norm_cfg.eps": 1e-3,
    },
    "ResNeSt": _RESNET,
    "ResNeXt": _PLAIN_STEM,
    "ResNet": _PLAIN_STEM,
    "ResNetV1d": _RESNET,
    "SCNet": _PLAIN_STEM,
    "SEResNet": _PLAIN_STEM,
    "ShuffleNetV1": {"act_cfg.type": "ReLU"},
    "ShuffleNetV2": {"act_cfg.type": "ReLU"},
    "SwinTransformer": {"qk_scale": None, "act_cfg.type": "GELU", "strides": [4, 2, 2, 2]},
    "TCN": {"causal": False, "residual": True},
    "VisionTransformer": {"out_type": "featmap"},
    "YOLOXPAFPN": {"act_cfg.type": "SiLU", "upsample_cfg.mode": "nearest"},
    "YOLOXPoseHead": {"head_module_cfg.act_cfg.type": "SiLU", "head_module_cfg.norm_cfg.eps": 1e-3},
}
"""Part → option → the value with which ours compute."""
CONVOLUTIONS = ("Conv", "Conv1d", "Conv2d")
ALIKE = {"Swish": "SiLU"}
EPSILONS = {
    "CSPDarknet": 1e-3,
    "PyramidVisionTransformer": 1e-6,
    "PyramidVisionTransformerV2": 1e-6,
    "VisionTransformer": 1e-6,
    "YOLOXPAFPN": 1e-3,
}
"""Part → what its norms add to variances; 1e-5 in others."""
UNSAID = {"CSPNeXt": 1e-3, "CSPNeXtPAFPN": 1e-3}
"""Parts whose norms add something else if the configuration says nothing of them."""


def check_arithmetic(kind: str, given: Mapping[str, Any]) -> None:
    """Refuse a part that computes otherwise than ours with the same tensors.

    Raises:
        UserError: naming the option.
    """
    for key, expected in OPTIONS.get(kind, {}).items():
        value = _at(given, key, expected)
        value = list(value) if isinstance(value, tuple) else value
        if ALIKE.get(str(value), value) != expected:
            raise refused(f"{kind} with {key}={value}", f"{key}={expected}")
    if str(_at(given, "conv_cfg.type", "Conv2d")) not in CONVOLUTIONS:
        raise refused(f"{kind} with {given['conv_cfg']['type']} convolutions", "plain ones")
    expected = EPSILONS.get(kind, 1e-5)
    norms = given.get("norm_cfg")
    epsilon = norms.get("eps", 1e-5) if isinstance(norms, Mapping) else UNSAID.get(kind, expected)
    if float(epsilon) != expected:
        raise refused(f"{kind} with norms of eps={epsilon}", f"norm_cfg with eps={expected}")


def _at(given: Mapping[str, Any], key: str, usual: Any) -> Any:
    first, _, rest = key.partition(".")
    value = given.get(first)
    if rest:
        return _at(value, rest, usual) if isinstance(value, Mapping) else usual
    return given.get(first, usual)
