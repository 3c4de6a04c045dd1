"""Poses on pixels."""

import colorsys
import math
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from lightpose.skeleton import Skeleton
from lightpose.structures import Array

_SHIFT = 4  # fractional bits of the coordinates that OpenCV gets


def draw_poses(
    image: Array,
    keypoints: Array,
    scores: Array,
    skeleton: Skeleton,
    boxes_xyxy: Array | None = None,
    threshold: float = 0.3,
    names: bool = False,
    visibility: Array | None = None,
    track_ids: Array | None = None,
    tails: Mapping[int, Array] | None = None,
) -> Array:
    """A copy of the picture with the poses on it.

    A keypoint at or over the threshold is a filled disc, one below it a hollow ring; one that isn't finite or whose
    score isn't positive is left out. A found keypoint that is more likely hidden than visible is black
    inside. A link is drawn where both ends reach the threshold, each half in its keypoint's colour; where it is known
    who it is, links, box and number have the colour of the identity. Sizes follow the pose and the picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        keypoints: (N, K, 2) image px, inside the picture or not.
        scores: (N, K); for labels, ``v / 2`` with a threshold of 0.75 shows the hidden ones hollow.
        skeleton: K names, links and colours.
        boxes_xyxy: (N, 4) image px, drawn as frames.
        threshold: the least score of a keypoint to count as found.
        names: also write each found keypoint's name.
        visibility: (N, K) probability that a keypoint can be seen, where that was predicted.
        track_ids: (N,) who it is, -1 where that isn't known.
        tails: track id → (P, 2) image px, the way there.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = np.ascontiguousarray(image).copy()
    limit = 4 * max(canvas.shape[:2])  # OpenCV draws nothing, or nonsense, for coordinates past its integers
    with np.errstate(invalid="ignore"):
        drawable = np.isfinite(keypoints).all(-1) & (np.abs(keypoints) < limit).all(-1) & (scores > 0)
    for track_id, places in (tails or {}).items():
        way = np.round(places[np.abs(places).max(1) < limit] * (1 << _SHIFT)).astype(np.int32)
        width = _width(_unit_px(places[:0], canvas.shape[:2]))
        cv2.polylines(canvas, [way], False, identity_color(track_id), width, cv2.LINE_AA, _SHIFT)
    for pose, (points, drawn) in enumerate(zip(keypoints, drawable, strict=True)):
        unit = _unit_px(points[drawn], canvas.shape[:2])
        own = None if track_ids is None or track_ids[pose] < 0 else identity_color(int(track_ids[pose]))
        if boxes_xyxy is not None and np.isfinite(boxes_xyxy[pose]).all():
            low, high = boxes_xyxy[pose].clip(-limit, limit).reshape(2, 2)
            frame = own or (255, 255, 255)
            cv2.rectangle(canvas, _fixed(low), _fixed(high), frame, _width(0.4 * unit), cv2.LINE_AA, _SHIFT)
        found = drawn & (scores[pose] >= threshold)
        for start, end in skeleton.links:
            if found[start] and found[end]:
                middle = (points[start] + points[end]) / 2
                for index in (start, end):
                    ends = _fixed(points[index]), _fixed(middle)
                    cv2.line(canvas, *ends, own or skeleton.colors[index], _width(unit), cv2.LINE_AA, _SHIFT)
        for index in np.flatnonzero(drawn).tolist():
            hidden = visibility is not None and bool(visibility[pose, index] < 0.5)
            _mark(canvas, points[index], unit, skeleton.colors[index], bool(found[index]), hidden)
        if names:
            labels = [skeleton.keypoints[index] for index in np.flatnonzero(found)]
            _write_names(canvas, points[found], labels, unit)
        if own is not None and track_ids is not None and drawn.any():
            _write_number(canvas, points[drawn].min(0) - 2 * unit, str(track_ids[pose]), unit, own)
    return canvas


def identity_color(track_id: int) -> tuple[int, int, int]:
    """RGB; ids that follow each other look as different as can be."""
    red, green, blue = colorsys.hsv_to_rgb(track_id * 0.618034 % 1, 0.8, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def grid(images: Sequence[Array], columns: int) -> Array:
    """Equally sized (H, W, 3) pictures as tiles, row by row; black where the last row isn't full."""
    rows = math.ceil(len(images) / columns)
    height, width, channels = images[0].shape
    tiles = np.zeros((rows * columns, height, width, channels), images[0].dtype)
    tiles[: len(images)] = images
    tiled = tiles.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return tiled.reshape(rows * height, columns * width, channels)


