"""What a COCO file may hold in the place of what the format says, and what is made of it."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightpose.cli import eval as eval_command
from lightpose.data.coco.boxes import parse_boxes
from lightpose.data.coco.dataset import CocoInstances, skeleton_of
from lightpose.data.coco.index import parse, read_coco
from lightpose.data.coco.results import read_coco_results
from lightpose.data.report import check
from lightpose.errors import UserError

BROKEN = "keypoints other than x, y and visibility of each"
NO_BOX = "box missing, empty or outside the image"
NO_OBJECT = "not an object, or one with two values for a key"


def write_text(path: Path, content: Any, old: str = "", new: str = "") -> Path:
    """The content as JSON, in which ``old`` stands for what no Python value makes."""
    text = json.dumps(content)
    assert old in text
    path.write_text(text.replace(old, new))
    return path


@pytest.fixture
def write(write_coco, person):
    """Writes a file of one person, or of others, with lists of one's own."""

    def make(**lists: Any) -> Path:
        path = write_coco([person(1)], images=3)
        path.write_text(json.dumps(json.loads(path.read_text()) | lists))
        return path

    return make


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"id": "2"}, {"ids": [1, 2]}),
        ({"id": 2.0}, {"ids": [1, 2]}),
        ({"id": "b7"}, {"ids": [1, 2]}),  # numbered
        ({"id": 2**70}, {"ids": [1, 2]}),
        ({"id": True}, {"ids": [1, 2]}),
        ({"id": [5]}, {"ids": [1, 2]}),
        ({"image_id": "2"}, {"image_rows": [0, 1]}),
        ({"image_id": 2.0}, {"image_rows": [0, 1]}),
        ({"category_id": "1"}, {"category_rows": [0, 0]}),
        ({"iscrowd": "0"}, {"status": [0, 0]}),
        ({"iscrowd": "1"}, {"status": [0, 1]}),
        ({"iscrowd": True}, {"status": [0, 1]}),
        ({"iscrowd": "false"}, {"status": [0, 0]}),
        ({"iscrowd": None}, {"status": [0, 0]}),
        ({"iscrowd": 0.0}, {"status": [0, 0]}),
        ({"bbox": ["16", "4.5", 28, 40]}, {"boxes_xywh": [[16, 4, 28, 40], [16, 4.5, 28, 40]]}),
        ({"area": "700"}, {"areas": [600, 700]}),
        ({"area": "large"}, {"areas": [600, 0.53 * 28 * 40]}),
        ({"area": float("inf")}, {"areas": [600, 0.53 * 28 * 40]}),
        ({"area": float("nan")}, {"areas": [600, 0.53 * 28 * 40]}),
        ({"area": 1e300}, {"areas": [600, 0.53 * 28 * 40]}),
        ({"area": 10**400}, {"areas": [600, 0.53 * 28 * 40]}),
        ({"score": 0.5}, {"scores": [1, 0.5]}),
        ({"score": float("nan")}, {"scores": [1, 1]}),
        (
            {"keypoints": [["30", 6, 2], [20, 20, 2], [40, 20, 1], [24, 40, 2], [36, 40, 0]]},
            {"visible": [[2, 2, 1, 2, 0]] * 2},
        ),
        (
            {"keypoints": [30, 6, True, 20, 20, 2, 40, 20, "1", 24, 40, 2, 36, 40, 0]},
            {"visible": [[2, 2, 1, 2, 0], [1, 2, 1, 2, 0]]},
        ),
        (
            {"keypoints": [30, 1e39, 2, 20, 20, 2, 40, 20, 1, 24, 2e6, 2, 36, 40, None]},
            {"visible": [[2, 2, 1, 2, 0], [0, 2, 1, 0, 0]]},
        ),
    ],
)
def test_what_is_plain_is_read_and_what_can_be_filled_is_filled(write_coco, person, changes, expected):
    index = read_coco(write_coco([person(1), person(2) | changes]))
    for column, values in expected.items():
        np.testing.assert_allclose(getattr(index, column), values, err_msg=column)
    assert np.isfinite(index.areas).all() and np.isfinite(index.keypoints).all()
    json.dumps(index.ground_truth(), allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_id": True}, "unknown image id"),
        ({"image_id": None}, "unknown image id"),
        ({"image_id": [1]}, "unknown image id"),
        ({"image_id": 1.5}, "unknown image id"),
        ({"image_id": float("inf")}, "unknown image id"),
        ({"image_id": 2**64 + 1}, "unknown image id"),
        ({"category_id": {}}, "category without keypoints"),
        ({"id": "1"}, "duplicate id"),
        ({"id": 1.0}, "duplicate id"),
        ({"iscrowd": "perhaps"}, "iscrowd neither 0 nor 1"),
        ({"iscrowd": float("nan")}, "iscrowd neither 0 nor 1"),
        ({"iscrowd": {}}, "iscrowd neither 0 nor 1"),
        ({"bbox": None}, NO_BOX),
        ({"bbox": "16 4 28 40"}, NO_BOX),
        ({"bbox": [16, 4, 28]}, NO_BOX),
        ({"bbox": [16, 4, 28, None]}, NO_BOX),
        ({"bbox": [16, 4, 28, True]}, NO_BOX),
        ({"bbox": [16, 4, 28, float("nan")]}, NO_BOX),
        ({"bbox": [16, 4, 1e300, 40]}, NO_BOX),
        ({"bbox": [[16], [4], [28], [40]]}, NO_BOX),
        ({"bbox": {"x": 1}}, NO_BOX),
        ({"keypoints": None}, "no labelled keypoint"),
        ({"keypoints": []}, "no labelled keypoint"),
        ({"keypoints": 3}, BROKEN),
        ({"keypoints": {}}, BROKEN),
        ({"keypoints": "nose"}, BROKEN),
        ({"keypoints": [1, 2, 2]}, BROKEN),
        ({"keypoints": [[1, 2]] * 5}, BROKEN),
        ({"keypoints": [[1, 2, 2]] * 5 + [[1, 2, 2]]}, BROKEN),
        ({"keypoints": [1, 2, "x"] * 5}, BROKEN),
        ({"keypoints": [1, 2, [2]] * 5}, BROKEN),
        ({"keypoints": [1, 2, {}] * 5}, BROKEN),
        ({"keypoints": [1, 10**400, 2] * 5}, BROKEN),
    ],
)
def test_what_cannot_be_used_is_counted_and_the_rest_is_used(write_coco, person, changes, reason):
    index = read_coco(write_coco([person(1), person(2) | changes]))
    assert index.reasons() == {reason: 1}
    assert CocoInstances(index.path)[0].instances.ids.tolist() == [1]
    assert len(CocoInstances(index.path)) == 1
    if reason != "no labelled keypoint":
        assert "annotations[1] has the " in index.summary() or "annotations[1] has " in index.summary()


