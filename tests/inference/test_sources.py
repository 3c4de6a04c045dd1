import json
import threading
from itertools import count

import cv2
import numpy as np
import pytest

from lightpose.errors import UserError
from lightpose.inference.sources import batched, open_source, prefetch


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
    assert source.category_id == 9
    assert source.boxes.keys() == {"0.png"}
    assert np.array_equal(source.boxes["0.png"][0], [[10, 20, 40, 60]])

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
        ("notes.txt", "no known kind"),
        ("bad.json", "no COCO file"),
        ("list.json", "no COCO file"),
        ("none.json", "lists no images"),
        ("missing.json", r"the images of .*missing\.json, e\.g\. gone\.png, are not in"),
        ("partly.json", r"1 of the 2 images .* gone\.png; say where they are with `images`"),
        ("strange.json", r"annotates 1 people in images .* image_id 9"),
        ("bad.mp4", "can't be opened"),
    ],
)
def test_bad_sources_are_refused(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    for file, text in {
        "notes.txt": "hello",
        "bad.json": "{",
        "list.json": "[1]",
        "none.json": '{"images": []}',
        "missing.json": '{"images": [{"id": 1, "file_name": "gone.png"}]}',
        "partly.json": '{"images": [{"id": 1, "file_name": "notes.txt"}, {"id": 2, "file_name": "gone.png"}]}',
        "strange.json": '{"images": [], "annotations": [{"image_id": 9, "bbox": [0, 0, 1, 1]}]}',
        "bad.mp4": "no video",
    }.items():
        (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=message):
        open_source(str(tmp_path / name))


def test_camera_that_is_not_there():
    with pytest.raises(UserError, match="camera 97"):
        open_source(97)


def test_corrupt_image_is_named(folder):
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:300])
    cv2.imwrite(str(folder / "fine.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match=r"2\.png"):
        list(open_source(str(folder)).frames(ahead=2))
