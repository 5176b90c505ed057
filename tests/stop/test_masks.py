import numpy as np
import pytest
import torch

from pretrain.errors import UserError
from stop.masks import MultiBlockMasks, block_sizes, group_masks


def multi_block_masks(grid, num_images, rng, off_by_one=False, one_number=False):
    """Contexts (num_images, N_c) and targets (num_images, 4, h, w) of one group, with the default ranges."""
    ranges = ((0.15, 0.2), (0.75, 1.5)), ((0.85, 1.0), (1.0, 1.0))
    sizes = block_sizes(grid, ranges, 10, off_by_one, one_number, rng)
    return group_masks(grid, num_images, 4, sizes, 10, off_by_one, rng)


def flags(patches, size):
    """Indices (B, ...) -> bool (B, size)"""
    flat = np.zeros((len(patches), size), dtype=bool)
    np.put_along_axis(flat, patches.reshape(len(patches), -1), True, axis=1)
    return flat


@pytest.mark.parametrize("grid", [(14, 14), (16, 16), (8, 8), (10, 18), (28, 28)])
def test_context_and_targets_are_disjoint_and_large_enough(grid):
    for seed in range(50):
        context, targets = multi_block_masks(grid, 32, np.random.default_rng(seed))
        assert context.shape[0] == targets.shape[0] == 32 and targets.shape[1] == 4
        assert context.shape[1] > 10 and targets.shape[2] * targets.shape[3] > 10
        assert (np.diff(context, axis=1) > 0).all()  # sorted, no patch twice
        assert min(context.min(), targets.min()) >= 0 and max(context.max(), targets.max()) < grid[0] * grid[1]
        assert not (flags(context, grid[0] * grid[1]) & flags(targets, grid[0] * grid[1])).any()


def test_targets_are_blocks_of_the_asked_size():
    side, areas, aspects = 70, [], []
    for seed in range(200):
        _, targets = multi_block_masks((side, side), 2, np.random.default_rng(seed))
        h, w = targets.shape[2:]
        rows, columns = np.divmod(targets, side)
        assert (rows == rows[..., :1, :1] + np.arange(h)[:, None]).all()
        assert (columns == columns[..., :1, :1] + np.arange(w)).all()
        areas.append(h * w / side**2)
        aspects.append(h / w)
    assert (min(areas), max(areas)) == pytest.approx((0.15, 0.2), abs=0.004)
    assert (min(aspects), max(aspects)) == pytest.approx((0.75, 1.5), abs=0.04)


def test_every_patch_can_be_context_and_target():
    """Counts over 10,000 draws; only I-JEPA's off-by-one never reaches the last row and column."""
    for off_by_one in (False, True):
        seen = np.zeros((2, 196), dtype=int)
        for seed in range(20):
            context, targets = multi_block_masks((14, 14), 500, np.random.default_rng(seed), off_by_one=off_by_one)
            seen += flags(context, 196).sum(0), flags(targets, 196).sum(0)
        last = np.zeros((14, 14), dtype=bool)
        last[-1], last[:, -1] = True, True
        reached = seen.reshape(2, 14, 14)
        assert reached[:, ~last].min() > 100
        assert (reached[:, last] == 0).all() if off_by_one else reached[:, last].min() > 100


def test_images_differ_in_places_but_not_in_size():
    _, targets = multi_block_masks((14, 14), 200, np.random.default_rng(0))
    assert len(np.unique(targets[:, :, 0, 0], axis=0)) > 190


def test_the_cut_to_equal_lengths_leaves_out_any_patch():
    """Were the last ones left out, the bottom rows would be context far less often than the top ones."""
    share = np.zeros(196)
    for seed in range(40):
        context, _ = multi_block_masks((14, 14), 128, np.random.default_rng(seed))
        share += flags(context, 196).mean(0) / 40
    rows = share.reshape(14, 14).mean(1)
    np.testing.assert_allclose(rows, rows[::-1], atol=0.03)


def contexts_of(batch) -> list[list[int]]:
    """Each crop's context patches, whatever group it is in."""
    return [crop.tolist() for group in batch["context_patches"] for crop in group]


@pytest.mark.parametrize("group_size", [64, 8, 3, 1])
@pytest.mark.parametrize("share", [1, 2, 4, 8])
def test_ranks_and_micro_batches_get_their_slices(group_size, share):
    """Two views of 8 images: 16 crops. A share is larger or smaller than a group, or lies across two."""
    masks = MultiBlockMasks((14, 14), group_size=group_size)
    whole = masks.of_batch(range(8), 8, 2, np.random.default_rng(3), None)
    parts = [masks.of_batch(range(i, i + share), 8, 2, np.random.default_rng(3), None) for i in range(0, 8, share)]
    for view in range(2):
        crops, mine = slice(8 * view, 8 * view + 8), slice(share * view, share * view + share)
        targets = torch.cat([part["target_patches"][mine] for part in parts])
        assert torch.equal(whole["target_patches"][crops], targets)
        assert contexts_of(whole)[crops] == [seen for part in parts for seen in contexts_of(part)[mine]]


