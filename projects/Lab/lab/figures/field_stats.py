"""The position field in figures: how smooth it is, how few directions it needs, and how far two fields are apart.

Fields are (h, w, D). Except for the plain relative distance the mean over cells is taken off: what all positions share
tells no place from another.
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
    """The field (h, w, D) float32 of an export, a training state (its teacher's) or public weights.

    Raises:
        UserError: the file cannot be read, holds no plain ViT, or none with absolute positions.
    """
    file = read_backbone(path)
    if file.field_size is None:
        raise UserError(f"{path} has no absolute position embeddings, so no field; give a backbone that has them")
    return file.state["pos_embed"][0].unflatten(0, file.field_size)


def field_stats(field: Tensor) -> dict[str, float]:
    """Figures of one field.

    neighbour_similarity: mean cosine of adjacent cells: about 0 in noise, near 1 in a smooth field.
    median_frequency: half of the variance lies at or below it, in cycles per image side; 0.4 h in noise of h x h.
    three_components_percent: share of the variance in the three directions that become red, green and blue.
    mean_percent: share of the squared length that is the mean of all cells, which tells no place.
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
    """`field_stats` of two fields of this shape that bound what is found: noise, and the sine-cosine field."""
    noise = torch.randn(*size, dim, generator=torch.Generator().manual_seed(0))
    sincos = sincos_field(*size, dim - dim % 4)[0].unflatten(0, size)
    return {"noise": field_stats(noise), "sincos": field_stats(sincos)}


def spectrum(field: Tensor) -> tuple[Tensor, Tensor]:
    """Where the variance of a field lies -> frequencies, in cycles per image side, ascending, and shares of variance.

    By cosine transform (DCT-II), whose component k along a side is k half waves: unlike a Fourier transform it does not
    take the step from one border to the opposite one for high frequencies. A component's frequency is |(fx, fy)|.
    """
    height, width = field.shape[:2]
    waves = torch.from_numpy(dctn((field.double() - field.double().mean((0, 1))).numpy(), axes=(0, 1), norm="ortho"))
    power = waves.square().sum(-1).flatten()
    frequency = torch.hypot(*torch.meshgrid(torch.arange(height) / 2, torch.arange(width) / 2, indexing="ij")).flatten()
    order = frequency.argsort()
    return frequency[order], power[order] / power.sum().clamp_min(1e-300)


def median_frequency(field: Tensor) -> float:
    """The frequency at or below which half of the variance lies, in cycles per image side; see `spectrum`."""
    frequency, share = spectrum(field)
    return frequency[min(int(torch.searchsorted(share.cumsum(0), 0.5)), len(frequency) - 1)].item()


def compare_fields(first: Tensor, second: Tensor) -> dict[str, float]:
    """How far two fields are apart; where their sizes differ both are read, bicubic, on the finer grid.

    cka: linear CKA of the cells (Kornblith et al. 2019) without its bias (Song et al. 2012): 1 for fields that differ
        by a rotation of channels and a factor, about 0 for fields that have nothing to do with each other.
    relative_distance: |A - B| / |A|, channel by channel, where both have as many channels; sqrt(2) for two noises.
    """
    first, second = (field.double() for field in on_finer_grid(first, second))
    found = {"cka": linear_cka(first.flatten(0, 1), second.flatten(0, 1))}
    if first.shape == second.shape:
        found["relative_distance"] = ((first - second).norm() / first.norm().clamp_min(1e-300)).item()
    return found


def on_finer_grid(*fields: Tensor) -> list[Tensor]:
    """Fields (h, w, D) read, bicubic, at the cells of the finest of their grids -> each (H, W, D)."""
    size = tuple(max(field.shape[side] for field in fields) for side in (0, 1))
    read = []
    for field in fields:
        old = tuple(field.shape[:2])
        resized = field if old == size else resize_field(field.flatten(0, 1)[None], old, size)[0].unflatten(0, size)
        read.append(resized)
    return read


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Unbiased linear CKA of n > 3 vectors each, (n, D) and (n, E).

    The plain estimate is about D / (n + D) for independent noise, 0.8 for ViT-B's 14 x 14 positions: no use here.
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
