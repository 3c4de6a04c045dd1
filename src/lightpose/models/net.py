"""The network: preprocessor, backbone, neck and head, each told what the one before it gives."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lightpose.errors import UserError
from lightpose.models.base import FeatureModule, Head
from lightpose.structures import Spec


class PoseNet(nn.Module):
    """Preprocessor → backbone → neck → head.

    Args:
        preprocessor: (B, 3, H, W) uint8 to normalised floats, on the device.
        backbone: image to features.
        neck: builds the neck from ``in_channels`` and ``strides``.
        head: builds the head from ``in_channels``, ``strides`` and ``spec``.
        spec: what the codec expects.

    Raises:
        PairError: when head and codec don't fit, before either is built.
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
        check_pair(head, spec)
        self.preprocessor = preprocessor
        self.backbone = backbone
        self.neck = neck(in_channels=backbone.out_channels, strides=backbone.strides)
        self.head = head(in_channels=self.neck.out_channels, strides=self.neck.strides, spec=spec)
        self.fast_features: Callable[[Tensor], list[Tensor]] | None = None
        """What `lightpose.speed.speed_up` puts in the place of `plain_features`."""

    def features(self, inputs: Tensor) -> list[Tensor]:
        """Feature maps that enter the head."""
        return (self.fast_features or self.plain_features)(inputs)

    def plain_features(self, inputs: Tensor) -> list[Tensor]:
        """`features` without any acceleration."""
        features: list[Tensor] = self.neck(self.backbone(self.preprocessor(inputs)))
        return features

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """The head's outputs by name."""
        outputs: dict[str, Tensor] = self.head(self.features(inputs))
        return outputs


class PairError(UserError):
    """Head and codec don't fit.

    Attributes:
        expects: names of the outputs that the codec expects.
    """

    def __init__(self, emits: frozenset[str], expects: frozenset[str]) -> None:
        super().__init__(f"head emits {sorted(emits)} but codec expects {sorted(expects)}")
        self.expects = expects


def check_pair(head: Callable[..., Head], spec: Spec) -> None:
    """Refuse a head whose outputs are not what the codec expects.

    Raises:
        PairError: naming both sides.
    """
    builder: Any = getattr(head, "func", head)  # the class behind a functools.partial
    emits, expects = builder.emits, frozenset(spec.outputs)
    if emits != expects:
        raise PairError(emits, expects)
