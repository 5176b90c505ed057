import inspect
import traceback
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from pretrain.data import workers
from pretrain.data.batches import MAX_TRIES, CropLoader
from pretrain.data.crops import MultiCrop
from pretrain.data.decode import BrokenImage
from pretrain.data.masks import CropMasks
from pretrain.errors import UserError


class Pictures:
    """n small random pictures; those in `broken` cannot be read, the one at `faulty` hits a bug of ours."""

    def __init__(self, n, broken=(), faulty=None):
        self.n, self.broken, self.faulty = n, set(broken), faulty

    def __len__(self):
        return self.n

    def name(self, index):
        return f"{index}.jpg"

    def load(self, index, min_pixels=None):
        if index in self.broken:
            raise BrokenImage(self.name(index), "truncated")
        if index == self.faulty:
            raise ZeroDivisionError("our own mistake")
        return np.random.default_rng(index).integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)


def loader(source=None, batch_size=4, num_workers=0, seed=0, num_local=3, masks=None, **options):
    crops = MultiCrop(16, local_size=8, num_local=num_local)
    masks = masks or CropMasks((4, 4))
    return CropLoader(source or Pictures(7), crops, masks, batch_size, num_workers, seed, **options)


def assert_same(a: dict, b: dict):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]) if torch.is_tensor(a[key]) else a[key] == b[key], key


def test_a_worker_makes_its_batch_in_shared_memory(monkeypatch):
    """Torch would copy it there on its way to the main process."""
    dataset = loader().dataset
    at_home = dataset[0, 0, 1]
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: "a worker")
    batch = dataset[0, 0, 1]
    for key in ("global_crops", "local_crops", "global_boxes", "local_boxes"):
        assert batch[key].is_shared() and not at_home[key].is_shared() and torch.equal(batch[key], at_home[key])


def test_contents_of_a_batch():
    batch = next(loader(batch_size=5).batches())
    shapes = {
        "global_crops": ((10, 3, 16, 16), torch.uint8),
        "local_crops": ((15, 3, 8, 8), torch.uint8),
        "global_boxes": ((10, 4), torch.float32),
        "local_boxes": ((15, 4), torch.float32),
        "global_image_boxes": ((10, 4), torch.float32),
        "local_image_boxes": ((15, 4), torch.float32),
        "content_masks": ((10, 16), torch.bool),
        "position_masks": ((10, 16), torch.bool),
        "index": ((5,), torch.int64),
    }
    assert {key: (tuple(batch[key].shape), batch[key].dtype) for key in shapes} == shapes
    assert batch.keys() - shapes.keys() == {"skipped"} and batch["skipped"] == []
    assert all(batch[key].is_contiguous() for key in shapes)


def test_without_local_crops_there_are_no_local_entries():
    assert not any("local" in key for key in next(loader(num_local=0).batches()))


def test_order_is_view_major():
    source, crops = Pictures(7), MultiCrop(16, local_size=8, num_local=3)
    crops.photometric = tuple(lambda crop, rng, v=v: np.full_like(crop, v) for v in (10, 20, 30))
    batch = next(CropLoader(source, crops, CropMasks((4, 4)), 2).batches())
    assert batch["global_crops"][:, 0, 0, 0].tolist() == [10, 10, 20, 20]
    # t_s is one scale and shift per image: crops i, i + b, i + 2b... belong together.
    sizes = [(boxes[:, 3] - boxes[:, 1]).reshape(-1, 2) for boxes in (batch["local_boxes"], batch["local_image_boxes"])]
    factors = sizes[0] / sizes[1]
    torch.testing.assert_close(factors, factors[:1].expand_as(factors))
    assert abs(factors[0, 0] - factors[0, 1]) > 1e-3


def test_workers_change_nothing():
    source = Pictures(7, broken=[2])
    alone, helped = (list(islice(loader(source, num_workers=n).batches(3), 4)) for n in (0, 1))
    for a, b in zip(alone, helped, strict=True):
        assert_same(a, b)


def test_ranks_share_the_batch_of_one_process():
    whole = loader(Pictures(7, broken=[2]), batch_size=4)
    for whole_batch, *parts in islice(zip(*(whole.batches(2, *r) for r in ((0, 1), (0, 2), (1, 2))), strict=True), 3):
        for key, value in whole_batch.items():
            if key == "skipped":
                assert value == parts[0][key] + parts[1][key]
            elif key == "index":
                assert torch.equal(value, torch.cat([part[key] for part in parts]))
            else:
                views = [part[key].unflatten(0, (-1, 2)) for part in parts]
                assert torch.equal(value, torch.cat(views, dim=1).flatten(0, 1)), key


def test_any_step_can_be_the_first():
    batches = list(islice(loader().batches(), 5))
    assert_same(batches[4], next(loader().batches(4)))
    assert not torch.equal(batches[3]["global_crops"], batches[4]["global_crops"])


def test_seeds_differ():
    a, b = (next(loader(seed=seed).batches()) for seed in (0, 1))
    assert not torch.equal(a["global_boxes"], b["global_boxes"])
    assert not torch.equal(a["content_masks"], b["content_masks"])


def test_torchs_global_random_numbers_are_left_alone():
    before = torch.get_rng_state()
    next(loader().batches())
    assert torch.equal(torch.get_rng_state(), before)


