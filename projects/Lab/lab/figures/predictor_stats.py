"""How a predictor uses positions: similarity of stochastic positions (StoP's Fig. 5) and of predictions (Fig. 6)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lab.figures.field_pictures import cell_at
from stop.jepa import JEPA
from stop.predictor import Predictor

Point = tuple[float, float]
BLOCK_SHARE = 0.175  # fraction of the image, the middle of the target blocks' range


@torch.no_grad()
def position_similarity(predictor: Predictor, query: Point, draws: int = 1, noise: bool = True) -> Tensor:
    """Cosine of `draws` samples of one position, psi + A n (Eq. 5), with all positions psi -> (draws, H, W).

    query: (x, y) in [0, 1]. noise: False gives psi itself, as does a predictor without noise.
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
    """Effect of the noise on positions, averaged over all positions with `draws` samples each.

    cosine: between a position with and without noise; 1 without noise. displacement: distance in patches to the most
    similar position; 0 if the position can still be identified.
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
    """A square block of about `BLOCK_SHARE` of the grid around a point, shifted to stay inside.

    Returns indices (h, w) of its patches, of all others (N_c,), and the index of the query's patch in the flattened
    block.
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
    """Cosine of the prediction for the patch at `query` with the teacher's features of all patches -> (H, W).

    One block around the patch is predicted from all patches outside it, with one sample of the noise, if any.

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
    """How well distance explains a similarity map (H, W): Pearson's correlation with minus the distance to `query`."""
    height, width = similarity.shape
    row, column = cell_at(query, (height, width))
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    distances = (places - torch.tensor([row, column])).float().norm(dim=-1)
    return torch.corrcoef(torch.stack([similarity.flatten().float(), -distances]))[0, 1].item()
