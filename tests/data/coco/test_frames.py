"""One subject per image, without boxes."""

import json
import logging
import pickle

import numpy as np
import pytest

from lightpose.cli.setup import input_size
from lightpose.data.base import PoseDataset
from lightpose.data.coco.dataset import CocoInstances
from lightpose.data.coco.frames import CocoFrames
from lightpose.data.pixels.device import collate
from lightpose.errors import UserError
from lightpose.metrics.oks import evaluate_oks

NOTHING = [0] * 15


@pytest.fixture
def subject(person):
    """An annotation as `person` makes it, without box and area."""

    def make(id, image_id=1, **changes):
        entry = person(id, image_id)
        return {key: value for key, value in entry.items() if key not in ("bbox", "area")} | changes

    return make


def samples_of(data):
    return [data.load(row, np.random.default_rng(0)) for row in range(len(data))]


def test_a_sample_is_the_whole_image_whatever_box_the_file_gives(write_coco, subject):
    path = write_coco([subject(7), subject(8, 2, bbox=[3, 3, 5, 5])])
    first, second = samples_of(CocoFrames(path))
    for sample, identity in ((first, 7), (second, 8)):
        assert sample.instances.ids.tolist() == [identity] and not sample.empty
        assert sample.instances.boxes_xyxy.tolist() == [[0, 0, 64, 48]]
        assert sample.instances.visible.tolist() == [[2, 2, 1, 2, 0]]
    assert first.instances.areas.tolist() == [20 * 34]  # of what is labelled: 20 to 40 and 6 to 40
    assert second.instances.areas.tolist() == pytest.approx([0.53 * 25])


def test_an_area_of_the_file_stays_and_no_area_is_zero(write_coco, subject):
    lone = [30, 6, 2, *NOTHING[3:]]
    first, second = samples_of(CocoFrames(write_coco([subject(1, area=99), subject(2, 2, keypoints=lone)])))
    assert (first.instances.areas[0], second.instances.areas[0]) == (99, 1)


@pytest.mark.parametrize("boxed", [True, False])
def test_several_subjects_in_an_image_are_refused(write_coco, person, subject, boxed):
    one = person if boxed else subject
    path = write_coco([one(1, 2), one(2, 2), one(3, 2), one(4, 3), one(5, 3), one(6, 1)], images=3)
    with pytest.raises(UserError, match=r"2 images of .* show several subjects, e.g. 2.jpg 3, .*topdown_smalldata"):
        CocoFrames(path)


def test_an_image_without_labels_is_one_without_the_subject(write_coco, subject, caplog):
    annotations = [subject(1, 2), subject(2, 3, keypoints=NOTHING), subject(3, 4), subject(4, 4, keypoints=NOTHING)]
    path = write_coco(annotations, images=4)
    with caplog.at_level(logging.INFO):
        data = CocoFrames(path)
    assert "nothing is labelled in 2 of 4 images" in caplog.text
    samples = samples_of(data)
    assert [sample.empty for sample in samples] == [True, False, True, False]
    shown = collate([data[row] for row in range(4)]).instances  # without transforms, so images as they are
    assert shown.valid.tolist() == [[False], [True], [False], [True]]
    assert not shown.visible[[0, 2]].any() and shown.scores.tolist() == [[1]] * 4
    left_out = CocoFrames(path, empty_images=False)
    assert [sample.image_id for sample in samples_of(left_out)] == [2, 4]
    left_out.training = False
    assert [sample.image_id for sample in samples_of(left_out)] == [1, 2, 3, 4]


def test_an_image_that_is_not_known_to_be_empty_is_not_learnt_from(write_coco, subject):
    unknown = [subject(1), subject(2, 2, iscrowd=1), subject(3, 3, keypoints=[1, 2])]
    data = CocoFrames(write_coco(unknown, images=4))
    assert [(sample.image_id, sample.empty) for sample in samples_of(data)] == [(1, False), (4, True)]
    data.training = False
    assert [(sample.image_id, sample.empty) for sample in samples_of(data)] == [
        (1, False),
        (2, False),
        (3, False),
        (4, True),
    ]
    repeated = CocoFrames(write_coco([subject(1), subject(1, 2)], images=3, name="repeated.json"))
    assert [sample.image_id for sample in samples_of(repeated)] == [1]  # of the others one is labelled, but which?


