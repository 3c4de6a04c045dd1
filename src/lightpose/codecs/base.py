"""The contract of a codec: keypoints to targets, outputs to poses."""

from typing import Any, ClassVar, Protocol

from torch import Tensor

from lightpose.errors import UserError
from lightpose.structures import Batch, Poses, Spec, Targets


class Codec(Protocol):
    """Turns keypoints into training targets and network outputs into poses, a whole batch at a time, on any device.

    A codec has no parameters. It is built with ``skeleton``, ``input_hw`` and ``grid`` next to its own options. What
    inherits this class need not repeat its defaults.

    One that finds any number of people can be exported if it also has ``candidates(outputs)``, which gives tensors by
    name, whose shapes don't depend on what is found, and among them ``valid``, bool: which of them count; and
    ``chosen(candidates)``, which makes the poses of them. `lightpose.codecs.people.chosen` is one for candidates
    (B, P, ...) under the names of `Poses`.

    Attributes:
        spec: what it decodes and encodes.
        mirror_lag: whole input pixels that a mirrored input must move left (right, if negative) before the network sees
            it, so that `flip` is exact (`lightpose.geometry.mirror_lag`); a codec with cells finer than pixels moves
            them in `flip`.
        flips: False where outputs of a mirrored input can't be joined with the others, as where candidates have no
            order. Then `flip` need not be defined, and the flip test is refused.
        every_frame: True where a sample is a sequence with a pose for each frame: its instances are these, in order.
        depth_labels: True where labels in images need a third number, the depth before the camera in mm.
    """

    spec: Spec
    mirror_lag: int = 0
    flips: ClassVar[bool] = True
    every_frame: ClassVar[bool] = False
    depth_labels: ClassVar[bool] = False

    def encode(self, batch: Batch) -> Targets:
        """Targets under the names of ``spec.target_names``; instances in input pixels.

        A sample without a valid instance shows nobody: its targets are those of an empty input, and count.
        """
        ...

    def decode(self, outputs: dict[str, Tensor]) -> Poses:
        """Poses in input pixels. Sizes are read off the outputs, so that inputs of other sizes decode as well."""
        ...

    def flip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo a horizontal mirroring of the input; an involution."""
        ...

    def merge(self, plain: dict[str, Tensor], mirrored: dict[str, Tensor]) -> dict[str, Tensor]:
        """Join outputs of an input and those of its mirror image, which `flip` turned back; by default their mean."""
        return {name: (output + mirrored[name]) / 2 for name, output in plain.items()}


def check_codec(codec: Any) -> Codec:
    """The same codec, if it has all that the contract asks for.

    Raises:
        UserError: naming what it lacks.
    """
    kind = type(codec)
    parts = ("spec", "mirror_lag", "flips", "encode", "decode", "flip", "merge")
    lacks = [name for name in parts if not hasattr(codec, name)]
    lacks += [name for name in ("encode", "decode", "flip") if getattr(kind, name, None) is getattr(Codec, name)]
    if "flip" in lacks and not getattr(codec, "flips", True):
        lacks.remove("flip")
    if lacks:
        raise UserError(
            f"codec {kind.__name__} has no {' and no '.join(lacks)}; derive it from lightpose.codecs.base.Codec and "
            "define these"
        )
    found: Codec = codec
    return found
