"""From poses of the plane to joints in space by command: files, videos, tracks, skeletons, gaps, pictures."""

import json
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiny_checkpoint import config, save

from lightpose.checkpoint import build
from lightpose.cli.predict import main
from lightpose.draw import identity_color
from lightpose.errors import UserError
from lightpose.geometry import screen_from_image
from lightpose.inference.lifting import DERIVED, Lifted, Lifter, Seen, sources_of
from lightpose.inference.stick_figures import StickFigures

CONF = Path(__file__).parents[2] / "conf"
COCO, H36M = (instantiate(OmegaConf.load(CONF / f"skeleton/{name}.yaml")) for name in ("coco17", "h36m"))
LIGHTPOSE = "lightpose"


def lifter_config(frames: int = 9, causal: bool = False, every: bool = False) -> dict:
    parts = "lightpose.models"
    backbone = {"_target_": f"{parts}.backbones.tcn.TCN", "_partial_": True, "frames": frames, "width": 16}
    head = {"_target_": f"{parts}.heads.lifting.LiftingHead", "_partial_": True}
    head["criterion"] = {"_target_": f"{parts}.losses.lifting.MPJPE"}
    codec = {"_target_": "lightpose.codecs.lifting.LiftingCodec", "_partial_": True}
    if every:
        backbone = {"_target_": f"{parts}.backbones.dstformer.DSTFormer", "_partial_": True}
        backbone |= {"frames": frames, "width": 16, "depth": 1, "heads": 2}
        head = {"_target_": f"{parts}.heads.motion.MotionHead", "_partial_": True, "representation": 8}
        head["criterion"] = {"_target_": f"{parts}.losses.lifting.MotionLoss"}
        codec = {"_target_": "lightpose.codecs.motionbert.MotionBertCodec", "_partial_": True}
    else:
        backbone["causal"] = causal
    estimator = config()["estimator"] | {
        "_target_": "lightpose.estimators.lifter.PoseLifter",
        "input_hw": None,
        "preprocessor": {"_target_": "torch.nn.Identity"},
        "backbone": backbone,
        "head": head,
        "codec": codec,
        "causal": causal,
        "flip_test": False,
    }
    return {"estimator": estimator, "data": {"reader": {"frames": frames, "causal": causal}}}


def save_lifter(path: Path, **options) -> Path:
    torch.manual_seed(0)
    estimator = build(lifter_config(**options), H36M)
    content = {"state_dict": estimator.state_dict()}
    estimator.on_save_checkpoint(content)
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def lifter(tmp_path_factory):
    return save_lifter(tmp_path_factory.mktemp("lifter") / "lifter.ckpt")


@pytest.fixture(scope="module", params=["middle", "causal", "every"])
def each_lifter(request, tmp_path_factory):
    options = {"middle": {}, "causal": {"causal": True}, "every": {"every": True}}[request.param]
    return Lifter(save_lifter(tmp_path_factory.mktemp("lifters") / "lifter.ckpt", **options), device="cpu")


@pytest.fixture()
def lift(run, lifter, tmp_path):
    """Runs the command on a file into ``tmp_path / out`` and gives (exit code, stdout, stderr)."""
    return partial(run, main, f"ckpt={lifter}", "device=cpu", f"out={tmp_path / 'out'}")


def person(frame: int, track: int | None = None, count: int = 17, score: float = 0.9, seed: int = 0) -> dict:
    points = np.random.default_rng([seed, frame]).uniform([100, 50, 0.5], [500, 400, 1], (count, 3))
    entry = {"image_id": frame, "category_id": 1, "keypoints": points.ravel().tolist(), "score": score}
    return entry | {"file_name": f"{frame}.png"} | ({} if track is None else {"track_id": track})


def write(path: Path, entries: list[dict]) -> Path:
    path.write_text(json.dumps(entries))
    return path


def seen(frames, track=None, count=17, **changes) -> list[Seen]:
    return [
        Seen(
            frame, f"{frame}.png", (480, 640), np.reshape(person(frame, count=count)["keypoints"], (-1, 3)), 0.9, track
        )
        for frame in frames
    ]


