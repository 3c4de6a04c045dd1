import numpy as np
import pytest
import torch

from lightpose.inference.transfer import Transfer
from lightpose.structures import Poses


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_every_field_arrives(device: str, count: int) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    poses = Poses(
        keypoints=torch.rand(count, 3, 2),
        keypoint_scores=torch.rand(count, 3),
        scores=torch.rand(count),
        batch_index=torch.arange(count) + 2**40,
        track_ids=torch.arange(count, dtype=torch.int32),
        extras={
            "left": torch.rand(count) > 0.5,
            "depth": torch.rand(count, 3, dtype=torch.float64),
            "age": torch.rand(count).bfloat16(),
        },
    )
    arrived = Transfer(poses.to(device)).wait()
    for sent, found in zip(poses.numpy().leaves(), arrived.leaves(), strict=True):
        assert sent.dtype == found.dtype
        assert np.array_equal(sent, found)
