import colorsys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from lightpose.data.pixels.device import to_batch
from lightpose.data.pixels.photometric import BrightnessContrast, GaussianBlur, Holes, HueSaturation, apply_photometric
from lightpose.data.pixels.raw import gather
from lightpose.structures import Annotations, Sample

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


@pytest.fixture
def sample():
    image = cv2.resize(np.random.default_rng(0).integers(60, 190, (8, 6, 3), np.uint8), (48, 64))
    empty = np.zeros((0, 1), np.float32)
    labels = Annotations(empty[..., None].repeat(2, -1), empty, empty.repeat(4, -1), *[empty[:, 0]] * 4)
    return Sample(image, labels, np.eye(3), image_id=1, index=0, image_hw=(64, 48))


def applied(sample, *transforms, seed=0, device="cpu"):
    """(H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    for transform in transforms:
        sample = transform(sample, rng)
    batch = to_batch(gather([sample]).to(device))
    return batch.inputs[0].permute(1, 2, 0).cpu().numpy()


def test_brightness_and_contrast_are_one_affine_map(sample):
    for seed in range(20):
        drawn = BrightnessContrast(0.2, 0.3, probability=1)(sample, np.random.default_rng(seed)).photometric["color"]
        gain, offset = drawn[0, 0], drawn[0, 3] - 127.5 * (1 - drawn[0, 0])
        assert 0.7 <= gain <= 1.3
        assert abs(offset) <= 51
        result = applied(sample, BrightnessContrast(0.2, 0.3, probability=1), seed=seed)
        expected = (sample.image - 127.5) * gain + 127.5 + offset
        assert np.abs(result - expected.clip(0, 255)).max() <= 0.51


def test_hue_turns_and_brightness_stays(sample):
    turned = applied(sample, HueSaturation(30, 0, probability=1))
    assert np.abs(turned.mean(-1) - sample.image.mean(-1)).max() <= 1
    hues = [
        np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in image.reshape(-1, 3) / 255])
        for image in (sample.image, turned)
    ]
    vivid = np.ptp(sample.image.reshape(-1, 3), axis=-1) > 30
    by_degrees = ((hues[1] - hues[0] + 0.5) % 1 - 0.5)[vivid] * 360
    radians = 2 * np.pi * np.median(by_degrees) / 360
    assert 2 < abs(np.median(by_degrees)) < 35
    assert np.abs(by_degrees - np.degrees(radians)).max() < 8  # HSV's hue is a hexagon's angle, not a circle's


def test_saturation_keeps_greys_and_luma(sample):
    luma = np.array([0.299, 0.587, 0.114])
    for seed in range(5):
        result = applied(sample, HueSaturation(0, 0.3, probability=1), seed=seed)
        assert np.abs(result @ luma - sample.image @ luma).max() <= 0.6
        grey = replace(sample, image=np.full((64, 48, 3), 90, np.uint8))
        assert (applied(grey, HueSaturation(20, 0.3, probability=1), seed=seed) == 90).all()
        ratio = (result - (result @ luma)[..., None]) / (sample.image - (sample.image @ luma)[..., None] + 1e-9)
        vivid = np.abs(sample.image - (sample.image @ luma)[..., None]) > 25
        assert 0.65 < np.median(ratio[vivid]) < 1.35
        assert np.ptp(ratio[vivid]) < 0.15


def test_blur_is_opencvs(sample):
    transform = GaussianBlur((0.5, 1.5), probability=1)
    for seed in range(5):
        weights = transform(sample, np.random.default_rng(seed)).photometric["blur"]
        expected = cv2.sepFilter2D(sample.image, -1, weights, weights, borderType=cv2.BORDER_REFLECT_101)
        assert np.abs(applied(sample, transform, seed=seed).astype(int) - expected).max() <= 1
        sigma = np.sqrt((weights * np.arange(-5, 6) ** 2).sum())
        assert 0.45 < sigma < 1.55


def test_holes_are_black_and_of_the_size_drawn(sample):
    for seed in range(20):
        result = applied(sample, Holes((1, 2), (0.1, 0.3), (0.2, 0.2), probability=1), seed=seed)
        black = (result == 0).all(-1)
        np.testing.assert_array_equal(result[~black], sample.image[~black])
        assert 0.02 - 0.01 < black.mean() < 0.12 + 0.02
        count, _, boxes, _ = cv2.connectedComponentsWithStats(black.astype(np.uint8))
        assert count in (2, 3)
        if count == 3:
            assert (np.abs(boxes[1:, cv2.CC_STAT_WIDTH] - 0.2 * 48) <= 1).all()


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_what_nothing_was_drawn_for_is_untouched(sample, device):
    transforms = [BrightnessContrast(0.2, 0.2), HueSaturation(), GaussianBlur(probability=0.2), Holes()]
    samples = []
    for seed in range(40):
        rng, drawn = np.random.default_rng(seed), sample
        for transform in transforms:
            drawn = transform(drawn, rng)
        samples.append(drawn)
    batch = gather(samples).to(device)
    result = apply_photometric(batch.images, batch.photometric)
    assert result.is_contiguous(memory_format=torch.channels_last)
    same = (result == batch.images).flatten(1).all(1).tolist()
    assert same == [not drawn.photometric for drawn in samples]
    assert 0 < sum(same) < 20
    assert (batch.images[:, :, 0, 0] == torch.tensor(sample.image[0, 0], device=device)).all()  # not written into
    for row in (0, 7, 21):  # alone or among others
        alone = gather([samples[row]]).to(device)
        torch.testing.assert_close(apply_photometric(alone.images, alone.photometric)[0], result[row], atol=1, rtol=0)


def test_colour_maps_are_applied_in_the_order_of_the_transforms(sample):
    light, colour = BrightnessContrast(0.1, 0.1, probability=1), HueSaturation(20, 0.3, probability=1)
    rng = np.random.default_rng(0)
    first = light(sample, rng).photometric["color"]
    second = colour(sample, rng).photometric["color"]
    expected = (sample.image @ first[:, :3].T + first[:, 3]) @ second[:, :3].T + second[:, 3]
    assert np.abs(applied(sample, light, colour) - expected.clip(0, 255)).max() <= 0.51