def content(tmp_path) -> dict:
    return json.loads((tmp_path / "out/predictions_3d.json").read_text())


def test_a_file_of_poses_becomes_joints_in_mm(lift, tmp_path):
    entries = [person(frame, track) for frame in (1, 2, 3, 5) for track in (7, 4) if (frame, track) != (2, 4)]
    path = write(tmp_path / "poses.json", entries)
    code, said, err = lift(f"source={path}", "skeleton=coco17", "image_hw=[480,640]", "draw=false")
    assert code == 0, err
    assert "7 poses in 4 frames lifted to space, in mm from root" in said
    found = content(tmp_path)
    assert found["units"] == "mm" and found["keypoints"] == list(H36M.keypoints)
    assert [(pose["image_id"], pose["track_id"]) for pose in found["poses"]] == [
        *((1, 4), (1, 7), (2, 7), (3, 4), (3, 7), (5, 4), (5, 7))
    ]
    assert np.shape([pose["keypoints"] for pose in found["poses"]]) == (7, 17, 3)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["predictions_3d.json"]


def test_joints_of_each_track_become_a_table_of_markers(lift, video, tmp_path):
    path = write(tmp_path / "poses.json", [person(frame, track) for frame in (1, 2, 4) for track in (7, 4)])
    given = [f"source={path}", "skeleton=coco17", "draw=false", "formats=[trc]"]
    code, _, err = lift(*given, "image_hw=[480,640]")
    assert code == 1 and "images=clip.mp4" in err and not (tmp_path / "out").exists()
    code, _, err = lift(*given[:-1], f"images={video}", "formats=[trc,slp]")
    assert code == 1 and "formats=[slp] is of poses that are found in pictures" in err
    code, _, err = lift(*given, f"images={video}")
    assert code == 0, err
    names = {"predictions_3d.json", "predictions_3d_track4.trc", "predictions_3d_track7.trc"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    rows = [line.split("\t") for line in (tmp_path / "out/predictions_3d_track4.trc").read_text().splitlines()]
    joints = [pose["keypoints"] for pose in content(tmp_path)["poses"] if pose["track_id"] == 4]
    table = [np.array(row[2:], float).reshape(17, 3) * [1, -1, -1] for row in rows[6:] if row[2]]
    assert np.abs(np.array(table) - joints).max() < 0.01  # the JSON has two digits
    write(tmp_path / "poses.json", [person(1, 4)])
    assert lift(*given, f"images={video}")[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions_3d.json", "predictions_3d.trc"}


def test_names_come_from_the_table_beside_the_file(lift, tmp_path):
    path = write(tmp_path / "poses.json", [person(1)])
    code, _, err = lift(f"source={path}", "image_hw=[480,640]", "draw=false")
    assert code == 1 and "nothing says which keypoints" in err and "skeleton=coco17" in err
    columns = [f"{name}_{part}" for name in COCO.keypoints for part in ("x", "y", "score")]
    path.with_suffix(".csv").write_text(",".join(["image_id", "x1", *columns]) + "\n")
    code, _, err = lift(f"source={path}", "image_hw=[480,640]", "draw=false")
    assert code == 0, err


@torch.inference_mode()
def test_a_frame_is_lifted_as_in_evaluation(each_lifter):
    """The ends of a track are repeated, as those of a clip are."""
    people = seen(range(1, 13))
    lifted = each_lifter(people, H36M.keypoints, batch_size=5)
    points = np.stack([each.keypoints for each in people]).astype(np.float32)
    points[..., :2] = screen_from_image(points[..., :2], (480, 640))
    for frame in (0, 6, 11):
        if each_lifter.estimator.codec.every_frame:
            rows = np.arange(9) if frame < 9 else np.arange(3, 12)
            motion = each_lifter.estimator.net(torch.from_numpy(points[rows])[None])["motion"][0]
            place = frame if frame < 3 else int(np.flatnonzero(np.arange(3, 12) == frame)[0])
            if frame < 3:
                expected = motion[place] - motion[place, 0]
            else:  # windows overlap; the later one counts
                motion = each_lifter.estimator.net(torch.from_numpy(points[3:12])[None])["motion"][0]
                expected = motion[place] - motion[place, 0]
            expected = 2000 * expected
        else:
            rows = (frame + np.arange(9) - (8 if each_lifter.causal else 4)).clip(0, 11)
            expected = 1000 * each_lifter.estimator.net(torch.from_numpy(points[rows])[None])["joints"][0]
        np.testing.assert_allclose(lifted[frame].joints_mm, expected, atol=0.05, rtol=1e-4)


@pytest.mark.parametrize("frames", [[4], [1, 2], [1, 3, 4], [5, 100, 101], list(range(1, 31))])
def test_only_frames_with_a_person_have_joints(each_lifter, frames):
    """One frame, tracks shorter than what the network sees, gaps short and long."""
    lifted = each_lifter(seen(frames), H36M.keypoints)
    assert [each.seen.image_id for each in lifted] == frames
    assert all(np.isfinite(each.joints_mm).all() for each in lifted)
    assert each_lifter([], H36M.keypoints) == []


def test_a_long_gap_parts_a_track(each_lifter):
    alone, together = each_lifter(seen([100, 101]), H36M.keypoints), each_lifter(seen([1, 100, 101]), H36M.keypoints)
    for own, joined in zip(alone, together[1:], strict=True):
        np.testing.assert_allclose(own.joints_mm, joined.joints_mm, atol=1e-3)


def test_a_keypoint_that_is_not_known_is_put_between_its_neighbours(each_lifter):
    people = seen(range(1, 6))
    middle = people[2].keypoints.copy()
    middle[3] = np.nan
    for odd in (np.nan, 1e6):  # whatever stands there
        changed = middle.copy()
        changed[3] = [odd, odd, 0]
        gap = [*people[:2], Seen(3, "3.png", (480, 640), changed, 0.9, None), *people[3:]]
        filled = middle.copy()
        filled[3] = [*(people[1].keypoints[3, :2] + people[3].keypoints[3, :2]) / 2, 1e-9]
        between = [*people[:2], Seen(3, "3.png", (480, 640), filled, 0.9, None), *people[3:]]
        lifted, expected = (each_lifter(each, H36M.keypoints) for each in (gap, between))
        for own, other in zip(lifted, expected, strict=True):
            np.testing.assert_allclose(own.joints_mm, other.joints_mm, atol=0.1)
        assert lifted[2].scores[3] == 0


def test_a_causal_lifter_does_not_look_ahead(tmp_path):
    people = seen(range(1, 21))
    for causal, same_before in ((True, 11), (False, 7)):
        made = Lifter(save_lifter(tmp_path / f"{causal}.ckpt", causal=causal), device="cpu")
        later = [each if each.image_id <= 11 else seen([each.image_id + 50])[0] for each in people]
        later = [
            Seen(*(own.image_id, own.file_name, own.image_hw, each.keypoints, 0.9, None))
            for own, each in zip(people, later, strict=True)
        ]
        before, after = made(people, H36M.keypoints), made(later, H36M.keypoints)
        same = [np.array_equal(a.joints_mm, b.joints_mm) for a, b in zip(before, after, strict=True)]
        assert same == [frame <= same_before for frame in range(1, 21)]


def test_keypoints_are_mapped_by_name_and_some_are_derived():
    place = {name: row for row, name in enumerate(COCO.keypoints)}
    sources = dict(zip(H36M.keypoints, sources_of(H36M, COCO.keypoints), strict=True))
    assert sources["left_knee"] == [place["left_knee"]]
    assert sources["root"] == [place["left_hip"], place["right_hip"]]
    assert sources["right_foot"] == [place["right_ankle"]]
    assert sources_of(H36M, H36M.keypoints) == [[row] for row in range(17)]
    shuffled = [name.replace("left_", "L ") for name in reversed(COCO.keypoints)]
    assert sources_of(H36M, shuffled)[5] == [shuffled.index("L knee")]
    assert set(DERIVED) >= set(H36M.keypoints) - set(COCO.keypoints)
    with pytest.raises(
        UserError, match=r"lack root \(or left_hip and right_hip\), right_hip, .*they are nose, left_eye"
    ):
        sources_of(H36M, ["nose", "left_eye"])


def test_who_is_not_tracked_is_one_person_and_others_are_counted(lift, tmp_path):
    entries = [person(1), person(2, score=0.2), person(2, score=0.8, seed=1), person(3)]
    options = "skeleton=h36m", "image_hw=[480,640]", "draw=false"
    code, said, _ = lift(f"source={write(tmp_path / 'poses.json', entries)}", *options)
    assert code == 0 and "1 frames show several people that no track id tells apart, such as frame 2" in said
    lifted = content(tmp_path)["poses"]
    assert [pose["score"] for pose in lifted] == [0.9, 0.8, 0.9] and "track_id" not in lifted[0]


@pytest.mark.parametrize(
    ("entries", "options", "message"),
    [
        ([person(1)], [], "doesn't say how large its pictures are"),
        ([person(1, count=3)], ["image_hw=[480,640]"], "9 numbers, expected three for each of 17 keypoints"),
        ([{"image_id": 1}], ["image_hw=[480,640]"], "no keypoints that can be used, but null"),
        ([person(1) | {"track_id": "Ann"}], ["image_hw=[480,640]"], "expected a whole number, or none"),
        ([3], ["image_hw=[480,640]"], "entry 0 of the file of poses"),
        ([person(1)], ["image_hw=[480,640]", "boxes=b.csv"], "leave out boxes="),
        ([person(1)], ["image_hw=[480]"], "image_hw=[480]: expected"),
    ],
)
def test_files_that_cannot_be_lifted_are_refused(lift, tmp_path, entries, options, message):
    path = write(tmp_path / "poses.json", entries)
    code, _, err = lift(f"source={path}", "skeleton=coco17", *options)
    assert code == 1 and message in err
    assert not (tmp_path / "out").exists()


def test_another_skeleton_is_refused_naming_what_lacks(run, lift, tmp_path, checkpoint, folder, lifter):
    path = write(tmp_path / "poses.json", [person(1, count=3)])
    path.with_suffix(".csv").write_text("image_id," + ",".join(f"{n}_{c}" for n in "abc" for c in ("x", "y", "score")))
    code, _, err = lift(f"source={path}", "image_hw=[480,640]")
    assert code == 1 and "the keypoints lack root (or left_hip and right_hip), right_hip" in err
    code, _, err = run(main, f"ckpt={checkpoint}", f"lift={lifter}", f"source={folder}", f"out={tmp_path / 'out'}")
    assert code == 1 and "they are nose, left_eye, right_eye" in err
    assert not (tmp_path / "out").exists()


def test_models_of_the_other_kind_are_refused(run, lift, tmp_path, checkpoint, folder):
    path = write(tmp_path / "poses.json", [person(1)])
    given = "skeleton=coco17", "image_hw=[480,640]", f"out={tmp_path / 'out'}"
    code, _, err = run(main, f"ckpt={checkpoint}", f"source={path}", *given)
    assert code == 1 and "takes images, not keypoints; give images as source=" in err
    code, _, err = lift(f"source={folder}")
    assert code == 1 and "takes sequences of keypoints, not images; give a model of images as ckpt=" in err
    code, _, err = run(main, f"ckpt={checkpoint}", f"source={folder}", *given)
    assert code == 1 and "skeleton= and image_hw= tell of a file of poses" in err


def test_frames_in_which_no_keypoint_is_known_have_no_joints(lift, tmp_path):
    entries = [person(frame) for frame in range(1, 7)]
    for frame, value in ((1, 0), (3, None)):
        entries[frame]["keypoints"][2 if value == 0 else 0 :: 3] = [value] * 17
    options = f"source={tmp_path / 'poses.json'}", "skeleton=coco17", "image_hw=[480,640]", "draw=false"
    write(tmp_path / "poses.json", entries)
    code, said, err = lift(*options)
    assert code == 0 and "4 poses in 4 frames lifted" in said, err
    assert [pose["image_id"] for pose in content(tmp_path)["poses"]] == [1, 3, 5, 6]
    write(tmp_path / "poses.json", [entries[1], entries[3]])
    code, said, err = lift(*options)
    assert code == 0 and "nobody was lifted, as no frame has a pose with a known keypoint" in said + err, err
    assert content(tmp_path)["poses"] == []


@pytest.fixture(scope="module")
def coco_model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model") / "coco.ckpt", config(), skeleton=COCO)


def test_a_video_goes_to_space_in_one_command_and_in_two(run, coco_model, lifter, video, tmp_path):
    given = "device=cpu", "batch_size=16"
    code, said, err = run(
        main, f"ckpt={coco_model}", f"lift={lifter}", f"source={video}", f"out={tmp_path / 'one'}", *given
    )
    assert code == 0, err
    assert "40 poses in 40 frames lifted to space" in said
    names = sorted(path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*.*"))
    assert names == ["overlays/clip.mp4", "predictions.csv", "predictions.json", "predictions_3d.json"]
    poses = tmp_path / "one/predictions.json"
    code, _, err = run(
        main, f"ckpt={lifter}", f"source={poses}", f"images={video}", f"out={tmp_path / 'two'}", "draw=false", *given
    )
    assert code == 0, err
    one, two = (json.loads((tmp_path / name / "predictions_3d.json").read_text()) for name in ("one", "two"))
    assert len(one["poses"]) == 40 and one["keypoints"] == two["keypoints"]
    for a, b in zip(one["poses"], two["poses"], strict=True):
        assert (a["image_id"], a["file_name"]) == (b["image_id"], b["file_name"])
        np.testing.assert_allclose(a["keypoints"], b["keypoints"], atol=0.1)
    reader = cv2.VideoCapture(str(tmp_path / "one/overlays/clip.mp4"))
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == 40 and reader.get(cv2.CAP_PROP_FRAME_HEIGHT) == 240


def test_pictures_show_the_frame_and_the_joints_beside_it(lift, folder, images, tmp_path):
    entries = [
        person(number + 1, track=number) | {"file_name": f"{number}.png", "keypoints": [30.0, 40.0, 1.0] * 17}
        for number in (0, 3)
    ]
    path = write(tmp_path / "poses.json", entries)
    code, _, err = lift(f"source={path}", f"images={folder}", "skeleton=h36m")
    assert code == 0, err
    drawn = {path.name: cv2.imread(str(path)) for path in (tmp_path / "out/overlays").iterdir()}
    assert sorted(drawn) == [f"{number}.png" for number in range(5)]
    for number, image in enumerate(images):
        picture = drawn[f"{number}.png"]
        height, width = image.shape[:2]
        assert picture.shape[:2] == (240, round(width * 240 / height) + 240)
        colorful = np.ptp(picture[:, -240:].astype(int), axis=2) > 60
        assert colorful.any() == (number in (0, 3))  # where nobody is, there is an empty cube
    code, _, err = lift(f"source={path}", "image_hw=[90,120]", "skeleton=h36m")
    assert code == 0, err
    assert cv2.imread(str(tmp_path / "out/overlays/3.png")).shape == (720, 720, 3)


def test_who_is_who_is_told_in_the_frame_and_beside_it():
    points = np.concatenate([np.random.default_rng(0).uniform(80, 160, (17, 2)), np.ones((17, 1))], 1)
    person = Lifted(Seen(1, "1.png", (240, 320), points, 1.0, 7), np.zeros((17, 3)), np.ones(17))
    picture = StickFigures([person], H36M, COCO, 0.3)([person], np.zeros((240, 320, 3), np.uint8))
    found = np.abs(picture.astype(int) - identity_color(7)).sum(-1) == 0
    assert found[:, :320].any() and found[:, 320:].any()
