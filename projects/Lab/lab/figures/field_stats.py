"""Statistics of the position field: smoothness, number of directions, and the distance between two fields.

Fields are (h, w, D). The mean over cells is subtracted, except for the plain relative distance, because it does not
distinguish positions.
"""

import torch
import torch.nn.functional as F
from scipy.fft import dctn
from torch import Tensor

from lab.figures.field_pictures import neighbour_similarity
from pretrain.errors import UserError
from pretrain.models.pos_embed import sincos_field
from pretrain.models.weights import read_backbone, resize_field


def read_field(path) -> Tensor:
    """The field (h, w, D) float32 of an export, a training state (its teacher) or public weights.

    Raises:
        UserError: the file cannot be read, or is not a plain ViT with absolute positions.
    """
    file = read_backbone(path)
    if file.field_size is None:
        raise UserError(f"{path} has no absolute position embeddings, so no field; give a backbone that has them")
    return file.state["pos_embed"][0].unflatten(0, file.field_size)


def field_stats(field: Tensor) -> dict[str, float]:
    """Statistics of one field.

    neighbour_similarity: mean cosine of adjacent cells: about 0 in noise, near 1 in a smooth field.
    median_frequency: half of the variance is at or below it, in cycles per image side; 0.4 h in noise of h x h.
    three_components_percent: variance explained by the first three principal components.
    mean_percent: fraction of the squared norm that is due to the mean over cells.
    """
    cells = field.double().flatten(0, 1)
    centred = cells - cells.mean(0)
    variances = torch.linalg.svdvals(centred).square()
    return {
        "neighbour_similarity": neighbour_similarity(field[None]),
        "median_frequency": median_frequency(field),
        "three_components_percent": 100 * (variances[:3].sum() / variances.sum().clamp_min(1e-300)).item(),
        "mean_percent": 100 * (1 - variances.sum() / cells.square().sum().clamp_min(1e-300)).item(),
    }


def reference_stats(size: tuple[int, int], dim: int) -> dict[str, dict[str, float]]:
    """`field_stats` of two reference fields of this shape: noise, and sine-cosine."""
    noise = torch.randn(*size, dim, generator=torch.Generator().manual_seed(0))
    sincos = sincos_field(*size, dim - dim % 4)[0].unflatten(0, size)
    return {"noise": field_stats(noise), "sincos": field_stats(sincos)}


def spectrum(field: Tensor) -> tuple[Tensor, Tensor]:
    """Variance of a field by frequency -> frequencies, in cycles per image side, ascending, and fractions of variance.

    By cosine transform (DCT-II), whose component k along a side has k half waves; unlike a Fourier transform it does
    not see a jump between opposite borders. A component's frequency is |(fx, fy)|.
    """
    height, width = field.shape[:2]
    waves = torch.from_numpy(dctn((field.double() - field.double().mean((0, 1))).numpy(), axes=(0, 1), norm="ortho"))
    power = waves.square().sum(-1).flatten()
    frequency = torch.hypot(*torch.meshgrid(torch.arange(height) / 2, torch.arange(width) / 2, indexing="ij")).flatten()
    order = frequency.argsort()
    return frequency[order], power[order] / power.sum().clamp_min(1e-300)


def median_frequency(field: Tensor) -> float:
    """The frequency at or below which half of the variance is, in cycles per image side; see `spectrum`."""
    frequency, share = spectrum(field)
    return frequency[min(int(torch.searchsorted(share.cumsum(0), 0.5)), len(frequency) - 1)].item()


def compare_fields(first: Tensor, second: Tensor) -> dict[str, float]:
    """Distance between two fields; if their sizes differ, both are interpolated (bicubic) to the finer grid.

    cka: unbiased (Song et al. 2012) linear CKA (Kornblith et al. 2019) of the cells: 1 for fields that differ by a
    rotation of channels and a factor, about 0 for unrelated fields.
    relative_distance: |A - B| / |A| by channel, if both have equally many; sqrt(2) for two independent noises.
    """
    first, second = (field.double() for field in on_finer_grid(first, second))
    found = {"cka": linear_cka(first.flatten(0, 1), second.flatten(0, 1))}
    if first.shape == second.shape:
        found["relative_distance"] = ((first - second).norm() / first.norm().clamp_min(1e-300)).item()
    return found


def on_finer_grid(*fields: Tensor) -> list[Tensor]:
    """Interpolate fields (h, w, D), bicubic, to the cells of the finest of their grids -> each (H, W, D)."""
    size = tuple(max(field.shape[side] for field in fields) for side in (0, 1))
    read = []
    for field in fields:
        old = tuple(field.shape[:2])
        resized = field if old == size else resize_field(field.flatten(0, 1)[None], old, size)[0].unflatten(0, size)
        read.append(resized)
    return read


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Unbiased linear CKA of n > 3 vectors each, (n, D) and (n, E).

    The biased estimate is about D / (n + D) for independent noise, 0.8 for ViT-B's 14 x 14 positions, and useless here.
    """
    grams = []
    for vectors in (x.double(), y.double()):
        centred = vectors - vectors.mean(0)
        gram = F.normalize(centred.flatten(), dim=0).view_as(centred)
        grams.append((gram @ gram.T).fill_diagonal_(0))
    cross, first, second = _hsic(*grams), _hsic(grams[0], grams[0]), _hsic(grams[1], grams[1])
    return (cross / (first * second).clamp_min(1e-300).sqrt()).item()


def _hsic(k: Tensor, m: Tensor) -> Tensor:
    """Song et al. (2012), Eq. 5, of two Gram matrices (n, n) with zero diagonals, up to the factor n (n - 3)."""
    n = len(k)
    sums = k.sum() * m.sum() / ((n - 1) * (n - 2))
    return (k * m).sum() + sums - 2 / (n - 2) * (k.sum(0) @ m.sum(0))
