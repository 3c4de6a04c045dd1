from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_checkpoint import INPUT_HW, SKELETON, config, save

import lightpose
from lightpose.data.pipeline import Pipeline
from lightpose.data.pixels.device import collate
from lightpose.data.transforms import RandomAffine, RandomFlip
from lightpose.errors import UserError
from lightpose.estimators.base import PoseEstimator
from lightpose.geometry import apply_affine
from lightpose.inference.crops import Job
from lightpose.inference.frames import Frame
from lightpose.inference.predictor import FIND_AT_ONCE
from lightpose.inference.prefetch import AHEAD
from lightpose.skeleton import Skeleton
from lightpose.structures import Batch, Poses

BOXES = [
    np.array([[10, 10, 60, 80], [50.5, 5, 100, 60]]),
    np.zeros((0, 4)),
    np.array([[0, 0, 64, 64]]),
    np.array([[-10, 20, 60, 100], [5, 5, 30, 140], [40, 40, 80, 60]]),
    np.array([[20, 0, 190, 70]]),
]


class Bright(PoseEstimator):
    """Toy that takes whole images and finds two poses in each bright one, at its corners."""

    def predict_step(self, batch: Batch, batch_idx: int) -> Poses:
        bright = batch.inputs.float().flatten(1).mean(1) > 100
        rows = bright.nonzero()[:, 0].repeat_interleave(2)
        height, width = INPUT_HW
        corners = torch.tensor([[0.0, 0.0], [width - 1.0, 0.0], [0.0, height - 1.0]]).expand(len(rows), -1, -1)
        scores = torch.tensor([0.9, 0.4]).repeat(int(bright.sum()))
        return Poses(apply_affine(batch.image_from_input[rows], corners), torch.ones(len(rows), 3) * 0.7, scores, rows)


@pytest.fixture(scope="module")
def predictor(checkpoint: Path) -> lightpose.Predictor:
    return lightpose.Predictor(checkpoint, device="cpu")


def test_batched_equals_one_by_one(predictor, images):
    scores = [np.linspace(0.2, 0.9, len(boxes)) for boxes in BOXES]
    pooled = predictor(images, BOXES, batch_size=4, box_scores=scores)
    for image, boxes, image_scores, poses in zip(images, BOXES, scores, pooled, strict=True):
        assert len(poses) == len(boxes)
        for row in range(len(boxes)):
            alone = predictor(image, boxes[row : row + 1], batch_size=1, box_scores=image_scores[row : row + 1])[0]
            assert np.abs(alone.keypoints - poses.keypoints[row]).max() < 1e-4
            assert np.abs(alone.keypoint_scores - poses.keypoint_scores[row]).max() < 1e-4
            assert np.abs(alone.scores - poses.scores[row]).max() < 1e-4


def test_people_of_all_images_share_batches(predictor, images, monkeypatch):
    sizes = []
    step = predictor.estimator.predict_step
    monkeypatch.setattr(
        predictor.estimator, "predict_step", lambda batch, number: sizes.append(len(batch)) or step(batch, number)
    )
    predictor(images, BOXES, batch_size=3)
    assert sizes == [3, 3, 1]


def test_boxes_are_the_users_and_none_give_none(predictor, images):
    poses = predictor(images, BOXES)
    for boxes, found in zip(BOXES, poses, strict=True):
        assert np.array_equal(found.boxes_xyxy, boxes.astype(np.float32))
        assert np.array_equal(found.box_scores, np.ones(len(boxes)))
    assert poses[1].keypoints.shape == (0, 3, 2)
    assert poses[1].keypoint_scores.shape == (0, 3)
    assert [len(found) for found in predictor(images[:2], [[], []])] == [0, 0]
    assert predictor([]) == []


