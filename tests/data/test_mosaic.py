"""Mosaics and blended images: labels stay on their pixels, whatever moves them, and the end of a run does without."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import test_datamodule

from lightpose.data.base import Late, PoseDataset
from lightpose.data.image_transforms import RandomImageAffine
from lightpose.data.mosaic import MixUp, Mosaic
from lightpose.data.pipeline import Pipeline
from lightpose.data.pixels.crop import Warp
from lightpose.data.pixels.device import collate
from lightpose.data.transforms import CropImage, RandomFlip
from lightpose.errors import UserError
from lightpose.skeleton import Skeleton
from lightpose.structures import Annotations, Sample

make = test_datamodule.make
HW = (160, 192)
SKELETON = Skeleton.build(("left_eye", "right_eye"))
COLORS = np.array([[255, 0, 0], [0, 0, 255]])  # of left and right


class Dots(PoseDataset):
    """Black images with a red dot where a person's left keypoint is, and a blue one for the right."""

    one_person = False

    def __len__(self):
        return 8

    def load(self, index, rng):
        draw = np.random.default_rng(index)
        height, width = int(draw.integers(100, 260)), int(draw.integers(100, 260))
        image = np.zeros((height, width, 3), np.uint8)
        points = draw.integers(12, (width - 12, height - 12), (1, 2, 2))
        while abs(points[0, 0] - points[0, 1]).max() < 20:
            points = draw.integers(12, (width - 12, height - 12), (1, 2, 2))
        for (x, y), color in zip(points[0], COLORS, strict=True):
            cv2.circle(image, (int(x), int(y)), 5, color.tolist(), -1)
        low, high = points[0].min(0) - 6, points[0].max(0) + 6
        labels = Annotations(
            keypoints=points.astype(np.float32),
            visible=np.full((1, 2), 2, np.float32),
            boxes_xyxy=np.array([[*low, *high]], np.float32),
            areas=np.array([400], np.float32),
            categories=np.zeros(1, np.int64),
            ids=np.array([index]),
            scores=np.ones(1, np.float32),
        )
        region = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], np.float32)
        return Sample(image, labels, np.eye(3), index, index, (height, width), ignore=[region])


def dataset(*mix, affine=True):
    geometry = [CropImage(HW, "half_pixel")]
    if affine:
        geometry += [RandomImageAffine(HW, (0.9, 1.3), "long", 20, 0.1), RandomFlip(SKELETON, HW)]
    return Dots(SKELETON, Pipeline(geometry, Warp(HW), (), mix))


MIXES = {
    "mosaic": [Mosaic(HW)],
    "mixup": [MixUp(SKELETON)],
    "both": [Mosaic(HW), MixUp(SKELETON)],
    "neither": [],
}


@pytest.mark.parametrize("mix", MIXES)
def test_each_label_is_on_its_dot_and_each_dot_has_a_label(mix):
    data, dots = dataset(*MIXES[mix]), 0
    for number in range(20):
        batch = collate([data[number, number % 8]])
        light = batch.inputs[0].amax(0).numpy()
        people = batch.instances
        seen = (people.visible[0] > 0) & people.valid[0, :, None]
        x, y = people.keypoints[0, seen].unbind(-1)
        inside = (x > 2) & (x < HW[1] - 3) & (y > 2) & (y < HW[0] - 3)
        for column, row in zip(x[inside].tolist(), y[inside].tolist(), strict=True):
            assert light[round(row), round(column)] > 50  # half of it where it is below, and half of that at an edge
        count, _, stats, middles = cv2.connectedComponentsWithStats((light > 50).astype(np.uint8))
        for (left, top, width, height, area), middle in zip(stats[1:count], middles[1:count], strict=True):
            whole = left > 0 and top > 0 and left + width < HW[1] and top + height < HW[0]
            if whole and 0.75 < width / height < 1.33 and area > 30:  # not cut by the edge of a piece
                assert np.hypot(x.numpy() - middle[0], y.numpy() - middle[1]).min() < 2.5
                dots += 1
    assert dots > 10


