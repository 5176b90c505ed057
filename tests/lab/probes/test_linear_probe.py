"""Classifiers trained together are what each would be alone."""

import pytest
import torch
import torch.nn.functional as F

from lab.probes.feature_cache import Features
from lab.probes.linear_probe import Probes, Setting, best_by_features, evaluate_probes, sweep, train_probes
from pretrain.errors import UserError


def planted(count: int, seed: int, views: int = 1, noise: float = 0.5) -> Features:
    """Four layers of 8 channels; only the third from the end knows the class, one of 3. Image 1 is broken."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    values = noise * torch.randn(views, count, 1, 4, 8, generator=g)
    values[:, torch.arange(count), 0, 1, labels] += 3
    rows = torch.tensor([i for i in range(count) if i != 1])
    values[:, 1] = 1e4
    return Features(values.half(), ("patch",), rows, labels[rows])


def test_the_layers_that_know_are_found():
    settings = sweep(["patch"], lrs=[0.1, 1.0], weight_decays=[0.0])
    probes = train_probes(planted(90, 0), 3, settings, epochs=10, batch_size=32)
    results = evaluate_probes(probes, planted(60, 1))
    best = best_by_features(results)
    assert len(results) == 8 and set(best) == {"patch_last", "patch_last4"}
    assert best["patch_last4"].top1 > 95 and best["patch_last"].top1 < 60
    assert all(result.top5 == 100 for result in results)  # of three classes


@pytest.mark.parametrize("batch_norm", [True, False])
def test_one_of_a_sweep_is_what_it_is_alone_by_the_optimizers_formula(batch_norm):
    """SGD with Nesterov momentum and a cosine, written out for one classifier, from the same start and batches."""
    train = planted(40, 0, views=2)
    settings = sweep(["patch"], (1, 2), (batch_norm,), (0.3, 2.0), (0.0, 0.05))
    probes = train_probes(train, 3, settings, epochs=3, batch_size=16, seed=4)
    start = train_probes(train, 3, settings, epochs=0, batch_size=16, seed=4)
    place = probes.settings.index(Setting("patch", 2, batch_norm, 2.0, 0.05))
    weight, bias = (start.get_parameter(f"heads.1.heads.{place - 4}.{n}").detach().double() for n in ("weight", "bias"))
    momenta, step, steps = [torch.zeros_like(weight), torch.zeros_like(bias)], 0, 6
    with torch.random.fork_rng():
        torch.manual_seed(4)
        Probes(settings, 8, 3)  # draws what the start drew
        orders = [torch.randperm(39) for _ in range(3)]
    for epoch, order in enumerate(orders):
        for which in order[:32].split(16):
            lr = 2.0 * 16 / 256 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item()) / 2
            x = train.select("patch", 2, which, epoch).double()
            if batch_norm:
                x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-6).sqrt()
            error = ((x @ weight.T + bias).softmax(1) - F.one_hot(train.labels[which], 3)) / 16
            for i, (value, gradient) in enumerate(((weight, error.T @ x), (bias, error.sum(0)))):
                gradient = gradient + 0.05 * value
                momenta[i] = 0.9 * momenta[i] + gradient
                value -= lr * (gradient + 0.9 * momenta[i])
            step += 1
    trained = probes.get_parameter(f"heads.1.heads.{place - 4}.weight")
    torch.testing.assert_close(trained.double(), weight, atol=1e-4, rtol=1e-4)
    assert (weight - start.get_parameter(f"heads.1.heads.{place - 4}.weight").double()).abs().max() > 0.05


def test_accuracy_is_counted_by_hand():
    train, val = planted(30, 0), planted(20, 1, noise=3.0)
    probes = train_probes(train, 3, [Setting("patch", 4, False, 1.0, 0.0)], epochs=4, batch_size=8)
    head = probes.heads[0].heads[0]
    right = sum(
        int((head.weight @ val.select("patch", 4, [i])[0] + head.bias).argmax() == label)
        for i, label in enumerate(val.labels)
    )
    (result,) = evaluate_probes(probes, val, batch_size=7)
    assert result.top1 == pytest.approx(100 * right / 19) and 0 < right < 19


def test_a_classifier_that_diverged_is_right_about_nothing_and_harms_no_other():
    train, val = planted(30, 0), planted(20, 1)
    fine, wild = Setting("patch", 4, False, 1.0, 0.0), Setting("patch", 4, False, 1e30, 1.0)
    alone = evaluate_probes(train_probes(train, 3, [fine], epochs=6, batch_size=8), val)
    both = evaluate_probes(train_probes(train, 3, [fine, wild], epochs=6, batch_size=8), val)
    assert both[1].top1 == both[1].top5 == 0
    assert both[0].top1 > 90 and alone[0].top1 > 90
    assert best_by_features(both)["patch_last4"].setting == fine


def test_the_same_seed_gives_the_same_classifiers_and_leaves_torchs_generator_alone():
    settings, state = sweep(["patch"], lrs=[0.1]), torch.get_rng_state()
    a, b, c = (train_probes(planted(30, 0), 3, settings, epochs=1, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    for x, y, z in zip(a.parameters(), b.parameters(), c.parameters(), strict=True):
        assert torch.equal(x, y) and not torch.equal(x, z)


def test_one_image_is_too_few():
    features = planted(30, 0)
    one = Features(features.values, ("patch",), features.rows[:1], features.labels[:1])
    with pytest.raises(UserError, match="two or more"):
        train_probes(one, 3, sweep(["patch"]))
