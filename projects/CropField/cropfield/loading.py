"""Detectron2's loaders with pretraining's account of broken images: skipped, counted, listed, and a limit."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from detectron2.data import DatasetFromList, build_detection_test_loader, build_detection_train_loader
from torch.utils.data import Dataset, Sampler

from pretrain.data.batches import MAX_TRIES
from pretrain.data.broken import BrokenImages, summarize
from pretrain.data.decode import BrokenImage
from pretrain.errors import UserError
from pretrain.ranges import BatchSize, Share, Workers

ACCOUNT = "reading"  # an entry's (index or None, [(name, reason) of broken images], message of an error or None)
MAX_BROKEN = 0.2  # share of a dataset's images


class ReadEntries(Dataset):
    """Mapped entries of a Detectron2 dataset, each with its `ACCOUNT`. Nothing is raised: it may be a worker's.

    substitute: another image takes a broken one's place, always the same one; else its entry is the account alone.
    """

    def __init__(self, entries: Sequence[dict], mapper: Callable[[dict], dict], substitute: bool):
        self.entries, self.mapper, self.substitute = entries, mapper, substitute

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict:
        index, skipped, error = int(index), [], None
        others = np.random.default_rng(index)
        for _ in range(1 + MAX_TRIES if self.substitute else 1):
            entry = self.entries[index]
            try:
                return self.mapper(entry) | {ACCOUNT: (index, skipped, None)}
            except BrokenImage as broken:
                skipped.append((broken.name, broken.reason))
                index = int(others.integers(len(self.entries)))
            except UserError as found:
                error = str(found)
                break
        else:
            if self.substitute:
                error = f"no readable image in {1 + MAX_TRIES} tries: {summarize(skipped)}. Mend or remove the files"
        sides = {side: entry.get(side, 1) for side in ("width", "height")}  # by which Detectron2 groups images
        return sides | {ACCOUNT: (None, skipped, error)}


class AccountedLoader:
    """Batches of a loader of `ReadEntries`, without the entries that could not be read. `broken` is their account.

    Raises (while it is iterated):
        UserError: more than the share `max_broken` of the images are broken, or what a mapper raised.
    """

    def __init__(self, loader, num_images: int, max_broken: float):
        self.loader, self.broken = loader, BrokenImages(num_images, max_broken)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[dict]]:
        for batch in self.loader:
            accounts = [entry.pop(ACCOUNT) for entry in batch]
            for error in filter(None, (error for _, _, error in accounts)):
                raise UserError(error)
            readable = [index for index, _, _ in accounts if index is not None]
            skipped = [found for _, several, _ in accounts for found in several]
            self.broken.note(skipped, np.array(readable, dtype=np.int64))
            if entries := [entry for entry in batch if "image" in entry]:
                yield entries


def build_train_loader(
    dataset: list[dict],
    *,
    mapper: Callable[[dict], dict],
    total_batch_size: BatchSize,
    sampler: Sampler | None = None,
    aspect_ratio_grouping: bool = True,
    num_workers: Workers = 0,
    max_broken: Share = MAX_BROKEN,
) -> AccountedLoader:
    """`build_detection_train_loader` that goes on without broken images.

    Args:
        max_broken: the share of the images that may be broken; see `BrokenImages`.
    """
    loader = build_detection_train_loader(
        ReadEntries(DatasetFromList(dataset, copy=False), mapper, substitute=True),
        mapper=None,
        sampler=sampler,
        total_batch_size=total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
    )
    return AccountedLoader(loader, len(dataset), max_broken)


def build_test_loader(
    dataset: list[dict],
    *,
    mapper: Callable[[dict], dict],
    sampler: Sampler | None = None,
    batch_size: BatchSize = 1,
    num_workers: Workers = 0,
    max_broken: Share = MAX_BROKEN,
) -> AccountedLoader:
    """`build_detection_test_loader` that leaves broken images out; what they show then counts as not found."""
    loader = build_detection_test_loader(
        ReadEntries(DatasetFromList(dataset, copy=False), mapper, substitute=False),
        mapper=None,
        sampler=sampler,
        batch_size=batch_size,
        num_workers=num_workers,
    )
    return AccountedLoader(loader, len(dataset), max_broken)
