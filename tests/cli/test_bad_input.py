"""What bad input gets: one paragraph that names the culprit and the way out, exit code 1, nothing half-written."""

import json
import shutil

import pytest

from lightpose.cli import data, eval, predict, train


@pytest.fixture
def copy(people, tmp_path):
    """A copy of the data set that a test may spoil: (annotation file, its content)."""
    folder = tmp_path / "copy"
    shutil.copytree(people.parent, folder)
    return folder / people.name, json.loads(people.read_text())


@pytest.fixture
def five_keypoints(copy):
    """The data set with the first five keypoints only, under other names."""
    annotations, content = copy
    content["categories"][0] |= {"keypoints": ["a", "b", "c", "d", "e"], "skeleton": []}
    for entry in content["annotations"]:
        entry["keypoints"] = entry["keypoints"][:15]
    annotations.write_text(json.dumps(content))
    return annotations


@pytest.fixture
def refused(run, tiny, tmp_path, monkeypatch):
    """Runs a training that must be refused; gives its message."""

    def call(*arguments):
        monkeypatch.chdir(tmp_path)
        code, _, err = run(train.main, *tiny, *arguments)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 1 and len(lines) == 1 and "Traceback" not in err, err
        assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").rglob("*.ckpt"))
        return lines[0]

    return call


def test_missing_annotation_file(refused):
    assert "nowhere.json" in refused("data.train=nowhere.json")


def test_no_data(refused):
    assert "data.train=annotations.json" in refused()


def test_a_refused_run_leaves_no_folder(refused, tmp_path):
    refused("data.train=nowhere.json")
    assert not (tmp_path / "outputs").exists()


def test_a_new_run_overwrites_no_other(refused, people, tmp_path):
    folder = tmp_path / "mine"
    theirs = folder / "checkpoints/best.ckpt"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"days of work")
    for option in ([], [f"init_from={theirs}"], [f"resume={tmp_path / 'elsewhere/checkpoints/last.ckpt'}"]):
        message = refused(f"data.train={people}", f"output_dir={folder}", *option)
        assert f"output_dir={folder} holds checkpoints of another run (best.ckpt)" in message
    assert theirs.read_bytes() == b"days of work" and [path.name for path in folder.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:900])])
def test_bad_image_is_named_or_skipped(refused, run, tiny, copy, tmp_path, spoil):
    annotations, content = copy
    name = content["images"][3]["file_name"]
    spoil(annotations.parent / "images" / name)
    assert name in refused(f"data.train={annotations}", "trainer.max_epochs=1")
    code, out, err = run(
        train.main,
        *tiny,
        f"data.train={annotations}",
        "reader.on_bad_image=skip",
        "trainer.max_epochs=1",
        f"output_dir={tmp_path}/run",
    )
    assert code == 0 and "1 unreadable images were skipped" in out + err


def test_image_of_another_size(refused, copy):
    annotations, content = copy
    content["images"][0]["width"] += 7
    annotations.write_text(json.dumps(content))
    message = refused(f"data.train={annotations}", "trainer.max_epochs=1")
    assert content["images"][0]["file_name"] in message and "327" in message and "320" in message


def test_no_usable_instance_gives_the_report(refused, copy):
    annotations, content = copy
    for entry in content["annotations"]:
        entry["keypoints"] = [0] * 51
    annotations.write_text(json.dumps(content))
    assert f"{len(content['annotations'])} " in refused(f"data.train={annotations}")


def test_another_number_of_keypoints(refused, five_keypoints):
    message = refused(f"data.train={five_keypoints}", "skeleton=coco17")
    assert "17" in message and "5" in message


def test_sigmas_of_another_length(refused, people):
    message = refused(f"data.train={people}", "skeleton.sigmas=[0.1,0.2]")
    assert "17 keypoints but 2 sigmas" in message


def test_head_and_codec_that_do_not_fit(refused, people):
    message = refused(f"data.train={people}", "codec=heatmap_offset")
    assert "expects ['heatmap', 'offset']" in message and "use head=heatmap_offset" in message


def test_boxes_of_unknown_images(run, trained, people, tmp_path):
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": 987654, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 1}]))
    code, _, err = run(
        eval.main, f"ckpt={trained}/checkpoints/last.ckpt", f"annotations={people}", f"boxes={boxes}", "num_workers=0"
    )
    assert code == 1 and "987654" in err


def test_resume_of_another_skeleton(refused, trained, copy):
    annotations, content = copy
    content["categories"][0]["keypoints"][0] = "snout"
    annotations.write_text(json.dumps(content))
    last = trained / "checkpoints/last.ckpt"
    message = refused(f"data.train={annotations}", f"resume={last}", "trainer.max_epochs=9", "output_dir=elsewhere")
    assert "snout" in message and "init_from=" in message


def test_checkpoint_of_another_skeleton_is_not_scored(run, trained, five_keypoints):
    code, _, err = run(eval.main, f"ckpt={trained}/checkpoints/last.ckpt", f"annotations={five_keypoints}")
    assert code == 1 and "17" in err and "5" in err


def test_eval_wants_one_of_both(run):
    code, _, err = run(eval.main)
    assert code == 1 and "ckpt=" in err and "predictions=" in err


def test_predict_on_nothing(run, trained, tmp_path):
    checkpoint = f"ckpt={trained}/checkpoints/last.ckpt"
    code, _, err = run(predict.main, checkpoint, f"source={tmp_path}/none.jpg", f"out={tmp_path}/out")
    assert code == 1 and "none.jpg" in err and not (tmp_path / "out").exists()


def test_check_finds_what_training_would_trip_over(run, copy):
    annotations, content = copy
    (annotations.parent / "images" / content["images"][2]["file_name"]).unlink()
    code, out, _ = run(data.main, "check", f"data.train={annotations}")
    assert code == 1 and content["images"][2]["file_name"] in out


def test_check_of_a_good_file(run, people):
    code, out, _ = run(data.main, "check", f"data={people}")
    assert code == 0 and "usable" in out and "skeleton coco17" in out


def test_preview_draws(run, people, tmp_path, tiny):
    code, out, err = run(data.main, "preview", f"data.train={people}", f"out={tmp_path}/preview.png", *tiny)
    assert code == 0, err
    assert (tmp_path / "preview.png").stat().st_size > 1000 and "left_eye ↔ right_eye" in out + err


def test_synthetic_keeps_what_is_there(run, people):
    code, _, err = run(data.main, "synthetic", f"out={people.parent}", "images=2")
    assert code == 1 and str(people.parent) in err
