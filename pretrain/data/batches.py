"""Batches as a pure function of (seed, step): the same after a resume, and on any number of processes.

Samples are numbered: step * batch_size + offset in the global batch. The number gives the image (a permutation
per epoch), and the random numbers of its crops and masks. Nothing depends on workers, ranks or on what came
before.
"""

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from pretrain.data.broken import BrokenImages, summarize
from pretrain.data.crops import MultiCrop
from pretrain.data.decode import BrokenImage
from pretrain.data.workers import NowReading, read_in_workers
from pretrain.errors import UserError
from pretrain.ranges import BatchSize, Share, Whole, Workers

MAX_TRIES = 32  # images that may stand in for a broken one

# Streams of random numbers. A seed always has four parts, because numpy reads a missing one as zero.
ORDER, CROPS, SUBSTITUTE, MASK_PLAN, MASK = range(5)


class ImageSource(Protocol):
    """What a loader reads from; `pretrain.data.images` has the implementations."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def load(self, index: int, min_pixels: int | None = None) -> np.ndarray:
        """-> uint8 (H, W, C), possibly reduced, but to no fewer than `min_pixels` pixels; raises `BrokenImage`."""
        ...


class BatchMasks(Protocol):
    """What makes a batch's masks: `pretrain.data.masks.CropMasks`, or a class of the method's own."""

    grid: tuple[int, int]

    def of_batch(self, offsets: range, batch_size: int, num_views: int, plan_rng, crop_rng) -> dict:
        """The masks of a slice of a batch; see `CropMasks.of_batch`."""
        ...


def random_stream(seed: int, stream: int, number: int, view: int = 0) -> np.random.Generator:
    """The generator for one purpose (`stream`) and the number of a sample, a step or an epoch."""
    return np.random.default_rng((seed, stream, number, view))


def image_index(sample: int, num_images: int, seed: int) -> int:
    """The index of a sample's image. Each `num_images` samples are an epoch: a permutation drawn from (seed, epoch)."""
    epoch, offset = divmod(sample, num_images)
    return int(_permutation(num_images, seed, epoch)[offset])


@functools.lru_cache(maxsize=4)  # a batch may span epochs
def _permutation(num_images: int, seed: int, epoch: int) -> np.ndarray:
    return random_stream(seed, ORDER, epoch).permutation(num_images)


class BatchDataset(Dataset):
    """Key (step, part, num_parts) -> that part of the step's batch: the dict of `CropLoader`.

    A worker makes whole batches. A `UserError` is returned, not raised: on its way out of a worker torch
    would write the traceback into its message.
    """

    def __init__(self, source: ImageSource, crops: MultiCrop, masks: BatchMasks, batch_size: int, seed: int):
        self.source, self.crops, self.masks = source, crops, masks
        self.batch_size, self.seed = batch_size, seed
        self.now_reading: NowReading | None = None

    def __getitem__(self, key: tuple[int, int, int]) -> dict | UserError:
        step, part, num_parts = key
        share = self.batch_size // num_parts
        offsets = range(part * share, (part + 1) * share)
        samples, skipped = [], []
        try:
            for offset in offsets:
                samples.append(self._sample(step * self.batch_size + offset, skipped))
        except UserError as error:
            return error
        return collate(samples) | self._masks(step, offsets) | {"skipped": skipped}

    def _sample(self, number: int, skipped: list[tuple[str, str]]) -> dict[str, np.ndarray]:
        """Load and crop the sample's image; broken images are added to `skipped` and replaced by random others."""
        substitutes = random_stream(self.seed, SUBSTITUTE, number)
        index = image_index(number, len(self.source), self.seed)
        for _ in range(1 + MAX_TRIES):
            if self.now_reading:
                self.now_reading.note(index)
            try:
                image = self.source.load(index, self.crops.min_pixels)
            except BrokenImage as broken:
                skipped.append((broken.name, broken.reason))
                index = int(substitutes.integers(len(self.source)))
            else:
                sample = self.crops(image, random_stream(self.seed, CROPS, number))
                return sample | {"index": np.int64(index)}
        raise UserError(f"no readable image in {1 + MAX_TRIES} tries: {summarize(skipped)}. Repair or remove the files")

    def _masks(self, step: int, offsets: range) -> dict:
        """The masks of these samples: one generator for the step's plan, one for each crop."""

        def crop_rng(view: int, offset: int) -> np.random.Generator:
            return random_stream(self.seed, MASK, step * self.batch_size + offset, view)

        plan_rng = random_stream(self.seed, MASK_PLAN, step)
        return self.masks.of_batch(offsets, self.batch_size, self.crops.num_global, plan_rng, crop_rng)


