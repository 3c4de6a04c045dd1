"""Labels of other tools as COCO files: what is kept, what is lost, and that nothing else happens."""

import hashlib
import json
import pickle
import shutil
import sys

import labelled_animals as animals_of
import numpy as np
import pytest
from conftest import SAMPLES, TINY

from lightpose.cli import data, train
from lightpose.data.coco.dataset import skeleton_of
from lightpose.data.coco.index import read_coco
from lightpose.data.pixels.decode import read_image
from lightpose.errors import UserError
from lightpose.inference.video.decode import read_frames
from lightpose.inference.video.timeline import read_timeline
from lightpose.interop.datasets.convert import convert

NAMES, ANIMALS, PICTURES = animals_of.NAMES, animals_of.animals(), animals_of.pictures()


def frames_of(path):
    return ((number - 1, image) for number, image in read_frames(str(path), read_timeline(str(path))))


def converted(source, tmp_path, **options):
    return convert(source, tmp_path / "out" / "train.json", frames_of, **options)


def check(path, expected, names=NAMES, pictures=None, tolerance=0.02):
    """Each picture of a COCO file has these animals, and shows what was labelled."""
    content = json.loads(path.read_text())
    (category,) = content["categories"]
    order = [category["keypoints"].index(name) for name in names]
    assert sorted(category["keypoints"]) == sorted(names)
    for image, listed, pixels in zip(content["images"], expected, pictures or PICTURES, strict=True):
        assert np.array_equal(read_image(path.parent / image["file_name"]), pixels)
        found = [entry for entry in content["annotations"] if entry["image_id"] == image["id"]]
        assert len(found) == len(listed)
        for entry, animal in zip(found, listed, strict=True):
            points = np.array(entry["keypoints"]).reshape(-1, 3)[order]
            assert points[:, 2].tolist() == animal[:, 2].tolist()
            labelled = animal[:, 2] > 0
            assert np.abs(points - animal)[labelled].max() < tolerance and not points[~labelled].any()
            left, top, width, height = entry["bbox"]
            inside = (animal[labelled, :2] >= [left, top]) & (animal[labelled, :2] <= [left + width, top + height])
            assert inside.all()
    assert not read_coco(path).status.any()  # all can be trained on
    return category, content


def first_animals():
    return [listed[:1] for listed in ANIMALS]


def yolo(folder):
    return animals_of.write_yolo(folder)


def deeplabcut(folder):
    return animals_of.write_dlc(folder)


def lightning_pose(folder):
    animals_of.write_pictures(folder / "images")
    return animals_of.write_lightning(folder / "CollectedData.csv")


def sleap(folder):
    labels = animals_of.sleap_labels(animals_of.write_pictures(folder))
    labels.save(str(folder / "labels.slp"), embed=False)
    return folder / "labels.slp"


def label_studio(folder):
    return animals_of.write_label_studio(folder / "export.json", animals_of.write_pictures(folder))


def cvat(folder):
    return animals_of.write_cvat(folder / "annotations.xml", animals_of.write_pictures(folder / "images"))


def nwb(folder):
    labels = animals_of.sleap_labels(video=animals_of.write_video(folder / "clip.mkv"))
    labels.remove_predictions()
    sys.modules["sleap_io"].save_nwb(labels, str(folder / "labels.nwb"))
    return folder / "labels.nwb"


TOOLS = [yolo, deeplabcut, lightning_pose, sleap, label_studio, cvat, nwb]


@pytest.mark.slow
@pytest.mark.parametrize("tool", TOOLS)
def test_training_takes_what_was_converted(run, tmp_path, monkeypatch, tool):
    folder = tmp_path / "theirs"
    folder.mkdir()
    before = tool(folder)
    marks = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, said, err = run(data.main, "convert", f"source={before}", f"out={tmp_path / 'train.json'}")
    assert code == 0, err
    assert "train.json: " in said and "4 keypoints" in said
    assert marks == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not list(tmp_path.glob(".unfinished*"))
    monkeypatch.chdir(tmp_path)
    given = [f"data.train={tmp_path / 'train.json'}", "data.batch_size=2", "trainer.max_steps=1"]
    tiny = [option for option in TINY if not option.startswith("data.batch_size")]
    code, _, err = run(train.main, "experiment=custom", *tiny, *given, f"output_dir={tmp_path / 'run'}")
    assert code == 0, err


