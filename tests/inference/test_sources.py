import json
import logging
import os
import threading
from itertools import count

import cv2
import numpy as np
import pytest

from lightpose.errors import UserError
from lightpose.inference.prefetch import batched, prefetch
from lightpose.inference.sources import open_source


def test_folder_glob_and_image_give_images_in_order(folder, images):
    for source in (folder, folder / "*.png", folder / "*"):
        frames = list(open_source(str(source)).frames(ahead=2))
        assert [frame.name for frame in frames] == [f"{number}.png" for number in range(5)]
        assert [frame.image_id for frame in frames] == [1, 2, 3, 4, 5]
        assert all(np.array_equal(frame.image, image) for frame, image in zip(frames, images, strict=True))
    (frame,) = open_source(str(folder / "3.png")).frames(ahead=2)
    assert frame.name == "3.png"


def test_glob_names_are_unique_below_the_common_folder(folder):
    (folder / "more").mkdir()
    (folder / "0.png").rename(folder / "more" / "1.png")
    assert list(open_source(f"{folder}/**/1.png").files) == ["1.png", "more/1.png"]


def test_coco_json_gives_its_images_ids_and_boxes(folder, tmp_path):
    coco = {
        "images": [{"id": 70, "file_name": "2.png"}, {"id": 7, "file_name": "0.png"}],
        "annotations": [
            {"image_id": 7, "bbox": [10, 20, 30, 40], "category_id": 9, "iscrowd": 0},
            {"image_id": 7, "bbox": [1, 2, 3, 4], "category_id": 9, "iscrowd": 1},
            {"image_id": 7, "bbox": [1, 2, 3, 0], "category_id": 9},
            {"image_id": 7, "bbox": [1, 2, 3, 4], "category_id": 4},
        ],
        "categories": [{"id": 4, "name": "car"}, {"id": 9, "name": "cat", "keypoints": ["nose"]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    source = open_source(str(tmp_path / "coco.json"), images=str(folder))
    assert [(frame.name, frame.image_id) for frame in source.frames(ahead=2)] == [("2.png", 70), ("0.png", 7)]
    assert source.category_ids == [9]
    assert source.boxes.keys() == {7}
    assert np.array_equal(source.boxes[7][0], [[10, 20, 40, 60]])

    folder.rename(tmp_path / "images")
    assert open_source(str(tmp_path / "coco.json")).files["2.png"] == tmp_path / "images" / "2.png"


def test_video_gives_every_frame_in_order(video):
    source = open_source(str(video))
    assert source.fps == 12
    assert list(source.image_ids) == list(range(1, 41))
    frames = list(source.frames(ahead=4))
    assert [frame.image_id for frame in frames] == list(range(1, 41))
    assert [frame.name for frame in frames] == [source.name_of(number) for number in source.image_ids]
    assert source.has("clip_000040")
    assert not any(map(source.has, ("clip_000041", "clip_40", "clip_000000", "other_000001", "clip_x")))
    assert frames[0].name == "clip_000001"
    assert np.abs([frame.image.mean() - 5 * number for number, frame in enumerate(frames)]).max() < 3


def test_video_can_be_left_early(video):
    before = set(threading.enumerate())
    frames = open_source(str(video)).frames(ahead=4)
    next(frames)
    assert set(threading.enumerate()) - before
    frames.close()
    assert not set(threading.enumerate()) - before


def test_prefetch_keeps_order_and_bound():
    started = []
    results = prefetch(lambda number: started.append(number) or number * 2, count(), ahead=3)
    for number in range(50):
        assert next(results) == 2 * number
        assert len(started) <= number + 4
    results.close()


def test_batched():
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "there is no source"),
        ("nothing*", "holds no image"),
        ("empty", "holds no image"),
        ("[b]*.mp4", r"holds videos and no image, and a command takes one video; give source='.*bad\.mp4'"),
        ("notes.txt", "no known kind"),
        ("bad.json", "is not JSON"),
        ("list.json", "a COCO keypoint file is a JSON object"),
        ("none.json", "lists no images"),
        ("missing.json", r"the images of .*missing\.json, e\.g\. gone\.png, are not in"),
        ("partly.json", r"1 of the 2 images .* gone\.png; say where they are with `images`"),
        ("bad.mp4", "can't be opened"),
        ("folders", r"holds no image itself, only folders; .* source='.*folders/\*\*/\*\.jpg'"),
        ("picture.heic", r"no known kind of file; expected \.json or one of .*\.jpeg, .*\.jpg"),
        ("picture.jfif", "no known kind"),
        ("pipe.jpg", "is a device, a pipe or a socket"),
        ("pipe.mp4", "is a device, a pipe or a socket"),
        ("pipe.json", "is a device, a pipe or a socket"),
        ("/dev/zero", "is a device, a pipe or a socket"),
        ("n" * 5000, "there is no source"),
        ("n" * 5000 + "*.jpg", "holds no image"),
        ("a\0b.jpg", "there is no source"),
        ("~nobody-at-all/a.jpg", "there is no source"),
        ("99999999999999999999", "there is no source"),
        ("²", "there is no source"),
    ],
)
def test_bad_sources_are_refused(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "folders" / "x.jpg").mkdir(parents=True)
    for suffix in ("jpg", "mp4", "json"):
        os.mkfifo(tmp_path / f"pipe.{suffix}")
    for file, text in {
        "picture.heic": "",
        "picture.jfif": "",
        "notes.txt": "hello",
        "bad.json": "{",
        "list.json": "[1]",
        "none.json": '{"images": []}',
        "missing.json": '{"images": [{"id": 1, "file_name": "gone.png"}]}',
        "partly.json": '{"images": [{"id": 1, "file_name": "notes.txt"}, {"id": 2, "file_name": "gone.png"}]}',
        "bad.mp4": "no video",
    }.items():
        (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=message):
        open_source(str(tmp_path / name) if name[0] != "~" else name)