def test_contexts_are_cut_to_the_minimum_of_their_group():
    """Uncut, as in groups of one, a context is a block less the targets; cut, it is a part of one."""
    batches, draw = {}, np.random.default_rng
    for size in (1, 16, 64):
        masks = MultiBlockMasks((14, 14), group_size=size)
        batches[size] = [masks.of_batch(range(64), 64, 1, draw(seed), None) for seed in range(30)]
        assert all([len(group) for group in b["context_patches"]] == [size] * (64 // size) for b in batches[size])
        sizes_of_targets = {tuple(b["target_patches"].shape[2:]) for b in batches[size]}
        assert len(sizes_of_targets) > 3  # a size a batch, not a group
        corners = batches[size][0]["target_patches"][:, :, 0, 0].reshape(64 // size, -1)
        assert len(corners.unique(dim=0)) == 64 // size  # no group repeats another's places
    mean = {size: np.mean([len(c) for b in found for c in contexts_of(b)]) for size, found in batches.items()}
    assert mean[1] > mean[16] + 8 > mean[64] + 12
    lengths = np.array([[group.shape[1] for group in b["context_patches"]] for b in batches[16]])
    assert (lengths.min(1) < lengths.max(1)).mean() > 0.8  # groups are cut on their own


def test_the_last_group_may_be_smaller():
    masks = MultiBlockMasks((14, 14), group_size=3)
    batch = masks.of_batch(range(8), 8, 1, np.random.default_rng(3), None)
    assert [len(group) for group in batch["context_patches"]] == [3, 3, 2]
    exact, small = (
        MultiBlockMasks((14, 14), group_size=size).of_batch(range(2), 2, 1, np.random.default_rng(3), None)
        for size in (2, 64)
    )
    assert contexts_of(exact) == contexts_of(small)  # cut to its own minimum, not to that of crops that nobody has


def test_one_number_for_area_and_aspect():
    """Then the largest blocks are the highest, and the smallest the widest."""
    shapes = {}
    for one_number in (False, True):
        sizes = [
            multi_block_masks((70, 70), 1, np.random.default_rng(seed), one_number=one_number)[1].shape[2:]
            for seed in range(100)
        ]
        area, aspect = np.array([(h * w, h / w) for h, w in sizes]).T
        shapes[one_number] = np.corrcoef(area, aspect)[0, 1]
        assert 0.15 < area.min() / 4900 + 0.005 < area.max() / 4900 < 0.205
    assert abs(shapes[False]) < 0.3 and shapes[True] > 0.95


def test_switches_and_the_releases_group_reach_a_batch():
    """What `of_batch` draws is what `multi_block_masks` draws from the same generator with the same switches."""
    masks = MultiBlockMasks((14, 14))
    assert masks.group_size == 64 and masks.ranges[1] == ((0.85, 1.0), (1.0, 1.0))
    sizes = []
    for switches in ({}, {"one_number": True}, {"off_by_one": True}):
        found = MultiBlockMasks((14, 14), **switches).of_batch(range(64), 64, 1, np.random.default_rng(4), None)
        expected = multi_block_masks((14, 14), 1, np.random.default_rng(4), **switches)[1]
        sizes.append(found["target_patches"].shape[2:])
        assert sizes[-1] == expected.shape[2:]
        assert (found["target_patches"].max() < 13 * 14) == ("off_by_one" in switches)  # never the last row
    assert sizes[0] != sizes[1]


def test_two_views_are_view_major():
    masks = MultiBlockMasks((14, 14))
    whole = masks.of_batch(range(4), 4, 2, np.random.default_rng(3), None)["target_patches"]
    part = masks.of_batch(range(2, 4), 4, 2, np.random.default_rng(3), None)["target_patches"]
    np.testing.assert_array_equal(part, whole[[2, 3, 6, 7]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": (4, 4)}, "larger crops"),
        ({"grid": (4, 5)}, "no block with 0.15 to 0.2 of a grid of 4 x 5 has more than 10 patches"),
        (
            {"grid": (10, 18), "num_targets": 200, "target_aspect": (1.5, 1.5)},
            r"200 targets of [67] x [45] patches on a grid of 10 x 18 leave no context of more than 10 patches",
        ),
        ({"target_area": (0.2, 0.1)}, "target_area"),
        ({"context_area": (0.9, 1.1)}, "at most 1"),
        ({"num_targets": 0}, "num_targets"),
        ({"group_size": 0}, "group_size"),
    ],
)
def test_impossible_ranges_are_refused_at_once(changes, words):
    with pytest.raises(UserError, match=words):
        MultiBlockMasks(**{"grid": (14, 14)} | changes)