def test_score_is_box_score_times_mean_keypoint_score(predictor, images):
    (found,) = predictor(images[0], BOXES[0], box_scores=[0.5, 0.25])
    assert np.allclose(found.scores, [0.5, 0.25] * found.keypoint_scores.mean(1), atol=1e-6)
    assert found.keypoint_scores.max() > 0


def test_images_as_paths_arrays_or_one_of_them(predictor, images, folder):
    paths = [folder / f"{number}.png" for number in range(5)]
    from_arrays, from_paths = predictor(images), predictor([str(paths[0]), *paths[1:]])
    for expected, actual in zip(from_arrays, from_paths, strict=True):
        assert np.array_equal(expected.keypoints, actual.keypoints)
    assert np.array_equal(predictor(paths[2])[0].keypoints, from_arrays[2].keypoints)
    assert np.array_equal(predictor(images[2])[0].keypoints, from_arrays[2].keypoints)
    assert np.array_equal(from_arrays[0].boxes_xyxy, [[0, 0, 120, 90]])


def test_back_projection_is_exact_under_rotation_and_flip(checkpoint, images, monkeypatch):
    """Keypoints that a perfect network finds in turned and mirrored crops come back to where they were."""
    predictor = lightpose.Predictor(checkpoint, device="cpu")
    pipeline = predictor.cropper.transforms
    truth = np.array([[[12.3, 33.1], [71.9, 4.4], [-3.2, 65.7]]], np.float32)
    turned = Pipeline(
        [
            *pipeline.geometry,
            RandomAffine(INPUT_HW, rotate_probability=1.0, shift_probability=1.0),
            RandomFlip(SKELETON, INPUT_HW, probability=1.0),
        ],
        pipeline.warp,
    )

    def transforms(sample, rng):
        return turned(replace(sample, instances=replace(sample.instances, keypoints=truth)), rng)

    predictor.cropper = replace(predictor.cropper, transforms=transforms)

    def perfect(batch: Batch, number: int) -> Poses:
        keypoints = batch.instances.keypoints[:, 0]
        ones = torch.ones(keypoints.shape[:2])
        return predictor.estimator.to_image(Poses(keypoints, ones, ones[:, 0], torch.arange(len(batch))), batch)

    monkeypatch.setattr(predictor.estimator, "predict_step", perfect)
    for found in predictor(images, BOXES):
        assert np.abs(found.keypoints[:, list(SKELETON.swap)] - truth).max(initial=0) < 1e-3


def test_estimator_of_whole_images(tmp_path, images):
    settings = config()
    settings["estimator"]["_target_"] = "test_predictor.Bright"
    settings["augment"]["eval"]["geometry"]["crop"] = {
        "_target_": "lightpose.data.transforms.CropImage",
        "input_hw": INPUT_HW,
        "grid": "half_pixel",
    }
    path = save(tmp_path / "bright.ckpt", settings, trust=("test_predictor.",))
    with pytest.raises(UserError, match=r"test_predictor\.Bright"):
        lightpose.Predictor(path)
    predictor = lightpose.Predictor(path, device="cpu", trust=("test_predictor.",))
    white, black = np.full((64, 48, 3), 255, np.uint8), np.zeros((64, 48, 3), np.uint8)
    found = predictor([white, black, white], batch_size=2)
    assert [len(poses) for poses in found] == [2, 0, 2]
    assert np.allclose(found[2].scores, [0.9, 0.4])
    assert np.allclose(found[2].boxes_xyxy, [[0, 0, 47, 63]] * 2, atol=0.6)
    with pytest.raises(UserError, match="leave boxes out"):
        predictor(white, [[0, 0, 5, 5]])


