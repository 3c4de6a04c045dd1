"""lightpose-predict follows people: identities in its files, and a detector that doesn't look at every frame."""

import csv
import json

import numpy as np
import pytest
from tiny_checkpoint import SKELETON
from videos import CODECS, COUNT, write_video

import lightpose
from lightpose.cli.predict import main
from lightpose.data.synthetic.videos import generate_videos
from lightpose.inference.detections import NO_BOXES
from lightpose.inference.following import boxes_around, followed
from lightpose.inference.frames import Frame
from lightpose.structures import Poses


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", *CODECS["h264.mp4"])


@pytest.fixture()
def predict(run, checkpoint, tmp_path):
    def call(*arguments):
        code, _, err = run(main, f"ckpt={checkpoint}", "device=cpu", f"out={tmp_path / 'out'}", *arguments)
        return code, err

    return call


def test_a_video_of_one_animal_has_its_id_in_all_files(predict, video, tmp_path):
    assert predict(f"source={video}", "tracker=single", "detector=whole_image", "detect_every=4")[0] == 0
    out = tmp_path / "out"
    entries = json.loads((out / "predictions.json").read_text())
    assert [entry["image_id"] for entry in entries] == list(range(1, COUNT + 1))
    assert {entry["track_id"] for entry in entries} == {1}
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert {row["track_id"] for row in rows} == {"1"}
    widths = [float(row["x2"]) - float(row["x1"]) for row in rows]
    assert [number for number, width in enumerate(widths) if width == 64] == list(range(0, COUNT, 4))  # whole images
    assert (out / "overlays" / "clip.mp4").stat().st_size


def test_people_in_true_boxes_are_followed(predict, tmp_path):
    [path] = generate_videos(tmp_path / "people", 1, 0, (96, 128), people=3, seconds=1, fps=10)
    assert predict(f"source={path.with_suffix('.mp4')}", f"boxes={path}", "tracker=oks", "draw=false")[0] == 0
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(entries) == len(json.loads(path.read_text())["annotations"])
    assert all(type(entry["track_id"]) is int for entry in entries)
    assert {1, 2} <= {entry["track_id"] for entry in entries}


def test_pictures_of_a_folder_are_taken_for_a_video(predict, folder, tmp_path):
    assert predict(f"source={folder}", "tracker=single")[0] == 0
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["track_id"] for entry in entries] == [1] * 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["source={folder}", "detector=whole_image", "detect_every=3"], "no video"),
        (["source={video}", "detect_every=3"], "detector=torchvision"),
        (["source={video}", "detect_every=0"], "at least 1"),
        (["source={video}", "tracker=oks", "tracker.keep_s=long"], "keep_s=long: expected a number"),
        (["source={video}", "tracker=oks", "+tracker.keep=2"], "keep_s"),
        (["source={video}", "tracker=sort"], "ocsort"),
    ],
    ids=str,
)
def test_what_cant_be_followed_is_refused_before_the_work(predict, folder, video, tmp_path, arguments, words):
    code, err = predict(*(argument.format(folder=folder, video=video) for argument in arguments))
    assert code == 1 and words in err
    assert not (tmp_path / "out").exists()


def test_the_detector_is_asked_in_every_nth_frame(checkpoint, images):
    predictor = lightpose.Predictor(checkpoint, device="cpu")
    asked = []

    def find(frames):
        asked.extend(frame.image_id for frame in frames)
        return [(np.array([[10, 10, 60, 80]], np.float32), np.array([0.7], np.float32))] * len(frames)

    numbers = [1, 2, 3, 4, 7, 8, 9, 10, 11]  # two can't be read
    frames = [Frame(str(number), images[0], number) for number in numbers]
    found = list(followed(predictor, frames, find, every=3))
    assert [frame.image_id for frame, _ in found] == numbers
    assert asked == [1, 4, 7, 10]
    assert all(poses.box_scores.tolist() == [np.float32(0.7)] for _, poses in found if len(poses))
    assert [len(poses) for _, poses in followed(predictor, frames[:2], lambda given: [NO_BOXES], every=9)] == [0, 0]


def test_boxes_follow_confident_keypoints_and_one_person_once():
    points = np.array([[[10, 10], [30, 10], [20, 50]]] * 2 + [[[200, 200], [220, 200], [900, 900]]] * 2, np.float32)
    scores = np.array([[1, 1, 1], [1, 1, 1], [0.9, 0.9, 0.1], [0.1, 0.1, 0.1]], np.float32)
    poses = Poses(
        keypoints=points,
        keypoint_scores=scores,
        scores=np.array([0.5, 0.9, 0.8, 0.9], np.float32),
        batch_index=np.zeros(4, np.int64),
        boxes_xyxy=np.array([[0, 0, 40, 60]] * 2 + [[190, 150, 230, 250]] * 2, np.float32),
        box_scores=np.array([0.5, 0.6, 0.7, 0.8], np.float32),
    )
    boxes, box_scores = boxes_around(poses, np.array(SKELETON.sigmas))
    assert box_scores.tolist() == pytest.approx([0.6, 0.7])
    assert boxes.tolist() == pytest.approx(np.array([[8, 6, 32, 54], [198, 175, 222, 225]]), abs=1e-3)
