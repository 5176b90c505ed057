"""What a predictor makes of places: how alike stochastic positions are (StoP's Fig. 5), and predictions (Fig. 6)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.figures.field_pictures import cell_at
from stop.jepa import JEPA
from stop.predictor import Predictor

Point = tuple[float, float]
BLOCK_SHARE = 0.175  # of the image: the middle of the target blocks' range of areas


@torch.no_grad()
def position_similarity(predictor: Predictor, query: Point, draws: int = 1, noise: bool = True) -> Tensor:
    """Cosine of `draws` embeddings of one position, psi + A n (Eq. 5), with all positions psi -> (draws, H, W).

    query: (x, y) in [0, 1]. noise: False, or a predictor without, leaves psi itself.
    """
    positions = predictor.positions(predictor.field_size)
    row, column = cell_at(query, predictor.field_size)
    embedding = positions[row * predictor.field_size[1] + column].expand(draws, -1)
    if noise and predictor.noise_std > 0:
        embedding = embedding + predictor.position_noise(embedding)
    cosines = F.normalize(embedding, dim=-1) @ F.normalize(positions, dim=-1).T
    return cosines.unflatten(1, predictor.field_size)


@torch.no_grad()
def noise_of_positions(predictor: Predictor, draws: int = 64) -> dict[str, float]:
    """What the noise does to places, in the mean over all positions, `draws` draws each.

    cosine: of a position with the same without noise; 1 without noise. displacement: patches from a position to the one
    that is most like it; 0 where the noise hides no place.
    """
    height, width = predictor.field_size
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).float()
    cosine = displacement = 0.0
    for index, (row, column) in enumerate(places.tolist()):
        query = (column + 0.5) / width, (row + 0.5) / height
        cosines = position_similarity(predictor, query, draws).flatten(1)
        cosine += cosines[:, index].mean().item()
        displacement += (places[cosines.argmax(1)] - places[index]).norm(dim=-1).mean().item()
    return {"cosine": cosine / len(places), "displacement": displacement / len(places)}


def target_block(grid: tuple[int, int], query: Point) -> tuple[Tensor, Tensor, int]:
    """A square block of about `BLOCK_SHARE` of the grid around a point, moved so that it lies inside.

    -> indices (h, w) of its patches, of all others (N_c,), and the place of the query's patch in the flattened block.
    """
    side = max(1, round((BLOCK_SHARE * grid[0] * grid[1]) ** 0.5))
    row, column = cell_at(query, grid)
    top, left = (min(max(at - side // 2, 0), n - side) for at, n in zip((row, column), grid, strict=True))
    patches = torch.arange(grid[0] * grid[1]).view(grid)
    block = patches[top : top + side, left : left + side]
    visible = torch.ones(grid, dtype=torch.bool)
    visible[top : top + side, left : left + side] = False
    return block, patches[visible], (row - top) * side + column - left


@torch.no_grad()
def prediction_similarity(method: JEPA, image: Tensor, query: Point) -> Tensor:
    """Cosine of what is predicted for the patch at `query` with the teacher's features of all patches -> (H, W).

    Predicted is one block around the patch, from all patches outside it; one draw of the noise, if there is any.

    Args:
        image: (3, H*p, W*p), normalised.
        query: (x, y) in [0, 1].
    """
    grid = method.student["backbone"].grid(image)
    block, context, place = target_block(grid, query)
    predicted = method.predict(image[None], [context[None]], block[None, None]).flatten(0, 3)[place]
    features = F.layer_norm(method.teacher_features(image[None])[0], predicted.shape)
    return F.cosine_similarity(predicted[None], features, dim=-1).unflatten(0, grid)


def nearness(similarity: Tensor, query: Point) -> float:
    """How much a similarity map (H, W) is one of nearness: Pearson's correlation with minus the distance to `query`."""
    height, width = similarity.shape
    row, column = cell_at(query, (height, width))
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    distances = (places - torch.tensor([row, column])).float().norm(dim=-1)
    return torch.corrcoef(torch.stack([similarity.flatten().float(), -distances]))[0, 1].item()
