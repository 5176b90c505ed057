"""Stochastic positional embeddings, in float64: what the tokens are, and what their noise is."""

import pytest
import torch

from pretrain.errors import UserError
from stop.predictor import Predictor

BACKBONE, WIDTH = 8, 12


def make_predictor(**changes) -> Predictor:
    torch.manual_seed(0)
    predictor = Predictor(
        BACKBONE, WIDTH, depth=2, num_heads=2, field_size=4, **{"noise_std": 0.25, **changes}
    ).double()
    with torch.no_grad():
        for name, parameter in predictor.named_parameters():
            if name != "pos_embed":
                parameter.add_(0.3 * torch.randn_like(parameter))
    return predictor


def inputs(images=2, blocks=3):
    g = torch.Generator().manual_seed(1)
    context = torch.randn(images, 5, BACKBONE, dtype=torch.float64, generator=g)
    patches = torch.stack([torch.randperm(16, generator=g) for _ in range(images)])
    targets = torch.randint(0, 16, (images, blocks, 4), generator=g)
    return context, patches[:, :5], targets, (4, 4)


def zero(weight):
    with torch.no_grad():
        weight.zero_()


def test_what_a_predictor_begins_as():
    """Tables 9 to 12 with ViT-B; weights and m truncated normal of std .02, positions sine-cosine and fixed."""
    torch.manual_seed(0)
    predictor = Predictor(768)
    assert (len(predictor.blocks), predictor.field_size, predictor.noise_std) == (6, (14, 14), 0)
    assert predictor.norm.eps == 1e-6 and not predictor.pos_embed.requires_grad
    for weight in (predictor.embed.weight, predictor.proj.weight, predictor.mask_token):
        assert weight.std().item() == pytest.approx(0.02, rel=0.15) and weight.abs().max() < 0.2
    assert not predictor.proj.bias.any()


def test_positions_are_the_embeddings_themselves_on_their_own_grid():
    predictor = make_predictor()
    assert torch.equal(predictor.positions((4, 4)), predictor.pos_embed[0].float())
    assert predictor.positions((3, 7)).shape == (21, WIDTH)
    assert not predictor.pos_embed.requires_grad
    learned = make_predictor(learned_positions=True).pos_embed
    assert learned.requires_grad and learned.std().item() == pytest.approx(0.02, rel=0.2)


def test_without_a_masked_tokens_are_position_and_bias_in_every_draw():
    predictor = make_predictor(noise_std=3.0)
    zero(predictor.embed.weight)
    positions = predictor.positions((4, 4)).double()
    for _ in range(20):
        assert torch.equal(predictor.masked_tokens(positions), positions + predictor.mask_token)


