"""Sequences: windows, cameras, mirroring, published files, and what is refused."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lightpose.data.cameras import read_cameras
from lightpose.data.pixels.device import collate
from lightpose.data.sequences import MirrorSequence, PoseSequences, filled
from lightpose.data.synthetic.sequences import FRAMES, PARENTS, generate_sequences
from lightpose.errors import UserError
from lightpose.estimators.lifter import placed
from lightpose.geometry import screen_from_image
from lightpose.models.backbones.tcn import TCN
from lightpose.skeleton import Skeleton

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT.parent / "shared" / "samples"
H36M: Skeleton = instantiate(OmegaConf.load(ROOT / "conf/skeleton/h36m.yaml"))
MPI: Skeleton = instantiate(OmegaConf.load(ROOT / "conf/skeleton/mpi_inf_3dhp.yaml"))
PAIR = Skeleton.build(["left", "right"])


def write(folder: Path, names: list[str], cameras: dict[str, object] | None = None, **arrays: object) -> Path:
    """Two keypoints a frame; x of the first is its place in the file."""
    draw = np.random.default_rng(0)
    space = draw.normal(0, 0.3, (len(names), 2, 4))
    space[..., 2] += 4
    space[..., 3] = 1
    part = draw.uniform(0, 1000, (len(names), 2, 3))
    part[:, 0, 0] = np.arange(len(names))
    content = {"imgname": np.array(names), "part": part, "S": space, **arrays}
    np.savez(folder / "data.npz", **content)
    known = {"f": [1100, 1200], "c": [480, 500], "w": 1000, "h": 800}
    (folder / "cameras.json").write_text(json.dumps({"S1.7": known} if cameras is None else cameras))
    return folder / "data.npz"


def clip(frames: int, name: str = "S1_Walking_1.7") -> list[str]:
    return [f"folder/{name}_{number:06d}.jpg" for number in range(frames)]


def places(sample) -> list[int]:
    """Which frames of the file a sample has."""
    return np.rint((sample.image[:, 0, 0] + 1) * 500).astype(int).tolist()


def load(dataset: PoseSequences, index: int):
    return dataset.load(index, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("frames", "causal", "first", "middle", "last"),
    [
        (1, False, [0], [4], [6]),
        (5, False, [0, 0, 0, 1, 2], [2, 3, 4, 5, 6], [4, 5, 6, 6, 6]),
        (3, True, [0, 0, 0], [2, 3, 4], [4, 5, 6]),
        (4, True, [0, 0, 0, 0], [1, 2, 3, 4], [3, 4, 5, 6]),
        (27, False, [0] * 14 + [1, 2, 3, 4, 5] + [6] * 8, None, None),
    ],
)
def test_the_ends_of_a_clip_are_repeated(tmp_path, frames, causal, first, middle, last):
    path = write(tmp_path, [*clip(7), *clip(5, "S1_Walking_2.7")])
    dataset = PoseSequences(path, frames=frames, causal=causal, skeleton=PAIR)
    assert len(dataset) == 12
    for index, expected in ((0, first), (4, middle), (6, last)):
        assert expected is None or places(load(dataset, index)) == expected
    assert min(places(load(dataset, 7))) == 7  # another clip


@torch.inference_mode()
@pytest.mark.parametrize("causal", [True, False])
def test_a_causal_pose_does_not_change_when_the_future_does(tmp_path, causal):
    path = write(tmp_path, clip(40))
    with np.load(path) as file:
        arrays = dict(file)
    arrays["part"][21:] += 100
    (tmp_path / "b").mkdir()
    changed = write(tmp_path / "b", clip(40), **arrays)
    torch.manual_seed(0)
    net = TCN(2, 9, width=16, causal=causal).eval()
    before, after = (
        net(torch.stack([torch.from_numpy(load(dataset, index).image) for index in range(40)]))[0]
        for dataset in (PoseSequences(each, frames=9, causal=causal, skeleton=PAIR) for each in (path, changed))
    )
    same = (before == after).all(1)[:, 0]
    assert same.tolist() == [index < (21 if causal else 17) for index in range(40)]


def test_frames_are_put_in_order(tmp_path):
    names = clip(12)
    shuffled = np.random.default_rng(0).permutation(12)
    dataset = PoseSequences(write(tmp_path, [names[place] for place in shuffled]), frames=3, skeleton=PAIR)
    order = np.argsort(shuffled)
    assert places(load(dataset, 5)) == order[[4, 5, 6]].tolist()
    assert [image["file_name"] for image in dataset.ground_truth()["images"]] == names


def test_a_sample_has_screen_mm_and_camera(tmp_path):
    path = write(tmp_path, clip(3))
    with np.load(path) as file:
        part, space = file["part"], file["S"]
    sample = load(PoseSequences(path, frames=3, skeleton=PAIR), 1)
    np.testing.assert_allclose(sample.image[..., :2], screen_from_image(part[..., :2], (800, 1000)), atol=1e-6)
    np.testing.assert_allclose(sample.image[..., 2], part[..., 2], atol=1e-6)
    assert sample.image.dtype == np.float32
    np.testing.assert_allclose(sample.instances.keypoints[0], 1000 * space[1, :, :3], rtol=1e-6)
    np.testing.assert_allclose(sample.camera, [[1100, 0, 480], [0, 1200, 500], [0, 0, 1]])
    batch = collate([sample, sample])
    assert batch.inputs.shape == (2, 3, 2, 3)
    np.testing.assert_allclose(batch.instances.keypoints[1, 0], sample.instances.keypoints[0])


def test_a_joint_that_is_not_labelled_is_not_visible(tmp_path):
    path = write(tmp_path, clip(2))
    with np.load(path) as file:
        arrays = dict(file)
    arrays["S"][0, 1, 3], arrays["S"][1, 0, 2] = 0, np.nan
    np.savez(path, **arrays)
    dataset = PoseSequences(path, frames=1, skeleton=PAIR)
    assert [load(dataset, index).instances.visible[0].tolist() for index in (0, 1)] == [[2, 0], [0, 2]]


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        (True, [[0, 1, 2, 3], [2, 3, 4, 5], [3, 4, 5, 6], [7, 8, 9, 9]]),  # the frames that have labels are below
        (False, [[0, 1, 2, 3], [3, 4, 5, 6], [7, 8, 9, 9]]),
    ],
)
def test_windows_of_a_clip(tmp_path, training, expected):
    path = write(tmp_path, [*clip(7), *clip(3, "S1_Walking_2.7")])
    dataset = PoseSequences(path, frames=4, stride=2, skeleton=PAIR)
    dataset.training = training
    samples = [load(dataset, index) for index in range(len(dataset))]
    assert [places(sample) for sample in samples] == expected
    labelled = [sample.instances.ids[sample.instances.ids >= 0].tolist() for sample in samples]
    for sample, frames in zip(samples, labelled, strict=True):
        assert len(sample.instances.ids) == 4
        assert (sample.instances.visible.any(1) == (sample.instances.ids >= 0)).all()
        np.testing.assert_array_equal(sample.instances.keypoints, dataset.content.joints_mm[places(sample)])
        assert set(frames) <= set(places(sample))
    if training:
        assert labelled == [*expected[:3], [7, 8, 9]]
    else:
        assert [row for rows in labelled for row in rows] == list(range(10))  # each frame is scored once


def test_a_keypoint_that_is_not_known_stands_between_its_neighbours(tmp_path):
    path = write(tmp_path, clip(5))
    with np.load(path) as file:
        arrays = dict(file)
    arrays["part"][:, 1] = [[0, 0, 1], [np.nan, 3, 1], [20, 30, 0], [30, 30, 0.5], [np.nan, np.nan, 1]]
    np.savez(path, **arrays)
    image = load(PoseSequences(path, frames=5, skeleton=PAIR), 2).image
    np.testing.assert_allclose(500 * (image[:, 1, 0] + 1), [0, 10, 20, 30, 30], atol=1e-3)
    np.testing.assert_allclose(image[:, 1, 2], [1, 0, 0, 0.5, 0])
    never = np.zeros((3, 2, 3))
    never[:, 0] = [[2, 4, 1], [4, 8, 1], [6, 6, 1]]
    np.testing.assert_allclose(filled(never)[:, 1], [[2, 4, 0], [4, 8, 0], [6, 6, 0]])
    assert not filled(np.full((2, 2, 3), [np.nan, np.nan, 0])).any()


def test_detected_keypoints_take_the_place_of_labelled_ones(tmp_path):
    path = write(tmp_path, clip(3))
    shuffled = [clip(3)[place] for place in (2, 0, 1)]
    write(tmp_path, shuffled)
    detected = np.random.default_rng(1).uniform(0, 500, (3, 2, 3))
    np.save(tmp_path / "data_cpn.npy", detected)
    image = load(PoseSequences(path, frames=3, detections="_cpn.npy", skeleton=PAIR), 1).image
    np.testing.assert_allclose(image[..., :2], screen_from_image(detected[[1, 2, 0], :, :2], (800, 1000)), atol=1e-5)
    np.testing.assert_allclose(image[..., 2], detected[[1, 2, 0], :, 2], rtol=1e-6)
    np.save(tmp_path / "data_few.npy", detected[:2])
    for end, message in (
        ("_few.npy", r"shape \(2, 2, 3\); expected \(3, 2\)"),
        ("_no.npy", "data_no.npy, which reader"),
    ):
        with pytest.raises(UserError, match=message):
            PoseSequences(path, frames=3, detections=end, skeleton=PAIR)


def test_without_joints_no_frame_is_labelled(tmp_path):
    path = write(tmp_path, clip(3))
    with np.load(path) as file:
        arrays = {name: file[name] for name in ("imgname", "part")}
    np.savez(path, **arrays)
    labels = load(PoseSequences(path, frames=1, skeleton=PAIR), 1).instances
    assert labels.keypoints.shape == (1, 2, 3) and not labels.visible.any()


def whole_body(path: Path, scale: float = 1.0, **odd: object) -> Path:
    """Two keypoints, as H3WB has 133: two frames of a subject before two cameras."""
    space = np.array([[[0, 0, 4.0], [0.1, 0.2, 5]], [[0.3, 0, 4], [0, 0, 4.5]]])
    intrinsic = np.array([[[1.1, 0, 0.5], [0, 1.2, 0.6], [0, 0, 1]]], np.float32)
    views = {
        camera: {"camera_3d": scale * (space + shift), "pose_2d": np.full((2, 2, 2), 100.0 + shift), "sample_id": 3}
        for shift, camera in enumerate(("55", "60"))
    }
    people = {"S5": {"Directions 1": {"global_3d": space, "frame_id": np.array(["0075", "0010"]), **views, **odd}}}
    metadata = {"S5": {camera: {"K": intrinsic} for camera in views}, "left_side": [1, np.int64(2)]}
    np.savez(path, train_data=np.array(people, object), metadata=np.array(metadata, object))
    return path


@pytest.mark.parametrize("scale", [1, 1000], ids=["metres", "mm"])
def test_whole_bodies_of_h3wb_are_read(tmp_path, scale):
    dataset = PoseSequences(whole_body(tmp_path / "h3wb.npz", scale), frames=3, skeleton=PAIR)
    images = dataset.ground_truth()["images"]
    assert [image["file_name"] for image in images[:2]] == [f"S5_Directions_1.55_{n:06d}.jpg" for n in (10, 75)]
    assert {image["action"] for image in images} == {"Directions"} and len({image["clip"] for image in images}) == 2
    sample = load(dataset, 3)  # the later frame, the first of the file, before the other camera
    np.testing.assert_allclose(sample.instances.keypoints[0], [[1000, 1000, 5000], [1100, 1200, 6000]], rtol=1e-6)
    np.testing.assert_allclose(sample.camera, [[1100, 0, 500], [0, 1200, 600], [0, 0, 1]], rtol=1e-6)
    np.testing.assert_allclose(sample.image[..., :2], screen_from_image(np.full((3, 2, 2), 101.0), (1000, 1000)))


@pytest.mark.parametrize(
    "people", [[1, 2], {"S5": 3}, {"S5": {"Directions": {"55": {}}}}, {"S9": {"a": {"frame_id": [1], "55": {}}}}]
)
def test_a_damaged_file_of_h3wb_is_refused(tmp_path, people):
    np.savez(tmp_path / "h3wb.npz", train_data=np.array(people, object), metadata=np.array({}, object))
    with pytest.raises(UserError, match="is no file of sequences"):
        PoseSequences(tmp_path / "h3wb.npz", skeleton=PAIR)
    content = whole_body(tmp_path / "whole.npz").read_bytes()
    for cut in (10, len(content) // 2, len(content) - 30):
        (tmp_path / "cut.npz").write_bytes(content[:cut])
        with pytest.raises(UserError, match="is no file of sequences"):
            PoseSequences(tmp_path / "cut.npz", skeleton=PAIR)


def test_a_file_of_h3wb_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = whole_body(tmp_path / "h3wb.npz", harm=Harmful())
    with pytest.raises(UserError, match=r"is no file of sequences .*it would run"):
        PoseSequences(path, skeleton=PAIR)
    assert not (tmp_path / "touched").exists()


def test_actions_and_clips_are_told(tmp_path):
    names = [*clip(2, "S1_Walking_1.7"), *clip(1, "S1_Walking.7"), *clip(1, "Seq1_Cam0")]
    known = {"f": [1, 1], "c": [0, 0], "w": 10, "h": 20}
    path = write(tmp_path, names, {"S1.7": known, "Seq1_Cam0": {**known, "h": 30}})
    found = {
        image["file_name"]: (image["action"], image["clip"], image["height"])
        for image in PoseSequences(path, frames=1, skeleton=PAIR).ground_truth()["images"]
    }
    assert [found[name][::2] for name in names] == [*[("Walking", 20)] * 3, (None, 30)]
    assert len({clip for _, clip, _ in found.values()}) == 3


def test_a_mirrored_sample_is_seen_by_the_mirrored_camera(tmp_path):
    dataset = PoseSequences(generate_sequences(tmp_path / "data", 1, 0), frames=3, skeleton=H36M)
    plain = load(dataset, 50)
    mirrored = MirrorSequence(H36M, 1.0)(plain, np.random.default_rng(0))
    for sample in (plain, mirrored):
        joints = sample.instances.keypoints[0] @ sample.camera.T
        seen = screen_from_image(joints[:, :2] / joints[:, 2:], sample.image_hw)
        np.testing.assert_allclose(seen, sample.image[1, :, :2], atol=1e-5)
    assert not np.allclose(plain.image, mirrored.image, atol=0.01)
    assert (mirrored.instances.boxes_xyxy[0, 2:] > mirrored.instances.boxes_xyxy[0, :2]).all()
    again = MirrorSequence(H36M, 1.0)(mirrored, np.random.default_rng(0))
    np.testing.assert_allclose(again.image, plain.image)
    np.testing.assert_allclose(again.instances.keypoints, plain.instances.keypoints)
    np.testing.assert_allclose(again.instances.boxes_xyxy, plain.instances.boxes_xyxy, atol=1e-3)
    kept = MirrorSequence(H36M, 0.0)(plain, np.random.default_rng(0))
    assert kept is plain
    unknown = MirrorSequence(replace(H36M, mirrors=False), 1.0)(plain, np.random.default_rng(0))
    assert unknown is plain


def test_poses_are_placed_where_they_were_seen():
    draw = torch.Generator().manual_seed(0)
    joints = 300 * torch.randn(8, 17, 3, generator=draw)
    shift = torch.tensor([200.0, -100.0, 4000.0]) + 500 * torch.randn(8, 3, generator=draw)
    there = joints + shift[:, None]
    torch.testing.assert_close(placed(joints, there[..., :2] / there[..., 2:]), shift, atol=0.1, rtol=0)
    assert placed(torch.zeros(1, 17, 3), torch.zeros(1, 17, 2)).isfinite().all()


def test_people_move_and_keep_their_bones(tmp_path):
    paths = [generate_sequences(tmp_path / name, 2, seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    same, again, other = (dict(np.load(path)) for path in paths)
    assert all(np.array_equal(same[key], again[key]) for key in same)
    assert not np.array_equal(same["S"], other["S"])
    joints = 1000 * same["S"][:FRAMES, :, :3].astype(np.float64)
    bones = np.linalg.norm(joints - joints[:, list(PARENTS)], axis=-1)[:, 1:]
    assert np.ptp(bones, axis=0).max() < 0.01
    assert bones[0].min() > 40
    steps = np.linalg.norm(np.diff(joints - joints[:, :1], axis=0), axis=-1)
    assert 1 < steps.mean() < 50  # mm in a fiftieth of a second
    assert steps.max() < 250
    assert joints[..., 2].min() > 1000
    assert (same["part"] > -500).all()
    left = joints[:, H36M.keypoints.index("left_hip")] - joints[:, H36M.keypoints.index("right_hip")]
    assert left[:, 0].mean() > 50  # who faces the camera has the left hand on the right of the picture
    for count, folder, message in ((0, "new", "at least one"), (1, "a", "isn't an empty folder")):
        with pytest.raises(UserError, match=message):
            generate_sequences(tmp_path / folder, count, 0)


def test_a_file_that_is_not_there_and_one_of_another_kind_are_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*nowhere\.npz"):
        PoseSequences(tmp_path / "nowhere.npz", skeleton=PAIR)
    (tmp_path / "people.json").write_text("{}")
    with pytest.raises(UserError, match=r"people\.json is no file of sequences \(BadZipFile") as refused:
        PoseSequences(tmp_path / "people.json", skeleton=PAIR)
    assert "allow_pickle" not in str(refused.value)


def test_joints_in_the_order_of_another_skeleton_are_told_of(tmp_path, caplog):
    path = generate_sequences(tmp_path / "a", 1, seed=3)
    PoseSequences(path, skeleton=H36M)
    assert not caplog.text
    PoseSequences(path, skeleton=MPI)
    assert "in the order of skeleton=mpi_inf_3dhp; give the skeleton that they have" in caplog.text


@pytest.mark.parametrize("name", ["h36m/test_h36m_body3d.npz", "mpi_inf_3dhp/test_3dhp_train.npz"])
def test_published_files_are_read(name, caplog):
    path = SAMPLES / name
    if not path.is_file():
        pytest.skip("needs the samples of public data sets")
    cameras = path.parent / ("cameras.pkl" if "h36m" in name else "cameras_train.pkl")
    skeletons = (H36M, MPI) if "h36m" in name else (MPI, H36M)
    dataset, _ = (PoseSequences(path, frames=9, cameras=str(cameras), skeleton=each) for each in skeletons)
    [told] = caplog.messages
    assert f"in the order of skeleton={skeletons[1].name}" in told
    actions = {image["action"] for image in dataset.ground_truth()["images"]}
    assert actions == ({"Directions", "SittingDown", "Greeting", "WalkDog"} if "h36m" in name else {None})
    for index in range(len(dataset)):
        sample = load(dataset, index)
        assert (sample.image == sample.image[0]).all()  # clips of one frame
        joints = sample.instances.keypoints[0] @ sample.camera.T
        pixels = joints[:, :2] / joints[:, 2:]
        error = pixels - dataset.points[index, :, :2]
        assert np.abs(error).max() < 3  # the lenses bend by so much


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("touched"),)


def test_a_file_of_cameras_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    camera = {"f": np.array([[3.0], [4.0]]), "c": np.array([1.0, 2.0]), "w": 10, "h": 20}
    (tmp_path / "good.pkl").write_bytes(pickle.dumps({("S1", "7"): camera}, 3))
    (found,) = read_cameras(tmp_path / "good.pkl").values()
    np.testing.assert_array_equal(found.matrix, [[3, 0, 1], [0, 4, 2], [0, 0, 1]])
    for number, content in enumerate(({"a": Harmful()}, {"a": {**camera, "f": np.array([Harmful(), 1])}})):
        path = tmp_path / f"bad{number}.pkl"
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match="can't be read as cameras"):
            read_cameras(path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "has no cameras"),
        ("{", "can't be read as cameras"),
        ('{"a": {"f": [1, 1], "c": [0, 0], "w": 4}}', "camera a needs f and c"),
        ('{"a": {"f": [1], "c": [0, 0], "w": 4, "h": 4}}', "camera a needs f and c"),
        ('{"a": {"f": [0, 1], "c": [0, 0], "w": 4, "h": 4}}', "all but c positive"),
        ('{"a": {"f": [NaN, 1], "c": [0, 0], "w": 4, "h": 4}}', "must be finite"),
    ],
)
def test_what_is_no_camera_is_named(tmp_path, content, message):
    path = tmp_path / "cameras.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_cameras(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": {"frames": 4}}, r"frames=4 has no middle frame; .* reader.causal=true"),
        ({"skeleton": H36M}, r"2 keypoints and 2 joints, the skeleton 17; .* skeleton=h36m"),
        ({"cameras": {"S2.7": {"f": [1, 1], "c": [0, 0], "w": 4, "h": 4}}}, r"no camera S1.7, .* it has S2.7"),
        ({"options": {"cameras": "nowhere.json"}}, r"no cameras in nowhere.json; .* reader.cameras="),
        ({"options": {"frames": 4, "stride": 5}}, r"stride=5 must be between 1 and reader.frames=4"),
        ({"names": ["a.jpg", "b.jpg"]}, r"'a.jpg' is no name of a frame; expected CLIP_000001.jpg"),
        ({"arrays": {"S": np.zeros((2, 2))}}, r"expected names \(N,\), keypoints \(N, K, 2\) and joints"),
        ({"arrays": {"part": np.full((2, 2, 2), np.nan)}}, "keypoints that are not finite"),
        ({"arrays": {"S": np.array([Harmful()])}}, "is no file of sequences"),
        ({"arrays": {"S": np.full((2, 2, 3), 4000.0)}}, "4000 m before the camera; give `S` in metres"),
        ({"arrays": {"S": np.full((2, 2, 3), -0.1)}}, r"100% of the joints of .* \(z <= 0\); give `S` in the camera's"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, change.get("names", clip(2)), change.get("cameras"), **change.get("arrays", {}))
    with pytest.raises(UserError, match=message):
        PoseSequences(path, skeleton=change.get("skeleton", PAIR), **change.get("options", {}))
    assert not (tmp_path / "touched").exists()
