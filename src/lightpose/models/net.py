"""The network: preprocessor, backbone, neck and head, each told what the one before it gives."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lightpose.errors import UserError, in_short, place_in_own_code
from lightpose.models.base import FeatureModule, Head
from lightpose.structures import Spec

log = logging.getLogger(__name__)


class PoseNet(nn.Module):
    """Preprocessor → backbone → neck → head.

    Args:
        preprocessor: (B, 3, H, W) uint8 to normalised floats, on the device.
        backbone: image to features.
        neck: builds the neck from ``in_channels`` and ``strides``.
        head: builds the head from ``in_channels``, ``strides``, ``stages`` and ``spec``.
        spec: what the codec says of itself.

    Raises:
        PairError: when head and codec don't fit.
        UserError: when a part doesn't give what it declares, see `check_shapes`.
    """

    def __init__(
        self,
        preprocessor: nn.Module,
        backbone: FeatureModule,
        neck: Callable[..., FeatureModule],
        head: Callable[..., Head],
        spec: Spec,
    ) -> None:
        super().__init__()
        self.preprocessor = preprocessor
        self.backbone = _declaring("backbone", backbone)
        self.neck = _declaring("neck", neck(in_channels=backbone.out_channels, strides=backbone.strides))
        self.head = build_head(head, self.neck.out_channels, self.neck.strides, backbone.stages, spec)
        self.fast_features: Callable[[Tensor], list[Tensor]] | None = None
        """What computes `features` in place of `plain_features`, see `lightpose.runtime.speed`."""
        self.output_shapes: dict[str, tuple[int, ...]] | None = None
        """Output → shape without the batch dimension, for inputs of ``spec.input_hw``; None for other inputs."""
        if spec.input_hw is not None:
            self.output_shapes = check_shapes(self, spec)

    def features(self, inputs: Tensor) -> list[Tensor]:
        """Feature maps that enter the head."""
        return (self.fast_features or self.plain_features)(inputs)

    def plain_features(self, inputs: Tensor) -> list[Tensor]:
        """`features` without any acceleration."""
        return self.necked(self.backbone(self.preprocessor(inputs)))

    def necked(self, features: Sequence[Tensor]) -> list[Tensor]:
        """The neck's maps of each stage of the backbone."""
        count = len(self.backbone.strides)
        return [each for start in range(0, len(features), count) for each in self.neck(features[start : start + count])]

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """The head's outputs by name."""
        outputs: dict[str, Tensor] = self.head(self.features(inputs))
        return outputs


