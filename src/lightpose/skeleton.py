"""The skeleton: what the keypoints are called, which mirror each other, and how precisely people mark them."""

import colorsys
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from lightpose.errors import UserError
from lightpose.names import infer_swap_pairs, joined_names, match

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
        mirrors: False where nobody said which keypoints mirror each other and the names don't tell: then neither
            training nor tests mirror anything.
        renames: pairs of another name that files may have, and the keypoint that it means.
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
    mirrors: bool = True  # as it was for each skeleton in an older checkpoint
    renames: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        """Refuse a skeleton that would give wrong numbers."""
        count = len(self.keypoints)
        if not count:
            raise UserError(f"skeleton {self.name!r} has no keypoints; list their names under `keypoints`")
        repeated = sorted(name for name, times in Counter(self.keypoints).items() if times > 1)
        if repeated:
            raise UserError(f"skeleton {self.name!r} names {', '.join(repeated)} twice; keypoint names must differ")
        for field in ("swap", "sigmas", "weights", "colors"):
            given = len(getattr(self, field))
            if given != count:
                raise UserError(f"skeleton {self.name!r} has {count} keypoints but {given} {field}; give one for each")
        if not all(math.isfinite(sigma) and sigma > 0 for sigma in self.sigmas):
            raise UserError(f"sigmas of skeleton {self.name!r} must be positive and finite, got {list(self.sigmas)}")
        if sorted(self.swap) != list(range(count)) or any(self.swap[self.swap[i]] != i for i in range(count)):
            raise UserError(
                f"swap of skeleton {self.name!r} must send each keypoint to its mirror image and back, got {self.swap}"
                "; give swap_pairs, with each keypoint in one of them at most"
            )
        if any(not 0 <= index < count for link in self.links for index in link):
            raise UserError(f"a link of skeleton {self.name!r} points past its {count} keypoints; links count from 0")
        unknown = [name for _, name in self.renames if name not in self.keypoints]
        if unknown:
            raise UserError(
                f"renames of skeleton {self.name!r} lead to {unknown[0]!r}, which is no keypoint of it; it has "
                f"{', '.join(self.keypoints)}"
            )

    @property
    def num_keypoints(self) -> int:
        """K."""
        return len(self.keypoints)

    def roots(self, names: Sequence[str] | None = None) -> list[int]:
        """Where the joints stand from whose middle others are counted: ``names``, else ``root``, else the first.

        Raises:
            UserError: for names that are no keypoints.
        """
        if names:
            return self.indices(names)
        return [self.keypoints.index("root") if "root" in self.keypoints else 0]

    def indices(self, names: Sequence[str]) -> list[int]:
        """Where keypoints stand.

        Raises:
            UserError: for names that are no keypoints.
        """
        unknown = [name for name in names if name not in self.keypoints]
        if unknown:
            raise UserError(
                f"skeleton {self.name!r} has no keypoint {' or '.join(map(str, unknown))}; it has "
                f"{', '.join(self.keypoints)}"
            )
        return [self.keypoints.index(name) for name in names]

    def places(self, names: Sequence[str]) -> list[int]:
        """The keypoint that each of a file's names means, and -1 for none; see `lightpose.names.match`."""
        return match(names, self.keypoints, dict(self.renames))

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
        renames: Mapping[str, str] | None = None,
    ) -> Self:
        """A skeleton from names, as YAML and COCO files give them.

        Args:
            keypoints: K names.
            name: for messages.
            swap_pairs: pairs of keypoints that mirror each other; an empty list where none do, though mirror images are
                fine. None finds them by name, see `infer_swap_pairs`; where it finds none, nothing is mirrored.
            links: pairs of keypoints, for drawing.
            sigmas: K OKS constants; None takes `DEFAULT_SIGMA` for all and says so.
            upper: keypoints of the upper half of the body.
            weights: K factors of the loss; None is 1 for all.
            renames: another name that files may have → the keypoint that it means.

            A keypoint is its name, or its position from 0.

        Raises:
            UserError: for an unknown name, a wrong length, or a value that can't be used.
        """
        names = tuple(str(keypoint) for keypoint in _sequence(keypoints, "keypoints", name))

        place = {keypoint: number for number, keypoint in enumerate(names)}

        def index(keypoint: Any) -> int:
            if str(keypoint) in place:
                return place[str(keypoint)]
            if type(keypoint) is int and 0 <= keypoint < len(names):
                return keypoint
            raise UserError(f"skeleton {name!r} has no keypoint {keypoint!r}; it has {', '.join(names)}")

        def pairs(given: Any, key: str) -> tuple[tuple[int, int], ...]:
            made = [
                tuple(index(keypoint) for keypoint in _sequence(pair, key, name))
                for pair in _sequence(given, key, name)
            ]
            wrong = [pair for pair in made if len(pair) != 2]
            if wrong:
                raise UserError(f"{key} of skeleton {name!r} must be pairs of keypoints, got one of {len(wrong[0])}")
            return tuple((start, end) for start, end in made)

        exchanged = pairs(infer_swap_pairs(names) if swap_pairs is None else swap_pairs, "swap_pairs")
        swap = list(range(len(names)))
        for left, right in exchanged:
            swap[left], swap[right] = right, left
        return cls(
            name=str(name),
            keypoints=names,
            swap=tuple(swap),
            links=pairs(links, "links"),
            sigmas=_numbers(sigmas, "sigmas", name) if sigmas is not None else (DEFAULT_SIGMA,) * len(names),
            sigmas_known=sigmas is not None,
            upper=tuple(index(keypoint) for keypoint in _sequence(upper, "upper", name)),
            weights=_numbers(weights, "weights", name) if weights is not None else (1.0,) * len(names),
            colors=tuple(_color(keypoint, i, len(names)) for i, keypoint in enumerate(names)),
            mirrors=swap_pairs is not None or bool(exchanged),
            renames=tuple((str(other), str(keypoint)) for other, keypoint in (renames or {}).items()),
        )

    def changed(self, **options: Any) -> Self:
        """The same keypoints, with some of the rest given anew, each as `build` takes it.

        Raises:
            UserError: for an option that `build` doesn't have, and as `build`.
        """
        unknown = sorted(set(options) - set(_FIELDS))
        if unknown:
            raise UserError(
                f"skeleton has no key {' or '.join(unknown)}; {', '.join(_FIELDS)} can be given beside the keypoints "
                "that the data set names. A skeleton of your own has `_target_: lightpose.skeleton.Skeleton.build`"
            )
        made = self.build(self.keypoints, **({"name": self.name} | options))
        return replace(self, **{field: getattr(made, field) for key in options for field in _FIELDS[key]})

    @classmethod
    def from_coco_category(cls, category: Mapping[str, Any], sigmas: Sequence[float] | None = None) -> Self:
        """The skeleton of one entry of a COCO file's ``categories``.

        Beyond COCO it may have ``sigmas`` and ``swap_pairs``, as `build` takes them.
        Its links count from 1; or from 0, if there is a 0. Those that join no two keypoints are left out, see
        `coco_links`. Where the file gives no sigmas and the keypoints are COCO's 17 or one of the named skeletons,
        callers pass them.

        Raises:
            UserError: when the category lists no keypoints, and for sigmas that can't be used.
        """
        if not category.get("keypoints"):
            raise UserError(
                f"category {category.get('name')!r} lists no `keypoints`, so the skeleton is unknown; "
                "add their names to the file's categories, or choose one, e.g. skeleton=coco17"
            )
        return cls.build(
            category["keypoints"],
            name=str(category.get("name", "custom")),
            links=coco_links(category.get("skeleton"), category["keypoints"])[0],
            sigmas=sigmas if sigmas is not None else category.get("sigmas"),
            swap_pairs=category.get("swap_pairs"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for checkpoints; `from_dict` takes it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The skeleton that `to_dict` wrote."""
        return cls(**{key: _tuples(value) for key, value in data.items()})


_FIELDS = {
    "name": ("name",),
    "swap_pairs": ("swap", "mirrors"),
    "links": ("links",),
    "sigmas": ("sigmas", "sigmas_known"),
    "upper": ("upper",),
    "weights": ("weights",),
    "renames": ("renames",),
}
"""What `Skeleton.changed` takes, and the attributes that each makes."""


def joined(skeletons: Sequence[Skeleton], renames: Mapping[str, str] | None = None) -> Skeleton:
    """One skeleton of all keypoints of several, joined by name, with their links, pairs, sigmas and weights.

    Of a keypoint that several have, the first that knows a sigma or a mirror image says it.

    Args:
        skeletons: one or more.
        renames: other name → keypoint, see `lightpose.names.match`.
    """
    if len(skeletons) == 1 and not renames:
        return skeletons[0]
    names, places = joined_names([skeleton.keypoints for skeleton in skeletons], renames)
    each = list(zip(skeletons, places, strict=True))
    swap: dict[int, int] = {}
    inferred = [(names.index(left), names.index(right)) for left, right in infer_swap_pairs(names)]
    given = [(found[i], found[j]) for skeleton, found in each for i, j in enumerate(skeleton.swap) if i < j]
    for left, right in [*given, *inferred]:
        if not {left, right} & swap.keys():
            swap |= {left: right, right: left}
    told = {place for skeleton, found in each if skeleton.mirrors for place in found} | swap.keys()
    sigmas, weights = [DEFAULT_SIGMA] * len(names), [1.0] * len(names)
    for skeleton, found in reversed(each):
        for row, place in enumerate(found):
            weights[place] = skeleton.weights[row]
    known = [
        (place, skeleton.sigmas[row])
        for skeleton, found in reversed(each)
        if skeleton.sigmas_known
        for row, place in enumerate(found)
    ]
    for place, sigma in known:
        sigmas[place] = sigma
    links = [(names[found[i]], names[found[j]]) for skeleton, found in each for i, j in skeleton.links]
    made = Skeleton.build(
        names,
        name="+".join(dict.fromkeys(skeleton.name for skeleton in skeletons)),
        swap_pairs=[(names[left], names[right]) for left, right in swap.items() if left < right],
        links=list({frozenset(link): link for link in links}.values()),
        sigmas=sigmas,
        upper=[names[place] for place in sorted({found[i] for skeleton, found in each for i in skeleton.upper})],
        weights=weights,
        renames={other: name for other, name in (renames or {}).items() if name in names},
    )
    return replace(made, sigmas_known=len(dict(known)) == len(names), mirrors=len(told) == len(names))


def coco_links(given: Any, keypoints: Sequence[str]) -> tuple[list[tuple[int, int]], list[Any]]:
    """The links of a COCO category, whose values are not to be trusted.

    Args:
        given: the category's ``skeleton``: pairs of names or of numbers from 1; from 0, if there is a 0.
        keypoints: K names.

    Returns:
        Pairs of indices from 0, and what is not a pair of the keypoints.
    """
    listed = [] if given is None else given if isinstance(given, list) else [given]
    pairs = [link if isinstance(link, list) and len(link) == 2 else [None, None] for link in listed]
    first = 0 if any(type(end) in (int, float) and end == 0 for pair in pairs for end in pair) else 1
    place = {name: number for number, name in enumerate(keypoints)}

    def find(end: Any) -> int | None:
        if isinstance(end, str) and end not in place and end.isascii() and end.isdecimal() and len(end) < 9:
            end = int(end)
        elif isinstance(end, str):
            return place.get(end)
        elif isinstance(end, float) and end.is_integer():
            end = int(end)
        return end - first if type(end) is int and first <= end < first + len(keypoints) else None

    found = [(find(start), find(end)) for start, end in pairs]
    links = [(start, end) for start, end in found if start is not None and end is not None]
    return links, [link for link, ends in zip(listed, found, strict=True) if None in ends]


def mirror_remarks(skeleton: Skeleton) -> list[str]:
    """That nothing is mirrored, if so, and what changes that."""
    if skeleton.mirrors:
        return []
    paired = any(place != other for place, other in enumerate(skeleton.swap))
    names = "some names" if paired else "no two keypoint names"
    why = "don't tell which keypoints mirror each other" if paired else "differ just in left and right"
    return [
        f"{names} of skeleton {skeleton.name!r} {why}, so nothing is mirrored, "
        "neither in training nor in tests (flip_test). Say which exchange their names in a mirror image with "
        "skeleton.swap_pairs=[[A,B],...], or that mirror images are fine and none do with skeleton.swap_pairs=[]"
    ]


def _sequence(value: Any, key: str, name: str) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise UserError(f"{key} of skeleton {name!r} must be a list, got {value!r}")
    return list(value)


def _numbers(values: Any, key: str, name: str) -> tuple[float, ...]:
    numbers = []
    for value in _sequence(values, key, name):
        try:
            numbers.append(math.nan if isinstance(value, (bool, str)) else float(value))
        except (TypeError, OverflowError):
            numbers.append(math.nan)
        if math.isnan(numbers[-1]):
            raise UserError(f"{key} of skeleton {name!r} must be numbers, one for each keypoint, got {value!r}")
    return tuple(numbers)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, (list, tuple)) else value


def _color(name: str, index: int, count: int) -> tuple[int, int, int]:
    """Warm on the right, cool on the left, green in the middle; neighbours differ in lightness."""
    lowered = name.lower()
    hue = 0.58 if lowered.startswith(("left", "l_")) else 0.06 if lowered.startswith(("right", "r_")) else 0.33
    if hue == 0.33 and count > 40:
        hue = index / count
    red, green, blue = colorsys.hsv_to_rgb(hue + 0.08 * (index % 5) / 5, 0.9, 1.0 - 0.2 * (index % 2))
    return round(red * 255), round(green * 255), round(blue * 255)
