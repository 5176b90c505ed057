"""Visualise the position field: its principal components, and the similarity of its positions."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cropfield.canvas import colorize, column, draw_dot, enlarge, framed, row, text_line
from lab.figures.pca import colors
from pretrain.models.pos_embed import as_grid

QUERIES = ((0.15, 0.15), (0.5, 0.5), (0.8, 0.3), (0.3, 0.8))


def field_picture(pos_embed: Tensor, side: int = 240) -> np.ndarray:
    """The field (1, h*w, D) in the colours of its own principal components, one square for each cell.

    Colours of different fields are not comparable: a trained field is nearly grey in an untrained one's components.
    """
    grid = as_grid(pos_embed.detach())
    return enlarge(colors([grid])[0].numpy(), max(1, side // grid.shape[0]))


def similarity_map(pos_embed: Tensor, query: tuple[float, float]) -> Tensor:
    """Cosine similarity of the position at `query` (x, y in [0, 1]) with all positions of the field -> (h, w).

    The field's mean is subtracted first, because it does not distinguish positions.
    """
    grid = as_grid(pos_embed.detach()).double()
    centred = F.normalize(grid - grid.mean((0, 1)), dim=-1)
    row, column = cell_at(query, grid.shape[:2])
    return centred @ centred[row, column]


def similarity_picture(pos_embed: Tensor, query: tuple[float, float], side: int = 160) -> np.ndarray:
    """`similarity_map` on a fixed scale: dark for -1, light for +1; the query is a dot."""
    cosines = similarity_map(pos_embed, query)
    factor = max(1, side // len(cosines))
    picture = enlarge(colorize(cosines.numpy(), -1, 1, cv2.COLORMAP_VIRIDIS), factor)
    row, column = cell_at(query, cosines.shape)
    draw_dot(picture, ((column + 0.5) * factor, (row + 0.5) * factor), (255, 80, 80), radius=3)
    return picture


def fields_picture(fields: dict[str, Tensor], side: int = 200) -> np.ndarray:
    """One row for each field (h, w, D), below its name: its colours, then `similarity_picture` of four positions."""
    rows = []
    for name, field in fields.items():
        tiles = [field_picture(field[None], side=side)]
        tiles += [similarity_picture(field[None], query, side) for query in QUERIES]
        pictures = row(tiles)
        rows.append(column([text_line(name, pictures.shape[1], 3, 15, height=24), pictures], gap=0))
    return framed(rows)


def cell_at(point: tuple[float, float], grid: tuple[int, int]) -> tuple[int, int]:
    """(row, column) of the cell that contains (x, y) in [0, 1]."""
    rows, columns = grid
    return min(int(point[1] * rows), rows - 1), min(int(point[0] * columns), columns - 1)


def neighbour_similarity(pos_embed: Tensor) -> float:
    """Mean cosine of adjacent cells, after subtracting the field's mean: near 0 for noise, near 1 for a smooth
    field.
    """
    grid = as_grid(pos_embed.detach()).double()
    unit = F.normalize(grid - grid.mean((0, 1)), dim=-1)
    beside = (unit[:, 1:] * unit[:, :-1]).sum(-1).flatten()
    below = (unit[1:] * unit[:-1]).sum(-1).flatten()
    return torch.cat([beside, below]).mean().item()
