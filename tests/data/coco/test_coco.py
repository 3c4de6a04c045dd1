import json
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightpose.data.coco import index as coco_index
from lightpose.data.coco.dataset import CocoImages, CocoInstances, skeleton_of, skeleton_remarks
from lightpose.data.coco.index import read_coco
from lightpose.data.pixels.decode import ImageError
from lightpose.data.pixels.raw import gather
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton

SAMPLES = Path(__file__).parents[3] / "../shared/samples/coco"
NAMES = ["head", "left_hand", "right_hand", "left_foot", "right_foot"]


def test_instances_hold_what_the_file_says(write_coco, person):
    data = CocoInstances(write_coco([person(7, 2), person(5, 1, bbox=[-10, 4, 40, 100])]))
    first, second = data[0], data[1]
    assert [sample.instances.ids.tolist() for sample in (first, second)] == [[5], [7]]  # ordered by image
    assert (second.image_id, second.index, second.image_hw, second.image.shape) == (2, 1, (48, 64), (48, 64, 3))
    np.testing.assert_array_equal(second.instances.keypoints[0, 1], [20, 20])
    np.testing.assert_array_equal(second.instances.visible[0], [2, 2, 1, 2, 0])
    np.testing.assert_array_equal(first.instances.boxes_xyxy, [[0, 4, 30, 47]])  # cut at the image
    np.testing.assert_array_equal(second.instances.boxes_xyxy, [[16, 4, 44, 44]])
    np.testing.assert_array_equal(second.input_from_image, np.eye(3))
    assert second.instances.areas.tolist() == [600]


def test_images_may_have_cameras(write_coco, person):
    cameras = [{"focal": [300.5, 299], "princpt": [30, -2.25], "R": 0}, {"focal": [1, 2], "princpt": [3, 4]}]
    path = write_coco([person(1), person(2, 2)], cameras=cameras)
    for _ in range(2):  # the second time from the cache
        for data in (CocoInstances(path), CocoImages(path)):
            batch = gather([data[0], data[1]])
            assert batch.cameras.tolist() == [
                [[300.5, 0, 30], [0, 299, -2.25], [0, 0, 1]],
                [[1, 0, 3], [0, 2, 4], [0, 0, 1]],
            ]
    without = CocoInstances(write_coco([person(1)], name="without.json"))
    assert without[0].camera is None and without.index.camera(1) is None


SOUND = {"focal": [1, 1], "princpt": [3, 4]}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (None, r"1 entries of `images` .* no `cam_param`, e\.g\. images\[1\], .*; give all of them a camera, or none"),
        ([1, 2], r"images\[1\] .* has the cam_param \[1, 2\], expected an object with focal and princpt"),
        ({"f": [1, 1]}, r"images\[1\] .* has the focal of cam_param null, expected two positive numbers, in pixels"),
        ({**SOUND, "focal": 5}, "focal of cam_param 5, expected two positive"),
        ({**SOUND, "focal": [5]}, "focal of cam_param"),
        ({**SOUND, "focal": [5, 0]}, "focal of cam_param"),
        ({**SOUND, "focal": [5, 1e-300]}, "focal of cam_param"),
        ({**SOUND, "focal": [5, float("nan")]}, "focal of cam_param"),
        ({**SOUND, "focal": [5, None]}, "focal of cam_param"),
        ({**SOUND, "princpt": [5, float("inf")]}, "princpt of cam_param .* expected the numbers x and y, in pixels"),
        ({**SOUND, "princpt": [[5, 5]]}, "princpt of cam_param"),
        ({"focal": [1, 1]}, "princpt of cam_param null"),
    ],
)
def test_a_camera_that_is_none_is_refused(write_coco, person, second, message):
    with pytest.raises(UserError, match=message):
        read_coco(write_coco([person(1)], cameras=[SOUND, second]))


def test_cameras_of_a_real_file():
    path = SAMPLES.parent / "rhd/test_rhd.json"
    if not path.exists():
        pytest.skip("real samples are not here")
    data, images = CocoInstances(path), json.loads(path.read_text())["images"]
    joints = {entry["id"]: entry["joint_cam"] for entry in json.loads(path.read_text())["annotations"]}
    assert len(data) == len(joints) > 0 and len(images) > 0
    for index in range(len(data)):
        sample = data.load(index, np.random.default_rng(0))
        projected = np.array(joints[sample.instances.ids[0]]) @ sample.camera.T
        shown = sample.instances.visible[0] > 0
        errors = np.abs(projected[:, :2] / projected[:, 2:] - sample.instances.keypoints[0])[shown]
        assert errors.max() < 0.2