class PairError(UserError):
    """Head and codec don't fit.

    Attributes:
        spec: of the codec.
        place: of the head in the configuration; ``head.head`` is inside a wrapper.
        ways: out of it, beside other heads: what to type instead.
    """

    def __init__(self, message: str, spec: Spec, place: str = "head", ways: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.spec, self.place, self.ways = spec, place, ways


def _declaring(name: str, part: Any) -> FeatureModule:
    """The same part, if it says what it gives."""
    lacks = [each for each in ("out_channels", "strides", "stages") if not hasattr(part, each)]
    if lacks:
        raise UserError(
            f"{name} {type(part).__name__} has no {' and no '.join(lacks)}; derive it from "
            "lightpose.models.base.FeatureModule, and set out_channels and strides"
        )
    found: FeatureModule = part
    return found


def build_head(
    head: Callable[..., Head],
    in_channels: Sequence[int],
    strides: Sequence[int],
    stages: int,
    spec: Spec,
    place: str = "head",
) -> Head:
    """A head that fits a codec.

    Args:
        head: builds it.
        in_channels: of the features.
        strides: of the features.
        stages: how often the features go through these maps.
        spec: what the codec says of itself.
        place: of the head in the configuration, for messages.

    Raises:
        PairError: when head and codec don't fit.
        UserError: when what is built is no head, or can't be built.
    """
    given = {"in_channels": in_channels, "strides": strides, "stages": stages, "spec": spec}
    kind: Any = getattr(head, "func", head)
    name = kind.__name__
    try:
        inspect.signature(head).bind(**given)
    except TypeError as error:
        raise UserError(
            f"head {name} can't be built with {', '.join(given)} ({error}); let its __init__ take all four next to its "
            "own options, which the YAML gives"
        ) from error
    try:
        made: Any = head(**given)
    except KeyError as error:
        wanted = error.args[0]
        if wanted in spec.outputs:
            raise
        raise PairError(
            f"{place} asks for the shape of {wanted!r} but {_codec(place)} expects {sorted(spec.outputs)}", spec, place
        ) from error
    if not isinstance(made, Head):
        raise UserError(f"head {name} is no lightpose.models.base.Head; derive it from that")
    if not isinstance(getattr(made, "emits", None), (set, frozenset)):
        raise UserError(f"head {name} doesn't say what it emits; set emits = frozenset({set(spec.outputs)})")
    if type(made).compare is Head.compare and not callable(getattr(made, "criterion", None)):
        raise UserError(
            f"head {name} has no criterion; set self.criterion to one that the YAML gives to __init__, or define a "
            "method criterion(outputs, targets)"
        )
    check_pair(made, spec, place)
    return made


def _codec(place: str) -> str:
    """Of the codec that a head goes with: ``codec.codec`` for ``head.head``."""
    return place.replace("head", "codec")


def fits(head: Head, spec: Spec) -> bool:
    """Whether a codec decodes what a head emits, and encodes what its loss needs."""
    return head.emits == frozenset(spec.outputs) and head.needs <= spec.target_names


def check_pair(head: Head, spec: Spec, place: str) -> None:
    """Refuse a head whose outputs are not what the codec expects, or whose loss needs more than its targets.

    Raises:
        PairError: naming both sides.
    """
    if fits(head, spec):
        return
    if head.emits != frozenset(spec.outputs):
        facts = f"{place} emits {sorted(head.emits)} but {_codec(place)} expects {sorted(spec.outputs)}"
    else:
        facts = f"{place} needs targets {sorted(head.needs)} but {_codec(place)} makes {sorted(spec.target_names)}"
    raise PairError(facts, spec, place)


def check_shapes(net: PoseNet, spec: Spec) -> dict[str, tuple[int, ...]]:
    """Run an image of zeros through a network, without computing anything, and compare what comes with what was said.

    A stride that a part declares wrongly would train, on a part of its features; so would outputs of another shape
    than the targets, where they broadcast.

    Returns:
        Output → its shape without the batch dimension.

    Raises:
        UserError: naming the part, what it declares and what it gives.
    """
    assert spec.input_hw is not None
    images = torch.zeros(2, 3, *spec.input_hw, dtype=torch.uint8)
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        outputs = _dry_run(net, images)
    finally:
        for module, training in modes.items():
            module.training = training
    if not isinstance(outputs, Mapping):
        raise UserError(
            f"head {type(net.head).__name__} gives a {type(outputs).__name__}; let its forward return a mapping from "
            f"{', '.join(spec.outputs)} to tensors"
        )
    given = {name: tuple(output.shape[1:]) for name, output in outputs.items()}
    expected = dict(spec.outputs)
    if given.keys() != expected.keys() or not all(_is_like(given[name], shape) for name, shape in expected.items()):
        raise UserError(
            f"head {type(net.head).__name__} gives {given} for each image of {_by(spec.input_hw)}, but the codec "
            f"expects {expected}; mend its forward, or the options that shape it"
        )
    return given


def _dry_run(net: PoseNet, images: Tensor) -> dict[str, Tensor]:
    """The head's outputs: on the meta device, or computed where a part can't run there."""
    try:
        return _run_parts(net, images.to("meta"), _call_on_meta)
    except UserError:
        raise
    except Exception as on_meta:
        log.debug("The network is run once, as it can't on the meta device: %s", on_meta)
    try:
        return _run_parts(net, images, nn.Module.__call__)
    except UserError:
        raise
    except Exception as error:
        reason = in_short(error)
        raise UserError(
            f"the network can't be run on images of {_by(images.shape[-2:])} ({type(error).__name__}: "
            f"{reason}{place_in_own_code(error)}); give an input_hw that its strides divide, or mend the part"
        ) from error


@torch.no_grad()
def _run_parts(net: PoseNet, images: Tensor, call: Callable[[nn.Module, Any], Any]) -> dict[str, Tensor]:
    maps = call(net.backbone, call(net.preprocessor, images))
    if isinstance(maps, Tensor):
        raise UserError(
            f"backbone {type(net.backbone).__name__} gives one tensor; let its forward return a list of maps"
        )
    stages, count = net.backbone.stages, len(net.backbone.strides)
    _check_maps("backbone", net.backbone, maps, images.shape[-2:], stages)
    features = [each for stage in range(stages) for each in call(net.neck, maps[stage * count : (stage + 1) * count])]
    _check_maps("neck", net.neck, features, images.shape[-2:], stages)
    outputs: dict[str, Tensor] = call(net.head, features)
    return outputs


def _call_on_meta(part: nn.Module, given: Any) -> Any:
    tensors = {name: tensor.to("meta") for name, tensor in [*part.named_parameters(), *part.named_buffers()]}
    with _QuickNorms():
        return functional_call(part, tensors, (given,))


class _QuickNorms(TorchFunctionMode):
    """Batch norms that fit their input give it back: on the meta device they take ten times as long as all the rest."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is functional.batch_norm and args and args[0].ndim > 1 and not given.get("training"):
            vectors = [each for each in (*args[1:], *given.values()) if isinstance(each, Tensor)]
            if all(each.shape == args[0].shape[1:2] and each.dtype == args[0].dtype for each in vectors):
                return args[0]
        return func(*args, **given)


def _is_like(given: tuple[int, ...], expected: tuple[int | None, ...] | None) -> bool:
    """Whether a shape is the expected one, as far as a codec can know it."""
    if expected is None:
        return True
    return len(given) == len(expected) and all(b in (None, a) for a, b in zip(given, expected, strict=True))


def _check_maps(part: str, module: FeatureModule, maps: Sequence[Tensor], input_hw: Sequence[int], stages: int) -> None:
    declared = list(zip(module.out_channels, module.strides, strict=True)) * stages
    given = [(each.shape[1], each.shape[-2:]) for each in maps]
    fits = len(given) == len(declared) and all(
        channels == each and all(abs(side - full / stride) < 1 for side, full in zip(hw, input_hw, strict=True))
        for (channels, stride), (each, hw) in zip(declared, given, strict=True)
    )
    if not fits:
        says = ", ".join(f"{channels} channels at stride {stride}" for channels, stride in declared)
        gives = ", ".join(f"{channels} channels of {_by(hw)}" for channels, hw in given)
        raise UserError(
            f"{part} {type(module).__name__} declares {says}, but gives {gives} for an input of {_by(input_hw)}; mend "
            "its out_channels and strides"
        )


def _by(hw: Sequence[int]) -> str:
    return f"{hw[0]}x{hw[1]} (h x w)"
