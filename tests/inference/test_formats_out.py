"""Predictions as files of other tools, read back by the libraries of those tools."""

import csv
import json

import numpy as np
import pytest
from tiny_checkpoint import SKELETON
from videos import small_files

from lightpose.cli import predict as command
from lightpose.errors import UserError
from lightpose.inference.formats.found import Collection
from lightpose.inference.formats.trc import write_trc
from lightpose.inference.formats.write import Formats
from lightpose.inference.frames import Frame
from lightpose.inference.lifting import Lifted, Seen
from lightpose.inference.sources import open_source
from lightpose.skeleton import Skeleton
from lightpose.structures import Poses

pd, sleap_io = pytest.importorskip("pandas"), pytest.importorskip("sleap_io")

TRACKS = {1: [7, 3], 2: [3], 4: [], 5: [-1, 7, -1], 6: [-1]}
"""Frame → track ids of its poses; frame 3 can't be read."""
NAMES = SKELETON.keypoints


def poses_of(ids) -> Poses:
    rng = np.random.default_rng([5, *np.abs(ids)])
    count, zeros = len(ids), np.zeros(len(ids), np.int64)
    keypoints = rng.uniform(0, 900, (count, 3, 2)).astype(np.float32)
    scores = rng.random((count, 3)).astype(np.float32)
    return Poses(keypoints, scores, scores.mean(-1), zeros, track_ids=None if ids == [-1] else np.array(ids, np.int64))


def time_s(number):
    """Of a frame of a video whose rate varies."""
    return number**2 / 12


def written(folder, names, source, tracks, skeleton=SKELETON):
    """The poses of each frame, after they passed and the files were written."""
    formats = Formats(names, source, lifts=False)
    image = np.zeros((48, 64, 3), np.uint8)
    given = {number: poses_of(ids) for number, ids in tracks.items()}
    frames = {number: Frame(source.name_of(number), image, number, time_s=time_s(number)) for number in tracks}
    passed = list(formats.collected(iter([(frames[number], given[number]) for number in tracks])))
    assert [poses for _, poses in passed] == list(given.values())
    formats.write(folder, skeleton)
    return given


def expected_of(given, tracks):
    """Individual → frame → (K, 3)."""
    expected = {}
    for number, poses in given.items():
        ordinals = iter(range(1, 10))
        for row, track_id in enumerate(tracks[number]):
            name = f"track{track_id}" if track_id >= 0 else f"individual{next(ordinals)}"
            points = np.concatenate([poses.keypoints[row], poses.keypoint_scores[row, :, None]], -1)
            expected.setdefault(name, {})[number] = points
    return expected


@pytest.mark.parametrize("tracks", [TRACKS, {1: [-1], 3: [], 4: [-1]}], ids=["several", "one"])
def test_deeplabcut_tables_are_read_by_pandas(tmp_path, video, tracks):
    given = written(tmp_path, ["dlc"], open_source(video), tracks)
    several = tracks is TRACKS
    header = [0, 1, 2, 3] if several else [0, 1, 2]
    tables = [
        pd.read_csv(tmp_path / "predictions_dlc.csv", header=header, index_col=0),
        pd.read_hdf(tmp_path / "predictions_dlc.h5"),
    ]
    for table in tables:
        levels = ["scorer", "individuals", "bodyparts", "coords"] if several else ["scorer", "bodyparts", "coords"]
        assert list(table.columns.names) == levels
        assert list(table.index) == list(range(max(tracks)))
        count = 0
        for individual, frames in expected_of(given, tracks).items():
            of_one = table["lightpose"][individual] if several else table["lightpose"]
            for number, points in frames.items():
                found = of_one.loc[number - 1].unstack("coords").loc[list(NAMES), ["x", "y", "likelihood"]]
                assert np.abs(found.to_numpy() - points).max() < 1e-3
                count += found.size
        assert table.notna().sum().sum() == count  # nothing where there is nobody


def test_a_table_of_many_individuals_is_written(tmp_path, video):
    written(tmp_path, ["dlc"], open_source(video), {1: list(range(200))})
    table = pd.read_hdf(tmp_path / "predictions_dlc.h5", "df_with_missing")
    assert table.shape == (1, 200 * 9) and table.notna().all(axis=None)


def test_deeplabcut_tables_are_read_by_sleap_io(folder):
    given = written(folder, ["dlc"], open_source(folder), {1: [-1], 2: [-1], 3: [], 4: [-1], 5: []})
    labels = sleap_io.load_dlc(folder / "predictions_dlc.csv")
    order = [labels.skeleton.node_names.index(name) for name in NAMES]  # it sorts them
    found = [frame.instances[0].numpy()[order] for frame in labels if frame.instances]
    assert np.abs(np.stack(found) - np.concatenate([poses.keypoints for poses in given.values()])).max() < 1e-3