def test_images_hold_all_their_usable_people(write_coco, person):
    path = write_coco([person(1), person(2), person(3, iscrowd=1), person(4, 3)], images=3)
    data = CocoImages(path)
    assert [sample.instances.ids.tolist() for sample in (data[0], data[1])] == [[1, 2], [4]]
    assert len(data) == 2
    everything = CocoImages(path, empty_images=True)
    assert len(everything) == 3
    assert everything[1].instances.keypoints.shape == (0, 5, 2)


def test_what_cannot_be_used_is_counted_by_reason(write_coco, person):
    path = write_coco(
        [
            person(1),
            person(2, iscrowd=1),
            person(3, keypoints=[0] * 15),
            person(4, bbox=[70, 4, 10, 10]),
            person(5, bbox=[10, 4, 0, 10]),
            person(6, image_id=99),
            person(7, category_id=2),
            person(1),
            person(8, area=None),
            person(9, keypoints=None),
        ]
    )
    index = read_coco(path)
    assert index.reasons() == {
        "crowd": 1,
        "no labelled keypoint": 2,
        "box missing, empty or outside the image": 2,
        "unknown image id": 1,
        "category without keypoints": 1,
        "duplicate id": 1,
    }
    assert index.areas[index.ids == 8] == pytest.approx(0.53 * 28 * 40)
    assert "10 annotations, 2 usable; dropped: 1 crowd; 2 no labelled keypoint" in index.summary()
    assert len(CocoInstances(path)) == 2


def test_visibility_and_coordinates_are_mended_and_counted(write_coco, person):
    odd = [30, 6, 3, 20, 20, 0.9, 40, float("nan"), 2, 24, 40, -1, 36, 40, 1]
    index = read_coco(write_coco([person(1, keypoints=odd)]))
    assert index.visible.tolist() == [[2, 1, 0, 0, 1]]
    assert sorted(index.mended.values()) == [1, 1]


def test_ground_truth_is_the_whole_file(write_coco, person):
    annotations = [person(1), person(2, iscrowd=1), person(3, keypoints=[0] * 15), person(4, 2, bbox=[-3, 0, 9.25, 5])]
    truth = CocoInstances(write_coco(annotations, images=3)).ground_truth()
    assert [image["id"] for image in truth["images"]] == [1, 2, 3]
    assert truth["categories"][0]["keypoints"] == NAMES
    assert [entry["num_keypoints"] for entry in truth["annotations"]] == [4, 4, 0, 4]
    for entry, written in zip(truth["annotations"], annotations, strict=True):
        assert {key: entry[key] for key in written} == written
    json.dumps(truth)


def test_skeleton_comes_from_the_categories(write_coco, person):
    skeleton = skeleton_of(write_coco([person(1)]))
    assert list(skeleton.keypoints) == NAMES
    assert skeleton.swap == (0, 2, 1, 4, 3)
    assert skeleton.links == ((0, 1), (0, 2))
    assert not skeleton.sigmas_known
    assert skeleton_of(write_coco([person(1)]), sigmas=[0.1] * 5).sigmas == (0.1,) * 5


def test_own_sigmas_of_the_category(write_coco, person):
    categories = [{"id": 1, "name": "person", "keypoints": NAMES, "sigmas": [0.01, 0.02, 0.02, 0.03, 0.03]}]
    skeleton = skeleton_of(write_coco([person(1)], categories=categories))
    assert skeleton.sigmas_known
    assert skeleton.sigmas[1] == 0.02


def test_keypoints_are_found_by_name(write_coco, person, caplog):
    path = write_coco([person(1), person(2, keypoints=[0] * 12 + [5, 6, 2])])
    other = Skeleton.build(["tail", "Right Hand", "head"])
    caplog.set_level("INFO")
    data = CocoInstances(path, skeleton=other)
    assert len(data) == 1  # the second person has only a foot
    labels = data.load(0, np.random.default_rng(0)).instances
    assert labels.keypoints[0].tolist() == [[0, 0], [40, 20], [30, 6]] and labels.visible[0].tolist() == [0, 1, 2]
    assert data.ground_truth()["annotations"][0]["keypoints"] == [0, 0, 0, 40, 20, 1, 30, 6, 2]
    assert "lacks 1 of the 3 keypoints of skeleton 'custom', which have no weight there: tail" in caplog.text
    assert "3 keypoints of" in caplog.text and "left out: left_hand, left_foot, right_foot" in caplog.text
    turned = CocoInstances(path, skeleton=Skeleton.build(NAMES[::-1])).load(0, np.random.default_rng(0)).instances
    assert turned.visible[0].tolist() == [0, 2, 1, 2, 2]
    with pytest.raises(UserError, match=r"reader=coco, or a file with all keypoints"):
        CocoImages(path, skeleton=other)


