"""Backbones of MMPose configurations from the word for them in a name."""

import re
from collections.abc import Callable
from typing import Any

from lightpose.errors import UserError

Part = dict[str, Any]


def _hrnet(match: re.Match[str]) -> Part:
    width = int(match["width"])
    stages = {
        f"stage{branches}": {
            "num_modules": modules,
            "num_branches": branches,
            "num_blocks": [4] * branches,
            "num_channels": [width * 2**branch for branch in range(branches)],
        }
        for branches, modules in ((2, 1), (3, 4), (4, 3))
    }
    upsample = {"upsample": {"mode": "bilinear"}} if match["v2"] else {}
    return {"type": "HRNet", "extra": {**stages, **upsample}}


def _depth(kind: str) -> Callable[[re.Match[str]], Part]:
    return lambda match: {"type": kind, "depth": int(match["depth"])}


def csp_backbone(kind: str, size: str, **options: Any) -> Part:
    """CSPNeXt or CSPDarknet of one of the sizes that names have."""
    widen = {"tiny": 0.375, "t": 0.375, "s": 0.5, "m": 0.75, "l": 1.0, "x": 1.25}[size]
    norms = {"norm_cfg": {"type": "BN"}} if kind == "CSPNeXt" else {}
    return {"type": kind, "widen_factor": widen, **norms, **options}


def _swin(match: re.Match[str]) -> Part:
    return {"type": "SwinTransformer", "embed_dims": {"t": 96, "b": 128, "l": 192}[match["size"]]}


def _vit(match: re.Match[str]) -> Part:
    return {"type": "VisionTransformer", "arch": match["size"], "patch_cfg": {"padding": 2}}


def _stages(match: re.Match[str]) -> Part:
    blocks = [3, 4, 6, 3] if match["depth"] == "50" else [2, 2, 2, 2]
    return {"type": match["kind"].upper(), "num_stages": int(match["stages"] or 1), "num_blocks": blocks}


_LITE_MODULES = {"18": [2, 4, 2], "30": [3, 8, 3]}
_HRFORMER_WIDTHS = {"small": 32, "base": 78}

BACKBONES: tuple[tuple[str, Callable[[re.Match[str]], Part]], ...] = (
    (r"hrnet(?P<v2>v2)?-w(?P<width>\d+)", _hrnet),
    (
        r"litehrnet-w?(?P<depth>18|30)",
        lambda m: {"type": "LiteHRNet", "extra": {"stages_spec": {"num_modules": _LITE_MODULES[m["depth"]]}}},
    ),
    (
        r"hrformer-(?P<size>small|base)",
        lambda m: {"type": "HRFormer", "extra": {"stage2": {"num_channels": [_HRFORMER_WIDTHS[m["size"]]]}}},
    ),
    (r"res(net)?(?P<depth>\d+)", _depth("ResNet")),
    (r"resnetv1d(?P<depth>\d+)", _depth("ResNetV1d")),
    (r"resnext(?P<depth>\d+)", _depth("ResNeXt")),
    (r"seresnet(?P<depth>\d+)", _depth("SEResNet")),
    (r"resnest(?P<depth>\d+)", _depth("ResNeSt")),
    (r"scnet(?P<depth>\d+)", _depth("SCNet")),
    (r"vgg(?P<depth>\d+)-bn", lambda m: {"type": "VGG", "depth": int(m["depth"]), "norm_cfg": {"type": "BN"}}),
    (r"mobilenetv2", lambda m: {"type": "MobileNetV2"}),
    (r"shufflenetv1", lambda m: {"type": "ShuffleNetV1", "groups": 3}),
    (r"shufflenetv2", lambda m: {"type": "ShuffleNetV2"}),
    (r"pvt-s", lambda m: {"type": "PyramidVisionTransformer", "num_layers": [3, 4, 6, 3]}),
    (r"pvtv2-b2", lambda m: {"type": "PyramidVisionTransformerV2", "embed_dims": 64, "num_layers": [3, 4, 6, 3]}),
    (r"swin-(?P<size>[tbl])-p4-w7", _swin),
    (r"ViTPose-(?P<size>small|base|large|huge)", _vit),
    (r"vipnas-mbv3", lambda m: {"type": "ViPNAS_MobileNetV3"}),
    (r"vipnas-res50", lambda m: {"type": "ViPNAS_ResNet", "depth": 50}),
    (r"cspnext-(?P<size>tiny|[smlx])", lambda m: csp_backbone("CSPNeXt", m["size"], out_indices=[4])),
    (r"hourglass52", lambda m: {"type": "HourglassNet", "num_stacks": 1}),
    (r"cpm", lambda m: {"type": "CPM", "num_stages": 6}),
    (r"((?P<stages>\d)x)?(?P<kind>mspn|rsn)(?P<depth>18|50)", _stages),
)
"""Pattern of the word in a name that says which, and what it means."""


def named_backbone(word: str, name: str) -> Part:
    """What ``word`` of the configuration ``name`` means.

    Raises:
        UserError: for a word that is no backbone.
    """
    for pattern, make in BACKBONES:
        if match := re.fullmatch(rf"{pattern}(-simple|-\ddeconv)?", word):
            return make(match)
    raise UserError(f"name={name!r} has {word!r} where a backbone is expected, such as hrnet-w32, res50 or mobilenetv2")
