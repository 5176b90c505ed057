import numpy as np
import pytest

from pretrain.data.masks import CONTENT, MASKS, NO_MASK, POSITION, CropMasks, box_mask, cross_mask
from pretrain.errors import UserError


@pytest.mark.parametrize("name", sorted(MASKS))
@pytest.mark.parametrize("grid", [(6, 6), (3, 9), (9, 4), (1, 7), (5, 1)])
def test_exactly_count_patches_are_masked(name, grid):
    rng = np.random.default_rng(0)
    for count in range(grid[0] * grid[1] + 1):
        mask = MASKS[name](grid, count, rng)
        assert mask.shape == grid and mask.dtype == bool and mask.sum() == count


@pytest.mark.parametrize("name", sorted(MASKS))
def test_impossible_counts_are_refused(name):
    for count in (-1, 13):
        with pytest.raises(ValueError, match=f"cannot mask {count} of 3 x 4 patches"):
            MASKS[name]((3, 4), count, np.random.default_rng(0))


@pytest.mark.parametrize("name", sorted(MASKS))
def test_every_patch_can_be_masked_and_masks_differ(name):
    rng = np.random.default_rng(0)
    masks = np.stack([MASKS[name]((7, 7), 12, rng) for _ in range(300)])
    share = masks.mean(axis=0)
    assert share.min() > 0.05 and share.max() < 0.6
    assert len({mask.tobytes() for mask in masks}) > 40


def test_a_box_mask_is_blocks_and_a_cross_mask_is_rows_and_columns():
    rng = np.random.default_rng(0)

    def full_lines(mask):
        return mask.all(axis=0).sum() + mask.all(axis=1).sum()

    def neighbours(mask):  # share of masked patches whose right neighbour is masked too, in both directions
        return (mask[:, :-1] & mask[:, 1:]).sum() / mask.sum(), (mask[:-1] & mask[1:]).sum() / mask.sum()

    boxes = [box_mask((14, 14), 40, rng) for _ in range(50)]
    crosses = [cross_mask((14, 14), 40, rng) for _ in range(50)]
    assert np.mean([full_lines(mask) for mask in crosses]) >= 2
    assert np.mean([full_lines(mask) for mask in boxes]) < 0.5
    assert min(np.mean([neighbours(mask) for mask in boxes], axis=0)) > 0.55


@pytest.mark.parametrize(("grid", "axis"), [((8, 3), 1), ((3, 8), 0)])
def test_no_block_of_a_box_mask_fills_a_row_or_a_column(grid, axis):
    """Three patches are one block of 1 x 3 in a fifth of all draws, were it allowed; else two blocks must meet."""
    masks = np.stack([box_mask(grid, 3, np.random.default_rng(seed)) for seed in range(400)])
    assert masks.all(axis=axis + 1).any(axis=1).mean() < 0.05


@pytest.mark.parametrize("last", [False, True])
def test_blocks_lie_inside_the_grid_and_reach_its_corners(last):
    rng = np.random.default_rng(0)

    class Corner:
        """Draws the first, or the last, of all places for the first block."""

        uniform, calls = rng.uniform, 0

        def integers(self, high):
            assert 1 <= high <= 7
            self.calls += 1
            return (high - 1 if last else 0) if self.calls <= 2 else rng.integers(high)

    assert box_mask((5, 7), 9, Corner())[(-1, -1) if last else (0, 0)]


def test_a_small_cross_has_even_arms_around_its_centre():
    for seed in range(30):
        mask = cross_mask((14, 14), 9, np.random.default_rng(seed))
        rows, columns = mask.sum(axis=1), mask.sum(axis=0)
        row, column = rows.argmax(), columns.argmax()
        assert mask[row, column] and rows[row] + columns[column] == 10  # nothing outside one row and one column
        reach = [abs(y - row) + abs(x - column) for y, x in zip(*np.nonzero(mask), strict=True)]
        if 2 <= row < 12 and 2 <= column < 12:
            assert max(reach) == 2


def test_one_full_cross_is_one_row_and_one_column():
    mask = cross_mask((5, 8), 12, np.random.default_rng(0))
    assert mask.all(axis=1).sum() == 1 and mask.all(axis=0).sum() == 1


@pytest.mark.parametrize(
    ("num_crops", "shares", "expected"),
    [
        (8, (0.5, 0.5), (4, 4)),
        (7, (0.5, 0.5), (4, 3)),
        (7, (1.0, 0.0), (7, 0)),
        (9, (0.0, 1.0), (0, 9)),
        (10, (0.5, 0.0), (5, 0)),
        (100, (0.29, 0.57), (29, 57)),
        (1, (0.5, 0.5), (1, 0)),
    ],
)
def test_shares_of_the_batch_are_exact(num_crops, shares, expected):
    masks = CropMasks((4, 4), content_share=shares[0], position_share=shares[1])
    for seed in range(5):
        kinds, counts = masks.plan(num_crops, np.random.default_rng(seed))
        assert ((kinds == CONTENT).sum(), (kinds == POSITION).sum()) == expected
        assert ((counts > 0) == (kinds != NO_MASK)).all()