def test_keypoints_of_which_none_is_known_are_refused(write_coco, person):
    path = write_coco([person(1)])
    with pytest.raises(UserError, match=r"train\.json has 5 keypoints .*none of them .* skeleton 'custom' \(a, b\)"):
        CocoInstances(path, skeleton=Skeleton.build(["a", "b"]))
    renamed = Skeleton.build(["a", "b"], renames={"Left Foot": "b"})
    assert CocoInstances(path, skeleton=renamed).index.keypoints[0].tolist() == [[0, 0], [24, 40]]
    nameless = write_coco([person(1)], categories=[{"id": 1, "name": "person"}], name="nameless.json")
    with pytest.raises(UserError, match="5 keypoints without names, but skeleton 'custom' has 2; name them"):
        CocoInstances(nameless, skeleton=Skeleton.build(["a", "b"]))


def test_annotation_that_contradicts_the_category_is_named_and_not_trained_on(write_coco, person):
    short = person(3, keypoints=[1, 2, 2, 3, 4, 2])
    index = read_coco(write_coco([person(1), short]))
    assert index.reasons() == {"keypoints other than x, y and visibility of each": 1}
    assert index.boxed().tolist() == [0, 1]  # to predict in, it will do
    with pytest.raises(UserError, match=r"annotations\[0\] has a list of 6, expected 15 numbers for 5 keypoints"):
        CocoInstances(write_coco([short], name="short.json"))


def test_several_categories_of_one_skeleton_are_kept_apart(write_coco, person):
    categories = [{"id": 9, "name": "tree"}] + [{"id": i, "name": str(i), "keypoints": NAMES} for i in (3, 5)]
    data = CocoInstances(write_coco([person(1, category_id=5), person(2, category_id=3)], categories=categories))
    assert [data[index].instances.categories.tolist() for index in (0, 1)] == [[1], [0]]
    assert [entry["category_id"] for entry in data.ground_truth()["annotations"]] == [5, 3]
    with pytest.raises(UserError, match=r"2 categories with keypoints \(3, 5\), but where a sample is a whole image"):
        CocoImages(write_coco([person(1, category_id=3)], categories=categories, name="whole.json"))


def test_categories_of_different_keypoints_are_joined(write_coco, person):
    categories = [{"id": 3, "name": "person", "keypoints": NAMES, "skeleton": [[1, 2]]}]
    categories += [{"id": 5, "name": "cat", "keypoints": ["Head", "tail"], "skeleton": [[1, 2]], "sigmas": [0.1, 0.2]}]
    cat = person(2, category_id=5, keypoints=[1, 2, 2, 3, 4, 1])
    wrong = person(3, category_id=5)
    path = write_coco([person(1, category_id=3), cat, wrong], categories=categories)
    skeleton = skeleton_of(path)
    assert skeleton.keypoints == (*NAMES, "tail") and skeleton.links == ((0, 1), (0, 5))
    assert skeleton.sigmas == (0.1, *[0.05] * 4, 0.2) and not skeleton.sigmas_known
    data = CocoInstances(path)
    assert [data.load(row, np.random.default_rng(0)).instances.visible[0].tolist() for row in (0, 1)] == [
        [2, 2, 1, 2, 0, 0],
        [2, 0, 0, 0, 0, 1],
    ]
    assert data.index.reasons() == {"keypoints other than x, y and visibility of each": 1}
    assert "has a list of 15, expected 6 numbers for 2 keypoints" in data.index.summary()
    with pytest.raises(UserError, match=r"category cat .* has 2 keypoints \(Head, tail\), and none"):
        CocoInstances(path, skeleton=Skeleton.build(NAMES[1:]))


def test_categories_without_names_still_read(write_coco, person):
    path = write_coco([person(1)], categories=[{"id": 1, "name": "person"}])
    assert len(CocoInstances(path, skeleton=Skeleton.build(NAMES))) == 1
    skeleton = skeleton_of(path)
    assert (skeleton.name, skeleton.keypoints) == ("person", ("0", "1", "2", "3", "4"))
    assert skeleton_remarks(path) == [f"`categories` of {path} name no keypoints, so these are called 0 to 4"]


def test_nothing_usable_is_refused_with_the_report(write_coco, person):
    with pytest.raises(UserError, match="1 annotations, 0 usable; dropped: 1 crowd"):
        CocoInstances(write_coco([person(1, iscrowd=1)]))


@pytest.mark.parametrize("content", ["", "{]", "[]", '{"images": []}'])
def test_file_that_is_not_coco_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=r"a\.json"):
        read_coco(tmp_path / "a.json")


