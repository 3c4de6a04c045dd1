"""Videos of drawn people: what is annotated is what they show."""

import json
from itertools import pairwise

import av
import numpy as np
import pytest

from lightpose.data.coco.tracks import read_tracks
from lightpose.data.synthetic.body import KEYPOINTS
from lightpose.data.synthetic.videos import LEAST_SEEN, generate_videos
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return generate_videos(tmp_path_factory.mktemp("videos") / "out", 2, 0, (96, 128), people=3, seconds=2, fps=10)


def test_frames_and_annotations_agree(paths):
    assert [path.name for path in paths] == ["000.json", "001.json"]
    content = json.loads(paths[0].read_text())
    with av.open(str(paths[0].with_suffix(".mp4"))) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 10)
    assert [frame.shape for frame in frames] == [(96, 128, 3)] * 20
    assert [image["frame_id"] for image in content["images"]] == list(range(1, 21))
    assert content["images"][4]["file_name"] == "000_000005"
    entries = content["annotations"]
    assert {entry["track_id"] for entry in entries} <= {1, 2, 3}
    assert all(entry["keypoints"][2::3].count(2) >= LEAST_SEEN for entry in entries)
    changes = [np.abs(frames[i].astype(int) - frames[i - 1]).max(-1) > 40 for i in range(1, 20)]
    moving = np.zeros((96, 128), bool)
    for number, change in enumerate(changes, start=2):
        boxes = [entry["bbox"] for entry in entries if entry["image_id"] in (number - 1, number)]
        near = np.zeros_like(moving)
        for x, y, width, height in boxes:
            near[max(int(y) - 4, 0) : int(y + height) + 5, max(int(x) - 4, 0) : int(x + width) + 5] = True
        assert change[~near].sum() <= 0.01 * change.size  # who is annotated is who moves
        moving |= change & near
    assert moving.any()


def test_people_move_as_people_do_and_keep_their_build(paths):
    _, frames = read_tracks(paths[0], Skeleton.build(KEYPOINTS))
    assert len(frames) == 20
    content = json.loads(paths[0].read_text())
    by_person = {}
    for entry in content["annotations"]:
        by_person.setdefault(entry["track_id"], []).append((entry["image_id"], np.array(entry["keypoints_3d"])))
    for places in by_person.values():
        thighs = np.array([np.linalg.norm(points[13] - points[11]) for _, points in places])
        assert np.ptp(thighs) < 0.01
        for (first, before), (second, after) in pairwise(places):
            speed = np.linalg.norm((after - before)[11:13].mean(0)) / (second - first) * 10
            assert speed < 3000  # mm/s


def test_same_seed_same_bytes(paths, tmp_path):
    again = generate_videos(tmp_path / "again", 1, 0, (96, 128), people=3, seconds=2, fps=10)
    for suffix in (".json", ".mp4"):
        assert again[0].with_suffix(suffix).read_bytes() == paths[0].with_suffix(suffix).read_bytes()
    assert paths[0].with_suffix(".mp4").read_bytes() != paths[1].with_suffix(".mp4").read_bytes()


@pytest.mark.parametrize(
    "given",
    [{"videos": 0}, {"seconds": 0.0}, {"fps": 0.0}, {"people": 0}, {"people": 16}, {"image_hw": (95, 128)}],
    ids=str,
)
def test_what_makes_no_video_is_refused(given, tmp_path):
    options = {"videos": 1, "seed": 0, "image_hw": (96, 128)} | given
    with pytest.raises(UserError, match=next(iter(given))):
        generate_videos(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