def test_sleap_reads_people_tracks_and_frames(tmp_path, video):
    given = written(tmp_path, ["slp"], open_source(video), TRACKS)
    labels = sleap_io.load_slp(tmp_path / "predictions.slp")
    assert labels.skeleton.node_names == list(NAMES) and labels.skeleton.edge_inds == [(0, 1)]
    assert {frozenset(pair) for pair in labels.skeleton.symmetry_names} == {frozenset(NAMES[1:])}
    assert labels.video.filename == str(video) and labels.video.shape[0] == 40  # it opens the video itself
    assert [frame.frame_idx for frame in labels] == [0, 1, 4, 5]
    for frame in labels:
        poses, ids = given[frame.frame_idx + 1], TRACKS[frame.frame_idx + 1]
        assert len(frame.predicted_instances) == len(ids)
        for row, instance in enumerate(frame.predicted_instances):
            assert (instance.track.name if instance.track else None) == (f"track{ids[row]}" if ids[row] >= 0 else None)
            assert np.abs(instance.numpy() - poses.keypoints[row]).max() < 1e-3
            assert np.abs(instance.points["score"] - poses.keypoint_scores[row]).max() < 1e-6
            assert instance.score == pytest.approx(poses.scores[row], abs=1e-6)


def test_nwb_has_a_time_for_each_pose(tmp_path, video):
    ndx_pose, pynwb = pytest.importorskip("ndx_pose"), pytest.importorskip("pynwb")
    skeleton = Skeleton.build(["a/b", "a:b", "c"], links=[("a/b", "a:b")])  # signs that the format keeps for itself
    given = written(tmp_path, ["nwb"], open_source(video), TRACKS, skeleton)
    with pynwb.NWBHDF5IO(str(tmp_path / "predictions.nwb"), "r") as io:
        file = io.read()
        module = file.processing["behavior"]
        expected = expected_of(given, TRACKS)
        assert set(expected) == {name for name in module.data_interfaces if name != "Skeletons"}
        for individual, frames in expected.items():
            one = module[individual]
            assert isinstance(one, ndx_pose.PoseEstimation)
            assert list(one.skeleton.nodes[:]) == ["a_b", "a_b_2", "c"] and one.skeleton.edges[:].tolist() == [[0, 1]]
            assert one.source_video.external_file[0] == str(video)
            points = np.stack(list(frames.values()))
            for column, name in enumerate(one.skeleton.nodes[:]):
                series = one[name]
                assert np.abs(series.data[:] - points[:, column, :2]).max() < 1e-3
                assert np.abs(series.confidence[:] - points[:, column, 2]).max() < 1e-6
                assert np.allclose(series.timestamps[:], time_s(np.array(list(frames))))
    assert pynwb.validate(path=str(tmp_path / "predictions.nwb")) in ([], ([], 0), None)


def test_pictures_are_named_and_grouped_by_size(tmp_path, folder):
    source = open_source(folder)
    formats = Formats(["dlc", "slp"], source, lifts=False)
    given = {number: poses_of([-1]) for number in source.image_ids}
    list(formats.collected((frame, given[frame.image_id]) for frame in source.frames()))
    formats.write(tmp_path, SKELETON)
    table = pd.read_hdf(tmp_path / "predictions_dlc.h5")
    assert list(table.index) == [f"{number}.png" for number in range(5)]
    labels = sleap_io.load_slp(tmp_path / "predictions.slp")
    assert len(labels.videos) == 5  # of one size each
    for number, frame in enumerate(labels, start=1):
        assert frame.video.filename == [str(folder / source.name_of(number))]
        assert np.array_equal(frame.image, next(f for f in source.frames() if f.image_id == number).image)
        assert np.abs(frame[0].numpy() - given[number].keypoints[0]).max() < 1e-3


def test_trc_has_mm_and_y_up(tmp_path):
    def lifted(number, track, joints):
        seen = Seen(number, f"clip_{number}", (48, 64), np.zeros((3, 3)), 1.0, track)
        return Lifted(seen, np.array(joints, np.float32), np.ones(3))

    rng = np.random.default_rng(0)
    joints = rng.normal(0, 300, (3, 3, 3))
    write_trc(
        tmp_path, [lifted(number, None, joints[row]) for row, number in enumerate((3, 4, 6))], SKELETON, 12.5, time_s
    )
    rows = list(csv.reader((tmp_path / "predictions_3d.trc").open(), delimiter="\t"))
    assert rows[0] == ["PathFileType", "4", "(X/Y/Z)", "predictions_3d.trc"]
    facts = dict(zip(rows[1], rows[2], strict=True))
    assert (facts["Units"], facts["DataRate"], facts["NumFrames"], facts["NumMarkers"]) == ("mm", "12.5", "4", "3")
    assert rows[3][:2] == ["Frame#", "Time"] and rows[3][2::3] == list(NAMES) and rows[4][2:5] == ["X1", "Y1", "Z1"]
    body = rows[6:]
    assert [row[:2] for row in body] == [[str(n), f"{time_s(n):.6f}"] for n in (3, 4, 5, 6)]
    assert set(body[2][2:]) == {""}  # nobody was seen
    found = np.array([row[2:] for row in body if row[2]], float).reshape(3, 3, 3)
    assert np.abs(found * [1, -1, -1] - joints).max() < 1e-3

    write_trc(tmp_path, [lifted(1, 4, joints[0]), lifted(1, None, joints[1])], SKELETON, 30, time_s)
    assert {path.name for path in tmp_path.glob("*.trc")} == {
        "predictions_3d.trc",
        "predictions_3d_track4.trc",
        "predictions_3d_untracked.trc",
    }