def test_missing_files_are_named(tmp_path, write_coco, person):
    with pytest.raises(UserError, match=r"nothing\.json can't be read"):
        CocoInstances(tmp_path / "nothing.json")
    path = write_coco([person(1)])
    with pytest.raises(UserError, match=r"e\.g\. 1\.jpg, are not in .*elsewhere; say where"):
        CocoInstances(path, images=tmp_path / "elsewhere")


@pytest.mark.parametrize("folder", ["", "images/"])
def test_images_are_found_near_the_annotations(write_coco, person, folder):
    assert CocoInstances(write_coco([person(1)], folder=folder))[0].image.shape == (48, 64, 3)


def test_image_of_another_size_is_refused(write_coco, person):
    path = write_coco([person(1)])
    Image.new("RGB", (48, 64)).save(path.parent / "1.jpg")
    with pytest.raises(UserError, match=r"1\.jpg is 48x64 .* annotated as 64x48"):
        CocoInstances(path)[0]


def test_bad_image_stops_or_is_replaced_and_counted(write_coco, person):
    path = write_coco([person(1), person(2, 2), person(3, 2)])
    (path.parent / "1.jpg").write_bytes(b"junk")
    with pytest.raises(ImageError, match=r"1\.jpg"):
        CocoInstances(path)[0]
    data = CocoInstances(path, on_bad_image="skip", seed=3)
    sample = data[0]
    assert sample.image_id == 2
    assert sample.index == data[0].index > 0
    assert data.bad_images == ["1.jpg"]


def test_cache_follows_the_file(write_coco, person, cache):
    path = write_coco([person(1)])
    read_coco(path)
    assert len(list((cache / "coco").iterdir())) == 1
    assert isinstance(read_coco(path).keypoints.base, np.memmap)
    path = write_coco([person(1), person(2)])
    assert len(read_coco(path).ids) == 2
    assert len(list((cache / "coco").iterdir())) == 1  # the old one is gone


def test_damaged_cache_is_rebuilt(write_coco, person, cache):
    path = write_coco([person(1)])
    read_coco(path)
    next((cache / "coco").glob("*/ids.npy")).write_bytes(b"")
    assert read_coco(path).ids.tolist() == [1]


def test_processes_that_start_at_once_share_one_cache(write_coco, person, cache):
    path = write_coco([person(i) for i in range(200)])
    context = multiprocessing.get_context("fork")
    gate, queue = context.Barrier(6), context.Queue()

    def start():
        gate.wait()
        index = read_coco(path)
        gate.wait()  # all have read, and perhaps cleared up
        queue.put(pickle.loads(pickle.dumps(index)).ids.tolist())

    for damaged in (False, True):
        if damaged:
            next((cache / "coco").glob("*/ids.npy")).write_bytes(b"")
        processes = [context.Process(target=start) for _ in range(6)]
        for process in processes:
            process.start()
        assert [queue.get(timeout=60) for _ in processes] == [list(range(200))] * 6
        for process in processes:
            process.join()
        assert len(list((cache / "coco").iterdir())) == 1


def test_a_cache_that_another_process_made_meanwhile_is_kept(write_coco, person, cache, monkeypatch):
    path, parse, places = write_coco([person(1)]), coco_index.parse, []

    def slow_parse(*arguments):
        monkeypatch.setattr(coco_index, "parse", parse)
        read_coco(path)
        places.append(next((cache / "coco").iterdir()).stat().st_ino)
        return parse(*arguments)

    monkeypatch.setattr(coco_index, "parse", slow_parse)
    assert read_coco(path).ids.tolist() == [1]
    assert [folder.stat().st_ino for folder in (cache / "coco").iterdir()] == places


def test_a_worker_reads_the_file_when_the_cache_is_gone(write_coco, person, cache):
    pickled = pickle.dumps(read_coco(write_coco([person(1)])))
    shutil.rmtree(cache / "coco")
    assert pickle.loads(pickled).ids.tolist() == [1]


def test_works_without_a_cache(write_coco, person, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIGHTPOSE_CACHE", str(tmp_path / "file"))
    data = CocoInstances(write_coco([person(1)]))
    assert data[0].instances.ids.tolist() == [1]
    assert pickle.loads(pickle.dumps(data.index)).ids.tolist() == [1]


def test_pickle_carries_the_place_and_not_the_arrays(write_coco, person):
    index = read_coco(write_coco([person(i) for i in range(500)]))
    pickled = pickle.dumps(index)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled).keypoints, index.keypoints)


def test_real_file():
    if not SAMPLES.exists():
        pytest.skip("no sample photographs here")
    data = CocoInstances(SAMPLES / "test_coco.json")
    assert len(data) == 12
    assert data.index.summary().endswith("14 annotations, 12 usable; dropped: 2 no labelled keypoint")
    assert data.skeleton.num_keypoints == 17
    assert data[0].image.shape == (425, 640, 3)