def test_left_and_right_change_sides_in_a_mirrored_image():
    data = Dots(SKELETON)
    below = replace(data.load(0, None), image=np.zeros((160, 192, 3), np.uint8), image_hw=HW)
    below = replace(below, instances=replace(below.instances, visible=np.zeros((1, 2), np.float32)))
    for flip, colors in ((0.0, COLORS), (1.0, COLORS[::-1])):
        mixed = MixUp(SKELETON, (0.8, 0.8), flip)(below, lambda: data.load(1, None), np.random.default_rng(1))
        out = Warp(HW)(replace(mixed, input_from_image=np.eye(3)), np.random.default_rng(0)).image
        for (x, y), color in zip(mixed.instances.keypoints[1], colors, strict=True):
            assert np.abs(out[round(y), round(x)] - color / 2).max() < 3


def test_boxes_and_areas_go_with_the_people():
    frame_h, frame_w = HW
    data = dataset(Mosaic(HW), affine=False)
    for number in range(8):
        sample = data[number, 0]
        assert sample.image_hw == HW
        assert sample.image_id == 0
        assert len(sample.image.shape) == 3
        keypoints, boxes = sample.instances.keypoints, sample.instances.boxes_xyxy
        seen = sample.instances.visible > 0
        inside = (keypoints >= boxes[:, None, :2]) & (keypoints <= boxes[:, None, 2:])
        assert inside.all(-1)[seen].all()
        for person, index in enumerate(sample.instances.ids):
            height, width = data.load(int(index), np.random.default_rng(0)).image_hw
            scale = min(frame_h / height, frame_w / width)
            assert sample.instances.areas[person] == pytest.approx(400 * scale**2, rel=1e-4)


def test_regions_to_ignore_move_into_their_piece():
    data = dataset(Mosaic(HW), affine=False)
    sample = data[3, 0]
    assert len(sample.ignore) == 4
    mixed = Mosaic(HW)(data.load(0, None), lambda: data.load(1, None), np.random.default_rng(3))
    for region, piece in zip(mixed.ignore, mixed.image, strict=True):
        assert (region >= piece.window_xyxy[:2] - 1e-6).all()
        assert (region <= piece.window_xyxy[2:] + 1e-6).all()
    plain = replace(data.load(0, None), ignore=None)
    assert Mosaic(HW)(plain, lambda: plain, np.random.default_rng(3)).ignore is None


def test_pieces_fill_the_frame_without_a_gap():
    bright = replace(Dots(SKELETON).load(0, None), image=np.full((96, 128, 3), 200, np.uint8), image_hw=(96, 128))
    frame = (96, 128)
    for seed in range(5):
        mixed = Mosaic(frame)(bright, lambda: bright, np.random.default_rng(seed))
        out = Warp(frame)(replace(mixed, input_from_image=np.eye(3)), np.random.default_rng(0)).image
        assert (out == 200).mean() > 0.999


def test_grey_is_where_no_piece_is():
    narrow = replace(Dots(SKELETON).load(0, None), image=np.full((96, 32, 3), 200, np.uint8), image_hw=(96, 32))
    mixed = Mosaic((96, 128))(narrow, lambda: narrow, np.random.default_rng(0))
    out = Warp((96, 128), 114)(replace(mixed, input_from_image=np.eye(3)), np.random.default_rng(0)).image
    assert out.min() == 114 and out.max() == 200
    assert ((out == 114) | (out == 200)).mean() > 0.95


def test_nothing_is_mixed_where_chance_says_so_nor_late():
    data = dataset(Mosaic(HW, probability=0), MixUp(SKELETON, probability=0), affine=False)
    plain = dataset(affine=False)
    assert np.array_equal(data[0, 2].image, plain[0, 2].image)
    mixed = dataset(Mosaic(HW), affine=False)
    mixed.late_transforms = plain.transforms
    assert np.array_equal(mixed[Late(0, 2)].image, plain[0, 2].image)
    assert len(mixed[0, 2].instances.ids) != 1 or not np.array_equal(mixed[0, 2].image, plain[0, 2].image)


def test_a_mosaic_needs_whole_images_and_the_cpu(make):
    with pytest.raises(UserError, match="a sample of CocoInstances is one person"):
        make("data.train=FILE", augment="onestage").dataset("train")
    device = make("data.train=FILE", "data.decode=device", data="bottomup", augment="onestage")
    with pytest.raises(UserError, match=r"use data\.decode=cpu"):
        device.dataset("train")
    with pytest.raises(UserError, match=r"mix lists CropImage"):
        Pipeline(mix=[CropImage(HW, "half_pixel")])
    with pytest.raises(UserError, match="two positive factors"):
        MixUp(SKELETON, scale=(1.6, 0.8))