def test_nobody_in_any_frame(tmp_path, video):
    written(tmp_path, ["dlc", "slp", "nwb"], open_source(video), {1: [], 2: []})
    assert pd.read_csv(tmp_path / "predictions_dlc.csv", header=[0, 1, 2], index_col=0).shape == (2, 9)
    assert len(sleap_io.load_slp(tmp_path / "predictions.slp")) == 0
    assert (tmp_path / "predictions.nwb").exists()


def test_individuals_without_identity_are_counted_in_each_frame():
    collection = Collection()
    image = np.zeros((4, 4, 3), np.uint8)
    frames = [Frame(str(number), image, number) for number in TRACKS]
    list(collection.of((frame, poses_of(TRACKS[frame.image_id])) for frame in frames))
    places, names = collection.found(SKELETON, None, 30.0, {}).individuals()
    assert names == ["track3", "track7", "individual1", "individual2"]
    assert places.tolist() == [1, 0, 0, 2, 1, 3, 2]


def test_by_command(run, checkpoint, video, tmp_path):
    out = tmp_path / "out"
    given = [f"ckpt={checkpoint}", "device=cpu", f"source={video}", f"out={out}", "draw=false"]
    code, _, err = run(command.main, *given, "formats=[coco,slp,dlc]")
    assert code == 0, err
    names = {path.name for path in out.iterdir()}
    assert names == {"predictions.json", "predictions.slp", "predictions_dlc.csv", "predictions_dlc.h5"}
    entries = json.loads((out / "predictions.json").read_text())
    labels = sleap_io.load_slp(out / "predictions.slp")
    assert len(labels) == len(entries) == 40
    points = np.array([entry["keypoints"] for entry in entries]).reshape(40, 3, 3)
    assert np.abs(points[..., :2] - labels.numpy()[:, 0]).max() < 1e-3
    (out / "overlays").mkdir()
    code, said, err = run(command.main, *given, "formats=csv")
    assert code == 0 and "40 frames, 40 poses in" in said
    left = "predictions.json, predictions_dlc.csv, predictions_dlc.h5, predictions.slp, overlays"
    assert f"out={out} still holds results of an earlier run: {left}" in said + err


@pytest.mark.parametrize("size", [80_000, 17_000])
def test_a_file_that_does_not_fit_costs_no_other(tmp_path, video, capfd, size):
    few = ["predictions.nwb"] if size > 60_000 else ["predictions.slp", "predictions.nwb"]
    said = rf"^{', '.join(few)} can't be written \(File too large\)$"
    with small_files(size), pytest.raises(UserError, match=said):
        written(tmp_path, ["dlc", "slp", "nwb"], open_source(video), {1: [1, 2]})
    left = {path.name for path in tmp_path.iterdir() if path != video}
    assert left == {"predictions.slp", "predictions_dlc.csv", "predictions_dlc.h5"}.difference(few)
    assert not capfd.readouterr().err  # of HDF5, before it kills the process


@pytest.mark.parametrize(
    ("formats", "words"),
    [
        ("[xml]", "unknown xml; choose from [coco,csv,dlc,slp,nwb,trc]"),
        ("[]", "no format"),
        ("[trc]", "lift="),
        ("[nwb]", "a time for each pose"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(run, checkpoint, folder, tmp_path, formats, words):
    given = [f"ckpt={checkpoint}", f"source={folder}", f"out={tmp_path / 'out'}", f"formats={formats}"]
    code, _, err = run(command.main, *given)
    assert code == 1 and words in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(monkeypatch, video):
    found = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "lightpose.interop.packages.find_spec", lambda name: None if name == "sleap_io" else found(name)
    )
    with pytest.raises(
        UserError, match=r"needs sleap_io, which is not installed; run pip install \"lightpose\[formats\]\""
    ):
        Formats(["slp"], open_source(video), lifts=False)