@pytest.mark.parametrize("peopled", [True, False])
def test_stream_keeps_order_and_memory(predictor, images, peopled):
    drawn = 0
    boxes = BOXES if peopled else [np.zeros((0, 4))] * 5

    def frames():
        nonlocal drawn
        for number in range(150):
            drawn += 1
            yield Frame(f"{number}", images[number % 5], number)

    def find(chunk):
        found = [boxes[frame.image_id % 5] for frame in chunk]
        return [(rows.astype(np.float32), np.ones(len(rows))) for rows in found]

    expected = predictor(images, boxes)
    seen = 0
    for number, (frame, poses) in enumerate(predictor.stream(frames(), find, batch_size=4)):
        assert frame.image_id == number
        assert len(poses) == len(boxes[number % 5])
        assert np.abs(poses.keypoints - expected[number % 5].keypoints).max(initial=0) < 1e-4
        assert drawn - number <= 3 * 4 + AHEAD + FIND_AT_ONCE + 2
        seen += 1
    assert seen == 150


def test_an_image_of_several_batches_is_put_together(predictor, images, monkeypatch):
    """Images without people, with as many as a batch, and with more than two batches.

    Keypoints are the mean colours of a crop, which don't hang on how a processor rounds the maps of random weights.
    """

    def colours(batch: Batch, number: int) -> Poses:
        means = batch.inputs.double().mean((2, 3)).float() / 8
        return predictor.estimator.to_image(
            Poses(torch.stack([means, means.flip(1)], -1), means, means[:, 0], torch.arange(len(batch))), batch
        )

    monkeypatch.setattr(predictor.estimator, "predict_step", colours)
    counts = [0, 3, 7, 0, 0, 1, 6, 0]
    rng = np.random.default_rng(0)
    corners = [rng.uniform(0, 30, (count, 2)) for count in counts]
    boxes = [np.concatenate([corner, corner + 30], 1) for corner in corners]
    pictures = [images[0]] * len(counts)
    whole = predictor(pictures, boxes, batch_size=64)
    parts = predictor(pictures, boxes, batch_size=3)
    assert [len(poses) for poses in parts] == counts
    for one, other, given in zip(whole, parts, boxes, strict=True):
        assert np.array_equal(other.boxes_xyxy, given.astype(np.float32))
        assert np.abs(one.keypoints - other.keypoints).max(initial=0) < 1e-4


def test_results_are_read_while_the_next_batch_is_under_way(predictor, images, monkeypatch):
    steps = []
    for name in ("_submit", "_collect"):
        method = getattr(predictor, name)
        monkeypatch.setattr(predictor, name, lambda *given, n=name, m=method: steps.append(n) or m(*given))
    predictor([images[0]] * 3, batch_size=1)
    assert steps == ["_submit", "_submit", "_collect", "_submit", "_collect", "_collect"]


def test_precision_and_speed_are_checked(checkpoint, predictor, images):
    assert predictor.autocast is None  # on a CPU, unless asked for
    half = lightpose.Predictor(checkpoint, device="cpu", precision="bf16-mixed")
    exact, rough = predictor(images)[0], half(images)[0]
    assert 0 < np.abs(exact.keypoint_scores - rough.keypoint_scores).max() < 0.05
    for option in ({"precision": "8-bit"}, {"speed": "fast"}):
        with pytest.raises(UserError, match="is unknown; use"):
            lightpose.Predictor(checkpoint, device="cpu", **option)


