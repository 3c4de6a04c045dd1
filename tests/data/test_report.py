import pytest
from PIL import Image

from lightpose.data.report import check
from lightpose.skeleton import Skeleton


def test_a_sound_file(write_coco, person):
    report = check(write_coco([person(1), person(2, 2), person(3, 2, iscrowd=1)]), decode=True)
    assert not report.has_errors
    assert (report.images, report.total, report.usable, report.dropped) == (2, 3, 2, {"crowd": 1})
    assert report.labelled == (1, 1, 1, 1, 0)
    text = str(report)
    assert "2 images, 3 annotations" in text
    assert "1 dropped: crowd" in text
    assert "left_hand   labelled 100%  sigma 0.050  mirrored is right_hand" in text
    assert "OKS sigmas are a default" in text
    assert "keypoints [4] (from 0) are never labelled" in text


@pytest.mark.parametrize("decode", [False, True])
def test_images_that_are_missing_or_of_another_size(write_coco, person, decode):
    path = write_coco([person(1)], images=9)
    for image_id in range(2, 9):
        (path.parent / f"{image_id}.jpg").unlink()
    Image.new("RGB", (10, 10)).save(path.parent / "9.jpg")
    report = check(path, decode=decode)
    assert report.has_errors
    assert "2.jpg can't be read" in report.errors[0]
    assert report.errors[-1] == "3 more images are missing, corrupt or of another size"


def test_truncated_image_needs_decoding(write_coco, person):
    path = write_coco([person(1)])
    image = path.parent / "1.jpg"
    image.write_bytes(image.read_bytes()[:-100])
    assert not check(path).has_errors
    assert "1.jpg" in check(path, decode=True).errors[0]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"image_id": 9}, "error: 1 annotations are dropped: unknown image id"),
        ({"id": 1}, "error: 1 annotations are dropped: duplicate id"),
        ({"area": None}, "warning: 1 annotations: area missing"),
        ({"keypoints": [70, 6, 2] * 5}, "warning: 1 people have keypoints outside the image, e.g. annotation 2"),
        ({"keypoints": [300, 6, 2] * 5}, "warning: 1 people have keypoints far outside the image, e.g. annotation 2"),
        ({"keypoints": [1, 2]}, "error: 1 annotations are dropped: keypoints other than x, y and visibility of each "),
        ({"keypoints": [1, 2]}, "(annotations[1] has [1, 2], expected 15 numbers for 5 keypoints)"),
        (
            {"iscrowd": "maybe"},
            'error: 1 annotations are dropped: iscrowd neither 0 nor 1 (annotations[1] has the iscrowd "m',
        ),
    ],
)
def test_mistakes_in_annotations(write_coco, person, changes, text):
    assert text in str(check(write_coco([person(1), person(2) | changes])))


def test_coordinates_as_shares_of_the_image(write_coco, person):
    report = check(write_coco([person(1, keypoints=[0.5, 0.25, 2] * 5)]))
    assert any("must be in pixels" in error for error in report.errors)


def test_nothing_usable_and_wrong_skeleton(write_coco, person):
    report = check(write_coco([person(1, iscrowd=1)]), skeleton=Skeleton.build(["a"]))
    assert report.errors[0] == "no annotation is usable"
    assert "has 5 keypoints" in report.errors[1]


def test_missing_file(tmp_path):
    assert check(tmp_path / "gone.json").has_errors


@pytest.mark.parametrize("images", [(1, 2), (1, 1)])
def test_without_boxes_one_subject_in_each_image_will_do(write_coco, person, images):
    report = check(write_coco([{**person(number, image), "bbox": None} for number, image in enumerate(images)]))
    assert report.usable == 2
    if images == (1, 2):
        assert not report.has_errors and "experiment=single_animal needs none" in " ".join(report.warnings)
    else:
        assert report.errors == ("no annotation has a box, and 1 images show several subjects; add `bbox` to each",)
