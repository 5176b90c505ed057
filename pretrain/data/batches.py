"""Batches as a pure function of (seed, step): the same after a resume, and on any number of processes.

A *position* is one integer: step * batch_size + offset in the global batch. It gives the image (a permutation
per epoch), and the random numbers of its crops and masks. Nothing depends on workers, ranks or on what came
before.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from pretrain.data.crops import MultiCrop
from pretrain.data.images import BrokenImage
from pretrain.data.masks import CONTENT, POSITION, CropMasks
from pretrain.errors import UserError

MAX_TRIES = 32  # images that may stand in for a broken one
MIN_TRIED = 100  # images loaded before the share of broken ones is judged

# Streams of random numbers. A key always has four parts: numpy reads a missing part as zero.
ORDER, CROPS, SUBSTITUTE, MASK_PLAN, MASK = range(5)


class ImageSource(Protocol):
    """What a loader reads: `pretrain.data.images.ImageFolder`, for one."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def load(self, index: int) -> np.ndarray:
        """-> uint8 RGB (H, W, 3); raises `BrokenImage`."""
        ...


def random_stream(seed: int, stream: int, place: int, view: int = 0) -> np.random.Generator:
    """The generator for one purpose (`stream`) at one place: a position, a step or an epoch."""
    return np.random.default_rng((seed, stream, place, view))


def image_at(position: int, num_images: int, seed: int) -> int:
    """The image's index. Each `num_images` positions are an epoch: a permutation drawn from (seed, epoch)"""
    epoch, place = divmod(position, num_images)
    return int(_permutation(num_images, seed, epoch)[place])


@functools.lru_cache(maxsize=4)  # a batch may span epochs
def _permutation(num_images: int, seed: int, epoch: int) -> np.ndarray:
    return random_stream(seed, ORDER, epoch).permutation(num_images)


class BatchDataset(Dataset):
    """Key (step, part, num_parts) -> that part of the step's batch: the dict of `CropLoader`.

    A worker makes whole batches. A `UserError` is returned, not raised: on its way out of a worker torch
    would write the traceback into its message.
    """

    def __init__(self, source: ImageSource, crops: MultiCrop, masks: CropMasks, batch_size: int, seed: int):
        self.source, self.crops, self.masks = source, crops, masks
        self.batch_size, self.seed = batch_size, seed

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

    def _sample(self, position: int, skipped: list[tuple[str, str]]) -> dict[str, np.ndarray]:
        """Crop the position's image; broken ones are noted in `skipped` and replaced."""
        substitutes = random_stream(self.seed, SUBSTITUTE, position)
        index = image_at(position, len(self.source), self.seed)
        for _ in range(1 + MAX_TRIES):
            try:
                image = self.source.load(index)
            except BrokenImage as broken:
                skipped.append((broken.name, broken.reason))
                index = int(substitutes.integers(len(self.source)))
            else:
                sample = self.crops(image, random_stream(self.seed, CROPS, position))
                return sample | {"index": np.int64(index)}
        raise UserError(f"no readable image in {1 + MAX_TRIES} tries: {_summary(skipped)}. Mend or remove the files")

    def _masks(self, step: int, offsets: range) -> dict[str, torch.Tensor]:
        """The plan is made for all ranks; each crop's mask has its own random numbers."""
        num_global = self.crops.num_global
        plan_rng = random_stream(self.seed, MASK_PLAN, step)
        kinds, counts = self.masks.plan(num_global * self.batch_size, plan_rng)
        masks = {kind: [] for kind in (CONTENT, POSITION)}
        for view, offset in itertools.product(range(num_global), offsets):
            crop = view * self.batch_size + offset
            rng = random_stream(self.seed, MASK, step * self.batch_size + offset, view)
            mask = self.masks.draw(kinds[crop], counts[crop], rng)
            for kind in masks:
                masks[kind].append(mask & (kinds[crop] == kind))
        return {
            "content_masks": torch.from_numpy(np.stack(masks[CONTENT])),
            "position_masks": torch.from_numpy(np.stack(masks[POSITION])),
        }