def test_a_pose_where_nobody_is_counts_as_a_false_alarm(write_coco, subject):
    data = CocoFrames(write_coco([subject(1), subject(2, 2, keypoints=NOTHING)]))
    keypoints = subject(1)["keypoints"]
    right = {"image_id": 1, "category_id": 1, "keypoints": keypoints, "score": 0.5}
    alarm = {**right, "image_id": 2, "score": 0.9}
    sigmas = data.skeleton.sigmas
    assert evaluate_oks(data.ground_truth(), [right], sigmas)["AP"] == pytest.approx(1)
    assert evaluate_oks(data.ground_truth(), [right, alarm], sigmas)["AP"] == pytest.approx(0.5)


def test_other_readers_count_the_images_that_they_leave_out(write_coco, person, subject, caplog):
    path = write_coco([person(1)], images=3)
    with caplog.at_level(logging.INFO):
        assert len(CocoInstances(path)) == 1
    assert "2 of 3 images have none that is usable" in caplog.text
    with pytest.raises(UserError, match=r"1 box missing.*experiment=single_animal needs no boxes"):
        CocoInstances(write_coco([subject(1)], name="bare.json"))


def test_labels_far_outside_and_images_of_different_sizes_are_samples(write_coco, subject):
    path = write_coco([subject(1, keypoints=[-500, 6, 2, *NOTHING[3:]]), subject(2, 2)])
    content = json.loads(path.read_text())
    content["images"][1] |= {"width": 32, "height": 40}
    path.write_text(json.dumps(content))
    data = CocoFrames(path)
    boxes = [data.annotations_of(row).boxes_xyxy[0].tolist() for row in range(2)]
    assert boxes == [[0, 0, 64, 48], [0, 0, 32, 40]]
    assert CocoFrames.read_image_hw(path).tolist() == [[48, 64], [40, 32]]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([500, 6, 2, 30, 900, 2, *NOTHING[6:]], "all labelled keypoints of .* lie outside of their image"),
        ([0.5, 0.25, 2, 0.75, 1, 2, *NOTHING[6:]], "lie between 0 and 1: they must be in pixels"),
    ],
)
def test_labels_that_are_not_in_pixels_of_the_image_are_refused(write_coco, subject, points, message):
    with pytest.raises(UserError, match=message):
        CocoFrames(write_coco([subject(1, keypoints=points)]))


def test_labels_outside_are_told_of_without_a_word_of_boxes(write_coco, subject, caplog):
    outside = [500, 6, 2, 30, 900, 2, *NOTHING[6:]]
    CocoFrames(write_coco([subject(1, keypoints=outside), subject(2, 2)]))
    assert "33% of the labelled keypoints lie outside of their image" in caplog.text
    assert "1 people have keypoints far outside the image, e.g. annotation 1" in caplog.text
    assert "bbox" not in caplog.text and "boxes" not in caplog.text


def test_other_processes_get_the_same_samples(write_coco, subject):
    data = CocoFrames(write_coco([subject(1), subject(2, 2)]))
    again = pickle.loads(pickle.dumps(data.index))
    assert (again.status == data.index.status).all() and (again.boxes_xyxy == data.index.boxes_xyxy).all()


def test_a_reader_that_knows_no_sizes_says_so(tmp_path):
    with pytest.raises(UserError, match=r"PoseDataset can't tell how large the images .* input_hw=\[256,256\]"):
        PoseDataset.read_image_hw(tmp_path)


@pytest.mark.parametrize(
    ("image_hw", "most", "expected"),
    [
        ((406, 396), 512 * 512, (416, 416)),
        ((406, 396), 256 * 256, (256, 256)),
        ((720, 1280), 512 * 512, (384, 672)),
        ((1280, 720), 512 * 512, (672, 384)),
        ((20, 500), 512 * 512, (32, 512)),
        ((64, 64), 512 * 512, (64, 64)),
        ((10, 2**20), 1024, (32, 32)),
        ((1, 1), 1024, (32, 32)),
        ((2**20, 2**20), 512 * 512, (512, 512)),
    ],
)
def test_the_input_suits_the_images_and_the_budget(image_hw, most, expected):
    assert input_size(image_hw, most) == expected


def test_no_other_input_shows_images_larger_or_needs_fewer_pixels():
    rng = np.random.default_rng(0)
    for _ in range(50):
        (height, width), most = rng.integers(1, 1500, 2).tolist(), int(rng.integers(1024, 90000))
        rows, columns = input_size((height, width), most)
        assert rows * columns <= most and rows < height + 32 and columns < width + 32
        scale = min(1, rows / height, columns / width)
        for other_rows in range(32, 1536, 32):
            for other_columns in range(32, min(1536, most // other_rows + 1), 32):
                other = min(1, other_rows / height, other_columns / width)
                assert (other, -other_rows * other_columns) <= (scale, -rows * columns)
