"""Files of COCO-WholeBody, which list feet, face and hands beside ``keypoints``: 133 keypoints in all."""

from collections.abc import Mapping, Sequence
from typing import Any

_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
PARTS: Mapping[str, list[str]] = {
    "foot_kpts": [f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel")],
    "face_kpts": [f"face_{number}" for number in range(68)],
    **{
        f"{side}hand_kpts": [f"{side}_hand_root", *(f"{side}_{f}{joint}" for f in _FINGERS for joint in range(1, 5))]
        for side in ("left", "right")
    },
}
"""List of an annotation → names of its keypoints, in the order in which they follow those of the body."""
_BODY = 17


def with_parts(
    categories: Sequence[dict[str, Any]], entries: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The same categories and annotations with all keypoints in ``keypoints``, if the file is one of COCO-WholeBody.

    Args:
        categories: those with keypoints.
        entries: of ``annotations``. A list that an annotation lacks, or that has another length, is not labelled.
    """
    bodies = {len(category.get("keypoints", ())) for category in categories}
    if bodies != {_BODY} or not all(any(_is_list(entry, key) for entry in entries) for key in PARTS):
        return list(categories), list(entries)
    names = [name for part in PARTS.values() for name in part]
    return (
        [{**category, "keypoints": [*category["keypoints"], *names]} for category in categories],
        [_joined(entry) for entry in entries],
    )


def _is_list(entry: Mapping[str, Any], key: str) -> bool:
    return isinstance(entry.get(key), list) and len(entry[key]) == 3 * len(PARTS[key])


def _joined(entry: dict[str, Any]) -> dict[str, Any]:
    body = entry.get("keypoints")
    if not isinstance(body, list) or len(body) != 3 * _BODY:
        return entry  # counted as damaged
    parts = [entry[key] if _is_list(entry, key) else [0] * (3 * len(names)) for key, names in PARTS.items()]
    rest = {key: value for key, value in entry.items() if key not in PARTS}
    return {**rest, "keypoints": [number for part in (body, *parts) for number in part]}
