"""Who is who over the frames of a video, with people made of the keypoints of a small skeleton."""

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from lightpose.errors import UserError
from lightpose.inference.frames import Frame
from lightpose.inference.tracking.base import boxes_of, tracked
from lightpose.inference.tracking.boxes import BoxTracker
from lightpose.inference.tracking.oks import OKSTracker
from lightpose.inference.tracking.single import SingleTracker
from lightpose.inference.tracking.tails import Tails
from lightpose.skeleton import Skeleton
from lightpose.structures import Poses

FPS = 25.0
SHAPE = np.array([[0, -40], [-8, -20], [8, -20], [-6, 0], [6, 0], [-7, 40], [7, 40]], float)
SKELETON = Skeleton.build([f"p{number}" for number in range(len(SHAPE))])
METHODS = ("bytetrack", "ocsort", "botsort")


def poses(places, scores=None, shape=SHAPE, boxes=True, categories=None):
    """People at these (x, y), each of the same shape."""
    places = np.asarray(places, float).reshape(-1, 2)
    points = (places[:, None] + shape).astype(np.float32)
    count = len(points)
    scores = np.ones(count, np.float32) if scores is None else np.asarray(scores, np.float32)
    around = np.concatenate([points.min(1, initial=1e9) - 5, points.max(1, initial=-1e9) + 5], -1)
    return Poses(
        keypoints=points,
        keypoint_scores=np.ones(points.shape[:2], np.float32),
        scores=scores,
        batch_index=np.zeros(count, np.int64),
        boxes_xyxy=around if boxes else None,
        box_scores=scores if boxes else None,
        categories=None if categories is None else np.asarray(categories),
    )


def trackers():
    yield pytest.param(lambda: OKSTracker(SKELETON, FPS), id="oks")
    for method in METHODS:
        yield pytest.param(lambda method=method: BoxTracker(SKELETON, FPS, method), id=method)


@pytest.fixture(params=trackers())
def tracker(request):
    if request.node.callspec.id != "oks":
        pytest.importorskip("trackers")
    return request.param()


def follow(tracker, frames, image=None):
    """Ids of every frame; ``frames`` are number and poses."""
    found = [tracker(each, number / FPS, image).track_ids for number, each in frames]
    for ids, (_, each) in zip(found, frames, strict=True):
        assert ids.dtype == np.int64 and len(ids) == len(each)
        known = ids[ids >= 0]
        assert (known > 0).all() and len(set(known.tolist())) == len(known)
    return [ids.tolist() for ids in found]


def test_people_who_walk_apart_keep_their_ids_in_any_order(tracker):
    rng, orders, frames = np.random.default_rng(0), [], []
    for number in range(40):
        places = np.array([[50 + 2 * number, 100], [300 - number, 120], [180, 60 + number]])
        orders.append(rng.permutation(3))
        frames.append((number + 1, poses(places[orders[-1]])))
    found = zip(follow(tracker, frames), orders, strict=True)
    ids = [np.array(each)[np.argsort(order)].tolist() for each, order in found]
    assert sorted(ids[-1]) == [1, 2, 3]
    assert all(each == ids[-1] for each in ids[3:])


@pytest.mark.parametrize("kind", ["oks", *METHODS])
def test_frames_far_apart_in_time_are_still_frames_in_a_row(kind):
    if kind != "oks":
        pytest.importorskip("trackers")
    tracker = OKSTracker(SKELETON, 0.1) if kind == "oks" else BoxTracker(SKELETON, 0.1, kind)
    found = [tracker(poses([[50 + number, 100]]), 10.0 * number).track_ids.tolist() for number in range(6)]
    assert found[3:] == [[1]] * 3


def test_empty_frames_one_frame_and_gaps_in_the_numbers(tracker):
    assert follow(tracker, [(1, poses([]))]) == [[]]
    numbers = [2, 3, 4, 5, 9, 10, 18, 19]
    ids = follow(tracker, [(number, poses([[100 + number, 100]])) for number in numbers])
    assert ids[-1] == ids[3] == [1]
    later = [(20, poses([])), *((number, poses([[100 + number, 100]])) for number in range(21, 25))]
    assert follow(tracker, later)[-1] == [1]


def test_nobody_has_an_identity_who_is_seen_once(tracker):
    steady = [100.0, 100]
    frames = [(number, poses([steady])) for number in range(1, 8)]
    frames.insert(4, (4.5, poses([steady, [300, 100]])))
    ids = follow(tracker, frames)
    assert ids[4] == [1, -1]


def test_categories_are_never_joined(tracker):
    frames = [(number, poses([[100, 100]], categories=[0])) for number in range(1, 6)]
    frames += [(number, poses([[100, 100]], categories=[1])) for number in range(6, 12)]
    ids = follow(tracker, frames)
    assert ids[4] == [1] and ids[-1] == [2]


