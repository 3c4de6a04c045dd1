"""The backbone and neck of an MMPose configuration as options of ours."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from lightpose.errors import UserError
from lightpose.interop.mmpose.arithmetic import check_arithmetic
from lightpose.interop.mmpose.settings import Settings, refused

Part = Mapping[str, Any]
HRFORMER_WIDTHS = {32: "small", 78: "base"}
CSP_SIZES = {0.375: "tiny", 0.5: "s", 0.75: "m", 1.0: "l", 1.25: "x"}
SWIN_SIZES = {96: "tiny", 128: "base", 192: "large"}
ALEXNET = (
    "MMPose's AlexNet has maps whose cells are no squares of whole pixels, and can't be converted; give another model"
)
VIT_HEADS = {"small": 12, "base": 12, "large": 16, "huge": 16}
VIT_WIDTHS = {384: "small", 768: "base", 1024: "large", 1280: "huge"}


def _hrnet(given: Part, neck: Part) -> Settings:
    stages = [given["extra"][f"stage{index}"] for index in (2, 3, 4)]
    width = stages[0]["num_channels"][0]
    named = width in (18, 32, 48)
    settings = Settings({"backbone": f"hrnet_w{width if named else 32}"})
    if not named:
        settings = settings.also(backbone__width=width)
    if given["extra"].get("upsample", {}).get("mode", "nearest") != "nearest":
        settings = settings.also(backbone__upsample=given["extra"]["upsample"]["mode"])
    plain = all(
        stage["num_channels"] == [width * 2**branch for branch in range(len(stage["num_channels"]))]
        and set(stage["num_blocks"]) == {4}
        and stage["num_modules"] == modules
        for stage, modules in zip(stages, (1, 4, 3), strict=True)
    )
    if not plain:
        raise refused("HRNet of other modules or channels than published", "one whose branches double their channels")
    return settings


def _hrformer(given: Part, neck: Part) -> Settings:
    width = given["extra"]["stage2"]["num_channels"][0]
    size = _known("HRFormer of width", width, HRFORMER_WIDTHS)
    return Settings({"backbone": f"hrformer_{size}"})


def _litehrnet(given: Part, neck: Part) -> Settings:
    modules = list(given["extra"]["stages_spec"]["num_modules"])
    depth = {(2, 4, 2): 18, (3, 8, 3): 30}.get(tuple(modules))
    return Settings({"backbone": f"litehrnet_{depth or 18}"}, {} if depth else {"backbone.modules": modules})


def _resnet(
    prefix: str, suffix: str = "", depths: tuple[int, ...] = (50, 101, 152)
) -> Callable[[Part, Part], Settings]:
    def translate(given: Part, neck: Part) -> Settings:
        depth = _known(f"{given['type']} of depth", given["depth"], {each: each for each in depths})
        return Settings({"backbone": f"timm/{prefix}{depth}{suffix}"})

    return translate


def _csp(name: str) -> Callable[[Part, Part], Settings]:
    def translate(given: Part, neck: Part) -> Settings:
        size = _known(f"{name} of widen_factor", given.get("widen_factor", 1.0), CSP_SIZES)
        several = list(given.get("out_indices", (2, 3, 4)))
        settings = Settings({"backbone": f"{name.lower()}_{size}"})
        wanted = [index - 1 for index in several]
        usual = [3] if name == "CSPNeXt" else [1, 2, 3]
        return settings if wanted == usual else settings.also(backbone__out_indices=wanted)

    return translate


def _swin(given: Part, neck: Part) -> Settings:
    size = _known("SwinTransformer of embed_dims", given.get("embed_dims", 96), SWIN_SIZES)
    window = _known("SwinTransformer of window_size", given.get("window_size", 7), {7: "", 12: "_window12"})
    return Settings({"backbone": f"timm/swin_{size}{window}"}, {"backbone.pad_first": True})


def _vit(given: Part, neck: Part) -> Settings:
    arch = given.get("arch", "base")
    size = arch if isinstance(arch, str) else _known("VisionTransformer of width", arch["embed_dims"], VIT_WIDTHS)
    settings = Settings({"backbone": f"vit_{size}"})
    heads = arch.get("num_heads", VIT_HEADS[size]) if isinstance(arch, Mapping) else VIT_HEADS.get(size)
    padding = given.get("patch_cfg", {}).get("padding", 0)
    if size == "small" and heads != 12:
        settings = settings.also(backbone__num_heads=heads)
    elif heads != VIT_HEADS.get(size):
        raise refused(f"VisionTransformer {size} with num_heads={heads}", f"num_heads={VIT_HEADS[size]}")
    return settings if padding == 2 else settings.also(backbone__patch_padding=padding)


def _stages(name: str) -> Callable[[Part, Part], Settings]:
    def translate(given: Part, neck: Part) -> Settings:
        blocks, stages = list(given.get("num_blocks", [2, 2, 2, 2])), given.get("num_stages", 4)
        option = f"{name}{50 if blocks == [3, 4, 6, 3] else 18}"
        return Settings({"backbone": option, "neck": "all"}, {} if stages == 1 else {"backbone.stages": stages})

    return translate


def _cpm(given: Part, neck: Part) -> Settings:
    settings = Settings({"backbone": "cpm"})
    maps, stages = given["out_channels"], given.get("num_stages", 6)
    settings = settings if maps == 17 else settings.also(backbone__maps=maps)
    return settings if stages == 6 else settings.also(backbone__stages=stages)


def _hourglass(given: Part, neck: Part) -> Settings:
    stacks = given.get("num_stacks", 2)
    return Settings({"backbone": "hourglass52"}, {} if stacks == 1 else {"backbone.stages": stacks})


def _tcn(given: Part, neck: Part) -> Settings:
    blocks, kernels = given.get("num_blocks", 2), list(given.get("kernel_sizes", [3, 3, 3]))
    simple = given.get("dropout") == 0.5
    settings = Settings({"backbone": "simplebaseline3d" if simple else "videopose3d"})
    frames = math.prod(kernels)
    settings = settings.also(reader__frames=frames)
    if not simple and frames == 1:
        settings = settings.also(backbone__blocks=blocks)
    return (
        settings if given.get("stem_channels", 1024) == 1024 else settings.also(backbone__width=given["stem_channels"])
    )


def _dstformer(given: Part, neck: Part) -> Settings:
    frames = given.get("seq_len", 243)
    windows = {"reader.frames": frames, "reader.stride": max(frames // 3, 1)}  # which labels every frame
    settings = Settings({"backbone": "dstformer"}, windows)
    usual = {
        "feat_size": ("width", 512),
        "depth": ("depth", 5),
        "num_heads": ("heads", 8),
        "mlp_ratio": ("mlp_ratio", 2),
    }
    for theirs, (ours, value) in usual.items():
        if given.get(theirs, value) != value:
            settings = settings.also(**{f"backbone__{ours}": given[theirs]})
    return settings


def _plain(option: str, **expected: Any) -> Callable[[Part, Part], Settings]:
    def translate(given: Part, neck: Part) -> Settings:
        for key, value in expected.items():
            if given.get(key, value) != value:
                raise refused(f"{given['type']} with {key}={given[key]}", f"{key}={value}")
        return Settings({"backbone": option})

    return translate


BACKBONES: dict[str, Callable[[Part, Part], Settings]] = {
    "CPM": _cpm,
    "CSPDarknet": _csp("CSPDarknet"),
    "CSPNeXt": _csp("CSPNeXt"),
    "DSTFormer": _dstformer,
    "HRFormer": _hrformer,
    "HRNet": _hrnet,
    "HourglassNet": _hourglass,
    "LiteHRNet": _litehrnet,
    "MSPN": _stages("mspn"),
    "MobileNetV2": _plain("mobilenetv2", widen_factor=1.0),
    "PyramidVisionTransformer": _plain("pvt_small", num_layers=[3, 4, 6, 3]),
    "PyramidVisionTransformerV2": _plain("timm/pvt_v2_b2", embed_dims=64, num_layers=[3, 4, 6, 3]),
    "RSN": _stages("rsn"),
    "ResNeSt": _resnet("resnest", depths=(50, 101, 200, 269)),
    "ResNeXt": _resnet("resnext"),
    "ResNet": _resnet("resnet", depths=(18, 34, 50, 101, 152)),
    "ResNetV1d": _resnet("resnet", "d"),
    "SCNet": lambda given, neck: Settings({"backbone": f"scnet{given['depth']}"}),
    "SEResNet": _resnet("seresnet"),
    "ShuffleNetV1": _plain("shufflenetv1", groups=3, widen_factor=1.0),
    "ShuffleNetV2": _plain("shufflenetv2", widen_factor=1.0),
    "SwinTransformer": _swin,
    "TCN": _tcn,
    "VGG": _plain("vgg16", depth=16, norm_cfg={"type": "BN"}),
    "ViPNAS_MobileNetV3": _plain("vipnas_mobilenetv3"),
    "ViPNAS_ResNet": _plain("vipnas_resnet50", depth=50),
    "VisionTransformer": _vit,
}


def _known(what: str, value: Any, choices: Mapping[Any, Any]) -> Any:
    """The choice for ``value``.

    Raises:
        UserError: when there is none.
    """
    if value not in choices:
        raise refused(f"{what} {value}", f"one of {', '.join(map(str, choices))}")
    return choices[value]


def backbone_settings(given: Part, neck: Part) -> Settings:
    """The backbone of an MMPose configuration.

    Raises:
        UserError: for one that lightpose doesn't have.
    """
    kind = kind_of(given)
    if kind == "AlexNet":
        raise UserError(ALEXNET)
    if kind not in BACKBONES:
        raise UserError(
            f"lightpose has no backbone like MMPose's {kind}; those that it has are {', '.join(sorted(BACKBONES))}"
        )
    check_arithmetic(kind, given)
    return BACKBONES[kind](given, neck)


def kind_of(part: Part) -> str:
    """Its type, without the library that it is from."""
    return str(part.get("type")).rpartition(".")[2]


def neck_settings(given: Part | None, backbone: Part) -> Settings:
    """The neck of an MMPose configuration, or none.

    Raises:
        UserError: for one that lightpose doesn't have.
    """
    if not given:
        return Settings()
    kind = kind_of(given)
    check_arithmetic(kind, given)
    if kind == "GlobalAveragePooling":  # our heads of coordinates take the mean themselves
        return Settings()
    if kind == "FeatureMapProcessor":
        if given.get("concat"):
            return Settings({"neck": "concat"})
        several = kind_of(backbone) in ("HRNet", "HRFormer")
        index = given.get("select_index")
        return Settings({"neck": "select"}, {"backbone.out_indices": [index]}) if several and index else Settings()
    if kind == "YOLOXPAFPN":
        blocks = given.get("num_csp_blocks", 3)
        return Settings({"neck": "yolox_pafpn"}, {} if blocks == 1 else {"neck.blocks": blocks})
    if kind == "CSPNeXtPAFPN":
        return Settings({"neck": "cspnext_pafpn"})
    if kind == "HybridEncoder":
        width, channels = given.get("widen_factor", 1.0), given["projector"]["out_channels"]
        blocks = max(round(3 * given.get("deepen_factor", 1.0)), 1)
        options = {"neck.out_channels": channels, "neck.blocks": blocks, "neck.expansion": width}
        usual = {"neck.out_channels": 256, "neck.blocks": 1, "neck.expansion": 0.5}
        if given.get("output_indices", [1, 2]) != [1, 2]:
            raise refused("HybridEncoder with other output_indices than [1, 2]", "[1, 2]")
        return Settings(
            {"neck": "hybrid_encoder"}, {key: value for key, value in options.items() if usual[key] != value}
        )
    raise UserError(f"lightpose has no neck like MMPose's {kind}; give a model that does without it")