def test_the_step_reads_no_value(checkpoint, predictor, images):
    """On the meta device there are no values: whatever would wait for one fails."""
    estimator = lightpose.load(checkpoint).to("meta")
    samples = predictor.cropper.samples(Job(images[0], (BOXES[0].astype(np.float32), np.ones(2, np.float32)), 0))
    batch = collate(samples).to("meta")
    poses = estimator.to_image(estimator.codec.decode(estimator.outputs(batch.inputs)), batch)
    assert poses.keypoints.is_meta
    assert poses.keypoints.shape == (2, 3, 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_what_the_cpu_gives_and_starting_a_batch_waits_for_nothing(checkpoint, predictor, images):
    on_gpu = lightpose.Predictor(checkpoint, device="cuda", precision="32-true")
    on_gpu(images, BOXES, batch_size=4)  # whatever is captured is captured now
    submit = on_gpu._submit

    def guarded(crops):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return submit(crops)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    on_gpu._submit = guarded
    for expected, actual in zip(predictor(images, BOXES), on_gpu(images, BOXES, batch_size=4), strict=True):
        assert np.abs(expected.keypoint_scores - actual.keypoint_scores).max(initial=0) < 0.01
        assert np.median(np.abs(expected.keypoints - actual.keypoints)) < 0.05 if len(expected) else True


def test_transforms_need_trust(tmp_path):
    settings = config()
    settings["augment"]["eval"]["pixels"]["own"] = {"_target_": "strangers.Transform"}
    path = save(tmp_path / "strange.ckpt", settings)
    with pytest.raises(UserError, match=r"strangers\.Transform"):
        lightpose.Predictor(path)


@pytest.mark.parametrize(
    ("images", "boxes", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), None, r"image 0 is float32 of shape \(8, 8, 3\)"),
        (np.zeros((8, 8, 3), np.float32), None, r"values from 0 to 255"),
        (np.zeros((8, 8, 4), np.uint8), None, r"leave the opacity out: image\[\.\.\., :3\]"),
        (np.zeros((8, 8, 2), np.uint8), None, r"image 0 is uint8 of shape \(8, 8, 2\)"),
        (np.zeros((0, 8, 3), np.uint8), None, r"image 0 is uint8 of shape \(0, 8, 3\)"),
        (np.zeros((8, 8), np.uint16), None, r"image 0 is uint16 of shape"),
        (np.zeros((8, 8), bool), None, r"image 0 is bool of shape"),
        (np.zeros(8, np.uint8), None, "image 0 is uint8; expected a path"),
        (np.array(3), None, r"image 0 is int64 of shape \(\)"),
        (torch.zeros(3, 8, 8), None, r"torch.float32 of shape \(3, 8, 8\).*tensor\.permute\(1, 2, 0\)"),
        (torch.zeros(3, 8, 8, requires_grad=True), None, r"tensor\.permute"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), None, r"image 0 is torch\.uint8 of shape \(3, 8, 8\)"),
        (Image.new("F", (8, 8)), None, "image 0 has Pillow's mode F"),
        ([None], None, "NoneType"),
        (None, None, "image 0 is NoneType"),
        (3, None, "image 0 is int"),
        (b"abc", None, "image 0 is bytes"),
        ("/dev/zero", None, "no regular file"),
        ("a\0b", None, "can't be read"),
        ("no/such.jpg", None, "no/such.jpg"),
        ([np.zeros((8, 8, 3), np.uint8)] * 2, [[[0, 0, 4, 4]]], "2 images come with 1 arrays"),
        (np.zeros((8, 8, 3), np.uint8), [[0, 0, 4]], r"shape \(1, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), [[0, 0, 4, 4], [4, 4, 4, 9]], "box 1 of image 0"),
        (np.zeros((8, 8, 3), np.uint8), [[0, 0, np.nan, 4]], "box 0 of image 0"),
        (np.zeros((8, 8, 3), np.uint8), torch.tensor([[0, 0, torch.nan, 4]]), "box 0 of image 0"),
        (np.zeros((8, 8, 3), np.uint8), [[0, 0, 4, 4], [1, 2]], "boxes of image 0 are no array of numbers"),
        (np.zeros((8, 8, 3), np.uint8), "none", "boxes of image 0 are no array of numbers"),
        ([np.zeros((8, 8, 3), np.uint8)], 5, "are no lists of arrays"),
    ],
)
def test_bad_images_and_boxes_are_named(predictor, images, boxes, message):
    with pytest.raises(UserError, match=message):
        predictor(images, boxes)


def test_bad_batch_size_and_device(checkpoint, predictor, images):
    with pytest.raises(UserError, match="batch_size=0"):
        predictor(images, batch_size=0)
    with pytest.raises(UserError, match="device=nonsense"):
        lightpose.Predictor(checkpoint, device="nonsense")


