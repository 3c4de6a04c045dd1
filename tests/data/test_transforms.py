import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from lightpose.data.pixels.albumentations import Albumentations
from lightpose.data.pixels.crop import Warp
from lightpose.data.transforms import CropBox, CropImage, HalfBody, RandomAffine, RandomFlip
from lightpose.errors import UserError
from lightpose.geometry import crop_matrix, expand_boxes, transform_points
from lightpose.skeleton import Skeleton
from lightpose.structures import Annotations, Sample

A = pytest.importorskip("albumentations")

INPUT_HW = (128, 96)
NAMES = [
    "nose",
    "left_hand",
    "right_hand",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_foot",
    "right_foot",
]
SKELETON = Skeleton.build(NAMES, upper=NAMES[:3])


@pytest.fixture
def rng():
    return np.random.default_rng(1)


@pytest.fixture
def sample(rng):
    """A person on a picture that spells out its own coordinates: red is x, green is y."""
    points = np.stack([rng.uniform(60, 140, 9), np.linspace(40, 160, 9)], -1).astype(np.float32)
    image = np.full((200, 220, 3), 200, np.uint8)
    image[..., 1], image[..., 0] = np.mgrid[:200, :220]
    instances = Annotations(
        keypoints=points[None],
        visible=np.full((1, 9), 2, np.float32),
        boxes_xyxy=np.array([[55, 30, 145, 170]], np.float32),
        areas=np.array([5000], np.float32),
        categories=np.zeros(1, np.int64),
        ids=np.array([1]),
        scores=np.ones(1, np.float32),
    )
    return Sample(image, instances, np.eye(3), image_id=1, index=0, image_hw=(200, 220))


def input_points(sample):
    return transform_points(sample.input_from_image, sample.instances.keypoints.astype(np.float64))[0]


def error_in_image_px(before, after, mirrored):
    """How far the pixels under the keypoints come from where the keypoints were in the image."""
    original = before.instances.keypoints[0, list(SKELETON.swap) if mirrored else slice(None)]
    at = input_points(after).astype(np.float32)
    seen = cv2.remap(after.image.astype(np.float32), at[None], None, cv2.INTER_LINEAR)[0]
    inside = seen[:, 2] > 199
    assert inside.sum() >= 3
    return np.abs(seen[inside, :2] - original[inside]).max()


@pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])
def test_crop_box_is_the_crop_matrix_of_the_padded_box(sample, rng, grid):
    centers, sizes = expand_boxes(sample.instances.boxes_xyxy, INPUT_HW, 1.25)
    expected = crop_matrix(centers[0], sizes[0], INPUT_HW, grid)
    np.testing.assert_allclose(CropBox(INPUT_HW, grid)(sample, rng).input_from_image, expected)
    with pytest.raises(UserError, match="half_pixel"):
        CropBox(INPUT_HW, "pixels")


def test_crop_image_keeps_all_pixels(sample, rng):
    matrix = CropImage(INPUT_HW, "udp")(sample, rng).input_from_image
    corners = transform_points(matrix, np.array([[0.0, 0.0], [219.0, 199.0]]))
    np.testing.assert_allclose(corners[:, 0], [0, 95], atol=1e-9)
    assert (corners[:, 1] > 0).all()
    assert (corners[:, 1] < 127).all()


@pytest.mark.parametrize("image_hw", [(1, 1), (1, 40)])
def test_an_image_without_extent_has_a_matrix(sample, rng, image_hw):
    matrix = CropImage(INPUT_HW, "udp")(replace(sample, image_hw=image_hw), rng).input_from_image
    assert np.isfinite(matrix).all() and np.linalg.det(matrix) > 0


@pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])
def test_affine_is_the_crop_of_a_larger_turned_and_shifted_box(sample, grid):
    cropped = CropBox(INPUT_HW, grid)(sample, np.random.default_rng(0))
    center, size = (a[0] for a in expand_boxes(sample.instances.boxes_xyxy, INPUT_HW, 1.25))
    affine = RandomAffine(INPUT_HW, rotate_probability=1, shift_probability=1)
    matrix = affine(cropped, np.random.default_rng(5)).input_from_image
    linear = matrix[:2, :2] / np.array([INPUT_HW[1], INPUT_HW[0]])[:, None] * size[:, None]
    scale, degrees = 1 / math.sqrt(np.linalg.det(linear)), math.degrees(math.atan2(linear[0, 1], linear[0, 0]))
    if grid != "udp":  # there, size - 1 steps fill the input
        assert 0.5 <= scale <= 1.5
    assert abs(degrees) <= 80
    target = transform_points(cropped.input_from_image, center[None])
    moved = transform_points(np.linalg.inv(matrix), target)[0]
    padded_box = np.array([90, 140]) * 1.25
    assert (np.abs(moved - center) <= 0.16 * padded_box * 1.01).all()
    if grid != "udp":
        np.testing.assert_allclose(matrix, crop_matrix(moved, size * scale, INPUT_HW, grid, degrees), atol=1e-6)


