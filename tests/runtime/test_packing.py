import torch

from lightpose.runtime.packing import layout_of, pack, unpack


def test_tensors_come_out_as_they_went_in():
    given = [
        torch.arange(3, dtype=torch.int16),
        torch.tensor(True),
        torch.rand(2, 5, dtype=torch.float64).T,
        torch.rand(0, 4),
        torch.rand(3, 1, 2).bfloat16(),
        torch.tensor([2**40]),
    ]
    found = list(unpack(pack(given), layout_of(given)))
    for ours, theirs in zip(found, given, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0, rtol=0)
        assert ours.dtype == theirs.dtype
    assert not list(unpack(pack([]), layout_of([])))
