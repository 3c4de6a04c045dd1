"""Regions that nothing may be learnt from, from the file to the mask in input pixels."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from lightpose.data.coco.dataset import CocoImages, CocoInstances
from lightpose.data.coco.index import read_coco
from lightpose.data.pipeline import Pipeline
from lightpose.data.pixels.crop import DeferWarp, Warp
from lightpose.data.pixels.device import collate
from lightpose.data.pixels.raw import gather
from lightpose.data.transforms import CropImage, Geometry, RandomAffine, RandomFlip
from lightpose.skeleton import Skeleton

HW = (48, 64)
INPUT_HW = (80, 96)


@pytest.fixture
def shape():
    """(48, 64) uint8 by hand: an L, and a frame with a hole and an island."""
    mask = np.zeros(HW, np.uint8)
    mask[5:30, 4:12] = mask[22:30, 4:26] = 1
    mask[8:44, 32:60] = 1
    mask[14:38, 38:54] = 0
    mask[20:30, 42:50] = 1
    return mask


def runs(mask):
    """Uncompressed run lengths, column by column, starting with zeros."""
    flat = np.concatenate([[0], mask.T.ravel(), [0]]).astype(int)
    edges = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()


def compressed(counts):
    """The same as COCO writes them into files."""
    text = ""
    for place, count in enumerate(counts):
        value = count - counts[place - 2] if place > 2 else count
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


class Turn(Geometry):
    def __call__(self, sample, rng):
        turn = np.vstack([cv2.getRotationMatrix2D((48.0, 40.0), 25, 0.9), [0, 0, 1]])
        return replace(sample, input_from_image=turn @ sample.input_from_image)


GEOMETRIES = {
    "plain": [CropImage(INPUT_HW, "half_pixel")],
    "turned": [CropImage(INPUT_HW, "half_pixel"), Turn()],
    "mirrored": [CropImage(INPUT_HW, "stride"), RandomFlip(Skeleton.build(list("abcde")), INPUT_HW, 1)],
}
GEOMETRIES["turned and mirrored"] = [*GEOMETRIES["turned"], GEOMETRIES["mirrored"][1]]


def differs_inside(found, mask, input_from_image):
    """Pixels of the input, further than a pixel from any border of the region, where the mask is another."""
    expected = cv2.warpAffine(mask, input_from_image[:2], INPUT_HW[::-1], flags=cv2.INTER_NEAREST)
    border = cv2.morphologyEx(expected, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    assert expected.sum() > 1000
    return (found != (expected > 0)) & ~border


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("form", ["runs", "compressed", "polygons"])
@pytest.mark.parametrize("warp", [Warp, DeferWarp])
def test_a_crowd_is_ignored_where_its_pixels_come_to_lie(write_coco, person, shape, geometry, form, warp):
    if form == "polygons":  # two parts, of which the second has no hole
        shape[14:38, 38:54] = 1
        segmentation = [[4, 5, 11, 5, 11, 22, 25, 22, 25, 29, 4, 29], [32, 8, 59, 8, 59, 43, 32, 43]]
    else:
        counts = runs(shape)
        segmentation = {"size": list(HW), "counts": counts if form == "runs" else compressed(counts)}
    path = write_coco([person(1), person(2, iscrowd=1, segmentation=segmentation)], images=1)
    data = CocoImages(path, transforms=Pipeline(GEOMETRIES[geometry], warp(INPUT_HW)))
    sample = data[0]
    batch = collate([sample])
    assert batch.ignore.shape == (1, *INPUT_HW) == batch.inputs[:, 0].shape
    assert not differs_inside(batch.ignore[0].numpy(), shape, sample.input_from_image).any()


def test_pixels_and_mask_agree_when_scaled_and_shifted(write_coco, person, shape):
    path = write_coco(
        [person(1), person(2, iscrowd=1, segmentation={"size": list(HW), "counts": runs(shape)})], images=1
    )
    cv2.imwrite(str(path.parent / "1.jpg"), shape[..., None].repeat(3, -1) * 255, [cv2.IMWRITE_JPEG_QUALITY, 100])
    affine = RandomAffine(INPUT_HW, scale=(0.8, 1.2), rotate_probability=1.0, shift_probability=1.0)
    geometry = [CropImage(INPUT_HW, "half_pixel"), affine, GEOMETRIES["mirrored"][1]]
    data = CocoImages(path, transforms=Pipeline(geometry, Warp(INPUT_HW)))
    for epoch in range(5):
        batch = collate([data[epoch, 0]])
        bright = batch.inputs[0, 0].numpy() > 127
        near = cv2.morphologyEx(bright.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
        assert not ((batch.ignore[0].numpy() != bright) & ~near).any()


def test_unlabelled_people_and_boxes_are_ignored_and_usable_people_are_not(write_coco, person):
    nobody = [0] * 15
    path = write_coco(
        [
            person(1, segmentation=[[16, 4, 44, 4, 44, 44]]),
            person(2, keypoints=nobody, bbox=[2, 3, 10, 20]),
            person(3, 2, keypoints=nobody, segmentation=[[30, 10, 50, 10, 50, 30, 30, 30]]),
        ],
        images=3,
    )
    data = CocoImages(path, empty_images=True)
    regions = [sample.ignore for sample in (data[0], data[1], data[2])]
    assert [len(some) for some in regions] == [1, 1, 0]
    assert regions[0][0].tolist() == [[2, 3], [12, 3], [12, 23], [2, 23]]
    assert regions[1][0].tolist() == [[30, 10], [50, 10], [50, 30], [30, 30]]
    assert collate([data[0], data[1], data[2]]).ignore.flatten(1).sum(1).tolist() == [11 * 21, 21 * 21, 0]


def test_people_in_boxes_pay_nothing(write_coco, person):
    data = CocoInstances(write_coco([person(1), person(2, iscrowd=1, bbox=[0, 0, 9, 9])]))
    assert data[0].ignore is None
    assert gather([data[0]]).ignore is None


ODD = [
    *(
        None,
        3,
        "abc",
        True,
        [],
        {},
        [[]],
        [None],
        [[1, 2]],
        [[1, 2, 3, 4, 5]],
        [[None] * 6],
        [["a"] * 6],
        [[[1, 2]] * 3],
    ),
    *([[1e30] * 6], [[float("nan")] * 6], [[10**400] * 6], [{"counts": [1]}], {"counts": 3}),
    *({"counts": [], "size": [48, 64]}, {"counts": [48 * 64 + 1], "size": [48, 64]}, {"counts": [1], "size": [1, 1]}),
    *(
        {"counts": [-5, 5], "size": [48, 64]},
        {"counts": [10**30], "size": [48, 64]},
        {"counts": [1.5], "size": [48, 64]},
    ),
    *({"counts": "~~~~", "size": [48, 64]}, {"counts": "o" * 99, "size": [48, 64]}, {"counts": "", "size": [48, 64]}),
    *({"counts": "\u20ac", "size": [48, 64]}, {"counts": [3], "size": [10**9, 10**9]}, {"counts": [1], "size": "x"}),
]


@pytest.mark.parametrize("segmentation", ODD, ids=range(len(ODD)))
def test_an_odd_segmentation_leaves_the_box(write_coco, person, segmentation):
    good = person(3, iscrowd=1, segmentation=[[1, 1, 5, 1, 5, 5]])
    path = write_coco([person(1), person(2, iscrowd=1, bbox=[2, 3, 10, 20], segmentation=segmentation), good], images=1)
    box, polygon = CocoImages(path)[0].ignore
    assert box.tolist() == [[2, 3], [12, 3], [12, 23], [2, 23]]
    assert polygon.tolist() == [[1, 1], [5, 1], [5, 5]]


def test_a_mask_of_nothing_and_a_crowd_without_a_box_are_no_regions(write_coco, person):
    empty = {"counts": [48 * 64], "size": [48, 64]}
    path = write_coco([person(1), person(2, iscrowd=1, segmentation=empty), person(3, iscrowd=1, bbox=None)], images=1)
    assert list(CocoImages(path)[0].ignore) == []


def test_the_cache_keeps_them(write_coco, person, cache):
    path = write_coco([person(1), person(2, iscrowd=1, segmentation=[[1, 1, 5, 1, 5, 5]])])
    first, again = read_coco(path), read_coco(path)
    assert list(cache.rglob("ignored_points.npy"))
    assert [region.tolist() for region in first.ignored(0)] == [region.tolist() for region in again.ignored(0)]


def test_cameras_travel_to_the_batch(write_coco, person):
    data = CocoImages(write_coco([person(1)]))
    sample = data[0]
    camera = np.array([[500.0, 0, 32], [0, 500, 24], [0, 0, 1]])
    seen = replace(sample, camera=camera)
    assert collate([sample]).cameras is None
    batch = collate([seen, seen])
    assert batch.cameras.shape == (2, 3, 3) and str(batch.cameras.dtype) == "torch.float32"
    assert batch.cameras[1].tolist() == camera.tolist()
