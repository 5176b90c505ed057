import pytest
import torch

from lab.figures.field_pictures import (
    cell_at,
    field_picture,
    neighbour_similarity,
    similarity_map,
    similarity_picture,
)


@pytest.fixture
def smooth():
    """A field whose vectors turn slowly with their place."""
    y, x = torch.meshgrid(torch.linspace(0, 3, 12), torch.linspace(0, 3, 12), indexing="ij")
    return torch.stack([x.cos(), x.sin(), y.cos(), y.sin()], -1).reshape(1, 144, 4) + 5


def test_similarity_is_one_at_the_query_and_falls_with_distance(smooth):
    cosines = similarity_map(smooth, (0.1, 0.1))
    row, column = cell_at((0.1, 0.1), (12, 12))
    assert cosines[row, column] == pytest.approx(1)
    assert cosines.argmax() == row * 12 + column
    assert cosines[row, column] > cosines[4, 4] > cosines[11, 11]


def test_what_all_positions_share_does_not_count(smooth):
    torch.testing.assert_close(
        similarity_map(smooth, (0.4, 0.6)), similarity_map(smooth + 100, (0.4, 0.6)), atol=1e-3, rtol=0
    )


def test_neighbour_similarity_tells_a_smooth_field_from_noise(smooth):
    noise = torch.randn(1, 144, 64, generator=torch.Generator().manual_seed(0))
    assert neighbour_similarity(smooth) > 0.9
    assert abs(neighbour_similarity(noise)) < 0.1


def test_pictures_keep_cells_square(smooth):
    picture = field_picture(smooth, side=240)
    assert picture.shape == (240, 240, 3)
    assert (picture[:20, :20] == picture[0, 0]).all()
    assert similarity_picture(smooth, (0.5, 0.5), side=120).shape == (120, 120, 3)
