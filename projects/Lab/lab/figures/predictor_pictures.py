"""Visualise how a predictor uses positions, runs side by side, as in StoP's Figs. 5 and 6."""

import cv2
import numpy as np
from torch import Tensor

from cropfield.canvas import colorize, column, draw_box, draw_dot, fit, framed, row, text_line
from lab.figures.field_pictures import QUERIES, cell_at
from lab.figures.predictor_stats import position_similarity, target_block
from stop.predictor import Predictor

WHITE, RED = (255, 255, 255), (230, 30, 30)
Point = tuple[float, float]


def positions_picture(predictors: dict[str, Predictor], side: int = 200, draws: int = 256) -> np.ndarray:
    """One row for each of four positions: without noise, then for each run one draw and the mean of many.

    Maps show the cosine with all positions, from the lowest (dark) to the highest value (yellow), given below each.
    """
    first = next(iter(predictors.values()))
    titles = ["without noise"] + [f"{name}: {what}" for name in predictors for what in ("a draw", f"mean of {draws}")]
    rows = [_titles(titles, side)]
    for query in QUERIES:
        maps = [position_similarity(first, query, noise=False)[0]]
        for predictor in predictors.values():
            cosines = position_similarity(predictor, query, draws)
            maps += [cosines[0], cosines.mean(0)]
        rows.append(row([similarity_tile(cosines, query, side) for cosines in maps]))
    return framed(rows)


def predictions_picture(
    queries: list[tuple[np.ndarray, Point]], cosines: dict[str, list[Tensor]], side: int = 240
) -> np.ndarray:
    """One row for each query: the image with its predicted block black except for the query's patch, and a map for each
    run.

    A map is the softmax over all patches of their cosines with the prediction, in multiples of uniform, from its fifth
    percentile (dark), so that a few outliers do not turn the rest yellow, to its highest value (yellow).

    Args:
        queries: square images, uint8 (S, S, 3), each with a point (x, y) in [0, 1].
        cosines: by run, `prediction_similarity` (H, W) of each query; S is a multiple of H and W.
    """
    rows = [_titles(["query", *cosines], side)]
    for (image, query), *found in zip(queries, *cosines.values(), strict=True):
        masked = fit(masked_image(image, found[0].shape, query), side)
        tiles = [column([masked, text_line("", side, 0, 14)], gap=0)]
        for values in found:
            shares = values.flatten().softmax(0).view_as(values) * values.numel()
            tiles.append(similarity_tile(shares, query, side, 0.05, "x uniform"))
        rows.append(row(tiles))
    return framed(rows)


def masked_image(image: np.ndarray, grid: tuple[int, int], query: Point) -> np.ndarray:
    """The image (S, S, 3) with its predicted block in black and the patch at `query` outlined in white."""
    block, _, _ = target_block(grid, query)
    height, width = (length // n for length, n in zip(image.shape, grid, strict=False))
    (top, left), (bottom, right) = (divmod(int(i), grid[1]) for i in (block[0, 0], block[-1, -1]))
    masked = image.copy()
    masked[top * height : (bottom + 1) * height, left * width : (right + 1) * width] = 0
    y, x = cell_at(query, grid)
    outline = (x * width, y * height, (x + 1) * width - 1, (y + 1) * height - 1)
    draw_box(masked, outline, WHITE, thickness=max(1, width // 8))
    return masked


def similarity_tile(values: Tensor, query: Point, side: int, darkest: float = 0.0, unit: str = "") -> np.ndarray:
    """A map (H, W) -> (side + LINE, side, 3): one square for each patch, a dot at the query, and the range of values
    below.

    darkest: the fraction of patches clipped to the darkest colour.
    """
    low, high = values.quantile(darkest).item(), values.max().item()
    picture = colorize(values.numpy(), low, high, cv2.COLORMAP_VIRIDIS)
    picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_NEAREST)
    y, x = cell_at(query, tuple(values.shape))
    draw_dot(picture, ((x + 0.5) / values.shape[1] * side, (y + 0.5) / values.shape[0] * side), RED, radius=3)
    return column([picture, text_line(f"{low:.2f} to {high:.2f} {unit}", side, 1, 13)], gap=0)


def _titles(names: list[str], side: int) -> np.ndarray:
    return row([text_line(name, side, 2, 14) for name in names])
