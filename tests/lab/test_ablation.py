"""What a comparison may claim."""

import math

import numpy as np
import pytest
from scipy import stats

from lab.ablation import NO_CONFIG, PRETRAINED, PROBES, SCRATCH, UNTRAINED, Figure, Figures, Interval, plot


def figures(task: str = "frozen", **values: list[float]) -> Figures:
    """a=[...], a0=[...]: box AP of pretraining a, and of its untrained twin, by seed."""
    found = []
    for name, aps in values.items():
        start = UNTRAINED if name.endswith("0") else PRETRAINED
        found += [Figure(name.rstrip("0"), start, task, seed, ap) for seed, ap in enumerate(aps, 1)]
    return Figures(found)


def test_the_interval_is_scipys():
    values = np.random.default_rng(0).normal(3, 2, 5)
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    interval = Interval.of(values)
    assert interval.mean - interval.half == pytest.approx(low) and interval.mean + interval.half == pytest.approx(high)


def test_a_mean_of_nearly_nothing_has_no_sign():
    assert str(Interval.of([-0.001])) == "0.00" and str(Interval(-0.004, 0.1, 2)) == "0.00 ± 0.10"


def test_one_seed_shows_nothing():
    assert Interval.of([3.0]).half == math.inf and not Interval.of([3.0]).above_zero
    assert "no order is claimed" in figures(a=[9], a0=[1], b=[5], b0=[1]).verdict("frozen")


def test_a_loss_is_told():
    found = figures(a=[1, 1.1, 1.2], a0=[3, 3.1, 3.2], b=[1, 1.1, 1.2], b0=[1, 1.2, 1.1])
    told = found.verdict("frozen")
    assert "no significant gain from pretraining for a, b (a is 2.00 ± 0.00 below its initial values), so no" in told


def test_one_config_is_compared_with_its_start_alone():
    found = figures(a=[9, 9.1, 9.2], a0=[1, 1, 1])
    assert found.verdict("frozen") == "frozen: pretraining gains over its initial values." and found.differences() == ""


def test_what_a_seed_does_to_both_cancels():
    found = figures(a=[11, 21, 31], a0=[1, 1, 1], b=[10, 20, 30], b0=[1, 1, 1])
    difference = found.difference(("a", PRETRAINED, "frozen"), ("b", PRETRAINED, "frozen"))
    assert difference.mean == 1 and difference.half == pytest.approx(0)
    assert Interval.of([11, 21, 31]).half > 20


def test_differences_are_of_the_seeds_that_both_have():
    found = figures(a=[11, 21], b=[10])
    assert found.difference(("a", PRETRAINED, "frozen"), ("b", PRETRAINED, "frozen")).count == 1
    assert found.gain("a", "frozen") is None


def test_an_order_needs_gains_and_a_difference():
    better, worse, twin = [30, 30.5, 31], [20, 20.5, 21], [5, 5.1, 5.2]
    assert "a is above b by 10.00 ± 0.00 box AP" in figures(a=better, a0=twin, b=worse, b0=twin).verdict("frozen")
    for probe in PROBES.values():
        assert "10.00 ± 0.00 points" in figures(probe, a=better, a0=twin, b=worse, b0=twin).verdict(probe)
    assert "b is above a" in figures(a=worse, a0=twin, b=better, b0=twin).verdict("frozen")
    assert "no significant difference between them" in figures(a=better, a0=twin, b=[20, 40, 31], b0=twin).verdict(
        "frozen"
    )
    # b gains nothing over its own start: a's lead may be the start's
    verdict = figures(a=better, a0=twin, b=worse, b0=[19, 20.7, 22]).verdict("frozen")
    assert "no significant gain from pretraining for b," in verdict and "above" not in verdict


def test_a_gain_over_scratch_needs_its_interval():
    found = figures(a=[30, 30.5, 31], b=[20, 20.5, 21])
    assert "scratch" not in found.verdict("frozen") + found.table()
    scratch = [Figure(NO_CONFIG, SCRATCH, "frozen", seed, ap) for seed, ap in enumerate([20, 20.6, 20.9], 1)]
    found = Figures([Figure(config, PRETRAINED, "frozen", seed, ap) for config in "ab" for seed, ap in
                     found.by_arm[config, PRETRAINED, "frozen"].items()] + scratch)  # fmt: skip
    assert found.configs == ["a", "b"]
    assert "Over training from scratch: a gains 10.00 ± 0.25 box AP; no significant gain for b." in found.verdict(
        "frozen"
    )
    assert found.table().splitlines()[-1].split("|")[2].strip() == SCRATCH


def test_table_and_plot_have_every_arm(tmp_path):
    found = figures(a=[30, 31], a0=[5, 5], b=[20, 22])
    assert found.table().count("| a ") == 3 and "30.50 ± " in found.table() and "–" in found.table()
    assert "a – b" in found.differences()
    plot(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
