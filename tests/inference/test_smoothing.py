"""Smoothing takes noise away, keeps what moves, says how late it is, and takes what tracks really look like."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import savgol_filter

from lightpose.cli.predict import main
from lightpose.data.coco.results import read_coco_results
from lightpose.errors import UserError
from lightpose.inference.frames import Frame
from lightpose.inference.smoothing import OneEuro, SavitzkyGolay
from lightpose.structures import Poses

RATE = 30.0


def walk(count=300, keypoints=5, dims=2, noise=3.0, seed=0):
    """Times, truth and noisy keypoints (T, K, D) of somebody who walks and waves."""
    rng = np.random.default_rng(seed)
    times = np.arange(count) / RATE
    phases = rng.uniform(0, 6, (keypoints, dims))
    truth = 100 + 40 * times[:, None, None] + 30 * np.sin(2 * times[:, None, None] + phases)
    return times, truth, truth + rng.normal(0, noise, truth.shape)


def frames(times, points, scores=None, tracks=None, numbers=None):
    """Results of one person or, with ``tracks`` (T, N), of several with keypoints (T, N, K, D)."""
    points = points[:, None] if tracks is None else points
    for row, time in enumerate(times):
        here = np.isfinite(points[row]).all((1, 2))
        found = points[row][here].astype(np.float32)
        certain = np.ones(found.shape[:2], np.float32) if scores is None else scores[row][here].astype(np.float32)
        poses = Poses(found, certain, np.ones(len(found)), np.zeros(len(found), np.int64))
        if tracks is not None:
            poses = replace(poses, track_ids=np.asarray(tracks[row])[here])
        number = row + 1 if numbers is None else int(numbers[row])
        yield Frame(f"f{number}", np.zeros((2, 2, 3), np.uint8), number, time_s=float(time)), poses


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


@pytest.mark.parametrize(("smoother", "share"), [(OneEuro(min_cutoff=2, beta=0.05), 0.9), (SavitzkyGolay(15, 2), 0.5)])
def test_noise_becomes_less(smoother, share):
    times, truth, noisy = walk()
    made, scores = smoother.arrays(noisy, times)
    assert rms(made - truth) < share * rms(noisy - truth)
    assert (scores == 1).all()
    rest = np.zeros_like(truth)
    made, _ = smoother.arrays(noisy - truth, times)
    assert rms(made[30:] - rest[30:]) < 0.75 * rms(noisy - truth)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("keypoints", [1, 17])
def test_at_a_steady_rate_it_is_the_filter_of_savitzky_and_golay(keypoints, dims):
    times, _, noisy = walk(60, keypoints, dims)
    made, _ = SavitzkyGolay(9, 3).arrays(noisy, times)
    np.testing.assert_allclose(made[4:-4], savgol_filter(noisy, 9, 3, axis=0)[4:-4], atol=1e-6)
    ends = np.polynomial.polynomial.polyfit(times[:5] - times[0], noisy[:5].reshape(5, -1), 3)
    np.testing.assert_allclose(made[0].ravel(), ends[0], atol=1e-6)


def test_polynomials_pass_unchanged_also_at_a_rate_that_varies_and_with_short_gaps_of_lines():
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.1, 50))
    square = np.stack([3 + 20 * times**2, 5 - 7 * times], -1)[:, None]
    made, _ = SavitzkyGolay(9, 2).arrays(square, times)
    np.testing.assert_allclose(made, square, atol=1e-6)
    line = np.stack([3 + 20 * times, 5 - 7 * times], -1)[:, None].repeat(2, 1)
    holes = line.copy()
    holes[10:15, 0] = np.nan
    holes[30, 1] = np.nan
    made, _ = SavitzkyGolay(9, 2).arrays(holes, times)
    np.testing.assert_allclose(made, line, atol=1e-6)


def expected_one_euro(values, times, min_cutoff, beta, d_cutoff):
    """The published filter, one number at a time."""

    def alpha(cutoff, elapsed):
        return 1 / (1 + 1 / (2 * np.pi * cutoff * elapsed))

    made, speed = [values[0]], 0.0
    for before, value, elapsed in zip(values, values[1:], np.diff(times), strict=False):
        a = alpha(d_cutoff, elapsed)
        speed = a * (value - before) / elapsed + (1 - a) * speed
        a = alpha(min_cutoff + beta * abs(speed), elapsed)
        made.append(a * value + (1 - a) * made[-1])
    return made


def test_one_euro_is_the_published_filter_also_at_a_rate_that_varies():
    _, _, noisy = walk(80, 2, 2)
    times = np.cumsum(np.random.default_rng(1).uniform(0.01, 0.1, 80))
    made, _ = OneEuro(1.5, 0.02, 0.7).arrays(noisy, times)
    for point in range(2):
        for axis in range(2):
            expected = expected_one_euro(noisy[:, point, axis], times, 1.5, 0.02, 0.7)
            np.testing.assert_allclose(made[:, point, axis], expected, atol=1e-9)


@pytest.mark.parametrize(
    ("speed", "min_cutoff", "beta"), [(0.0, 1, 0.01), (60, 1, 0.01), (300, 0.5, 0.0), (300, 2, 0.1)]
)
def test_one_euro_lags_on_a_ramp_as_its_formula_says(speed, min_cutoff, beta):
    times = np.arange(900) / RATE
    ramp = (speed * times)[:, None, None]
    made, _ = OneEuro(min_cutoff, beta).arrays(ramp, times)
    lag_px = float((ramp - made)[-1, 0, 0])
    assert lag_px == pytest.approx(speed / (2 * np.pi * (min_cutoff + beta * speed)), rel=1e-3, abs=1e-6)


def test_savitzky_golay_lags_not_at_all():
    times, truth, _ = walk(100)
    made, _ = SavitzkyGolay(9, 2).arrays(truth, times)
    assert np.abs(made - truth)[4:-4].max() < 0.1


@pytest.mark.parametrize("smoother", [OneEuro(longest_gap=3), SavitzkyGolay(7, 2, longest_gap=3)])
def test_gaps_are_filled_up_to_a_length_and_longer_ones_are_left(smoother):
    times, truth, noisy = walk(60, 3)
    scores = np.full((60, 3), 0.8)
    given = noisy.copy()
    for start, length in ((10, 3), (30, 4)):
        scores[start : start + length, 1] = 0.1
        given[start : start + length, 1] = 1e4
    made, sure = smoother.arrays(given, times, scores)
    assert np.abs(made - truth)[10:13].max() < 25
    assert (sure[10:13] == 0.8).all()
    np.testing.assert_array_equal(made[33, 1], 1e4)
    assert sure[33, 1] == 0.1
    others = np.ones((60, 3), bool)
    others[30:34, 1] = False
    assert np.abs(made - truth)[others].max() < 25
    if isinstance(smoother, SavitzkyGolay):  # it knows before how long a gap is
        np.testing.assert_array_equal(made[30:34, 1], 1e4)


@pytest.mark.parametrize("smoother", [OneEuro(longest_gap=2), SavitzkyGolay(7, 2, longest_gap=2)])
def test_frame_by_frame_it_is_the_same_as_at_once(smoother):
    rng = np.random.default_rng(3)
    times, _, noisy = walk(60, 3)
    times = np.cumsum(rng.uniform(0.01, 0.1, 60))
    scores = np.where(rng.random((60, 3)) < 0.25, 0.1, 0.9)
    noisy[rng.random(60) < 0.15] = np.nan  # nobody is there
    noisy[20:26] = np.nan
    here = np.isfinite(noisy).all((1, 2))
    numbers = np.arange(60) + 10 * (np.arange(60) >= 40)
    if isinstance(smoother, SavitzkyGolay):
        expected, sure = smoother.arrays(noisy.astype(np.float32), times, scores.astype(np.float32), numbers)
    else:
        expected, sure = smoother.arrays(noisy.astype(np.float32), times, scores.astype(np.float32))
    streamed = list(smoother(frames(times, noisy, scores[:, None], numbers=numbers)))
    assert [frame.image_id for frame, _ in streamed] == numbers.tolist()
    assert [len(poses) for _, poses in streamed] == here.astype(int).tolist()
    for row, (_, poses) in enumerate(streamed):
        if here[row]:
            np.testing.assert_allclose(poses.keypoints[0], expected[row], rtol=1e-5)
            np.testing.assert_allclose(poses.keypoint_scores[0], sure[row], rtol=1e-5)


@pytest.mark.parametrize("smoother", [OneEuro(), SavitzkyGolay()])
def test_people_are_told_apart_by_their_ids_whatever_their_order(smoother):
    times, _, one = walk(40, 2, seed=1)
    _, _, two = walk(40, 2, seed=2)
    two += 500
    swapped = np.arange(40) % 3 == 0
    points = np.where(swapped[:, None, None, None], np.stack([two, one], 1), np.stack([one, two], 1))
    tracks = np.where(swapped[:, None], [[9, 4]], [[4, 9]])
    expected = {track: smoother.arrays(each.astype(np.float32), times)[0] for track, each in ((4, one), (9, two))}
    for row, (_, poses) in enumerate(smoother(frames(times, points, tracks=tracks))):
        assert poses.track_ids.tolist() == tracks[row].tolist()
        for place, track in enumerate(poses.track_ids.tolist()):
            np.testing.assert_allclose(poses.keypoints[place], expected[track][row], rtol=1e-5)
    for (_, poses), given in zip(smoother(frames(times, points, tracks=tracks * 0 - 1)), points, strict=True):
        np.testing.assert_array_equal(poses.keypoints, given.astype(np.float32))  # who isn't known yet


@pytest.mark.parametrize("smoother", [OneEuro(), SavitzkyGolay()])
def test_two_people_without_ids_are_refused_with_what_helps(smoother):
    times, _, one = walk(5, 2)
    results = [
        (frame, replace(poses, track_ids=None))
        for frame, poses in frames(times, np.stack([one, one], 1), tracks=np.zeros((5, 2), int))
    ]
    with pytest.raises(UserError, match=r"f1 shows 2 people.*choose tracker="):
        list(smoother(results))
    frame, poses = results[0]
    with pytest.raises(UserError, match="has no time"):
        list(smoother([(replace(frame, time_s=None), poses.select([0]))]))


@pytest.mark.parametrize("smoother", [OneEuro(), SavitzkyGolay(window=5, longest_gap=3)])
def test_as_few_frames_wait_as_is_said(smoother):
    times, _, noisy = walk(50, 2)
    taken = 0

    def counted():
        nonlocal taken
        for result in frames(times, noisy):
            taken += 1
            yield result

    waited = [taken - frame.image_id for frame, _ in smoother(counted())]
    assert max(waited) == (0 if isinstance(smoother, OneEuro) else 5)
    assert list(smoother([])) == []


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (OneEuro, {"min_cutoff": 0}, "smoothing.min_cutoff=0 must be over 0"),
        (OneEuro, {"beta": -1}, "smoothing.beta=-1"),
        (SavitzkyGolay, {"window": 8}, "smoothing.window=8 must be an odd number"),
        (SavitzkyGolay, {"window": 5, "order": 3}, "order=3 must be from 0 to 2"),
        (SavitzkyGolay, {"longest_gap": -1}, "smoothing.longest_gap=-1"),
    ],
)
def test_options_that_make_no_sense_are_refused(kind, options, message):
    with pytest.raises(UserError, match=message):
        kind(**options)


def test_the_command_smooths_a_video_and_refuses_pictures(run, checkpoint, video, folder, tmp_path):
    def predicted(*options):
        arguments = [f"ckpt={checkpoint}", "device=cpu", f"out={tmp_path / 'out'}", "draw=false", *options]
        code, _, err = run(main, *arguments)
        if code:
            return err
        return np.array([each["keypoints"] for each in read_coco_results(tmp_path / "out" / "predictions.json")])

    plain = predicted(f"source={video}").reshape(40, 3, 3)
    made = predicted(f"source={video}", "smoothing=savgol", "smoothing.window=5", "smoothing.threshold=-1000000")
    times = np.arange(40) / 12
    expected, _ = SavitzkyGolay(5).arrays(plain[..., :2], times)
    np.testing.assert_allclose(made.reshape(40, 3, 3)[..., :2], expected, atol=0.01)
    assert "smoothing= is for the frames of a video" in predicted(f"source={folder}", "smoothing=one_euro")
    wrong = predicted(f"source={video}", "smoothing=savgol", "smoothing.window=4")
    assert "smoothing.window=4 must be an odd number" in wrong
    assert "did you mean smoothing.window" in predicted(f"source={video}", "smoothing=savgol", "smoothing.windwo=5")
