"""Geometry of whole images: it keeps keypoints on their pixels, draws as published, and shows the side that it says."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest

from lightpose.data.image_transforms import RandomImageAffine
from lightpose.data.pixels.crop import Warp
from lightpose.data.transforms import CropImage, RandomFlip
from lightpose.errors import UserError
from lightpose.geometry import transform_points
from lightpose.skeleton import Skeleton
from lightpose.structures import Annotations, Sample

INPUT_HW = (96, 128)
SKELETON = Skeleton.build(["left_hand", "right_hand", "head"])
STILL = {"scale": (1, 1), "rotate_degrees": 0, "shift": 0}


def sample(image_hw: tuple[int, int] = (100, 120), people: int = 3) -> Sample:
    """People on a picture that spells out its own coordinates: red is x, green is y."""
    height, width = image_hw
    image = np.full((height, width, 3), 200, np.uint8)
    image[..., 1], image[..., 0] = np.mgrid[:height, :width]
    points = np.random.default_rng(0).uniform(20, (width - 20, height - 20), (people, 3, 2)).astype(np.float32)
    labels = Annotations(
        keypoints=points,
        visible=np.full((people, 3), 2, np.float32),
        boxes_xyxy=np.concatenate([points.min(1), points.max(1)], -1),
        areas=np.full(people, 5000, np.float32),
        categories=np.zeros(people, np.int64),
        ids=np.arange(people),
        scores=np.ones(people, np.float32),
    )
    return Sample(image, labels, np.eye(3), image_id=1, index=0, image_hw=image_hw)


def cropped(grid: str = "half_pixel", **options) -> Sample:
    return CropImage(INPUT_HW, grid)(sample(**options), np.random.default_rng(0))


@pytest.mark.parametrize("grid", ["stride", "udp", "half_pixel"])
def test_keypoints_of_everyone_stay_on_their_pixels(grid: str):
    affine, flip, checked = RandomImageAffine(INPUT_HW), RandomFlip(SKELETON, INPUT_HW), 0
    for seed in range(20):
        rng, before = np.random.default_rng(seed), cropped(grid)
        after = Warp(INPUT_HW)(flip(affine(before, rng), rng), rng)
        mirrored = np.linalg.det(after.input_from_image) < 0
        original = before.instances.keypoints[:, list(SKELETON.swap) if mirrored else slice(None)].reshape(-1, 2)
        at = transform_points(after.input_from_image, after.instances.keypoints.astype(np.float64)).reshape(-1, 2)
        seen = cv2.remap(after.image.astype(np.float32), at[None].astype(np.float32), None, cv2.INTER_LINEAR)[0]
        inside = seen[:, 2] > 199
        checked += inside.sum()
        assert np.abs(seen[inside, :2] - original[inside]).max(initial=0) < 0.6  # rounding to grey levels makes up 0.5
    assert checked > 80


def test_draws_are_uniform_within_the_published_ranges():
    rng, before, affine = np.random.default_rng(0), cropped(), RandomImageAffine(INPUT_HW, fit="long")
    changes = np.stack(
        [affine(before, rng).input_from_image @ np.linalg.inv(before.input_from_image) for _ in range(2000)]
    )
    scales = 1 / np.sqrt(np.linalg.det(changes[:, :2, :2]))
    degrees = np.degrees(np.arctan2(changes[:, 1, 0], changes[:, 0, 0]))
    middle = np.array([63.5, 47.5])
    shifts = (changes[:, :2, :2] @ middle + changes[:, :2, 2] - middle) / (128, 96)
    for drawn, low, high in (
        (scales, 0.75, 1.5),
        (degrees, -30, 30),
        (shifts[:, 0], -0.2, 0.2),
        (shifts[:, 1], -0.2, 0.2),
    ):
        spread = high - low
        assert low <= drawn.min() < low + 0.01 * spread
        assert high - 0.01 * spread < drawn.max() <= high
        assert drawn.std() == pytest.approx(spread / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize("image_hw", [(100, 240), (240, 100)])
def test_the_input_shows_the_side_that_is_asked_for(image_hw: tuple[int, int]):
    before = cropped(image_hw=image_hw)
    still = RandomImageAffine(INPUT_HW, fit="long", **STILL)(before, np.random.default_rng(0))
    np.testing.assert_allclose(still.input_from_image, before.input_from_image, atol=1e-12)
    filled = RandomImageAffine(INPUT_HW, fit="short", **STILL)(before, np.random.default_rng(0))
    edges = transform_points(filled.input_from_image, np.array([[-0.5, -0.5], [image_hw[1] - 0.5, image_hw[0] - 0.5]]))
    beyond = np.abs(edges - [[-0.5, -0.5], [127.5, 95.5]])
    short = int(image_hw[0] < image_hw[1])  # the axis, x or y, that is seen in full
    assert beyond[:, short].max() < 2.5  # CropImage fills the input with one pixel less than the image has
    assert (edges[:, 1 - short] * [-1, 1] > [10, 100]).all()
    assert Warp(INPUT_HW)(filled, np.random.default_rng(0)).image[3:-3, 3:-3, 2].min() == 200


def test_an_image_without_people_is_moved_too():
    nobody = replace(cropped(people=0), empty=False)
    moved = RandomImageAffine(INPUT_HW)(nobody, np.random.default_rng(0))
    assert not np.allclose(moved.input_from_image, nobody.input_from_image)


def test_refuses_what_makes_no_input():
    with pytest.raises(UserError, match=r"scale=\[0, 1\] must be two positive factors"):
        RandomImageAffine(INPUT_HW, scale=[0, 1])
    with pytest.raises(UserError, match="fit='wide' is no side of an image; use long or short"):
        RandomImageAffine(INPUT_HW, fit="wide")
