"""Batches of other sizes: labels stay on their pixels, and all processes draw the same size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lightpose import testing
from lightpose.codecs.displacement import DisplacementCodec
from lightpose.data.base import PoseDataset
from lightpose.data.pixels.device import collate
from lightpose.data.pixels.input_size import resized, sizes_between
from lightpose.data.pixels.loader import EpochLoader, EpochSampler
from lightpose.errors import UserError
from lightpose.geometry import apply_affine
from lightpose.structures import Annotations, Batch, Sample

HW = (96, 128)


def sample(index: int = 0) -> Sample:
    """People on a picture that spells out its own coordinates: red is x, green is y."""
    image = np.zeros((*HW, 3), np.uint8)
    image[..., 1], image[..., 0] = np.mgrid[: HW[0], : HW[1]]
    points = np.random.default_rng(index).uniform(8, (120, 88), (2, 5, 2)).astype(np.float32)
    labels = Annotations(
        keypoints=points,
        visible=np.full((2, 5), 2, np.float32),
        boxes_xyxy=np.concatenate([points.min(1), points.max(1)], -1),
        areas=np.full(2, 900, np.float32),
        categories=np.zeros(2, np.int64),
        ids=np.arange(2),
        scores=np.ones(2, np.float32),
    )
    region = np.array([[0, 0], [63, 0], [63, 47], [0, 47]], np.float32)
    turned = np.array([[0.8, 0.3, 5.0], [-0.3, 0.8, 20.0], [0.0, 0.0, 1.0]])
    return Sample(image, labels, turned, index, index, HW, ignore=[region])


def batch() -> Batch:
    made = collate([replace(sample(row), input_from_image=np.eye(3)) for row in range(2)])
    return replace(made, image_from_input=collate([sample(), sample()]).image_from_input)


def test_published_sizes():
    assert sizes_between((640, 640), (0.75, 1.25)) == [(side, side) for side in range(480, 801, 32)]
    assert sizes_between((416, 416), (0.77, 1.54)) == [(side, side) for side in range(320, 641, 32)]
    assert sizes_between((128, 160), (0.75, 1.25)) == [(96, 128), (128, 160), (160, 192)]
    for scale in ((1.2, 0.8), (0, 1), (1,)):
        with pytest.raises(UserError, match=r"data.input_scale=.* must be two positive factors"):
            sizes_between((640, 640), scale)


@pytest.mark.parametrize("input_hw", [(64, 96), (96, 96), (160, 192)])
def test_labels_stay_on_their_pixels(input_hw):
    before, after = batch(), resized(batch(), input_hw)
    assert after.inputs.shape == (2, 3, *input_hw)
    assert after.inputs.dtype == torch.uint8
    x, y = after.instances.keypoints.unbind(-1)  # (B, M, K)
    seen = torch.nn.functional.grid_sample(
        after.inputs[:, :2].float(),
        torch.stack([(2 * x + 1) / input_hw[1] - 1, (2 * y + 1) / input_hw[0] - 1], -1),
        align_corners=False,
    )
    assert (seen.permute(0, 2, 3, 1) - before.instances.keypoints).abs().max() < 0.6  # of which grey levels make 0.5
    for name in ("keypoints", "boxes_xyxy"):
        old, new = (
            apply_affine(each.image_from_input, getattr(each.instances, name).reshape(2, -1, 2))
            for each in (before, after)
        )
        torch.testing.assert_close(new, old, atol=1e-3, rtol=0)
    grown = input_hw[0] * input_hw[1] / (HW[0] * HW[1])
    torch.testing.assert_close(after.instances.areas, before.instances.areas * grown)
    assert after.ignore.shape == (2, *input_hw)
    assert after.ignore.float().mean() == pytest.approx(0.25, abs=0.01)
    assert after.ignore[:, : input_hw[0] // 2 - 1, : input_hw[1] // 2 - 1].all()


def test_targets_of_a_resized_batch_are_of_its_size():
    codec = DisplacementCodec(testing.SKELETON, HW, "half_pixel")
    found = codec.decode(codec.encode(resized(replace(batch(), ignore=None), (160, 192))).maps)
    expected = batch().instances.keypoints.flatten(0, 1) * torch.tensor([192 / 128, 160 / 96])
    expected += torch.tensor([192 / 128 - 1, 160 / 96 - 1]) / 2
    assert (found.keypoints[:, None] - expected).norm(dim=-1).amax(-1).amin(0).max() < 1e-3


class Pictures(PoseDataset):
    one_person = False

    def __len__(self) -> int:
        return 24

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        return sample(index)


def sizes_of(epoch: int, rank: int = 0, processes: int = 1, seen: int = 0, seed: int = 0) -> list[tuple[int, int]]:
    dataset = Pictures()
    sampler = EpochSampler(dataset, seed, None, processes, rank, batch_size=2)
    sampler.resume(epoch, seen)
    sampler.set_epoch(epoch)
    sizes = sizes_between(HW, (0.6, 1.7))
    loader = EpochLoader(dataset, sizes=sizes, sampler=sampler, batch_size=2, collate_fn=collate)
    return [tuple(batch.inputs.shape[-2:]) for batch in loader]


def test_each_batch_draws_a_size_which_all_processes_share():
    drawn = [size for epoch in range(4) for size in sizes_of(epoch)]
    assert set(drawn) == {(64, 96), (96, 128), (128, 160), (160, 224)}
    assert sizes_of(0) == drawn[:12] != drawn[12:24]
    assert sizes_of(0, seed=1) != drawn[:12]
    assert [sizes_of(1, rank, 2) for rank in (0, 1)] == [drawn[12:18]] * 2
    assert sizes_of(1, seen=8) == drawn[16:24]
