"""The skeleton: what the keypoints are called, which mirror each other, and how precisely people mark them."""

import colorsys
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from lightpose.errors import UserError

DEFAULT_SIGMA = 0.05
"""For keypoints whose labelling noise nobody measured: about the mean of COCO's limbs and face."""


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Everything that depends on which keypoints there are.

    Attributes:
        name: for messages and tables.
        keypoints: K names.
        swap: K indices, the keypoint that each becomes when the image is mirrored; an involution.
        links: pairs of indices, for drawing.
        sigmas: K falloff constants of OKS, the standard deviation of labelling relative to the root of the area.
        sigmas_known: False where the sigmas are a default and AP is not comparable with published figures.
        upper: indices of the upper half of the body, for half-body augmentation; empty where that has no meaning.
        weights: K factors of the loss.
        colors: K RGB triples.
    """

    name: str
    keypoints: tuple[str, ...]
    swap: tuple[int, ...]
    links: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    sigmas_known: bool
    upper: tuple[int, ...]
    weights: tuple[float, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        """Refuse a skeleton that would give wrong numbers."""
        count = len(self.keypoints)
        if not count:
            raise UserError(f"skeleton {self.name!r} has no keypoints; list their names under `keypoints`")
        repeated = sorted({name for name in self.keypoints if self.keypoints.count(name) > 1})
        if repeated:
            raise UserError(f"skeleton {self.name!r} names {', '.join(repeated)} twice; keypoint names must differ")
        for field in ("swap", "sigmas", "weights", "colors"):
            given = len(getattr(self, field))
            if given != count:
                raise UserError(f"skeleton {self.name!r} has {count} keypoints but {given} {field}; give one for each")
        if not all(np.isfinite(sigma) and sigma > 0 for sigma in self.sigmas):
            raise UserError(f"sigmas of skeleton {self.name!r} must be positive and finite, got {list(self.sigmas)}")
        if sorted(self.swap) != list(range(count)) or any(self.swap[self.swap[i]] != i for i in range(count)):
            raise UserError(
                f"swap of skeleton {self.name!r} must send each keypoint to its mirror image and back, got {self.swap}"
            )
        if any(not 0 <= index < count for link in self.links for index in link):
            raise UserError(f"a link of skeleton {self.name!r} points past its {count} keypoints; links count from 0")

    @property
    def num_keypoints(self) -> int:
        """K."""
        return len(self.keypoints)

    @classmethod
    def build(
        cls,
        keypoints: Sequence[str],
        name: str = "custom",
        swap_pairs: Sequence[Sequence[str]] | None = None,
        links: Sequence[Sequence[str | int]] = (),
        sigmas: Sequence[float] | None = None,
        upper: Sequence[str] = (),
        weights: Sequence[float] | None = None,
    ) -> Self:
        """A skeleton from names, as YAML and COCO files give them.

        Args:
            keypoints: K names.
            name: for messages.
            swap_pairs: pairs of names that mirror each other; None infers them from "left" and "right" in the names.
            links: pairs of names or indices (from 0).
            sigmas: K OKS constants; None takes `DEFAULT_SIGMA` for all and says so.
            upper: names of the upper half of the body.
            weights: K factors of the loss; None is 1 for all.

        Raises:
            UserError: for an unknown name, a wrong length, or a value that can't be used.
        """
        names = tuple(str(keypoint) for keypoint in keypoints)

        def index(keypoint: str | int) -> int:
            if isinstance(keypoint, int):
                return keypoint
            if keypoint not in names:
                raise UserError(f"skeleton {name!r} has no keypoint {keypoint!r}; it has {', '.join(names)}")
            return names.index(keypoint)

        swap = list(range(len(names)))
        for left, right in infer_swap_pairs(names) if swap_pairs is None else swap_pairs:
            swap[index(left)], swap[index(right)] = index(right), index(left)
        return cls(
            name=name,
            keypoints=names,
            swap=tuple(swap),
            links=tuple((index(start), index(end)) for start, end in links),
            sigmas=tuple(sigmas) if sigmas is not None else (DEFAULT_SIGMA,) * len(names),
            sigmas_known=sigmas is not None,
            upper=tuple(index(keypoint) for keypoint in upper),
            weights=tuple(weights) if weights is not None else (1.0,) * len(names),
            colors=tuple(_color(keypoint, i, len(names)) for i, keypoint in enumerate(names)),
        )

    @classmethod
    def from_coco_category(cls, category: Mapping[str, Any], sigmas: Sequence[float] | None = None) -> Self:
        """The skeleton of one entry of a COCO file's ``categories`` (its links count from 1).

        Where the file gives no sigmas and the keypoints are COCO's 17 or one of the named skeletons, callers pass them.

        Raises:
            UserError: when the category lists no keypoints.
        """
        if not category.get("keypoints"):
            raise UserError(
                f"category {category.get('name')!r} lists no `keypoints`, so the skeleton is unknown; "
                "add their names to the file's categories, or choose one, e.g. skeleton=coco17"
            )
        links = [(int(start) - 1, int(end) - 1) for start, end in category.get("skeleton") or ()]
        return cls.build(
            category["keypoints"],
            name=str(category.get("name", "custom")),
            links=links,
            sigmas=sigmas if sigmas is not None else category.get("sigmas"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for checkpoints; `from_dict` takes it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The skeleton that `to_dict` wrote."""
        return cls(**{key: _tuples(value) for key, value in data.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


def infer_swap_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names that differ only in left/right, like ``left_eye``, ``l-eye`` or ``EyeL`` and their other halves.

    A lone ``l`` or ``r`` counts only at an end of the name, set off by a separator or a change of case.
    """

    def other_side(name: str) -> set[str]:
        words = {"left": "right", "Left": "Right", "LEFT": "RIGHT"}
        found = {name.replace(left, right) for left, right in words.items() if left in name}
        found |= {re.sub(r"^l(?=[_\-. ])", "r", name), re.sub(r"^L(?=[_\-. A-Z])", "R", name)}
        found |= {re.sub(r"(?<=[_\-. ])l$", "r", name), re.sub(r"(?<=[_\-. a-z])L$", "R", name)}
        return found - {name}

    known = set(names)
    return [(name, right) for name in names for right in sorted(other_side(name) & known)]


def _color(name: str, index: int, count: int) -> tuple[int, int, int]:
    """Warm on the right, cool on the left, green in the middle; neighbours differ in lightness."""
    lowered = name.lower()
    hue = 0.58 if lowered.startswith(("left", "l_")) else 0.06 if lowered.startswith(("right", "r_")) else 0.33
    if hue == 0.33 and count > 40:
        hue = index / count
    red, green, blue = colorsys.hsv_to_rgb(hue + 0.08 * (index % 5) / 5, 0.9, 1.0 - 0.2 * (index % 2))
    return round(red * 255), round(green * 255), round(blue * 255)