def test_yolo_keeps_splits_boxes_visibility_and_pairs(tmp_path):
    path = animals_of.write_yolo(tmp_path / "theirs")
    labels = tmp_path / "theirs/labels/train/img1.txt"
    labels.write_text(labels.read_text().rstrip("2\n") + "1\n")  # the tail is hidden
    made = converted(path, tmp_path)
    assert made.files == {tmp_path / "out/train.json": (2, 3), tmp_path / "out/val.json": (1, 1)}
    expected = [listed.copy() for listed in ANIMALS]
    expected[1] = [expected[1][0].copy()]
    expected[1][0][3, 2] = 1
    category, content = check(tmp_path / "out/train.json", expected[:2], pictures=PICTURES[:2])
    check(tmp_path / "out/val.json", expected[2:], pictures=PICTURES[2:])
    assert category["name"] == "mouse" and category["swap_pairs"] == [["left_ear", "right_ear"]]
    boxes = [entry["bbox"] for entry in content["annotations"]]
    assert np.allclose(boxes, [animals_of.boxes(animal) for listed in ANIMALS[:2] for animal in listed], atol=0.01)


def test_flips_of_yolo_are_those_of_training(tmp_path):
    """Also where no names tell; a file whose points all stay is mirrored, too."""
    names = {"kpt_names": None}
    path = animals_of.write_yolo(tmp_path / "a", **names)
    converted(path, tmp_path)
    skeleton = skeleton_of(tmp_path / "out/train.json")
    assert skeleton.keypoints == ("0", "1", "2", "3") and skeleton.swap == (0, 2, 1, 3) and skeleton.mirrors
    path = animals_of.write_yolo(tmp_path / "b", flip_idx=[0, 1, 2, 3], **names)
    converted(path, tmp_path, overwrite=True)
    skeleton = skeleton_of(tmp_path / "out/train.json")
    assert skeleton.swap == (0, 1, 2, 3) and skeleton.mirrors
    path = animals_of.write_yolo(tmp_path / "c", flip_idx=None, **names)
    converted(path, tmp_path, overwrite=True)
    assert not skeleton_of(tmp_path / "out/train.json").mirrors


def test_yolo_as_sleap_io_writes_it(tmp_path):
    sleap_io = pytest.importorskip("sleap_io")
    labels = animals_of.sleap_labels(animals_of.write_pictures(tmp_path / "pictures"))
    sleap_io.save_ultralytics(labels, tmp_path / "theirs", split_ratios={"train": 1.0})
    for labels in (tmp_path / "theirs").rglob("img1.txt"):
        labels.unlink()
    made = converted(tmp_path / "theirs", tmp_path)
    assert made.keypoints == list(NAMES)
    assert sum(people for _, people in made.files.values()) == 5  # with the one that was predicted


def test_yolo_of_roboflow_and_lists(tmp_path):
    """Names that begin with ``..`` though their folders are beside the file; and text files of pictures."""
    path = animals_of.write_yolo(tmp_path / "theirs", path=None, train="../images/train", val="val.txt")
    (tmp_path / "theirs/val.txt").write_text("/home/somebody/data/images/val/img2.png\n")
    assert sorted(count for count, _ in converted(path, tmp_path).files.values()) == [1, 2]


@pytest.mark.parametrize("several", [False, True])
def test_deeplabcut_project_keeps_names_links_and_individuals(tmp_path, several):
    made = converted(animals_of.write_dlc(tmp_path / "theirs", several).parent, tmp_path)
    expected = ANIMALS if several else first_animals()
    category, content = check(tmp_path / "out/train.json", expected)
    assert category["name"] == "mouse" and category["keypoints"] == list(NAMES)
    assert category["skeleton"] == [[i + 1, j + 1] for i, j in animals_of.LINKS]
    assert [entry.get("track_id") for entry in content["annotations"]] == ([0, 1, 0, 0] if several else [None] * 3)
    assert "pickles" in made.notes[0]


