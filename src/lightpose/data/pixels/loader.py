"""Batches in an order that depends on seed and epoch alone, and that continues where a run was interrupted."""

import contextlib
import functools
import itertools
import operator
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from torch.utils.data.distributed import DistributedSampler

from lightpose.data.base import Late, PoseDataset
from lightpose.data.pixels.device import stream
from lightpose.data.pixels.input_size import resized
from lightpose.errors import UserError
from lightpose.structures import Array, Batch, Sample

GRACE_SECONDS = 20
"""How long a worker outlives SIGTERM."""


def one_thread(worker: int) -> None:
    """Workers are the parallelism; OpenCV's own threads would only fight for their cores.

    Signals that a whole group of processes gets, such as Ctrl-C, are for the main process, which may need one more
    batch and then ends its workers.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):  # not on Windows
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE_SECONDS) and None)


class EpochSampler(DistributedSampler[Sample]):
    """Shuffles by seed and pass, on one process or several; gives the pass and the index of each sample.

    It has no end: the samples of the next epoch follow, so that workers go on while a run validates. Its length is that
    of one epoch. There is one order for all processes, which take batches from it in turn: what they have seen after a
    step is always its beginning, however many they are.

    Args:
        dataset: whose samples to order.
        seed: of the order.
        groups: (N,) group of every sample. Given, whole groups are shuffled, so that the people of one image meet in
            one batch and the image is decoded once.
        num_replicas: number of processes.
        rank: of this process.
        batch_size: of each process; at most its share of the samples.
        batches: of each process in one epoch. The end of a pass then interrupts nothing: the next pass follows within
            the batch. None takes one pass for an epoch; its end is filled up from its start so that all processes get
            equally many, and samples that make no whole batch are left out.
        draws: where the data set is several in a row, how many samples each of them has, and how many a pass takes of
            each; see `lightpose.data.combined.CombinedDataset`. Each of them is gone through to its end before any of
            its samples comes again. None takes each sample once.
        late_from: batch of each process, counted from the first of the run, from which on samples are `Late`. A sample
            says so itself, so that workers may be ahead of the training. None: never.

    Attributes:
        batch_size: samples of one batch of this process.
        step: samples of one batch of all processes.
        skip: samples to leave out at the start of this epoch, see `resume`.
    """

    def __init__(
        self,
        dataset: PoseDataset,
        seed: int,
        groups: Array | None = None,
        num_replicas: int = 1,
        rank: int = 0,
        batch_size: int = 1,
        batches: int | None = None,
        draws: Sequence[tuple[int, int]] | None = None,
        late_from: int | None = None,
    ) -> None:
        super().__init__(dataset, num_replicas, rank, shuffle=True, seed=seed)
        self.groups, self.batches, self.draws = groups, batches, draws or [(len(dataset), len(dataset))]
        self.late_from = late_from
        self.count = sum(taken for _, taken in self.draws)
        self.batch_size, self.step = batch_size, num_replicas * batch_size
        if batches is None:
            batches = -(-self.count // num_replicas) * num_replicas // self.step
        self.num_samples, self.total_size = batches * batch_size, batches * self.step
        self.skip = 0
        self._resumed: tuple[int, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Begin with ``epoch``."""
        super().set_epoch(epoch)
        self.skip = self._resumed[1] if self._resumed and self._resumed[0] == epoch else 0

    def resume(self, epoch: int, samples: int) -> None:
        """Leave out the first ``samples`` of the order, once, if it is ``epoch`` that comes next.

        Args:
            epoch: number of the epoch.
            samples: of all processes together; a multiple of `step`.
        """
        self._resumed = epoch, samples

    def order(self, epoch: int) -> Array:
        """(n, 2) pass and index of all samples of an epoch, before they are shared out."""
        if self.batches is None:
            return self._pass(epoch)[np.arange(self.total_size) % self.count]
        places = np.arange(self.total_size) + epoch * self.total_size
        first, last = places[[0, -1]] // self.count
        passes = np.concatenate([self._pass(number) for number in range(first, last + 1)])
        return passes[places - first * self.count]

    def _pass(self, number: int) -> Array:
        """(n, 2) pass and index of all samples of a pass; of each of several data sets it is the pass over that one."""
        if len(self.draws) == 1:
            indices = self._permutation([number], np.arange(self.count))
            return np.stack([np.full_like(indices, number), indices], -1)
        rows, first = [], 0
        for part, (length, taken) in enumerate(self.draws, 1):
            passes, places = np.divmod(np.arange(number * taken, (number + 1) * taken), length)
            members = np.arange(first, first + length)
            orders = [self._permutation([own, part], members) for own in range(passes[0], passes[-1] + 1)]
            rows.append(np.stack([passes, np.concatenate(orders)[places + (passes - passes[0]) * length]], -1))
            first += length
        drawn = np.concatenate(rows)
        groups = np.arange(len(drawn))
        if self.groups is not None:
            images = np.stack([drawn[:, 0], self.groups[drawn[:, 1]]], -1)
            groups = np.unique(images, axis=0, return_inverse=True)[1].reshape(-1)
        place = np.random.default_rng([self.seed, number]).permutation(len(drawn))
        return drawn[np.argsort(place[groups], kind="stable")]

    def _permutation(self, key: list[int], members: Array) -> Array:
        """Some samples of one data set in a random order, those of a group together."""
        rng = np.random.default_rng([self.seed, *key])
        order = members[rng.permutation(len(members))]
        if self.groups is None:
            return order
        place = rng.permutation(int(self.groups.max()) + 1)
        return order[np.argsort(place[self.groups[order]], kind="stable")]

    def __iter__(self) -> Iterator[Any]:
        first = self.epoch
        skip, self.skip, self._resumed = self.skip, 0, None
        for epoch in itertools.count(first) if self.total_size else ():
            shares = self.order(epoch).reshape(-1, self.num_replicas, self.step // self.num_replicas, 2)
            own, done = shares[:, self.rank].reshape(-1, 2).tolist(), skip // self.num_replicas
            early = len(own) if self.late_from is None else self.late_from * shares.shape[2] - epoch * len(own)
            for place in range(done, len(own)):
                yield tuple(own[place]) if place < early else Late(*own[place])
            skip = 0


class EpochLoader(DataLoader[Sample]):
    """A `DataLoader` whose batches are finished on the device.

    With an `EpochSampler` workers start at the first batch: Lightning asks for the iterator before it says which epoch
    it is, and a resumed run would begin with samples of the wrong one. From then on they don't stop: at the end of an
    epoch they are at work on the next. Without such a sampler they start at once, and stop at the end.

    With such a sampler ``batch_size`` may be a multiple of the sampler's. Workers then ship several batches in one
    message, which are finished together: what a message costs the main process is more than a step of a small network.

    Args:
        dataset: whose samples to load.
        device: where batches go; None leaves them where they are. To a CUDA device they go one ahead, in a thread and
            a stream of their own, while the batch before is computed on.
        to_batch: makes a batch of what workers ship, there; None leaves it as it is.
        sizes: of inputs (h, w), of which each batch of an `EpochSampler` gets one. Seed, epoch and number of the batch
            say which, so that all processes draw the same. Empty leaves the inputs as they are.
        options: of `DataLoader`.
    """

    def __init__(
        self,
        dataset: PoseDataset,
        device: torch.device | None = None,
        to_batch: Callable[[Any], Batch] | None = None,
        sizes: Sequence[tuple[int, int]] = (),
        **options: Any,
    ) -> None:
        super().__init__(dataset, **options)
        self.device, self.to_batch, self.sizes = device, to_batch, sizes
        self._endless: Generator[Any] | None = None
        self._next = 0, 0
        """Epoch and number of the batch that comes next."""

    def __len__(self) -> int:
        """Batches of an epoch."""
        if isinstance(self.sampler, EpochSampler):
            return len(self.sampler) // self.sampler.batch_size
        return super().__len__()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if isinstance(self.sampler, EpochSampler):
            return self._epoch(self.sampler)
        # The thread of an unfinished iteration may still ask persistent workers for its next batch.
        shipped = super().__iter__() if self._iterator is None else self._when_asked()
        return _finished(shipped, self.device, self.to_batch)

    def _when_asked(self) -> Iterator[Any]:
        yield from super().__iter__()

    def _epoch(self, sampler: EpochSampler) -> Iterator[Any]:
        """The batches of the sampler's epoch. Workers begin anew only if it isn't the one that they are at."""
        epoch, first = sampler.epoch, sampler.skip // sampler.step
        if self._endless is None or self._next != (epoch, first):
            if self._endless is not None:
                self._endless.close()
            batches = _finished(super().__iter__(), self.device, self.to_batch)
            self._endless = _apart(batches, sampler.batch_size, self.batch_size or 1)
        for number in range(first, len(self)):
            batch = next(self._endless)
            self._next = (epoch, number + 1) if number + 1 < len(self) else (epoch + 1, 0)
            if self.sizes:  # the 1 makes other numbers than those of a sample
                rng = np.random.default_rng([sampler.seed, epoch, number, 1])
                batch = resized(batch, self.sizes[int(rng.integers(len(self.sizes)))])
            yield batch


def _finished(
    shipped: Iterator[Any], device: torch.device | None, to_batch: Callable[[Any], Batch] | None
) -> Generator[Any]:
    """The batches of an `EpochLoader`; it holds no loader, or nobody would stop the workers of one that is let go."""
    try:
        batches = (_prepared(sent, device, to_batch) for sent in shipped)
        yield from _one_ahead(batches, device) if device and device.type == "cuda" else batches
    except UserError as error:
        stop_workers(shipped)
        # Out of a worker, the message is wrapped in the worker's traceback, whose last line is the message.
        message = str(error).rstrip().splitlines()[-1]
        raise UserError(message.partition(": ")[2] if "worker process" in str(error) else message) from error


def _prepared(sent: Any, device: torch.device | None, to_batch: Callable[[Any], Batch] | None) -> Any:
    if device is not None:
        sent = sent.to(device)
    return to_batch(sent) if to_batch else sent


def stop_workers(shipped: Iterator[Any]) -> None:
    """End the processes behind an iterator of a `DataLoader`, if there are any.

    Held by an exception, it would be found as garbage sometime, and whoever computes then would wait 5 s for each.
    """
    if isinstance(shipped, _MultiProcessingDataLoaderIter):
        shipped._shutdown_workers()


def _apart(shipped: Generator[Any], batch_size: int, together: int) -> Generator[Any]:
    """The batches of which ``together`` samples, shipped at once, consist."""
    places = [slice(start, start + batch_size) for start in range(0, together, batch_size)]
    with contextlib.closing(shipped):
        for samples in shipped:
            if len(places) == 1:
                yield samples
            else:
                yield from (samples.map(operator.itemgetter(place)) for place in places)


def _one_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches; each is made by another thread, in a stream of its own, while the one before is computed on."""
    side = stream(device, "prepare")

    def begin() -> tuple[Batch, torch.cuda.Event] | None:
        # A thread begins on GPU 0. Back from a stream of another GPU, it would take memory for a context there.
        with torch.cuda.device(side.device), torch.cuda.stream(side):
            batch = next(batches, None)
            return None if batch is None else (batch, side.record_event())

    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(begin)
        while (ready := coming.result()) is not None:
            coming = thread.submit(begin)
            batch, event = ready
            current = torch.cuda.current_stream(device)
            current.wait_event(event)
            batch.map(functools.partial(_used_in, current))
            yield batch


def _used_in(current: torch.cuda.Stream, tensor: Tensor) -> Tensor:
    """Keep the memory of ``tensor``, which belongs to another stream, until ``current`` is done with it."""
    if tensor.is_cuda:
        tensor.record_stream(current)
    return tensor