@pytest.mark.parametrize("count", [1, 2])
def test_skeletons_of_few_keypoints(tmp_path, images, count):
    skeleton = Skeleton.build([f"point{number}" for number in range(count)])
    settings = config()
    settings["estimator"]["backbone"]["pretrained"] = False
    few = lightpose.Predictor(save(tmp_path / "few.ckpt", settings, skeleton=skeleton), "cpu")
    poses = few(images[0], boxes=[[5, 5, 40, 60], [1, 2, 30, 30]])
    assert poses[0].keypoints.shape == (2, count, 2)


def test_pictures_of_every_plain_kind(predictor, images, folder):
    expected = predictor(images[0])[0].keypoints
    grey = np.asarray(Image.fromarray(images[0]).convert("L"))
    of_grey = predictor(np.repeat(grey[..., None], 3, -1))[0].keypoints
    for picture, keypoints in (
        (Image.fromarray(images[0]), expected),
        (Image.open(folder / "0.png"), expected),
        (grey, of_grey),
        (grey[..., None], of_grey),
        (Image.fromarray(grey), of_grey),
        (images[0][..., ::-1][..., ::-1], expected),
        (str(folder / "0.png"), expected),
        (Entry(folder / "0.png"), expected),
    ):
        assert np.array_equal(predictor(picture)[0].keypoints, keypoints)
        assert np.array_equal(predictor([picture, picture])[1].keypoints, keypoints)
    assert len({poses.scores[0] for poses in predictor([Image.open(folder / "0.png")] * 20)}) == 1
    assert np.array_equal(predictor(image for image in images[:2])[0].keypoints, expected)
    assert np.array_equal(predictor(np.stack([images[0]] * 2))[1].keypoints, expected)
    assert predictor(iter([])) == predictor(()) == []


class Entry:
    """Path-like, and no Path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_boxes_of_every_kind(predictor, images):
    (expected,) = predictor(images[0], BOXES[0], box_scores=[0.5, 0.25])
    tensor = torch.tensor(BOXES[0], requires_grad=True)
    scores = torch.tensor([0.5, 0.25], requires_grad=True)
    for boxes in (BOXES[0].tolist(), tensor, tensor.half().double(), tuple(map(tuple, BOXES[0].tolist()))):
        (found,) = predictor(images[0], boxes, box_scores=scores)
        assert np.array_equal(found.keypoints, expected.keypoints)
        assert np.array_equal(found.scores, expected.scores)
    found = predictor(images[:2], (boxes for boxes in [tensor, []]))
    assert [len(poses) for poses in found] == [2, 0]
    for given in ([0.5, np.nan], [0.5], "half"):
        with pytest.raises(UserError, match="the box scores of image 0"):
            predictor(images[0], tensor, box_scores=given)
    with pytest.raises(UserError, match="box_scores come without boxes"):
        predictor(images[0], box_scores=[1.0])


def test_the_bits_of_images_are_those_of_training(tmp_path, images):
    settings = {**config(), "data": {"dataset": {"image_bits": 12}}}
    path = save(tmp_path / "deep.ckpt", settings)
    deep = images[0][..., 0].astype(np.uint16) * 16
    picture = Image.fromarray(deep)
    expected = lightpose.Predictor(path, "cpu")(images[0][..., 0])[0].keypoints
    assert np.array_equal(lightpose.Predictor(path, "cpu")(picture)[0].keypoints, expected)
    assert not np.array_equal(lightpose.Predictor(path, "cpu", image_bits=16)(picture)[0].keypoints, expected)
    with pytest.raises(UserError, match="image_bits='x' must be 8 to 16"):
        lightpose.Predictor(save(tmp_path / "odd.ckpt", {**settings, "data": {"dataset": {"image_bits": "x"}}}), "cpu")
