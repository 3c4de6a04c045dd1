"""Options of MMPose's parts that change what is computed, but no tensor, so that weights would load without a word."""

from collections.abc import Mapping
from typing import Any

from lightpose.interop.mmpose.settings import refused

_RESNET = {"strides": [1, 2, 2, 2], "dilations": [1, 1, 1, 1], "style": "pytorch"}
_PLAIN_STEM = {**_RESNET, "deep_stem": False, "avg_down": False}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "CSPDarknet": {"act_cfg.type": "SiLU"},
    "CSPNeXt": {"act_cfg.type": "SiLU"},
    "CSPNeXtPAFPN": {"act_cfg.type": "SiLU"},
    "MobileNetV2": {"act_cfg.type": "ReLU6"},
    "PyramidVisionTransformer": {"num_heads": [1, 2, 5, 8]},
    "PyramidVisionTransformerV2": {"num_heads": [1, 2, 5, 8]},
    "ResNeSt": _RESNET,
    "ResNeXt": _PLAIN_STEM,
    "ResNet": _PLAIN_STEM,
    "ResNetV1d": _RESNET,
    "SCNet": _PLAIN_STEM,
    "SEResNet": _PLAIN_STEM,
    "ShuffleNetV1": {"act_cfg.type": "ReLU"},
    "ShuffleNetV2": {"act_cfg.type": "ReLU"},
    "SwinTransformer": {"qk_scale": None, "act_cfg.type": "GELU", "strides": [4, 2, 2, 2]},
    "TCN": {"causal": False},
    "VisionTransformer": {"out_type": "featmap"},
    "YOLOXPAFPN": {"act_cfg.type": "SiLU"},
}
"""Part → option → the value with which ours compute."""
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
