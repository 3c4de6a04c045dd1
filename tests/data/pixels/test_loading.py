import itertools
import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.multiprocessing
from lightning.pytorch.utilities.data import _update_dataloader
from torch.utils.data import SequentialSampler

from lightpose.data.base import Late, PoseDataset
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


def loader(workers=0, seed=0, count=11, batch_size=2, together=1):
    dataset = Numbers(count, seed)
    return EpochLoader(
        dataset,
        batch_size=batch_size * together,
        sampler=EpochSampler(dataset, seed, batch_size=batch_size),
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


def indices(sampler):
    """Those of one epoch, or of what is left of it."""
    length = len(sampler) - sampler.skip // sampler.num_replicas
    return [index for _, index in itertools.islice(sampler, length)]


def test_an_epoch_visits_every_sample_once():
    for groups in (None, np.repeat(np.arange(4), 5)):
        assert sorted(indices(EpochSampler(Numbers(20), 0, groups))) == list(range(20))


def test_the_next_epoch_follows_and_draws_anew():
    sampler = EpochSampler(Numbers(5), 0, batch_size=2)
    assert len(sampler) == 4  # the fifth makes no whole batch
    drawn = list(itertools.islice(sampler, 12))
    assert [number for number, _ in drawn] == [0] * 4 + [1] * 4 + [2] * 4
    sampler.set_epoch(1)
    assert list(itertools.islice(sampler, 8)) == drawn[4:]


@pytest.mark.parametrize("processes", [1, 2])
def test_epochs_of_some_steps_are_cut_from_a_row_of_whole_passes(processes):
    def epochs(count):
        samplers = [
            EpochSampler(Numbers(7), 0, None, processes, rank, batch_size=4 // processes, batches=3)
            for rank in range(processes)
        ]
        assert {len(sampler) for sampler in samplers} == {12 // processes}
        for number in range(count):
            for sampler in samplers:
                sampler.set_epoch(number)
            parts = np.array([list(itertools.islice(sampler, len(sampler))) for sampler in samplers])
            yield parts.reshape(processes, 3, -1, 2).swapaxes(0, 1).reshape(-1, 2)

    row = np.concatenate(list(epochs(7))).reshape(-1, 7, 2)  # 84 samples: 12 passes
    assert (row[..., 0] == np.arange(12)[:, None]).all()
    assert (np.sort(row[..., 1]) == np.arange(7)).all()
    assert len({tuple(order) for order in row[..., 1].tolist()}) == 12


def test_groups_stay_together_in_random_order():
    groups = np.repeat(np.arange(10), 3)
    sampler = EpochSampler(Numbers(30), 0, groups)
    order = np.array(indices(sampler))
    assert (np.diff(groups[order]) != 0).sum() == 9
    sampler.set_epoch(1)
    assert indices(sampler) != order.tolist()


@pytest.mark.parametrize("count", [10, 11])
def test_processes_share_one_order(count):
    parts = [indices(EpochSampler(Numbers(count), 0, num_replicas=2, rank=rank)) for rank in (0, 1)]
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
        return {index for sampler in samplers for index in indices(sampler)[: batches * batch_size]}

    order = EpochSampler(Numbers(20), 0, groups)
    order.set_epoch(3)
    whole = indices(order)
    assert seen(2, 3, batches=2) == set(whole[:12])
    rest = seen(processes, 4 // processes if processes < 3 else 2, batches=1, begin=12)
    assert rest == set(whole[12 : 18 if processes == 3 else 16])


def test_a_skip_is_for_one_epoch():
    sampler = EpochSampler(Numbers(6), 0, batch_size=2)
    whole = indices(sampler)
    sampler.resume(0, 4)
    sampler.set_epoch(0)
    assert indices(sampler) == whole[4:]
    assert indices(sampler) == whole
    sampler.resume(0, 4)
    sampler.set_epoch(1)
    assert sorted(indices(sampler)) == list(range(6))


def test_fewer_samples_than_processes():
    assert [indices(EpochSampler(Numbers(1), 0, num_replicas=3, rank=rank)) for rank in range(3)] == [[0]] * 3


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_go_on_with_the_next_epoch(workers):
    endless = loader(workers, count=4)
    first = epoch(endless, 0)
    stream = endless._endless
    second = epoch(endless, 1)
    assert endless._endless is stream
    assert second == epoch(loader(count=4), 1)
    assert epoch(endless, 0) == first  # not the next: they begin anew
    assert endless._endless is not stream


def test_an_epoch_that_is_broken_off_is_not_gone_on_with():
    endless = loader(count=8)
    endless.sampler.set_epoch(0)
    next(iter(endless))
    assert epoch(endless, 1) == epoch(loader(count=8), 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_shipped_together_come_in_the_same_order_and_go_on_where_they_were_left(workers):
    alone, several = loader(count=22), loader(workers, count=22, together=3)  # epochs of 11 batches
    assert len(several) == len(alone) == 11
    whole = [epoch(alone, number) for number in range(3)]
    assert [epoch(several, number) for number in range(3)] == whole
    resumed = loader(workers, count=22, together=3)
    resumed.sampler.resume(1, 8)
    assert [epoch(resumed, 1), epoch(resumed, 2)] == [whole[1][4:], whole[2]]


def test_a_resumed_epoch_begins_where_it_was_left():
    whole = epoch(loader(count=8), 2)
    resumed = loader(count=8)
    resumed.sampler.resume(2, 4)
    assert epoch(resumed, 2) == whole[2:]
    assert epoch(resumed, 3) == epoch(loader(count=8), 3)


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


def halved(sample, rng):
    labels = replace(sample.instances, keypoints=sample.instances.keypoints * 0 + 0.5)
    return replace(sample, instances=labels)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first", [0, 1])
def test_late_samples_begin_with_their_batch_however_far_workers_are_ahead(workers, first):
    """Also in a run that was resumed in its second epoch."""
    plain, late = loader(workers), loader(workers)
    late.dataset.late_transforms = halved
    late.sampler.late_from = 8  # of 5 batches an epoch: the fourth of the second
    for number in range(first, 3):
        batches = zip(epoch(plain, number), epoch(late, number), strict=True)
        for place, ((rows, keypoints), (same_rows, given)) in enumerate(batches):
            assert rows == same_rows
            assert given == ([0.5] * 4 if 5 * number + place >= 8 else keypoints)


@pytest.mark.parametrize("processes", [1, 2])
def test_late_samples_begin_together_in_all_processes_and_after_skipped_ones(processes):
    for rank in range(processes):
        sampler = EpochSampler(Numbers(24), 0, None, processes, rank, batch_size=4 // processes, late_from=9)
        sampler.resume(1, 8)  # two batches of six
        sampler.set_epoch(1)
        flags = [isinstance(drawn, Late) for drawn in itertools.islice(sampler, 16 // processes + 1)]
        assert flags == [False] * (4 // processes) + [True] * (12 // processes + 1)
