"""tests/conftest.py: no test's random numbers depend on the tests before it."""

import pytest
import torch


@pytest.fixture(scope="module")
def shared():
    return torch.rand(3)


def undisturbed() -> torch.Tensor:
    """What the global generator gives if nothing was drawn since it was seeded."""
    return torch.rand(3, generator=torch.Generator().manual_seed(torch.initial_seed()))


@pytest.mark.parametrize("turn", range(2))
def test_each_test_starts_from_the_same_state(turn):
    assert torch.equal(torch.rand(3), undisturbed())


@pytest.mark.parametrize("turn", range(2))
def test_a_shared_fixture_is_the_same_for_all_and_leaves_no_trace(shared, turn):
    assert torch.equal(shared, undisturbed()) and torch.equal(torch.rand(3), undisturbed())