@pytest.mark.parametrize("entry", [None, [], "x", 7, True, [[[]]]])
def test_an_annotation_that_is_no_object_is_counted(write_coco, person, entry):
    index = read_coco(write_coco([entry, person(1)]))
    assert index.reasons() == {NO_OBJECT: 1}
    assert index.ids.tolist() == [1]
    assert f"(annotations[0] is {json.dumps(entry)})" in index.summary() or "a list" in index.summary()


def test_an_object_with_two_values_for_a_key_is_left_out(write_coco, person, tmp_path):
    path = write_coco([person(1), person(2)])
    content = json.loads(path.read_text())
    write_text(path, content, '"id": 2, "image_id": 1', '"id": 2, "image_id": 1, "image_id": 2')
    assert read_coco(path).reasons() == {NO_OBJECT: 1}
    assert '(annotations[1] is an object with two values for "image_id")' in read_coco(path).summary()
    write_text(path, content, '"id": 2, "image_id": 1', '"id": 2, "image_id": 1, "image_id": 1')  # which says the same
    assert len(CocoInstances(path)) == 2
    for old, new in (('"annotations"', '"annotations": [], "annotations"'), ('"height"', '"height": 9, "height"')):
        with pytest.raises(UserError, match="an object with two values for"):
            read_coco(write_text(path, content, old, new))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": None}, "`images` of .* is null, expected a list"),
        ({"images": {}}, "`images` of .* is an object"),
        ({"images": []}, "lists no images"),
        ({"images": [None]}, r"images\[0\] of .* is null, expected an object"),
        ({"images": [{"file_name": "1.jpg"}]}, r"images\[0\] of .* has the id null, expected a whole number or text"),
        ({"images": [{"id": True, "file_name": "1.jpg"}]}, r"has the id true"),
        ({"images": [{"id": 1.5, "file_name": "1.jpg"}]}, r"has the id 1\.5"),
        ({"images": [{"id": 1, "file_name": "1.jpg"}] * 2}, '1 ids of `images` in .* are used twice, e.g. "1"'),
        ({"images": [{"id": "a", "file_name": "1.jpg"}] * 2}, '1 ids of `images` in .* are used twice, e.g. "a"'),
        ({"images": [{"id": 1}]}, "has the file_name null, expected the name of an image file"),
        ({"images": [{"id": 1, "file_name": 7}]}, "has the file_name 7"),
        ({"images": [{"id": 1, "file_name": "a\0b"}]}, "has the file_name"),
        ({"images": [{"id": 1, "file_name": "a\ud800b"}]}, "has the file_name"),
        ({"images": [{"id": 1, "file_name": "x" * 5000}]}, "has the file_name .* a path of at most 1024 bytes"),
        ({"images": [{"id": 1, "file_name": "a", "width": "wide"}]}, 'images.0. of .* has the width "wide"'),
        ({"images": [{"id": 1, "file_name": "a", "width": 0}]}, "has the width 0"),
        ({"images": [{"id": 1, "file_name": "a", "height": 4.5}]}, "has the height 4.5"),
        ({"images": [{"id": 1, "file_name": "a", "height": 1 << 40}]}, "has the height 1099511627776"),
        ({"annotations": None}, "`annotations` of .* is null, expected a list"),
        ({"annotations": {"1": {}}}, "`annotations` of .* is an object"),
        ({"categories": None}, "`categories` of .* is null"),
        ({"categories": [7]}, r"categories\[0\] of .* is 7, expected an object"),
        ({"categories": [{"name": "person"}]}, r"categories\[0\] of .* has the id null"),
        ({"categories": [{"id": 1, "keypoints": 3}]}, "has the keypoints 3, expected the list of their names"),
        ({"categories": [{"id": 1, "keypoints": "nose"}]}, 'has the keypoints "nose"'),
        ({"categories": [{"id": 1, "keypoints": ["nose", None]}]}, "has a keypoint named null"),
    ],
)
def test_a_mistake_in_the_structure_is_refused_by_place(write, changes, message):
    path = write(**changes)
    with pytest.raises(UserError, match=message):
        read_coco(path)
    assert check(path).has_errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "nests its lists or objects too deeply"),
        ("[1]", r"holds \[1\]; a COCO keypoint file is a JSON object"),
        ("null", "holds null"),
        ("1" * 5000, "is not JSON"),
        ('{"annotations": []}', "has no `images`"),
        ('{"images": [', "is not JSON"),
        ("\udcff", "is not JSON"),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message):
        read_coco(tmp_path / "a.json")


