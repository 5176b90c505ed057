"""Detectron2's data loaders with the features of pretraining's: batches are a function of (seed, step), broken images
are skipped, counted, listed and limited, and a worker that dies raises a clear error.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from detectron2.data import DatasetFromList
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from cropfield.random_numbers import augmenting
from pretrain.data.batches import MAX_TRIES
from pretrain.data.broken import BrokenImages, summarize
from pretrain.data.decode import BrokenImage
from pretrain.data.workers import NowReading, read_in_workers
from pretrain.errors import UserError
from pretrain.ranges import BatchSize, Share, Workers

ACCOUNT = "reading"  # an entry's (index or None, [(name, reason) of broken images], message of an error or None)
MAX_BROKEN = 0.2  # fraction of a dataset's images

Key = tuple[int, int, int]  # of a training image: seed, position in the data's order, dataset index


class ReadEntries(Dataset):
    """Mapped entries of a Detectron2 dataset, each with its `ACCOUNT`. Errors are recorded there, because it may run in
    a worker.

    A `Key` returns a training entry, a function of the key alone; a broken image is replaced by another. An index
    returns an evaluation entry; for a broken image it contains only the account.
    """

    def __init__(self, entries: Sequence[dict], mapper: Callable[[dict], dict]):
        self.entries, self.mapper = entries, mapper
        self.now_reading: NowReading | None = None

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, key: Key | int) -> dict:
        if isinstance(key, int):
            return self._read(key, ())
        seed, position, index = key
        others = np.random.default_rng((seed, position))
        with augmenting(seed, position):
            return self._read(index, (int(others.integers(len(self))) for _ in range(MAX_TRIES)))

    def _read(self, index: int, others: Iterable[int]) -> dict:
        skipped = []
        for candidate in itertools.chain([index], others):
            if self.now_reading:
                self.now_reading.note(candidate)
            try:
                return self.mapper(self.entries[candidate]) | {ACCOUNT: (candidate, skipped, None)}
            except BrokenImage as broken:
                skipped.append((broken.name, broken.reason))
            except UserError as found:
                return {ACCOUNT: (None, skipped, str(found))}
        error = f"no readable image in {1 + MAX_TRIES} tries: {summarize(skipped)}. Repair or remove the files"
        return {ACCOUNT: (None, skipped, error if others else None)}


class AccountedLoader:
    """Batches of a `ReadEntries`, without entries that could not be read; `broken` counts those.

    Raises (while iterating):
        UserError: more than the fraction `max_broken` of the images is broken, a worker died, or a mapper raised it.
    """

    def __init__(self, dataset: ReadEntries, batch_size: int, num_workers: int, max_broken: float):
        self.dataset, self.batch_size, self.num_workers = dataset, batch_size, num_workers
        self.broken = BrokenImages(len(dataset), max_broken)

    def read(self, batches: Iterable[list]) -> Iterator[list[dict]]:
        """Yield the entries for batches of keys or indices, each of which has `batch_size` except the last."""
        entries = self._entries(itertools.chain.from_iterable(batches))
        while batch := list(itertools.islice(entries, self.batch_size)):
            accounts = [entry.pop(ACCOUNT) for entry in batch]
            for error in filter(None, (error for _, _, error in accounts)):
                raise UserError(error)
            readable = [index for index, _, _ in accounts if index is not None]
            skipped = [found for _, several, _ in accounts for found in several]
            self.broken.note(skipped, np.array(readable, dtype=np.int64))
            if found := [entry for entry, account in zip(batch, accounts, strict=True) if account[0] is not None]:
                yield found

    def _entries(self, keys: Iterator) -> Iterator[dict]:
        ahead = max(2, -(-2 * self.batch_size // self.num_workers)) if self.num_workers else None  # two batches

        def name_of(index: int) -> str:
            return str(self.dataset.entries[index].get("file_name", index))

        return read_in_workers(self.dataset, keys, self.num_workers, name_of, prefetch_factor=ahead)


class TrainLoader(AccountedLoader):
    """Endless batches of equal size; see `build_train_loader`."""

    def __init__(self, dataset: ReadEntries, sampler: Sampler | None, groups: np.ndarray, *sizes):
        super().__init__(dataset, *sizes)
        self.sampler, self.groups = sampler, groups

    def __iter__(self) -> Iterator[list[dict]]:
        return self.batches(0, comm.shared_random_seed())

    def batches(self, start: int, seed: int) -> Iterator[list[dict]]:
        """This process's batches from number `start` on, a function of the sampler, `seed` and the batch number."""
        sampler = self.sampler or TrainingSampler(len(self.dataset), seed=seed)
        rank, processes = comm.get_rank(), comm.get_world_size()  # the sampler yields this process's indices only
        keys = ((seed, rank + number * processes, int(index)) for number, index in enumerate(sampler))
        return self.read(itertools.islice(self._grouped(keys), start, None))

    def _grouped(self, keys: Iterator[Key]) -> Iterator[list[Key]]:
        """Batches of images that belong to the same group."""
        waiting = {}
        for key in keys:
            batch = waiting.setdefault(self.groups[key[-1]], [])
            batch.append(key)
            if len(batch) == self.batch_size:
                yield batch[:]
                batch.clear()


class EvaluationLoader(AccountedLoader):
    """Each entry of the sampler once."""

    def __init__(self, dataset: ReadEntries, sampler: Sampler, *sizes):
        super().__init__(dataset, *sizes)
        self.sampler = sampler

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[list[dict]]:
        return self.read([int(index)] for index in self.sampler)


def build_train_loader(
    dataset: list[dict],
    *,
    mapper: Callable[[dict], dict],
    total_batch_size: BatchSize,
    sampler: Sampler | None = None,
    aspect_ratio_grouping: bool = True,
    num_workers: Workers = 0,
    max_broken: Share = MAX_BROKEN,
) -> TrainLoader:
    """As `build_detection_train_loader`, but it skips broken images and can start from any batch.

    Args:
        sampler: yields the images in the same order each time; None: shuffled epochs, a function of the seed.
        max_broken: fraction of the images that may be broken; see `BrokenImages`.
    """
    processes = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % processes:
        raise UserError(
            f"dataloader.train.total_batch_size: {total_batch_size} images do not divide by {processes} processes; "
            "choose a multiple"
        )
    wide = [aspect_ratio_grouping and entry.get("width", 0) > entry.get("height", 0) for entry in dataset]
    entries = ReadEntries(DatasetFromList(dataset, copy=False), mapper)
    return TrainLoader(entries, sampler, np.array(wide), total_batch_size // processes, num_workers, max_broken)


def build_test_loader(
    dataset: list[dict],
    *,
    mapper: Callable[[dict], dict],
    sampler: Sampler | None = None,
    batch_size: BatchSize = 1,
    num_workers: Workers = 0,
    max_broken: Share = MAX_BROKEN,
) -> EvaluationLoader:
    """As `build_detection_test_loader`, but it skips broken images, whose objects then count as missed."""
    entries = ReadEntries(DatasetFromList(dataset, copy=False), mapper)
    return EvaluationLoader(entries, sampler or InferenceSampler(len(dataset)), batch_size, num_workers, max_broken)