def test_two_hundred_people_in_a_frame_take_no_second(tracker):
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 3000, (200, 2))
    start = time.perf_counter()
    ids = follow(tracker, [(number, poses(places + number)) for number in range(1, 6)])
    assert (time.perf_counter() - start) / 5 < 1
    assert len(set(ids[-1])) > 190 and ids[-1] == ids[-2]


def test_a_pose_without_place_is_nobody(tracker):
    lost = poses([[100, 100], [200, 100]])
    lost.keypoints[1], lost.boxes_xyxy[1] = np.nan, np.nan
    lost.keypoint_scores[1] = 0
    ids = follow(tracker, [(number, lost) for number in range(1, 6)])
    assert ids[-1] == [1, -1]


@pytest.mark.parametrize("count", [1, 2, 133])
@pytest.mark.parametrize("boxes", [True, False])
def test_any_number_of_keypoints(count, boxes):
    shape = np.random.default_rng(0).uniform(-20, 20, (count, 2))
    tracker = OKSTracker(Skeleton.build([f"p{number}" for number in range(count)]), FPS)
    frames = [(n, poses([[100 + n, 50], [160 - n, 50]], shape=shape, boxes=boxes)) for n in range(1, 10)]
    assert follow(tracker, frames)[-1] == [1, 2]


def test_who_crosses_keeps_the_id_though_hidden_meanwhile():
    tracker = OKSTracker(SKELETON, FPS)
    frames = []
    for number in range(1, 60):
        left, right = [40 + 3.0 * number, 100], [220 - 3.0 * number, 104]
        hidden = abs(left[0] - right[0]) < 24
        frames.append((number, poses([left] if hidden else [left, right])))
    ids = follow(tracker, frames)
    assert any(len(each) == 1 for each in ids)
    assert ids[0] == ids[-1] == [1, 2]


@pytest.mark.parametrize(("away_s", "expected"), [(2.5, 1), (3.5, 2)])
def test_who_comes_back_in_time_keeps_the_id(away_s, expected):
    tracker = OKSTracker(SKELETON, FPS, keep_s=3.0)
    ids = follow(tracker, [(number, poses([[60 - number, 100]])) for number in range(1, 40)])
    back = 39 + round(away_s * FPS)
    ids = follow(tracker, [(back + number, poses([[21 + number, 100]])) for number in range(4)])
    assert ids[-1] == [expected]


def test_poses_of_low_score_begin_no_track_but_continue_one():
    tracker = OKSTracker(SKELETON, FPS)
    ids = follow(tracker, [(number, poses([[100, 100], [300, 100]], [0.9, 0.1])) for number in range(1, 9)])
    assert ids[-1] == [1, -1]
    assert follow(tracker, [(9, poses([[100, 100]], [0.1]))]) == [[1]]


def test_the_single_animal_is_the_best_pose_of_each_frame():
    tracker = SingleTracker(SKELETON, FPS)
    assert follow(tracker, [(1, poses([])), (2, poses([[0, 0], [900, 0]], [0.2, 0.6])), (9, poses([[5, 5]]))]) == [
        [],
        [-1, 1],
        [1],
    ]


def test_results_get_their_ids_and_each_folder_of_files_is_a_video():
    here, there = poses([[100, 100]]), poses([[105, 100]])
    names = [("a/1.jpg", 7), ("a/2.jpg", 70), ("b/1.jpg", 700), ("b/2.jpg", 7000)]
    frames = [Frame(name, Path(name), number) for name, number in names]
    results = zip(frames, [here, there] * 2, strict=True)
    found = [each.track_ids.tolist() for _, each in tracked(results, partial(OKSTracker, SKELETON, FPS), FPS, True)]
    assert found == [[1], [1], [2], [2]]


def test_boxes_are_those_of_the_poses_or_else_around_the_scored_keypoints():
    given = poses([[100, 100], [200, 100]])
    given.boxes_xyxy[1] = np.nan
    given.keypoint_scores[1, 5:] = 0
    assert boxes_of(given).tolist() == [[87, 55, 113, 145], [192, 60, 208, 100]]


def test_a_tail_ends_where_somebody_is_and_is_forgotten():
    tails = Tails(frames=3, threshold=0.5)
    for number in range(1, 6):
        found = tails(number, OKSTracker(SKELETON, FPS)(poses([[number, 0]]), 0.0))
    assert found[1][:, 0].tolist() == pytest.approx([3, 4, 5], abs=1)
    assert tails(8, poses([])) == {}


def test_a_tracker_that_cant_be_is_refused(monkeypatch):
    with pytest.raises(UserError, match="bytetrack, ocsort, botsort"):
        BoxTracker(SKELETON, FPS, "sort")
    pytest.importorskip("trackers")
    with pytest.raises(UserError, match=r"tracker\.options"):
        BoxTracker(SKELETON, FPS, "ocsort", options={"minimum_iuo": 1})
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(UserError, match=r"lightpose\[track\]"):
        BoxTracker(SKELETON, FPS, "ocsort")
