"""Which frames are worth labelling: doubtful ones, jumps, and no two alike."""

import json

import numpy as np
import pytest
from tiny_checkpoint import SKELETON

from lightpose.cli import data
from lightpose.data.coco.index import read_coco
from lightpose.data.pixels.decode import read_image
from lightpose.inference.frames import Frame
from lightpose.inference.predictor import Predictor
from lightpose.inference.sources import open_source
from lightpose.inference.suggest import Impressions, at_less_sure, choose, jumps, outliers, sureness
from lightpose.structures import Poses


def poses(points=(), scores=(), track_ids=None) -> Poses:
    """People of three keypoints around each point, 10 px wide."""
    count = len(points)
    corners = np.array([[-5, 0], [5, 0], [0, 5]], np.float32)
    keypoints = np.asarray(points, np.float32).reshape(count, 1, 2) + corners
    keypoint_scores = np.repeat(np.asarray(scores or [0.9] * count, np.float32)[:, None], 3, 1)
    ids = None if track_ids is None else np.array(track_ids)
    return Poses(keypoints, keypoint_scores, keypoint_scores.mean(-1), np.zeros(count, np.int64), track_ids=ids)


def test_one_is_taken_of_each_look_and_it_is_the_least_sure():
    rng = np.random.default_rng(0)
    look = np.repeat(np.arange(10), 20)
    features = np.eye(10)[look] + rng.normal(0, 0.01, (200, 10))
    sure = rng.uniform(0.5, 1.0, 200)
    hard = np.flatnonzero(np.isin(look, [1, 4, 7]))
    sure[hard] -= 0.45
    rows, by_jump = choose(sure, np.zeros(200), features, 3)
    first = np.argsort(sure)[:9]  # of which three are chosen
    assert len({*look[first]}) == 3
    assert len(rows) == 3 and set(rows) <= {*hard} and not by_jump.any()
    assert {*look[rows]} == {1, 4, 7}
    for row in rows:
        assert sure[row] == sure[look == look[row]].min()


def test_a_kind_that_the_model_never_saw_takes_most_places():
    """However alike its frames are, and however many looks the others have."""
    rng = np.random.default_rng(0)
    odd = np.arange(300) % 10 == 0
    features = np.where(odd[:, None], rng.normal(5, 0.01, (300, 8)), rng.normal(0, 1, (300, 8)))
    sure = np.where(odd, rng.uniform(0.0, 0.1, 300), rng.uniform(0.3, 0.6, 300))
    rows, _ = choose(sure, np.zeros(300), features, 20)
    assert len(rows) == 20 and odd[rows].mean() >= 0.5


def test_all_frames_where_there_are_few_and_any_where_all_look_alike():
    rows, _ = choose(np.array([0.3, 0.1, 0.2]), np.zeros(3), np.ones((3, 4)), 10)
    assert rows.tolist() == [0, 1, 2]
    rows, _ = choose(np.linspace(0, 1, 50), np.zeros(50), np.ones((50, 4)), 5)
    assert rows.tolist() == [0, 1, 2, 3, 4]


def test_jumps_are_of_the_same_person():
    one, two = [(100, 50)], [(300, 50), (101, 50)]
    comes_and_goes = [poses(one), poses(two)] * 5
    assert jumps(comes_and_goes, range(10)).max() == pytest.approx(0.1)  # of ten pixels
    assert jumps([poses(one), poses()] * 5, range(10)).max() == 0

    walk = [poses([(100 + 2 * number, 50)]) for number in range(30)]
    walk[20] = poses([(180, 50)])
    found = outliers(jumps(walk, range(1, 31)))
    assert np.flatnonzero(found).tolist() == [20, 21]
    gap = [number + 5 * (number > 20) for number in range(1, 31)]
    assert np.flatnonzero(outliers(jumps(walk, gap))).tolist() == [21]

    places = [(100, 50), (140, 50)]
    swapped = [poses(places, track_ids=[1, 2])] * 10 + [poses(places, track_ids=[2, 1])] * 10
    assert np.flatnonzero(outliers(jumps(swapped, range(1, 21)))).tolist() == [10]
    untracked = [poses(places), poses(places[::-1])] * 10
    assert not outliers(jumps(untracked, range(1, 21))).any()
    rows, by_jump = choose(np.linspace(0, 1, 30), found, np.random.default_rng(0).normal(size=(30, 4)), 4)
    assert set(rows[by_jump]) <= {20, 21} and by_jump.any()