def test_pickles_of_deeplabcut_are_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    project = animals_of.write_dlc(tmp_path / "theirs")
    for name in ("labeled-data/mice/CollectedData_somebody.h5", "Documentation_data-mouse_95shuffle1.pickle"):
        (tmp_path / "theirs" / name).write_bytes(pickle.dumps(Bomb()))
    converted(project, tmp_path)
    table = tmp_path / "theirs/labeled-data/mice/CollectedData_somebody.csv"
    table.unlink()
    with pytest.raises(UserError, match=r"pickles, which run code.*to_csv"):
        converted(project, tmp_path / "other")
    with pytest.raises(UserError, match=r"give the \.csv file beside it"):
        converted(table.with_suffix(".h5"), tmp_path / "other")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "other").exists()


def test_lightning_pose_table(tmp_path):
    folder = tmp_path / "theirs"
    converted(lightning_pose(folder), tmp_path)
    check(tmp_path / "out/train.json", first_animals())
    animals_of.write_lightning(folder / "CollectedData.csv", visible=True)
    converted(folder / "CollectedData.csv", tmp_path, overwrite=True)
    check(tmp_path / "out/train.json", first_animals())


@pytest.mark.skipif(not SAMPLES.exists(), reason="needs the samples")
def test_real_mice(tmp_path):
    mice = SAMPLES / "mirror_mouse"
    made = converted(mice / "CollectedData.csv", tmp_path)
    assert list(made.files.values()) == [(90, 90)]
    labels = {}
    for name in ("train.json", "val.json"):
        content = json.loads((mice / name).read_text())
        files = {image["id"]: image["file_name"] for image in content["images"]}
        labels |= {files[entry["image_id"]]: entry["keypoints"] for entry in content["annotations"]}
    content = json.loads((tmp_path / "out/train.json").read_text())
    files = {image["id"]: image["file_name"].rpartition("/")[2] for image in content["images"]}
    for entry in content["annotations"]:
        found, known = (
            np.reshape(values, (17, 3)) for values in (entry["keypoints"], labels[files[entry["image_id"]]])
        )
        assert np.array_equal(found[:, 2], known[:, 2]) and np.abs(found - known)[found[:, 2] > 0].max() < 1e-3
    assert not read_coco(tmp_path / "out/train.json").status.any()


@pytest.mark.parametrize("kind", ["video", "embedded by OpenCV", "embedded by imageio"])
def test_sleap_frames_become_pictures(tmp_path, kind):
    pytest.importorskip("sleap_io")
    folder = tmp_path / "theirs"
    folder.mkdir()
    labels = animals_of.sleap_labels(video=animals_of.write_video(folder / "clip.mkv"))
    path = folder / ("labels.slp" if kind == "video" else "labels.pkg.slp")
    plugin = {"embedded by OpenCV": "opencv", "embedded by imageio": "imageio"}.get(kind)
    labels.save(str(path), embed=plugin is not None and "user", **({"plugin": plugin} if plugin else {}))
    if plugin:
        (folder / "clip.mkv").unlink()
    made = converted(path, tmp_path)
    category, content = check(tmp_path / "out/train.json", ANIMALS)
    assert made.images == tmp_path / "out/train_images" and len(list(made.images.iterdir())) == 3
    assert category["swap_pairs"] == [["left_ear", "right_ear"]] and len(category["skeleton"]) == 3
    assert [entry["track_id"] for entry in content["annotations"]] == [0, 1, 0, 0]
    assert made.lost == {"instances that were predicted, and corrected by nobody": 1}


@pytest.mark.parametrize("relations", [False, True])
def test_label_studio_keeps_boxes_and_whose_each_keypoint_is(tmp_path, relations):
    files = animals_of.write_pictures(tmp_path / "theirs")
    made = converted(animals_of.write_label_studio(tmp_path / "theirs/export.json", files, relations), tmp_path)
    category, content = check(tmp_path / "out/train.json", ANIMALS)
    assert category["name"] == "mouse"
    boxes = [entry["bbox"] for entry in content["annotations"]]
    assert np.allclose(boxes, [animals_of.boxes(animal) for listed in ANIMALS for animal in listed], atol=0.01)
    assert made.lost == {"tasks that nobody labelled": 1}