@pytest.mark.parametrize(("convention", "std"), [("std", 0.25), ("variance", 0.5)])
@pytest.mark.parametrize("covariance", ["learned", "fixed", "untied"])
def test_noise_is_the_drawn_numbers_through_a(convention, std, covariance, monkeypatch):
    """Exact: the masked token is psi + m + std A n for any n, so its covariance is std^2 A A^T for a unit normal n."""
    predictor = make_predictor(noise_convention=convention, covariance=covariance)
    drawn = []

    def draw(shape):
        drawn.append(torch.randn(shape, dtype=torch.float64))
        return drawn[-1]

    monkeypatch.setattr(predictor, "draw", draw)
    positions = torch.randn(2, 3, 4, WIDTH, dtype=torch.float64)
    noise = predictor.masked_tokens(positions) - positions - predictor.mask_token
    a = {"learned": predictor.embed.weight, "fixed": torch.eye(WIDTH, dtype=torch.float64)}.get(covariance)
    a = predictor.untied.weight if a is None else a
    assert len(drawn) == 1 and drawn[0].shape == (2, 3, 4, a.shape[1])  # fresh for each token of each block
    torch.testing.assert_close(noise, std * drawn[0] @ a.T, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize(("convention", "factor"), [("std", 0.25**2), ("variance", 0.25)])
def test_covariance_of_masked_positions(convention, factor):
    """The whole matrix of 2 blocks x 2 tokens: sigma^2 A A^T (or sigma A A^T) on the diagonal, nothing beside it."""
    predictor = make_predictor(noise_convention=convention)
    n = 40_000
    with torch.no_grad():
        tokens = predictor.masked_tokens(torch.zeros(n, 2, 2, WIDTH, dtype=torch.float64)) - predictor.mask_token
        one = factor * predictor.embed.weight @ predictor.embed.weight.T
    flat = tokens.flatten(1)
    expected = torch.block_diag(*[one] * 4)
    spread = expected.diagonal().sqrt()
    error = (flat.T @ flat / n - expected) / spread[:, None] / spread
    assert error.abs().max() < 6 * (2 / n) ** 0.5  # six standard errors of a variance
    assert (flat.mean(0) / spread).abs().max() < 6 / n**0.5


def test_noise_is_on_the_tokens_that_it_is_asked_for():
    context, patches, _, _ = inputs()
    for noise_on, noisy in (("masked", "m"), ("context", "c"), ("both", "cm")):
        still, moved = make_predictor(noise_std=0.0), make_predictor(noise_on=noise_on)
        positions = still.positions((4, 4))[patches]
        same_context = torch.equal(still.context_tokens(context, positions), moved.context_tokens(context, positions))
        same_masked = torch.equal(still.masked_tokens(positions), moved.masked_tokens(positions))
        assert same_context == ("c" not in noisy) and same_masked == ("m" not in noisy)


def test_without_noise_no_random_number_is_drawn():
    predictor, state = make_predictor(noise_std=0.0), torch.get_rng_state()
    assert torch.equal(predictor(*inputs()), predictor(*inputs()))
    make_predictor(noise_std=0.0)
    before = torch.get_rng_state()
    predictor(*inputs())
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(make_predictor()(*inputs()), predictor(*inputs()))
    torch.set_rng_state(state)


def test_blocks_are_predicted_on_their_own():
    predictor = make_predictor(noise_std=0.0)
    context, patches, targets, grid = inputs()
    together = predictor(context, patches, targets, grid)
    assert together.shape == (2, 3, 4, BACKBONE)
    for block in range(3):
        alone = predictor(context, patches, targets[:, block : block + 1], grid)
        torch.testing.assert_close(together[:, block : block + 1], alone)
    shuffled = predictor(context, patches, targets.flip(2), grid)  # a token is known by its position alone
    torch.testing.assert_close(shuffled, together.flip(2))


def test_a_is_one_parameter_with_gradient_from_both_uses():
    context, patches, targets, grid = inputs()
    predictor = make_predictor()
    names = [name for name, p in predictor.named_parameters() if p.shape == (WIDTH, BACKBONE)]
    assert names == ["embed.weight"]
    positions = predictor.positions(grid)
    (from_noise,) = torch.autograd.grad(
        predictor.masked_tokens(positions[targets]).square().sum(), predictor.embed.weight
    )
    (from_context,) = torch.autograd.grad(
        predictor.context_tokens(context, positions[patches]).square().sum(), predictor.embed.weight
    )
    assert from_noise.abs().min() > 0 and from_context.abs().min() > 0


def antithetic_gradient(predictor, monkeypatch, wanted):
    """d J / d wanted of the squared error, averaged over a draw and its negative, at a random target."""
    context, patches, targets, grid = inputs()
    truth = torch.randn(2, 3, 4, BACKBONE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    total = 0
    for sign in (1, -1):
        g = torch.Generator().manual_seed(9)
        draw = lambda shape, s=sign, g=g: s * torch.randn(shape, dtype=torch.float64, generator=g)  # noqa: E731
        monkeypatch.setattr(predictor, "draw", draw)
        loss = (predictor(context, patches, targets, grid) - truth).square().sum()
        total = total + torch.autograd.grad(loss, wanted)[0] / 2
    return total


def test_proposition_3_1(monkeypatch):
    """At A = 0 the tied loss has the deterministic loss's gradient; untied, the noise's own matrix has none at all."""
    deterministic, tied = make_predictor(noise_std=0.0), make_predictor(noise_std=2.0)
    untied = make_predictor(noise_std=2.0, covariance="untied")
    untied.load_state_dict({**deterministic.state_dict(), "untied.weight": untied.untied.weight})
    for predictor in (deterministic, tied):
        zero(predictor.embed.weight)
    expected = antithetic_gradient(deterministic, monkeypatch, deterministic.embed.weight)
    found = antithetic_gradient(tied, monkeypatch, tied.embed.weight)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)

    zero(untied.untied.weight)
    gone = antithetic_gradient(untied, monkeypatch, untied.untied.weight)
    kept = antithetic_gradient(untied, monkeypatch, untied.embed.weight)
    assert gone.abs().max() < 1e-12 < kept.abs().max()


def test_proposition_3_2():
    """In one dimension: what best predicts y(x) from x + n is y smoothed with n's Gaussian, if x is flat; else not."""
    predictor = Predictor(1, 4, depth=1, num_heads=1, noise_std=1.0).double()
    with torch.no_grad():
        predictor.embed.weight.copy_(torch.eye(4, 1))
        predictor.mask_token.zero_()
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(1)  # not the seed of the noise

    def y(x):
        return torch.sin(1.5 * x) + (x > 0.5)

    def best_prediction(x):
        """Mean of y over the draws whose noisy position falls near each point of [-2, 2]."""
        with torch.no_grad():
            noisy = predictor.masked_tokens(torch.stack([x, *torch.zeros(3, len(x))], dim=1))[:, 0]
        bins = ((noisy + 2.1) / 0.2).floor().long()
        inside = (bins >= 0) & (bins <= 20)
        sums = torch.zeros(21, dtype=torch.float64).index_add(0, bins[inside], y(x[inside]))
        return sums / torch.bincount(bins[inside], minlength=21)

    points = torch.linspace(-2, 2, 21, dtype=torch.float64)
    grid = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (grid - points[:, None]).square()) / (2 * torch.pi) ** 0.5
    smoothed = torch.trapezoid(y(grid) * kernel, grid, dim=1)
    flat = 12 * torch.rand(400_000, dtype=torch.float64, generator=g) - 6
    normal = torch.randn(100_000, dtype=torch.float64, generator=g)
    torch.testing.assert_close(best_prediction(flat), smoothed, atol=0.04, rtol=0)
    assert (best_prediction(normal) - smoothed).abs().max() > 0.2