def collate(samples: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """b dicts of (V, ...) arrays -> one dict of (V*b, ...) tensors, view-major; `index` -> (b,)."""
    batch = {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if key == "index":
            batch[key] = torch.from_numpy(np.stack(values))
        else:
            stacked = np.stack(values, axis=1)
            batch[key] = torch.from_numpy(stacked.reshape(-1, *stacked.shape[2:]))
    return batch


class CropLoader:
    """Endless batches of crops, boxes and masks.

    source: an `ImageSource`. batch_size: images a step over all processes; it may exceed the number of
    images, for positions run on through the epochs. num_workers: worker processes, 0 to make batches in this
    one. seed: >= 0. max_broken: the share of broken images, of all tried, above which reading stops with a
    `UserError` (judged after 100 tries). pin_memory: hand out tensors in page-locked memory, for copies to a
    GPU.

    A batch of b images (this process's share), V global and L local crops of Sg and Sl pixels, N patches:
      `global_crops`, `local_crops`    uint8 (V*b, 3, Sg, Sg), (L*b, 3, Sl, Sl), view-major: all images' first
                                       crop, then all images' second, ...; nothing local when L is 0
      `global_boxes`, `local_boxes`    float32 (V*b, 4), (L*b, 4): (x0, y0, x1, y1) in field; x0 > x1: flipped
      `global_image_boxes`, `local_image_boxes`    the same in the image, before t_s
      `content_masks`, `position_masks`            bool (V*b, N), row-major; no crop has both
      `index`                          int64 (b,), the images' places in `source`
      `skipped`                        list of (name, reason) of the broken images met

    Raises `UserError` for an empty source or values out of range.
    """

    def __init__(
        self,
        source: ImageSource,
        crops: MultiCrop,
        masks: CropMasks,
        batch_size: int,
        num_workers: int = 0,
        seed: int = 0,
        *,
        max_broken: float = 0.5,
        pin_memory: bool = False,
    ):
        if len(source) == 0:
            raise UserError("the image source is empty: give at least one image")
        if batch_size < 1 or num_workers < 0 or seed < 0:
            raise UserError(
                f"batch_size {batch_size}, num_workers {num_workers}, seed {seed}: batch_size must be at "
                "least 1, the others not negative"
            )
        if any(crops.global_size % side for side in masks.grid):
            grid = f"{masks.grid[0]} x {masks.grid[1]}"
            raise UserError(f"global crops of {crops.global_size} pixels do not divide into the masks' {grid} patches")
        self.dataset = BatchDataset(source, crops, masks, batch_size, seed)
        self.num_workers, self.max_broken, self.pin_memory = num_workers, max_broken, pin_memory

    @property
    def source(self) -> ImageSource:
        """Where the images come from."""
        return self.dataset.source

    @property
    def batch_size(self) -> int:
        """Images a step, over all processes."""
        return self.dataset.batch_size

    @property
    def images_per_epoch(self) -> int:
        """Number of images in the source, broken ones included."""
        return len(self.source)

    def batches(self, start_step: int = 0, rank: int = 0, world_size: int = 1, accumulate: int = 1) -> Iterator[dict]:
        """Batches of steps start_step, start_step + 1, ... without end; workers live as long as the iterator.

        rank of world_size gets its contiguous slice of every global batch, masks included; with accumulate, as so
        many batches one after the other. Raises `UserError` when batch_size does not divide by world_size *
        accumulate, or too many images are broken; an error in a worker that is not about the user's input is raised
        with its traceback.
        """
        num_parts = world_size * accumulate
        if accumulate < 1 or self.batch_size % num_parts:
            raise UserError(
                f"batch_size {self.batch_size} does not divide by {world_size} processes x {accumulate} accumulated "
                "batches: change one"
            )
        if not 0 <= rank < world_size or start_step < 0:
            raise ValueError(f"start_step {start_step}, rank {rank} of {world_size}")
        parts = range(rank * accumulate, (rank + 1) * accumulate)
        return self._stream((step, part, num_parts) for step in itertools.count(start_step) for part in parts)

    def _stream(self, keys: Iterable[tuple[int, int, int]]) -> Iterator[dict]:
        loader = DataLoader(
            self.dataset,
            sampler=keys,
            batch_size=None,  # a key is a whole batch already
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
            worker_init_fn=_start_worker,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # else each start would shift torch's global generator
        )
        tried, broken = 0, Counter()
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            broken.update(batch["skipped"])
            tried += len(batch["index"]) + len(batch["skipped"])
            if tried >= MIN_TRIED and broken.total() > self.max_broken * tried:
                raise UserError(
                    f"{broken.total()} of {tried} images tried are broken: {_summary(broken.elements())}. "
                    "Mend or remove the files"
                )
            yield batch


def _summary(skipped: Iterable[tuple[str, str]]) -> str:
    """Count the reasons, with an example of each: "12 truncated (a.jpg), 3 not an image (b.png)"."""
    examples, counts = {}, Counter()
    for name, reason in skipped:
        examples.setdefault(reason, name)
        counts[reason] += 1
    return ", ".join(f"{count} {reason} ({examples[reason]})" for reason, count in counts.most_common())


def _as_it_is(batch):
    return batch


def _start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # one worker, one core; torch sees to its own threads
