import multiprocessing

import numpy as np
import pytest
import torch
import torch.multiprocessing
from lightning.pytorch.utilities.data import _update_dataloader
from torch.utils.data import SequentialSampler

from lightpose.data.base import PoseDataset
from lightpose.data.pixels.device import collate
from lightpose.data.pixels.loader import EpochLoader, EpochSampler
from lightpose.structures import Annotations, Sample


class Numbers(PoseDataset):
    """Samples whose only keypoint is a random number."""

    def __init__(self, count, seed=0):
        super().__init__(seed=seed)
        self.count = count

    def __len__(self):
        return self.count

    def load(self, index, rng):
        keypoints = rng.random((1, 1, 2)).astype(np.float32)
        one = np.ones(1, np.float32)
        labels = Annotations(keypoints, np.ones((1, 1), np.float32), np.zeros((1, 4), np.float32), one, *[one] * 3)
        return Sample(np.zeros((1, 1, 3), np.uint8), labels, np.eye(3), image_id=index, index=index, image_hw=(1, 1))


def loader(workers=0, seed=0, count=11, batch_size=2):
    dataset = Numbers(count, seed)
    return EpochLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(dataset, seed),
        drop_last=True,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def epoch(loader, number):
    loader.sampler.set_epoch(number)
    return [(batch.indices.tolist(), batch.instances.keypoints.flatten().tolist()) for batch in loader]


def test_order_and_draws_depend_on_seed_and_epoch_alone():
    alone = loader()
    first, second = epoch(alone, 0), epoch(alone, 1)
    assert first != second
    assert epoch(alone, 0) == first
    assert epoch(loader(seed=1), 0) != first
    with_workers = loader(workers=2)
    assert [epoch(with_workers, 0), epoch(with_workers, 1)] == [first, second]


def test_an_epoch_visits_every_sample_once():
    for groups in (None, np.repeat(np.arange(4), 5)):
        assert sorted(EpochSampler(Numbers(20), 0, groups)) == list(range(20))


def test_groups_stay_together_in_random_order():
    groups = np.repeat(np.arange(10), 3)
    sampler = EpochSampler(Numbers(30), 0, groups)
    order = np.array(list(sampler))
    assert (np.diff(groups[order]) != 0).sum() == 9
    sampler.set_epoch(1)
    assert list(sampler) != order.tolist()


@pytest.mark.parametrize("count", [10, 11])
def test_processes_share_one_order(count):
    parts = [list(EpochSampler(Numbers(count), 0, num_replicas=2, rank=rank)) for rank in (0, 1)]
    assert len(parts[0]) == len(parts[1])
    assert set(parts[0] + parts[1]) == set(range(count))


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(5), 4)])
def test_what_was_seen_is_the_beginning_of_the_order(processes, groups):
    def seen(processes, batch_size, batches, begin=0):
        samplers = [EpochSampler(Numbers(20), 0, groups, processes, rank, batch_size) for rank in range(processes)]
        for sampler in samplers:
            sampler.resume(3, begin)
            sampler.set_epoch(3)
        return {index for sampler in samplers for index in list(sampler)[: batches * batch_size]}

    order = EpochSampler(Numbers(20), 0, groups)
    order.set_epoch(3)
    before = seen(2, 3, batches=2)
    assert before == set(list(order)[:12])
    rest = seen(processes, 4 // processes if processes < 3 else 2, batches=1, begin=12)
    assert rest == set(list(order)[12 : 18 if processes == 3 else 16])


def test_a_skip_is_for_one_epoch():
    sampler = EpochSampler(Numbers(6), 0, batch_size=2)
    whole = list(sampler)
    sampler.resume(0, 4)
    sampler.set_epoch(0)
    assert list(sampler) == whole[4:]
    assert list(sampler) == whole
    sampler.resume(0, 4)
    sampler.set_epoch(1)
    assert sorted(sampler) == list(range(6))


def test_fewer_samples_than_processes():
    assert [list(EpochSampler(Numbers(1), 0, num_replicas=3, rank=rank)) for rank in range(3)] == [[0]] * 3


def test_batches_are_finished_before_they_are_given_out():
    options = {"batch_size": 2, "collate_fn": collate}
    loader = EpochLoader(Numbers(6), torch.device("meta"), lambda batch: (batch, len(batch)), **options)
    for batch, length in loader:
        assert batch.inputs.is_meta
        assert length == 2
    again = _update_dataloader(loader, SequentialSampler(loader.dataset))  # as Lightning does on several processes
    assert (again.device, again.to_batch, again.batch_size) == (loader.device, loader.to_batch, 2)


def test_workers_start_at_once_where_the_epoch_does_not_matter():
    data, options = Numbers(4), {"num_workers": 1, "collate_fn": collate}
    before = set(multiprocessing.active_children())
    training = iter(EpochLoader(data, sampler=EpochSampler(data, 0), **options))
    assert set(multiprocessing.active_children()) == before
    validation = iter(EpochLoader(data, **options))
    assert len(set(multiprocessing.active_children()) - before) == 1
    assert [len(list(batches)) for batches in (training, validation)] == [4, 4]


def test_an_iteration_that_is_not_finished_is_left_alone_by_the_next():
    loader = EpochLoader(Numbers(4), num_workers=1, persistent_workers=True, collate_fn=collate)
    first = iter(loader)
    next(first)
    second = iter(loader)
    assert [len(list(batches)) for batches in (first, second)] == [3, 4]


def use_second_gpu(_):
    torch.cuda.set_device(1)
    second = torch.device("cuda", 1)
    batches = list(EpochLoader(Numbers(4), second, batch_size=2, collate_fn=collate))
    assert [batch.inputs.device for batch in batches] == [second] * 2
    assert not torch._C._cuda_hasPrimaryContext(0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_batches_for_the_second_gpu_take_no_memory_of_the_first():
    torch.multiprocessing.spawn(use_second_gpu, nprocs=1)