@pytest.mark.parametrize("noise_std", [0.0, 0.5])
def test_a_shared_bias_takes_the_place_of_m(noise_std):
    """c = A s + b + psi and m = A n + b + psi, every parameter used."""
    predictor = make_predictor(shared_bias=True, noise_std=noise_std)
    noise, (context, patches, targets, grid) = torch.randn(2, 3, 4, BACKBONE, dtype=torch.float64), inputs()
    predictor.draw = lambda shape: noise
    psi, embed = predictor.positions(grid), predictor.embed
    masked = predictor.masked_tokens(psi[targets])
    torch.testing.assert_close(masked, noise_std * noise @ embed.weight.T + embed.bias + psi[targets])
    seen = predictor.context_tokens(context, psi[patches])
    torch.testing.assert_close(seen, context @ embed.weight.T + embed.bias + psi[patches])
    predictor(context, patches, targets, grid).square().sum().backward()
    trained = {name: p for name, p in predictor.named_parameters() if p.requires_grad}
    assert "mask_token" not in trained and all(p.grad is not None and p.grad.any() for p in trained.values())


def test_a_matrix_for_noise_that_there_is_not_is_refused():
    """Several processes would wait for its gradient."""
    with pytest.raises(UserError, match="covariance: 'untied'.* noise_std is 0"):
        make_predictor(covariance="untied", noise_std=0.0)


def test_unknown_switches_are_refused():
    for wrong in (
        {"noise_on": "targets"},
        {"covariance": "diagonal"},
        {"noise_convention": "sigma"},
        {"noise_std": -1},
    ):
        with pytest.raises(UserError, match=f"model.predictor.{next(iter(wrong))}"):
            make_predictor(**wrong)