def _unit_px(points: Array, image_hw: tuple[int, ...]) -> float:
    """Thickness of a link for a pose of (N, 2) points: a share of its extent, within what is legible on the picture."""
    least = max(max(image_hw) / 640, 1.0)
    extent = float(np.ptp(points, axis=0).max()) if len(points) else 0.0
    crowding = min(1.0, math.sqrt(17 / max(len(points), 1)))  # the more keypoints, the smaller their marks
    return float(np.clip(extent / 80 * crowding, least, 3 * least))


def _width(px: float) -> int:
    return max(1, round(px))


def _fixed(point: Array) -> tuple[int, int]:
    """A point as OpenCV's fixed-point integers."""
    x, y = np.round(point * (1 << _SHIFT)).astype(int).tolist()
    return x, y


def _mark(canvas: Array, point: Array, unit: float, color: tuple[int, int, int], found: bool, hidden: bool) -> None:
    radius = round(max(1.5 * unit, 2.0) * (1 << _SHIFT))
    if found:
        cv2.circle(canvas, _fixed(point), radius + (1 << _SHIFT) // 2, (0, 0, 0), -1, cv2.LINE_AA, _SHIFT)
        cv2.circle(canvas, _fixed(point), radius, color, -1, cv2.LINE_AA, _SHIFT)
        if hidden:
            cv2.circle(canvas, _fixed(point), round(0.6 * radius), (0, 0, 0), -1, cv2.LINE_AA, _SHIFT)
    else:
        cv2.circle(canvas, _fixed(point), radius, color, _width(0.5 * unit), cv2.LINE_AA, _SHIFT)


def _write_number(canvas: Array, place: Array, number: str, unit: float, color: tuple[int, int, int]) -> None:
    """In its colour on black, with the lower left corner at a (2,) point, or the nearest in the picture."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45 + 0.1 * unit
    (width, height), _ = cv2.getTextSize(number, font, scale, 2)
    x, y = place.clip((0, height), (max(canvas.shape[1] - width, 0), canvas.shape[0])).astype(int).tolist()
    cv2.putText(canvas, number, (x, y), font, scale, (0, 0, 0), 4, cv2.LINE_AA)
    cv2.putText(canvas, number, (x, y), font, scale, color, 2, cv2.LINE_AA)


def _write_names(canvas: Array, points: Array, names: Sequence[str], unit: float) -> None:
    """Each name beside its (N, 2) point, lowered until it covers none written before."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.32 + 0.04 * unit
    taken: list[tuple[int, int, int, int]] = []
    for (x, y), name in sorted(
        zip((points + 2 * unit).astype(int).tolist(), names, strict=True), key=lambda item: item[0][1]
    ):
        (width, height), descent = cv2.getTextSize(name, font, scale, 1)
        while any(x < right and left < x + width and y - height < low and high < y for left, high, right, low in taken):
            y += 1
        taken.append((x, y - height, x + width, y + descent // 2))
        for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            cv2.putText(canvas, name, (x + dx, y + dy), font, scale, (0, 0, 0), 1, cv2.LINE_AA)
        cv2.putText(canvas, name, (x, y), font, scale, (255, 255, 255), 1, cv2.LINE_AA)
