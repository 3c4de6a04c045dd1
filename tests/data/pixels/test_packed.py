import pickle

import numpy as np
import torch

from lightpose.data.pixels.packed import LARGE_BYTES, Packed
from lightpose.data.pixels.raw import Parameters, RawBatch
from lightpose.structures import Instances


def batch(size):
    generator = torch.Generator().manual_seed(0)
    floats = [torch.rand(shape, generator=generator) for shape in ((3, 1, 5, 2), (3, 1, 5), (3, 1, 4), (3, 1), (3, 1))]
    keypoints, visible, boxes, areas, scores = floats
    whole = torch.arange(3)[:, None]
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (3, size, size, 3), np.uint8))
    return RawBatch(
        images=pixels.permute(0, 3, 1, 2),
        photometric={
            "light": Parameters(torch.tensor([2]), torch.rand(1, 3)),
            "none": Parameters(whole[:0, 0], areas[:0]),
        },
        instances=Instances(keypoints, visible, boxes, areas, whole, whole + 2**40, scores, whole > 1),
        image_from_input=torch.rand(3, 3, 3),
        image_ids=whole[:, 0],
        indices=whole[:, 0],
        image_hw=torch.full((3, 2), 7),
        ignore=torch.rand(3, size, size) > 0.5,
    )


def test_a_batch_comes_out_as_it_went_in():
    for size in (8, 256):
        given = batch(size)
        packed = Packed.of(given)
        assert sum(isinstance(leaf, torch.Tensor) for leaf in packed.record.leaves()) == (2 if size == 256 else 0)
        found = pickle.loads(pickle.dumps(packed.to("cpu"))).unpack()
        for ours, theirs in zip(found.leaves(), given.leaves(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
            assert ours.dtype == theirs.dtype
        assert found.cameras is None
        assert list(found.photometric) == ["light", "none"]
        assert found.images.is_contiguous(memory_format=torch.channels_last) == (found.images.nbytes >= LARGE_BYTES)
