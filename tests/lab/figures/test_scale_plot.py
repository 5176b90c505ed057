import cv2
import pytest

from lab.figures.scale_plot import scale_draws, write_plot


def test_draws_have_the_distributions_moments():
    """Beta(2, 5): mean 2/7, variance 10/392; uniform: 0.8^2/12."""
    beta, uniform = scale_draws("beta", 20_000), scale_draws("uniform", 20_000)
    assert beta.mean() == pytest.approx(0.2 + 0.8 * 2 / 7, abs=0.005)
    assert beta.var() == pytest.approx(0.64 * 10 / 392, rel=0.05)
    assert uniform.mean() == pytest.approx(0.6, abs=0.01) and uniform.var() == pytest.approx(0.64 / 12, rel=0.05)
    assert beta.min() >= 0.2 and beta.max() <= 1 and uniform.min() >= 0.2 and uniform.max() <= 1
    assert set(scale_draws("constant", 10)) == {1.0}


def test_the_plot_shows_the_three_of_table_4a(tmp_path):
    means = write_plot(tmp_path / "fig3.png")
    assert means.keys() == {"constant", "uniform", "beta"} and means["constant"] == 1
    assert cv2.imread(str(tmp_path / "fig3.png")).shape == (300, 900, 3)