def collate(samples: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """b dicts of (V, ...) arrays -> one dict of (V*b, ...) tensors, view-major; `index` -> (b,).

    torch's `default_collate` makes them in shared memory when this process is a worker: they reach the main process
    without another copy.
    """
    batch = {}
    for key in samples[0]:
        if key == "index":
            batch[key] = torch.tensor([sample[key] for sample in samples])
        else:
            views = range(len(samples[0][key]))
            batch[key] = default_collate([torch.from_numpy(sample[key][view]) for view in views for sample in samples])
    return batch


class CropLoader:
    """Endless batches of crops, boxes and masks.

    source: an `ImageSource`. batch_size: images a step over all processes; it may exceed the number of
    images, for samples run on through the epochs. num_workers: worker processes, 0 to make batches in this
    one. seed: >= 0. max_broken: the fraction of the source's images that may be broken; beyond it reading stops with a
    `UserError`, see `BrokenImages`. pin_memory: hand out tensors in page-locked memory, for copies to a GPU.

    `broken` counts the broken images met in all batches so far.

    A batch of b images (this process's share), V global and L local crops of Sg and Sl pixels, N patches:
      `global_crops`, `local_crops`    uint8 (V*b, C, Sg, Sg), (L*b, C, Sl, Sl), view-major: all images' first
                                       crop, then all images' second, ...; nothing local when L is 0
      `global_boxes`, `local_boxes`    float32 (V*b, 4), (L*b, 4): (x0, y0, x1, y1) in field; x0 > x1: flipped
      `global_image_boxes`, `local_image_boxes`    the same in the image, before t_s
      what `masks` makes, of `CropMasks`:
      `content_masks`, `position_masks`            bool (V*b, N), row-major; no crop has both
      `index`                          int64 (b,), the images' places in `source`
      `skipped`                        list of (name, reason) of the broken images met

    Raises `UserError` for an empty source.
    """

    def __init__(
        self,
        source: ImageSource,
        crops: MultiCrop,
        masks: BatchMasks,
        batch_size: BatchSize,
        num_workers: Workers = 0,
        seed: Whole = 0,
        *,
        max_broken: Share = 0.2,
        pin_memory: bool = False,
    ):
        if len(source) == 0:
            raise UserError("the image source is empty: give at least one image")
        self.dataset = BatchDataset(source, crops, masks, batch_size, seed)
        self.source, self.batch_size = source, batch_size
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.broken = BrokenImages(len(source), max_broken)

    def batches(self, start_step: int = 0, rank: int = 0, world_size: int = 1, accumulate: int = 1) -> Iterator[dict]:
        """Batches of steps start_step, start_step + 1, ... without end; workers live as long as the iterator.

        Each rank gets a contiguous slice of every global batch, masks included; with `accumulate`, as that many
        consecutive batches. Raises `UserError` when batch_size does not divide by world_size *
        accumulate, too many images are broken, or a worker dies; an error in a worker that is not about the user's
        input is raised with its traceback.
        """
        num_parts = world_size * accumulate
        if accumulate < 1 or self.batch_size % num_parts:
            raise UserError(
                f"dataloader.train.batch_size {self.batch_size} does not divide by {world_size} processes x "
                f"train.accumulate {accumulate}; change one of them"
            )
        if not 0 <= rank < world_size or start_step < 0:
            raise ValueError(f"start_step {start_step}, rank {rank} of {world_size}")
        parts = range(rank * accumulate, (rank + 1) * accumulate)
        return self._stream((step, part, num_parts) for step in itertools.count(start_step) for part in parts)

    def _stream(self, keys: Iterable[tuple[int, int, int]]) -> Iterator[dict]:
        parts = read_in_workers(self.dataset, keys, self.num_workers, self.source.name, pin_memory=self.pin_memory)
        for batch in parts:
            if isinstance(batch, UserError):
                raise batch
            self.broken.note(batch["skipped"], batch["index"].numpy())
            yield batch
