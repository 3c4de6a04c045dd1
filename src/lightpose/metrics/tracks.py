"""How well people keep their identities over a video: HOTA, MOTA and IDF1, by TrackEval."""

import importlib
import logging
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from lightpose.data.coco.tracks import TrackFrame, in_regions
from lightpose.errors import UserError
from lightpose.structures import Array

log = logging.getLogger(__name__)

FIGURES = ("HOTA", "DetA", "AssA", "MOTA", "IDF1", "IDSW")
_ALIKE = 0.5
"""OKS of a pose that is taken for the labelled one, as in MOTA and IDF1."""


def evaluate_tracks(
    frames: Sequence[TrackFrame], predictions: Sequence[Mapping[str, Any]], sigmas: Sequence[float]
) -> dict[str, float]:
    """HOTA (arXiv:2009.07736), MOTA (CLEAR MOT), IDF1 (arXiv:1609.01775) and the number of identity switches.

    They rest on object keypoint similarity. HOTA, and its parts DetA and AssA, are means over similarities from 0.05 to
    0.95; the others are those at 0.5. Poses of different categories are never alike. A pose that resembles nobody and
    of which more than half lies in regions to ignore doesn't count. Poses without an identity (-1) are left out.

    Args:
        frames: what is labelled, in order, video by video.
        predictions: COCO results with ``track_id``.
        sigmas: K falloff constants.

    Raises:
        UserError: when TrackEval isn't installed, when nobody is labelled, for predictions without ``track_id``, for
            two of one in a frame, and for another number of keypoints.
    """
    metrics: Any = _library()
    if not any(len(frame.ids) for frame in frames):
        raise UserError("nobody is labelled in the annotations, so there are no tracks to compare with")
    found = _by_image(predictions, len(sigmas))
    scores = metrics.HOTA(), metrics.CLEAR({"PRINT_CONFIG": False}), metrics.Identity({"PRINT_CONFIG": False})
    results: list[dict[str, Any]] = [{} for _ in scores]
    for video, group in groupby(frames, key=lambda frame: frame.video):
        sequence = _sequence(list(group), found, np.array(sigmas, np.float64))
        for score, result in zip(scores, results, strict=True):
            result[video] = score.eval_sequence(sequence)
    hota, clear, identity = (score.combine_sequences(result) for score, result in zip(scores, results, strict=True))
    figures = {name: float(np.mean(hota[name])) for name in ("HOTA", "DetA", "AssA")}
    return figures | {"MOTA": float(clear["MOTA"]), "IDF1": float(identity["IDF1"]), "IDSW": float(clear["IDSW"])}


def similarity(frame: TrackFrame, keypoints: Array, category_ids: Array, sigmas: Array) -> Array:
    """(M, N): OKS of the labelled people of a frame and (N, K, 2) poses, 0 where categories differ."""
    squares = ((frame.keypoints[:, None] - keypoints.astype(np.float64)) ** 2).sum(-1)  # (M, N, K)
    labelled = (frame.visible > 0)[:, None]
    falloff = 2 * frame.areas.clip(1)[:, None, None] * (2 * sigmas) ** 2
    oks = (np.exp(-squares / falloff) * labelled).sum(-1) / labelled.sum(-1).clip(1)
    return np.where(frame.category_ids[:, None] == category_ids, oks, 0.0)


def _by_image(predictions: Sequence[Mapping[str, Any]], num_keypoints: int) -> dict[int, tuple[Array, Array, Array]]:
    """Image id → track ids (N,), categories (N,) and keypoints (N, K, 2)."""
    named = [entry for entry in predictions if type(entry.get("track_id")) is int and entry["track_id"] >= 0]
    if predictions and not named:
        raise UserError(
            "no pose of the predictions has a track_id, which says who it is; predict with a tracker, such as "
            "tracker=oks"
        )
    if len(named) < len(predictions):
        log.info("%d of %d poses have no identity, and are left out", len(predictions) - len(named), len(predictions))
    rows: dict[int, list[Mapping[str, Any]]] = {}
    for entry in named:
        if len(entry["keypoints"]) != 3 * num_keypoints:
            raise UserError(
                f"the predictions for image {entry['image_id']} have {len(entry['keypoints'])} numbers, expected "
                f"three for each of {num_keypoints} keypoints; choose the skeleton of the file"
            )
        rows.setdefault(entry["image_id"], []).append(entry)
    found = {}
    for image_id, entries in rows.items():
        ids = np.array([entry["track_id"] for entry in entries])
        if len(np.unique(ids)) < len(ids):
            raise UserError(f"two predictions for image {image_id} have one track_id; a person is in one place")
        points = np.array([entry["keypoints"] for entry in entries], np.float64).reshape(len(ids), -1, 3)[..., :2]
        found[image_id] = ids, np.array([entry["category_id"] for entry in entries]), points
    return found


def _sequence(
    frames: Sequence[TrackFrame], found: Mapping[int, tuple[Array, Array, Array]], sigmas: Array
) -> dict[str, Any]:
    """One video as TrackEval takes it, with ids from 0."""
    nobody = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, len(sigmas), 2))
    truth_ids, found_ids, similarities = [], [], []
    for frame in frames:
        ids, categories, points = found.get(frame.image_id, nobody)
        alike = similarity(frame, points, categories, sigmas)
        if frame.ignore and len(ids):
            ignored = in_regions(points, frame.ignore).mean(1) > 0.5
            kept = ~ignored | (alike >= _ALIKE).any(0)
            ids, alike = ids[kept], alike[:, kept]
        truth_ids.append(frame.ids)
        found_ids.append(ids)
        similarities.append(alike)
    sequence: dict[str, Any] = {"num_timesteps": len(frames), "similarity_scores": similarities}
    for name, singular, ids_of in (("gt_ids", "gt", truth_ids), ("tracker_ids", "tracker", found_ids)):
        known, places = np.unique(np.concatenate(ids_of), return_inverse=True)
        ends = np.cumsum([len(ids) for ids in ids_of])[:-1]
        sequence[name] = np.split(places, ends)
        sequence[f"num_{singular}_ids"], sequence[f"num_{singular}_dets"] = len(known), len(places)
    return sequence


def _library() -> Any:
    try:
        return importlib.import_module("trackeval.metrics")
    except ImportError as error:
        raise UserError(
            f"tracks are scored by the package trackeval, which can't be imported ({error}): pip install "
            '"lightpose[track]"'
        ) from error