def test_ids_that_are_text_get_numbers(write, person, tmp_path, run):
    names = ["img_b", "7", "img_a"]
    images = [{"id": id, "width": 64, "height": 48, "file_name": f"{n}.jpg"} for n, id in enumerate(names, 1)]
    people = [person(1, "img_a"), person(2, "img_b"), person(3, 7), person(4, "7"), person(5, "img_c")]
    categories = [{"id": "cat", "name": "cat", "keypoints": ["a", "b", "c", "d", "e"]}]
    people = [one | {"category_id": "cat"} for one in people]
    path = write(annotations=people, images=images, categories=categories)
    index = read_coco(path)
    assert index.image_ids.tolist() == [8, 7, 9]  # a number stays what it is
    assert index.id_of_text() == {"img_b": 8, "7": 7, "img_a": 9}
    assert index.ids.tolist() == [2, 3, 4, 1]
    assert index.image_ids[index.image_rows].tolist() == [8, 7, 7, 9]
    assert index.reasons() == {"unknown image id": 1}
    assert '2 ids of `images` are no whole numbers, and get some in the file\'s order: "img_b" is 8' in index.summary()
    assert index.categories[0]["id"] == 1

    points = [30, 6, 0.9, 20, 20, 0.9, 40, 20, 0.9, 24, 40, 0.9, 36, 40, 0.9]
    for image_id in ("img_a", 9):  # as the file has it, and as lightpose writes it
        answer = {"image_id": image_id, "category_id": 1, "keypoints": points, "score": 0.5}
        (tmp_path / "answers.json").write_text(json.dumps([answer]))
        code, out, _ = run(eval_command.main, f"predictions={tmp_path / 'answers.json'}", f"annotations={path}")
        assert code == 0 and float(out.split("AP50")[1].split()[0]) == pytest.approx(25 / 101, abs=0.01)


def test_ids_that_look_alike_stay_apart(write, person):
    images = [{"id": id, "width": 64, "height": 48, "file_name": "1.jpg"} for id in ("7", "07", 2**80)]
    people = [person(1, "07"), person(2, "7"), person(3, 2**80), person(4, 7)]
    index = read_coco(write(annotations=people, images=images))
    assert len(set(index.image_ids.tolist())) == 3
    assert index.image_rows.tolist() == [0, 0, 1, 2]
    assert index.ids.tolist() == [2, 4, 1, 3]