def test_a_jump_there_and_back_is_of_the_doubtful_frame_between():
    jumped = np.array([0, 0, 3.0, 2.0, 0, 1.0])
    assert at_less_sure(jumped, np.array([0.9, 0.9, 0.1, 0.9, 0.9, 0.2])).tolist() == [0, 0, 3, 0, 0, 1]
    assert at_less_sure(jumped, np.array([0.9, 0.2, 0.8, 0.9, 0.1, 0.9])).tolist() == [0, 3, 2, 0, 1, 0]
    assert at_less_sure(jumped, np.full(6, 0.5)).tolist() == jumped.tolist()
    assert at_less_sure(jumped[:1], np.array([0.5])).tolist() == [0]


def test_nobody_is_doubtful_only_beside_somebody():
    somebody, nobody = poses([(1, 1), (50, 1)], [0.9, 0.6]), poses()
    found = sureness([somebody, nobody, somebody, somebody, nobody, nobody, nobody])
    assert np.allclose(found, [0.75, 0, 0.75, 0.75, 0, 0.75, 0.75])
    assert sureness([nobody, nobody]).tolist() == [0, 0]


def test_no_pixels_are_kept(checkpoint):
    predictor = Predictor(checkpoint, "cpu")
    seen = Impressions(predictor, batch_size=4)
    images = [np.full((48, 64, 3), 20 * number, np.uint8) for number in range(9)]
    frames = [Frame(str(number), image, number) for number, image in enumerate(images)]
    assert [frame.name for frame in seen.note((frame, poses([(5, 5)])) for frame in frames)] == seen.names
    kept = sum(feature.nbytes for feature in seen.features) + sum(one.keypoints.nbytes for one in seen.poses)
    assert len(seen.features) == 9 and kept < 9 * 300
    assert all(feature.base is None or feature.base.dtype == np.float16 for feature in seen.features)
    assert not np.array_equal(seen.features[0], seen.features[8])


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_by_command(run, checkpoint, video, folder, tmp_path, kind):
    source = {"video": video, "folder": folder}[kind]
    given = [f"ckpt={checkpoint}", "device=cpu", f"source={source}", "count=3", f"out={tmp_path / 'next'}"]
    code, said, err = run(data.main, "suggest", *given)
    assert code == 0, err
    assert f"3 of {40 if kind == 'video' else 5} frames" in said
    content = json.loads((tmp_path / "next/annotations.json").read_text())
    assert len(content["images"]) == len(content["annotations"]) == 3
    assert tuple(content["categories"][0]["keypoints"]) == SKELETON.keypoints
    assert not read_coco(tmp_path / "next/annotations.json").status.any()
    frames = {frame.name: frame.image for frame in open_source(source).frames()}
    for image in content["images"]:
        name = image["file_name"].removeprefix("images/")
        expected = frames[name.removesuffix(".png") if kind == "video" else name]
        assert np.array_equal(read_image(tmp_path / "next/images" / name), expected)
    assert {path.name for path in (tmp_path / "next").iterdir()} == {"images", "annotations.json"}

    code, _, err = run(data.main, "suggest", *given)
    assert code == 1 and "isn't an empty folder" in err


def test_a_source_without_frames_leaves_nothing(run, checkpoint, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    given = [f"ckpt={checkpoint}", f"source={tmp_path / 'clip.mp4'}", f"out={tmp_path / 'next'}"]
    code, _, err = run(data.main, "suggest", *given)
    assert code == 1 and "can't be opened as a video" in err
    code, _, err = run(data.main, "suggest", *given, "count=0")
    assert code == 1 and "count" in err
    assert not (tmp_path / "next").exists()
