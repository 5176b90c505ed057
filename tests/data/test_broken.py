import numpy as np
import pytest

from pretrain.data.broken import NAMED_IN_LOG, BrokenImages, summarize
from pretrain.errors import UserError

NONE = np.zeros(0, dtype=int)


def broken(*places, reason="truncated"):
    return [(f"{i}.jpg", reason) for i in places]


def test_each_image_counts_once_and_is_named_once(caplog):
    account = BrokenImages(100, 0.2)
    for _ in range(3):
        account.note(broken(1, 2) + broken(3, reason="empty file"), np.arange(10, 20))
    assert len(account) == 3 and account.reasons["3.jpg"] == "empty file"
    assert summarize(account.reasons.items()) == "2 truncated (1.jpg), 1 empty file (3.jpg)"
    assert caplog.text.count("skipped a broken image") == 3


def test_a_name_that_is_no_utf8_is_shown_as_bytes(caplog):
    account = BrokenImages(10, 0.2)
    account.note([("é\udcff.jpg", "missing")], NONE)  # as Python reads a name from the disk
    assert (
        summarize(account.reasons.items()) == "1 missing (é\\xff.jpg)" and "é\\xff.jpg" in caplog.text.encode().decode()
    )


def test_the_log_is_not_flooded(caplog):
    account = BrokenImages(10_000, 0.2)
    account.note(broken(*range(100)), np.arange(1000, 2000))
    assert caplog.text.count("skipped a broken image") == NAMED_IN_LOG
    assert caplog.text.count("further ones are counted, not named") == 1
    assert len(account) == 100


def test_one_more_than_the_share_of_the_source_is_too_many():
    account = BrokenImages(50, 0.2)
    account.note(broken(*range(10)), np.arange(10, 50))
    with pytest.raises(UserError, match=r"50 images are broken, 11 so far: 11 truncated \(0.jpg\).*repair or remove"):
        account.note(broken(10), NONE)


def test_other_processes_finds_count_towards_the_share_of_the_source():
    account = BrokenImages(50, 0.2)
    account.note(broken(0, 1, 2), np.arange(10, 50))
    account.add(broken(2, 3, 4, 5, 6, 7, 8, 9))
    account.check()
    account.add(broken(10))
    with pytest.raises(UserError):
        account.check()


def run(share_broken: float, allowed: float, seed: int, num_images: int = 100_000) -> int | None:
    """Read a whole source in random order in batches of 50; images tried until it stops, None where it does not."""
    rng = np.random.default_rng(seed)
    is_broken = rng.permutation(num_images) < share_broken * num_images
    account = BrokenImages(num_images, allowed)
    for start in range(0, num_images, 50):
        places = np.arange(start, start + 50)
        try:
            account.note(broken(*places[is_broken[places]]), places[~is_broken[places]])
        except UserError:
            return start + 50
    return None


def test_a_source_far_past_the_limit_is_found_out_early():
    assert run(0.6, 0.2, seed=0) <= 100
    assert run(0.3, 0.2, seed=0) <= 2000
    assert run(0.01, 0.0001, seed=0) <= 2000


def test_no_chance_hit_stops_a_source_within_the_limit():
    for seed in range(3):
        assert run(0.18, 0.2, seed, num_images=10_000) is None
        assert run(0.0009, 0.001, seed, num_images=10_000) is None


def test_a_share_of_one_never_stops():
    account = BrokenImages(5, 1.0)
    account.note(broken(*range(5)), NONE)
    assert len(account) == 5