def test_cvat_keeps_hidden_points_links_and_subsets(tmp_path):
    files = animals_of.write_pictures(tmp_path / "theirs")
    path = animals_of.write_cvat(tmp_path / "theirs/annotations.xml", files)
    path.write_text(path.read_text().replace('occluded="0"', 'occluded="1"', 4))
    made = converted(path, tmp_path)
    expected = [[animal.copy() for animal in listed] for listed in ANIMALS]
    expected[0][0][:, 2] = np.minimum(expected[0][0][:, 2], 1)
    category, _ = check(tmp_path / "out/train.json", expected[:2], pictures=PICTURES[:2])
    check(tmp_path / "out/validation.json", expected[2:], pictures=PICTURES[2:])
    assert category["keypoints"] == list(NAMES) and len(category["skeleton"]) == 3
    assert made.lost == {"shapes of the kind box": 3}


def test_cvat_tracks_give_key_frames(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    video = animals_of.write_video(folder / "clip.mkv")
    made = converted(animals_of.write_cvat(folder / "annotations.xml", [], video), tmp_path)
    _, content = check(tmp_path / "out/train.json", ANIMALS)
    assert [entry["track_id"] for entry in content["annotations"]] == [0, 1, 0, 0]
    assert made.lost == {"shapes between key frames, which CVAT made up": 4}


def test_nwb_keeps_what_sleap_io_writes(tmp_path):
    pytest.importorskip("ndx_pose")
    folder = tmp_path / "theirs"
    folder.mkdir()
    converted(nwb(folder), tmp_path)
    category, _ = check(tmp_path / "out/train.json", ANIMALS)
    assert len(category["skeleton"]) == 3


def test_estimates_in_nwb_are_no_labels(tmp_path):
    sleap_io = pytest.importorskip("sleap_io")
    labels = animals_of.sleap_labels(video=animals_of.write_video(tmp_path / "clip.mkv"))
    for frame in labels:
        points = [each.numpy() for each in frame.instances[:1]]
        frame.instances = [sleap_io.PredictedInstance.from_numpy(np.nan_to_num(points[0]), labels.skeleton, score=1.0)]
    labels = sleap_io.Labels(
        [sleap_io.LabeledFrame(frame.video, number, frame.instances) for number, frame in enumerate(labels)]
    )
    sleap_io.save_nwb(labels, str(tmp_path / "poses.nwb"), nwb_format="predictions")
    with pytest.raises(UserError, match="estimates of poses, which nobody labelled"):
        converted(tmp_path / "poses.nwb", tmp_path)


def broken(tmp_path, name):
    """A source that can't be used."""
    folder = tmp_path / "theirs"
    if name in ("empty.csv", "empty.slp", "empty.json", "empty.xml", "empty.nwb", "empty.yaml"):
        folder.mkdir()
        path = folder / name
        path.write_bytes(b"")
        return path
    if name.startswith("other."):
        folder.mkdir()
        path = folder / name
        path.write_text('{"images": [], "annotations": []}' if name.endswith("json") else "<html><b>no</b></html>")
        return path
    if name == "swelling.xml":
        folder.mkdir()
        path = folder / name
        path.write_text('<!DOCTYPE a [<!ENTITY b "cccc">]><annotations><meta/>&b;</annotations>')
        return path
    if name == "names twice":
        path = animals_of.write_yolo(folder, kpt_names={0: ["a", "a", "b", "c"]})
        return path
    if name == "no folder":
        return animals_of.write_yolo(folder, train="elsewhere")
    if name == "leads outside":
        path = animals_of.write_yolo(folder, train="images/../../../x")
        return path
    if name == "other K":
        path = animals_of.write_yolo(folder, kpt_shape=[5, 3], flip_idx=None, kpt_names=None)
        return path
    if name == "other parts":
        animals_of.write_dlc(folder, names=["nose", "left_ear", "right_ear", "back"], video="other")
        return animals_of.write_dlc(folder)
    if name == "missing picture":
        path = animals_of.write_dlc(folder)
        (folder / "labeled-data/mice/img1.png").unlink()
        return path
    if name == "twice in a box":
        files = animals_of.write_pictures(folder)
        path = animals_of.write_label_studio(folder / "export.json", files)
        path.write_text(path.read_text().replace("left_ear", "nose"))
        return path
    if name == "no picture":
        files = animals_of.write_pictures(folder)
        path = animals_of.write_label_studio(folder / "export.json", files)
        tasks = json.loads(path.read_text())
        path.write_text(json.dumps([{"id": 5, "data": {}, "annotations": task["annotations"]} for task in tasks]))
        return path
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty.csv", "no header of labels"),
        ("empty.slp", "can't be read as HDF5"),
        ("empty.nwb", "can't be read as HDF5"),
        ("empty.json", "is not JSON"),
        ("empty.xml", "is not XML"),
        ("empty.yaml", "holds null, expected keys and values"),
        ("other.xml", "XML that begins with html"),
        ("other.json", "is a COCO file, which needs no conversion"),
        ("other.txt", "no known kind of file; give data.yaml"),
        ("swelling.xml", "defines entities"),
        ("names twice", "names the keypoint a twice"),
        ("no folder", "give the folder of the data set as images="),
        ("leads outside", "leads outside by .."),
        ("other K", "has 17 numbers, expected 20"),
        ("other parts", "have different body parts: only one of them has back, tail"),
        ("missing picture", "img1.png is not in"),
        ("no picture", "export.json names no picture in its data"),
        ("twice in a box", "has two keypoints nose in one box"),
    ],
)
def test_bad_sources_are_refused_and_leave_nothing(run, tmp_path, name, words):
    source = broken(tmp_path, name)
    code, _, err = run(data.main, "convert", f"source={source}", f"out={tmp_path / 'out' / 'train.json'}")
    assert code == 1 and words in err, err
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(tmp_path):
    path = animals_of.write_label_studio(tmp_path / "train.json", animals_of.write_pictures(tmp_path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for overwrite in (False, True):
        with pytest.raises(UserError, match="would be overwritten"):
            convert(path, path, frames_of, overwrite=overwrite)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    convert(path, tmp_path / "other.json", frames_of)
    with pytest.raises(UserError, match="is there already; give another out=, or overwrite=true"):
        convert(path, tmp_path / "other.json", frames_of)


def test_missing_pictures_are_left_out_when_told(tmp_path):
    path = animals_of.write_dlc(tmp_path / "theirs")
    (tmp_path / "theirs/labeled-data/mice/img1.png").write_bytes(b"no picture")
    made = converted(path, tmp_path, on_bad_image="skip")
    assert list(made.files.values()) == [(2, 2)]
    assert made.lost == {"pictures that are missing or can't be read": 1}


def test_links_to_other_files_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "labels.slp", "w") as file:
        file["points"] = h5py.ExternalLink("/etc/other.h5", "/points")
    with pytest.raises(UserError, match=r"links to another file, /etc/other\.h5"):
        converted(tmp_path / "labels.slp", tmp_path)
    with h5py.File(tmp_path / "large.nwb", "w") as file:
        file.create_dataset("points", shape=(10**12,), dtype="f4", chunks=(1024,))
    with pytest.raises(UserError, match="more than 2 GB of numbers"):
        converted(tmp_path / "large.nwb", tmp_path)


def test_addresses_in_a_file_are_not_opened(tmp_path, monkeypatch):
    """A video of a file that is an address is looked for by its last name, in the folders given."""
    sleap_io = pytest.importorskip("sleap_io")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was opened"))
    labels = animals_of.sleap_labels(video=animals_of.write_video(tmp_path / "clip.mkv"))
    labels.videos[0].replace_filename("https://example.org/clip.mkv", open=False)
    labels.save(str(tmp_path / "labels.slp"), embed=False)
    assert "example.org" in sleap_io.load_slp(str(tmp_path / "labels.slp"), open_videos=False).video.filename
    converted(tmp_path / "labels.slp", tmp_path)
    check(tmp_path / "out/train.json", ANIMALS)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "clip.mkv").unlink()
    with pytest.raises(UserError, match=r"clip.mkv is not in .*; give its folder as images="):
        converted(tmp_path / "labels.slp", tmp_path)