def test_affine_draws_follow_the_published_distribution(sample):
    cropped = CropBox(INPUT_HW, "stride")(sample, np.random.default_rng(0))
    affine = RandomAffine(INPUT_HW)
    rng = np.random.default_rng(0)
    changes = np.stack([affine(cropped, rng).input_from_image for _ in range(2000)])
    scales = math.sqrt(np.linalg.det(cropped.input_from_image)) / np.sqrt(np.linalg.det(changes))
    assert scales.min() >= 0.5
    assert scales.max() <= 1.5
    assert scales.std() == pytest.approx(0.5 * 0.5396, abs=0.01)  # of the normal distribution cut at 1 sigma
    turned = np.abs(changes[:, 0, 1]) > 1e-12
    assert turned.mean() == pytest.approx(0.6, abs=0.03)
    target = transform_points(cropped.input_from_image, np.array([[100.0, 100.0]]))[0]
    shifted = np.linalg.norm(np.einsum("nij,j->ni", changes, [100, 100, 1])[:, :2] - target, axis=-1) > 1e-6
    assert shifted.mean() == pytest.approx(0.3, abs=0.03)


def test_nothing_to_do_changes_nothing(sample, rng):
    cropped = CropBox(INPUT_HW, "udp")(sample, rng)
    still = RandomAffine(INPUT_HW, scale=(1, 1), rotate_probability=0, shift_probability=0)(cropped, rng)
    np.testing.assert_allclose(still.input_from_image, cropped.input_from_image, atol=1e-12)
    assert RandomFlip(SKELETON, INPUT_HW, probability=0)(cropped, rng) is cropped
    assert HalfBody(SKELETON, INPUT_HW, "udp", probability=0)(cropped, rng) is cropped
    assert HalfBody(Skeleton.build(NAMES), INPUT_HW, "udp", probability=1)(cropped, rng) is cropped


def test_half_body_crops_one_half_around_its_mean(sample, rng):
    def half(upper_probability, **changes):
        return HalfBody(SKELETON, INPUT_HW, "stride", 1, upper_probability=upper_probability, **changes)(sample, rng)

    for upper_probability, joints in ((1, slice(0, 3)), (0, slice(3, 9))):
        points = sample.instances.keypoints[0, joints]
        result = half(upper_probability)
        np.testing.assert_allclose(
            transform_points(result.input_from_image, points.mean(0, keepdims=True)), [[48, 64]], atol=1e-4
        )
        spread = np.ptp(transform_points(result.input_from_image, points.astype(np.float64)), axis=0)
        assert (spread / (96, 128)).max() == pytest.approx(1 / 1.5, abs=1e-6)
    assert half(1, min_total=10) is sample
    assert half(1, min_upper=4, min_lower=7) is sample
    np.testing.assert_array_equal(half(1, min_upper=4).input_from_image, half(0).input_from_image)


def test_what_nobody_says_how_to_mirror_is_not_mirrored(sample, rng):
    cropped = CropBox(INPUT_HW, "half_pixel")(sample, rng)
    unsaid = replace(SKELETON, mirrors=False)
    assert RandomFlip(unsaid, INPUT_HW, 1)(cropped, rng) is cropped
    assert RandomFlip(replace(unsaid, mirrors=True), INPUT_HW, 1)(cropped, rng) is not cropped


def test_flip_mirrors_pixels_and_exchanges_left_and_right(sample, rng):
    cropped = CropBox(INPUT_HW, "stride")(sample, rng)
    plain, flipped = Warp(INPUT_HW)(cropped, rng), RandomFlip(SKELETON, INPUT_HW, 1)(cropped, rng)
    flipped = Warp(INPUT_HW)(flipped, rng)
    assert np.abs(flipped.image[:, ::-1].astype(int) - plain.image).max() <= 2
    before, after = input_points(plain), input_points(flipped)
    np.testing.assert_allclose(after[1], [95 - before[2, 0], before[2, 1]], atol=1e-9)
    np.testing.assert_allclose(after[0], [95 - before[0, 0], before[0, 1]], atol=1e-9)


@pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])
def test_keypoints_stay_on_their_pixels(sample, grid):
    steps = [
        CropBox(INPUT_HW, grid),
        HalfBody(SKELETON, INPUT_HW, grid, 0.5),
        RandomAffine(INPUT_HW, scale=(0.9, 1.2)),
        RandomFlip(SKELETON, INPUT_HW),
        Warp(INPUT_HW),
    ]
    for seed in range(10):
        rng, result = np.random.default_rng(seed), sample
        for step in steps:
            result = step(result, rng)
        mirrored = np.linalg.det(result.input_from_image) < 0
        assert error_in_image_px(sample, result, mirrored) < 0.6  # of which rounding to grey levels makes up 0.5


@pytest.fixture
def warped(sample, rng):
    return Warp(INPUT_HW)(CropBox(INPUT_HW, "half_pixel")(sample, rng), rng)


@pytest.mark.parametrize(
    "transform",
    [
        A.HorizontalFlip(p=1),
        A.VerticalFlip(p=1),
        A.Affine(rotate=(25, 25), scale=(0.8, 0.8), translate_px={"x": 7, "y": -5}, p=1),
        A.Rotate((-30, -30), p=1),
        A.Affine(shear={"x": 10, "y": 0}, p=1),
        A.Perspective(scale=(0.05, 0.05), p=1),
        A.GaussianBlur(p=1),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_keypoints_follow_a_users_pipeline(warped, rng, transform):
    result = Albumentations(SKELETON, [transform])(warped, rng)
    mirrored = np.linalg.det(result.input_from_image) < 0
    assert error_in_image_px(warped, result, mirrored) < 1.3  # one pixel of the input is 1.37 pixels of the image
    np.testing.assert_allclose(result.instances.areas, warped.instances.areas)


def test_mirroring_pipelines_exchange_left_and_right(warped, rng):
    ours = RandomFlip(SKELETON, INPUT_HW, 1)(warped, rng)
    theirs = Albumentations(SKELETON, {"flip": A.HorizontalFlip(p=1), "off": None})(warped, rng)
    np.testing.assert_allclose(input_points(theirs), input_points(ours), atol=1e-4)
    np.testing.assert_allclose(theirs.input_from_image, ours.input_from_image, atol=1e-9)
    np.testing.assert_allclose(theirs.instances.keypoints, ours.instances.keypoints, atol=1e-4)
    twice = Albumentations(SKELETON, [A.HorizontalFlip(p=1), A.HorizontalFlip(p=1)])(warped, rng)
    np.testing.assert_allclose(twice.instances.keypoints, warped.instances.keypoints, atol=1e-4)


def test_photometric_pipeline_moves_nothing(warped, rng):
    result = Albumentations(SKELETON, [A.RandomBrightnessContrast(p=1)])(warped, rng)
    np.testing.assert_allclose(result.input_from_image, warped.input_from_image, atol=1e-12)
    np.testing.assert_allclose(result.instances.keypoints, warped.instances.keypoints, atol=1e-4)
    np.testing.assert_array_equal(result.instances.visible, warped.instances.visible)
    assert np.abs(result.image.astype(int) - warped.image).max() > 3


def test_points_pushed_out_of_the_input_are_unlabelled(warped, rng):
    result = Albumentations(SKELETON, [A.Affine(translate_px={"x": 0, "y": 60}, p=1)])(warped, rng)
    inside = input_points(result)[:, 1] < INPUT_HW[0] - 0.5
    assert 0 < inside.sum() < 9
    np.testing.assert_array_equal(result.instances.visible[0] > 0, inside)


def test_pipeline_is_fixed_by_the_generator(warped):
    pipeline = Albumentations(SKELETON, [A.Rotate((-90, 90), p=0.5), A.HueSaturationValue(p=0.5), A.GaussNoise(p=0.5)])
    first, second, other = (pipeline(warped, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.input_from_image, second.input_from_image)
    assert (first.image != other.image).any()


def test_pipeline_that_changes_the_size_is_refused(warped, rng):
    with pytest.raises(UserError, match=r"\(128, 96, 3\) into \(64, 64, 3\)"):
        Albumentations(SKELETON, [A.Resize(64, 64)])(warped, rng)


def test_warp_is_opencvs(sample, rng):
    cropped = CropBox(INPUT_HW, "udp")(sample, rng)
    expected = cv2.warpAffine(sample.image, cropped.input_from_image[:2], (96, 128))
    np.testing.assert_array_equal(Warp(INPUT_HW)(cropped, rng).image, expected)