def test_camera_that_is_not_there():
    with pytest.raises(UserError, match="camera 97"):
        open_source(97)


def test_corrupt_image_is_named(folder):
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:300])
    cv2.imwrite(str(folder / "fine.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match=r"2\.png"):
        list(open_source(str(folder)).frames(ahead=2))


@pytest.mark.parametrize("source", ["", " "])
def test_nothing_is_no_source(source):
    with pytest.raises(UserError, match="source is empty"):
        open_source(source)


def test_hidden_files_and_folders_are_no_pictures(folder, images, caplog):
    caplog.set_level(logging.INFO)
    for name in ("._0.png", ".x.png"):
        (folder / name).write_bytes(b"notes of a system")
    (folder / "folder.png").mkdir()
    (folder / "4.png").rename(folder / "4.PNG")
    for source in (folder, f"{folder}/*", f"{folder}/.*", f"{folder}/**/*"):
        if source == f"{folder}/.*":
            with pytest.raises(UserError, match="holds no image"):
                open_source(source)
        else:
            assert list(open_source(str(source)).files) == ["0.png", "1.png", "2.png", "3.png", "4.PNG"]
    assert caplog.messages == [f"{folder}: 1 files that are no images are left out, such as notes.txt"]
    frames = list(open_source(str(folder)).frames())
    assert np.array_equal(frames[4].image, images[4])


def test_what_is_no_file_in_a_folder_is_named_and_never_waited_for(folder):
    os.mkfifo(folder / "5.png")
    with pytest.raises(UserError, match=r"5\.png is no regular file"):
        list(open_source(str(folder)).frames())
    (folder / "5.png").unlink()
    (folder / "5.png").symlink_to("gone")
    with pytest.raises(UserError, match=r"5\.png can't be read \(No such file"):
        list(open_source(str(folder)).frames())


def test_bad_images_are_left_out_named_and_counted_where_they_are_skipped(folder, images, caplog):
    for name in ("1.png", "3.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:300])
    source = open_source(str(folder))
    caplog.clear()
    frames = list(source.frames(ahead=2, on_bad_image="skip"))
    assert [(frame.name, frame.image_id) for frame in frames] == [("0.png", 1), ("2.png", 3), ("4.png", 5)]
    assert all(np.array_equal(frame.image, images[frame.image_id - 1]) for frame in frames)
    assert [message.partition(" (")[0] for message in caplog.messages[:2]] == [
        f"Skipped: image {folder / '1.png'}",
        f"Skipped: image {folder / '3.png'}",
    ]
    assert caplog.messages[2:] == ["2 of 5 images can't be read and were skipped"]
    with pytest.raises(UserError, match=r"1\.png .*on_bad_image=skip"):
        list(source.frames())
    with pytest.raises(UserError, match="on_bad_image=leave is unknown; use error or skip"):
        list(source.frames(on_bad_image="leave"))
    for number in range(5):
        (folder / f"{number}.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 5 images can be read"):
        list(source.frames(on_bad_image="skip"))