def test_kinds_are_shuffled_over_the_batch():
    kinds = np.stack([CropMasks((4, 4)).plan(8, np.random.default_rng(seed))[0] for seed in range(400)])
    np.testing.assert_allclose((kinds == CONTENT).mean(axis=0), 0.5, atol=0.1)


def test_ratios_are_stratified_within_each_kind():
    masks = CropMasks((100, 100), ratio=(0.1, 0.5))
    kinds, counts = masks.plan(16, np.random.default_rng(0))
    for kind in (CONTENT, POSITION):
        strata = (np.sort(counts[kinds == kind]) / 1e4 - 0.1) / 0.4 * 8
        assert (np.floor(strata) == np.arange(8)).all()


def test_a_crop_always_keeps_and_loses_a_patch():
    for ratio in ((0.01, 0.02), (0.98, 0.99)):
        kinds, counts = CropMasks((2, 2), ratio=ratio).plan(20, np.random.default_rng(0))
        assert counts.min() >= 1 and counts.max() <= 3


def test_draw_follows_the_plan():
    masks = CropMasks((6, 5))
    rng = np.random.default_rng(0)
    for kind, count in zip(*masks.plan(10, rng), strict=True):
        assert masks.draw(kind, count, rng).sum() == count
    nothing = masks.draw(NO_MASK, 0, rng)
    assert nothing.shape == (30,) and nothing.dtype == bool and not nothing.any()


def test_a_slice_of_a_batch_is_that_part_of_the_whole_in_the_plans_kinds_and_counts():
    """Three views, view-major; a tenth of the crops stays unmasked."""
    masks, images, views = CropMasks((3, 4), content_share=0.5, position_share=0.4), 10, 3

    def of(offsets):
        made = []

        def crop_rng(view, offset):
            made.append((view, offset))
            return np.random.default_rng((view, offset))

        found = masks.of_batch(offsets, images, views, np.random.default_rng(3), crop_rng)
        assert made == [(view, offset) for view in range(views) for offset in offsets]
        return found["content_masks"].numpy(), found["position_masks"].numpy()

    whole, part = of(range(images)), of(range(4, 7))
    kinds, counts = masks.plan(views * images, np.random.default_rng(3))
    for kind, all_masks, some_masks in zip((CONTENT, POSITION), whole, part, strict=True):
        assert all_masks.shape == (30, 12) and all_masks.dtype == bool
        np.testing.assert_array_equal(all_masks.sum(axis=1), np.where(kinds == kind, counts, 0))
        np.testing.assert_array_equal(some_masks, all_masks.reshape(views, images, 12)[:, 4:7].reshape(-1, 12))


def test_another_mask_can_be_registered(monkeypatch):
    def first(grid, count, rng):
        mask = np.zeros(grid, dtype=bool)
        mask.flat[:count] = True
        return mask

    monkeypatch.setitem(MASKS, "first", first)
    masks = CropMasks((3, 3), position_mask="first")
    assert masks.draw(POSITION, 4, np.random.default_rng(0)).tolist() == [True] * 4 + [False] * 5


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"content_share": 0.6, "position_share": 0.6}, "exceed 1"),
        ({"ratio": (0.5, 0.1)}, "ratio"),
        ({"ratio": (0.0, 0.5)}, "ratio"),
        ({"content_mask": "star"}, "box, cross"),
        ({"grid": (1, 1)}, "larger crops"),
    ],
)
def test_values_out_of_range_are_refused_at_once(wrong, words):
    with pytest.raises(UserError, match=words):
        CropMasks(**{"grid": (4, 4)} | wrong)


def test_two_patches_in_a_row_or_a_column_can_be_masked():
    for grid in ((1, 2), (2, 1)):
        assert CropMasks(grid).plan(4, np.random.default_rng(0))[1].tolist() == [1] * 4


def test_the_defaults_are_the_papers():
    """Footnotes 2 and 3: half and half, 10 to 50% of the patches."""
    masks = CropMasks((6, 6))
    assert (masks.ratio, masks.content_share, masks.position_share) == ((0.1, 0.5), 0.5, 0.5)
    assert masks.samplers == {CONTENT: box_mask, POSITION: cross_mask}


def test_ratios_are_drawn_within_their_strata():
    masks = CropMasks((14, 14), content_share=1, position_share=0)
    counts = np.array([masks.plan(1, np.random.default_rng(seed))[1][0] for seed in range(300)])
    assert counts.min() < 0.12 * 196 and counts.max() > 0.48 * 196 and len(set(counts)) > 60
    assert abs(counts.mean() / 196 - 0.3) < 0.03
