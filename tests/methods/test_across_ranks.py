import torch

from pretrain.methods.across_ranks import gather, logsumexp_over_ranks, rank, sum_over_ranks
from pretrain.methods.centering import SinkhornKnopp, SoftmaxCentering
from pretrain.methods.losses import koleo_loss

DOUBLE = torch.float64


def mine(whole: torch.Tensor) -> torch.Tensor:
    """This rank's half."""
    return whole.chunk(2)[rank()]


def test_alone_nothing_changes():
    values = torch.randn(5)
    assert gather(values) is values and sum_over_ranks(values) is values and logsumexp_over_ranks(values) is values


def test_sums_and_their_empty_parts(on_ranks):
    def both():
        nothing = torch.full((2,), -torch.inf)
        logs = torch.tensor([1000.0, -1000.0]) if rank() else nothing
        return sum_over_ranks(torch.tensor([1.0 + rank()])), logsumexp_over_ranks(logs), logsumexp_over_ranks(nothing)

    for total, logs, nothing in on_ranks(both):
        assert total.item() == 3 and logs.tolist() == [1000, -1000] and nothing.tolist() == [-torch.inf] * 2


def test_gathered_rows_return_their_gradient(on_ranks):
    whole = torch.randn(6, 3, dtype=DOUBLE)
    weights = torch.randn(2, 6, 3, dtype=DOUBLE)  # each rank's loss reads all rows in its own way

    def gradient():
        rows = mine(whole).clone().requires_grad_()
        gathered = gather(rows)
        assert torch.equal(gathered, whole)
        (gathered.square() * weights[rank()]).sum().backward()
        return rows.grad

    torch.testing.assert_close(torch.cat(on_ranks(gradient)), 2 * whole * weights.sum(0))


def test_koleo_finds_neighbours_on_other_ranks(on_ranks):
    torch.manual_seed(0)
    whole = torch.randn(6, 3, dtype=DOUBLE)
    whole[3] = whole[0] + 0.01  # the nearest of the first rank's first token is the second rank's first

    def loss_and_gradient():
        tokens = mine(whole).clone().requires_grad_()
        loss = koleo_loss(tokens)
        loss.backward()
        return loss.detach(), tokens.grad / 2  # gradients are averaged over ranks

    tokens = whole.clone().requires_grad_()
    alone = koleo_loss(tokens)
    alone.backward()
    losses, gradients = zip(*on_ranks(loss_and_gradient), strict=True)
    torch.testing.assert_close(sum(losses) / 2, alone.detach())
    torch.testing.assert_close(torch.cat(gradients), tokens.grad)


def test_centres_are_those_of_all_tokens(on_ranks):
    torch.manual_seed(0)
    tokens, prototypes = torch.randn(7, 4, dtype=DOUBLE), torch.randn(5, 4, dtype=DOUBLE)

    def centres(tokens):
        running = SoftmaxCentering(5).double()
        running(tokens, prototypes, 0.04)
        running.update()
        return running.centre, SinkhornKnopp()(tokens, prototypes, 0.5)

    expected = centres(tokens)
    for share in ((4, 3), (7, 0)):  # ranks with unequally many masked tokens, and one with none
        for found in on_ranks(lambda share=share: centres(tokens.split(share)[rank()])):
            torch.testing.assert_close(found, expected)
