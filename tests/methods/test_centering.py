import pytest
import torch

from pretrain.methods.centering import NoCentering, SinkhornKnopp, SoftmaxCentering


def test_centre_is_the_running_mean_of_logits_and_lags_one_step():
    torch.manual_seed(0)
    prototypes = torch.randn(10, 4)
    centering = SoftmaxCentering(10, momentum=0.9)
    expected = torch.zeros(10)
    for _ in range(3):
        tokens = torch.randn(7, 4)
        torch.testing.assert_close(centering(tokens, prototypes, 0.04), expected)  # this step's tokens do not count yet
        centering.update()
        expected = 0.9 * expected + 0.1 * (tokens @ prototypes.T).mean(0)
    torch.testing.assert_close(centering.centre, expected)


def test_tokens_of_accumulated_batches_count_once_each():
    prototypes, tokens = torch.randn(10, 4), torch.randn(9, 4)
    once, twice = SoftmaxCentering(10), SoftmaxCentering(10)
    once(tokens, prototypes, 0.04)
    twice(tokens[:2], prototypes, 0.04)
    twice(tokens[2:], prototypes, 0.04)
    once.update()
    twice.update()
    torch.testing.assert_close(once.centre, twice.centre)


def test_a_step_without_tokens_leaves_the_centre():
    centering = SoftmaxCentering(3)
    centering.centre.fill_(1.0)
    centering(torch.zeros(0, 2), torch.randn(3, 2), 0.04)
    centering.update()
    assert torch.equal(centering.centre, torch.ones(3))


def sinkhorn_plain(logits, temperature, iterations=3):
    """Alternate scaling of the matrix itself."""
    q = torch.exp(logits / temperature)
    for _ in range(iterations):
        q = q / q.sum(0, keepdim=True)
        q = q / q.sum(1, keepdim=True)
    return q


def test_sinkhorn_scales_in_float32_under_autocast():
    torch.manual_seed(0)
    tokens, prototypes = torch.randn(11, 4), torch.randn(6, 4)
    with torch.autocast("cpu", torch.bfloat16):
        centre = SinkhornKnopp()(tokens, prototypes, 0.1)
        logits = (tokens @ prototypes.T).float()
    ours = torch.softmax((logits - centre) / 0.1, dim=1)
    torch.testing.assert_close(ours, sinkhorn_plain(logits.double(), 0.1).float(), atol=1e-4, rtol=0)


def test_a_checkpoint_holds_the_centre_alone():
    assert SoftmaxCentering(3).state_dict().keys() == {"centre"}


def test_softmax_with_the_sinkhorn_centre_is_sinkhorn_knopp():
    torch.manual_seed(0)
    tokens, prototypes = torch.randn(11, 4).double(), torch.randn(6, 4).double()
    centre = SinkhornKnopp(block_rows=3)(tokens, prototypes, 0.5)
    ours = torch.softmax((tokens @ prototypes.T - centre) / 0.5, dim=1)
    torch.testing.assert_close(ours, sinkhorn_plain(tokens @ prototypes.T, 0.5))
    many = SinkhornKnopp(iterations=200)(tokens, prototypes, 0.5)
    even = torch.softmax((tokens @ prototypes.T - many) / 0.5, dim=1)
    torch.testing.assert_close(even.sum(0), torch.full((6,), 11 / 6).double(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("make", [lambda: SoftmaxCentering(6), SinkhornKnopp, NoCentering])
def test_peeking_gives_the_centre_and_remembers_nothing(make):
    torch.manual_seed(0)
    centering = make()
    tokens, prototypes = torch.randn(11, 4), torch.randn(6, 4)
    centering(tokens, prototypes, 0.5)
    centering.update()
    before = [buffer.clone() for buffer in centering.buffers()]
    peeked = centering.current_centre(tokens, prototypes, 0.5).clone()
    assert all(torch.equal(a, b) for a, b in zip(before, centering.buffers(), strict=True))
    assert torch.equal(peeked, centering(tokens, prototypes, 0.5))
    assert peeked.any() != (make is NoCentering)
