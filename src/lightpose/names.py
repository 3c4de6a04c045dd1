"""Names of keypoints: which mean the same, and which are left and right of the same."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from lightpose.errors import UserError


def match(names: Sequence[str], keypoints: Sequence[str], renames: Mapping[str, str] | None = None) -> list[int]:
    """The keypoint that each of other names means: one of that name, or one that is spelled otherwise.

    ``left_shoulder``, ``Left Shoulder``, ``leftShoulder`` and ``L_shoulder`` are one name, unless a list has two such.

    Args:
        names: to look up.
        keypoints: K names.
        renames: other name → keypoint.

    Returns:
        A position in ``keypoints`` for each name, and -1 for none.

    Raises:
        UserError: when two names mean one keypoint.
    """
    known = {name: place for place, name in enumerate(keypoints)}
    spelled = {_folded(other): name for other, name in (renames or {}).items()}
    meant = [spelled.get(_folded(name), name) for name in names]
    times = Counter(map(_folded, keypoints)), Counter(map(_folded, meant))
    loose = {_folded(name): place for place, name in enumerate(keypoints) if times[0][_folded(name)] == 1}
    found = [known.get(name, loose.get(_folded(name), -1) if times[1][_folded(name)] == 1 else -1) for name in meant]
    twice = [place for place, count in Counter(found).items() if place >= 0 and count > 1]
    if twice:
        both = " and ".join(name for name, place in zip(names, found, strict=True) if place == twice[0])
        raise UserError(f"{both} would both be the keypoint {keypoints[twice[0]]}; rename one of them alone")
    return found


def _folded(name: str) -> str:
    """A name without what differs between spellings: case, separators, and l or r for a side."""
    words = re.findall(r"[^\W\d_]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold())
    return " ".join({"l": "left", "r": "right"}.get(word, word) for word in words) or name


def joined_names(
    lists: Sequence[Sequence[str]], renames: Mapping[str, str] | None = None
) -> tuple[list[str], list[list[int]]]:
    """All names of several lists, joined by `match`, in the order of their first list; and the place of each list's."""
    every: list[str] = []
    places: dict[tuple[str, ...], list[int]] = {}
    spelled = {_folded(other): name for other, name in (renames or {}).items()}
    for names in dict.fromkeys(map(tuple, lists)):
        found = match(names, every, renames)
        for row, name in enumerate(names):
            if found[row] < 0:
                found[row] = len(every)
                every.append(spelled.get(_folded(name), name))
        places[names] = found
    return every, [places[tuple(names)] for names in lists]


_WORDS = (
    *(("left", "right"), ("link", "recht"), ("gauche", "droite"), ("gauche", "droit"), ("izquierd", "derech")),
    *(("izq", "der"), ("sinistr", "destr"), ("esquerd", "direit"), ("左", "右")),
)
"""Left and right in English, German and Dutch, French, Spanish, Italian, Portuguese, Chinese and Japanese: stems."""
_LETTERS = (
    (r"(?<![A-Za-z])l(?![A-Za-z])", "r"),  # l_eye, paw_l_top, eye.l, l1
    (r"(?<![A-Za-z])L(?![A-Za-z])", "R"),  # L_eye, paw_L_top, L1
    (r"(?<=[a-z])L(?![A-Za-z])", "R"),  # EyeL, legL1, eyeL_top
    (r"(?<![A-Z])L(?=[A-Z])", "R"),  # LEye, LH, paw1LH_top, LSHO
    (r"(?<![A-Z])([A-Z])L(?![A-Z]{2})", r"\1R"),  # FL, pawHL, FLPaw
    (r"(?<![A-Za-z])l(?=[fmhbr](?![A-Za-z]))", "r"),  # paw_lf: front, middle, hind, back, rear
    (r"(?<![A-Za-z])([fmhbr])l(?![A-Za-z])", r"\1r"),  # paw_fl
)
"""Patterns of a letter for left, and what makes the name of the right of it."""


def infer_swap_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of names, left and right, that differ in nothing but the word or the letter for the side.

    Words may stand anywhere in a name and in any case. A letter counts where it stands alone, where a change of case
    sets it off, or in a code such as LH and RH (left and right hind). A name that would be in two pairs is in none.
    """

    def other_side(name: str) -> set[str]:
        folded = name.strip().casefold()
        words = {place[folded.replace(left, right)] for left, right in _WORDS if folded.replace(left, right) in place}
        letters = {re.sub(pattern, right, name.strip()) for pattern, right in _LETTERS}
        return (words | {known[letter] for letter in letters & known.keys()}) - {name}

    known = {name.strip(): name for name in names}
    place = {name.strip().casefold(): name for name in names}
    found = [(name, right) for name in names for right in sorted(other_side(name))]
    times = Counter(name for pair in found for name in pair)
    return [pair for pair in found if times[pair[0]] == times[pair[1]] == 1]