def test_every_epoch_holds_every_image_once_in_a_new_order():
    data = loader(batch_size=7)
    epochs = [batch["index"].tolist() for batch in islice(data.batches(), 3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_batch_may_be_larger_than_the_source():
    batch = next(loader(Pictures(3), batch_size=8).batches())
    assert sorted(Counter(batch["index"].tolist()).values()) == [2, 3, 3]
    boxes = batch["global_image_boxes"]
    assert len(torch.unique(boxes, dim=0)) == len(boxes)  # the same image again, but other crops


def test_masks_are_exclusive_and_their_shares_exact():
    for batch in islice(loader(batch_size=5).batches(), 5):
        content, position = batch["content_masks"].any(1), batch["position_masks"].any(1)
        assert not (content & position).any()
        assert content.sum() == 5 and position.sum() == 5


def test_masks_of_a_crop_depend_on_its_place_not_on_its_image():
    a = next(loader(Pictures(7)).batches(1))
    b = next(loader(Pictures(6)).batches(1))
    assert torch.equal(a["content_masks"], b["content_masks"])


def test_images_are_asked_for_as_many_pixels_as_their_crops_need():
    source, asked = Pictures(7), []
    load = source.load
    source.load = lambda index, min_pixels=None: asked.append((index, min_pixels)) or load(index)
    data = loader(source)
    batch = next(data.batches())
    assert asked == [(index, data.dataset.crops.min_pixels) for index in batch["index"].tolist()]


def test_torchs_loader_is_told_of_workers_and_page_locked_memory(monkeypatch):
    told = []
    make = workers.DataLoader
    monkeypatch.setattr(workers, "DataLoader", lambda data, **how: told.append(how) or make(data, **how))
    next(loader().batches())
    next(loader(num_workers=1).batches())
    monkeypatch.setattr(workers, "DataLoader", lambda data, **how: told.append(how) or [])
    list(loader(pin_memory=True).batches())
    assert [(how["num_workers"], how["pin_memory"]) for how in told] == [(0, False), (1, False), (0, True)]
    defaults = {name: p.default for name, p in inspect.signature(CropLoader).parameters.items()}
    assert defaults.items() >= dict(num_workers=0, seed=0, max_broken=0.2, pin_memory=False).items()


def test_broken_images_are_counted_and_replaced():
    data = loader(Pictures(6, broken=[1, 4]), batch_size=6, max_broken=0.5)
    for batch in islice(data.batches(), 4):
        assert not {1, 4} & set(batch["index"].tolist()) and len(batch["index"]) == 6
        assert {("1.jpg", "truncated"), ("4.jpg", "truncated")} == set(batch["skipped"])
    next(data.batches())  # another pass over the data is still the same run
    assert sorted(data.broken.reasons.values()) == ["truncated"] * 2


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_source_without_one_readable_image_ends_in_one_sentence(num_workers):
    data = loader(Pictures(5, broken=range(5)), num_workers=num_workers)
    with pytest.raises(UserError, match=f"no readable image in {MAX_TRIES + 1} tries: 33 truncated") as error:
        next(data.batches())
    assert "Traceback" not in str(error.value)


def test_too_many_broken_images_end_the_reading():
    broken = Pictures(10, broken=range(6))
    with pytest.raises(UserError, match=r"10 images are broken, \d so far: \d truncated \(\d.jpg\)"):
        list(islice(loader(broken).batches(), 40))
    assert len(list(islice(loader(broken, max_broken=0.8).batches(), 40))) == 40


@pytest.mark.parametrize("num_workers", [0, 1])
def test_our_own_mistakes_keep_their_traceback(num_workers):
    try:
        list(islice(loader(Pictures(3, faulty=1), num_workers=num_workers).batches(), 2))
    except ZeroDivisionError as error:
        message = "".join(traceback.format_exception(error))
        error.__traceback__ = None  # it holds torch's iterator in a cycle, and then the worker takes 5 s to end
    assert "our own mistake" in message and "in load" in message


def test_values_out_of_range_are_refused_at_once():
    with pytest.raises(UserError, match="source is empty"):
        CropLoader(Pictures(0), MultiCrop(16), CropMasks((4, 4)), 1)
    with pytest.raises(UserError, match="does not divide by 3 processes x train.accumulate 1"):
        loader(batch_size=4).batches(0, 0, 3)
    with pytest.raises(UserError, match="does not divide by 1 processes x train.accumulate 0"):
        loader(batch_size=4).batches(accumulate=0)
    for start_step, rank in ((-1, 0), (0, -1), (0, 2)):
        with pytest.raises(ValueError, match=f"start_step {start_step}, rank {rank} of 2"):
            loader(batch_size=4).batches(start_step, rank, 2)
    loader(batch_size=1, num_workers=0, seed=0)  # the least that there is


def test_each_step_draws_crops_plan_and_masks_anew():
    """Of one picture, so that nothing else differs."""
    masks = CropMasks((4, 4), ratio=(0.25, 0.25), content_share=1, position_share=0)
    steps = list(islice(loader(Pictures(1), masks=masks).batches(), 20))
    for key, least in (("global_image_boxes", 20), ("global_boxes", 20), ("content_masks", 8)):
        assert len({step[key][0].numpy().tobytes() for step in steps}) >= least, key
    mixed = islice(loader(Pictures(1)).batches(), 20)
    kinds = {step["content_masks"].any(1).numpy().tobytes() for step in mixed}
    assert len(kinds) > 10  # of the 70 ways to have half of the crops