def test_names_are_printable(write_coco, person):
    names = ["a\x1b[2J", "b\ud800", "c\nd", "e\u00e9", 5]
    path = write_coco([person(1)], categories=[{"id": 1, "name": "\x07bell" * 999, "keypoints": names}])
    skeleton = skeleton_of(path)
    assert skeleton.keypoints == ("a\ufffd[2J", "b\ufffd", "c\ufffdd", "e\u00e9", "5")
    assert len(skeleton.name) == 1000
    str(check(path)).encode()


def test_files_without_sizes_or_keypoints_will_do_to_predict_on_only(write):
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg", "width": 64, "height": None}]
    path = write(images=images)
    assert read_coco(path).boxes_xyxy.tolist() == [[16, 4, 44, 44]]
    with pytest.raises(
        UserError, match=r"2 entries of `images` .* lack `width` or `height`, e.g. images\[0\] \(1.jpg\)"
    ):
        CocoInstances(path)
    assert any("lack `width`" in error for error in check(path).errors)
    boxes = [{"image_id": 1, "bbox": [1, 2, 30, 40]}]
    path = write(annotations=boxes, categories=[])
    assert read_coco(path).boxes_xyxy.tolist() == [[1, 2, 31, 42]]
    with pytest.raises(UserError, match=r"no category and no annotation .* has `keypoints`"):
        CocoInstances(path)


def test_without_names_the_usual_number_of_keypoints_counts(write_coco, person):
    people = [person(1, keypoints=[5, 6, 2]), person(2), person(3)]
    index = read_coco(write_coco(people, categories=[{"id": 1, "name": "person", "keypoints": None}]))
    assert index.num_keypoints == 5
    assert index.reasons() == {BROKEN: 1}


def test_other_lists_of_keypoints_are_named(write_coco, person):
    whole = {"face_kpts": [1, 2, 1] * 6, "keypoints_3d": [[1, 2, 3]] * 5, "face_valid": True, "keypoints_score": [1]}
    path = write_coco([person(1), person(2) | whole])
    [warning] = [text for text in check(path).warnings if "only `keypoints`" in text]
    assert warning.endswith("face_kpts (18 numbers), keypoints_3d (5 numbers)")


def test_a_file_without_crowds_or_ids_and_one_with_them_give_the_same(write_coco, person):
    plain = [person(1), person(2, 2)]
    bare = [{key: value for key, value in one.items() if key not in ("iscrowd", "id")} for one in plain]
    one, other = parse(write_coco(plain)), parse(write_coco(bare))
    np.testing.assert_array_equal(one.keypoints, other.keypoints)
    np.testing.assert_array_equal(one.ids, other.ids)
    assert not one.remarks and len(other.remarks) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: "null",
        lambda text: text.replace('"person"', '"people"'),
        lambda text: text.split("\n")[0] + "\n[]",
        lambda text: text.replace("categories", "category"),
    ],
)
def test_a_cache_whose_description_is_damaged_is_rebuilt(write_coco, person, cache, spoil):
    path = write_coco([person(1)])
    read_coco(path)
    [meta] = (cache / "coco").glob("*/meta.json")
    meta.write_text(spoil(meta.read_text()))
    assert read_coco(path).categories[0]["name"] == "person"


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.zeros((1, 5, 2)), np.array(["x"], object), np.zeros((0, 5, 2), np.float32)]
)
def test_a_cache_whose_columns_are_damaged_is_rebuilt(write_coco, person, cache, array):
    path = write_coco([person(1)])
    read_coco(path)
    [column] = (cache / "coco").glob("*/keypoints.npy")
    np.save(column, array)
    assert read_coco(path).keypoints.shape == (1, 5, 2) and read_coco(path).keypoints.dtype == np.float32


def test_without_a_home_nothing_is_cached(write_coco, person, monkeypatch):
    monkeypatch.delenv("LIGHTPOSE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert read_coco(write_coco([person(1)])).ids.tolist() == [1]


@pytest.mark.parametrize("kind", ["folder", "pipe", "nothing", "zero byte"])
def test_what_is_no_file_with_an_end_is_refused(tmp_path, kind):
    path = tmp_path / ("a\0.json" if kind == "zero byte" else "a.json")
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    for read in (read_coco, parse_boxes, read_coco_results):
        with pytest.raises(UserError, match=r"a.*json (is a folder, a pipe or a device|can't be read)"):
            read(path)


def test_more_keypoints_than_anybody_has_are_refused(write, person):
    with pytest.raises(UserError, match="has 3000 keypoints, expected 2000 at most"):
        read_coco(write(categories=[{"id": 1, "keypoints": [f"p{number}" for number in range(3000)]}]))
    with pytest.raises(UserError, match="has 3000 keypoints, expected 2000 at most"):
        read_coco(write(categories=[{"id": 1}], annotations=[person(1, keypoints=[0, 0, 0] * 3000)]))
