"""The position field: absolute position embeddings sampled at a crop's place in its image (Sec. 3.2.1).

The field is one learned grid of vectors whose extent is the image's extent. A patch reads it at the patch's centre,
bicubic, with the conventions of `F.interpolate(..., mode="bicubic", align_corners=False)`. So sampling the box
(0, 0, 1, 1) *is* the usual interpolation of absolute position embeddings, and a detector needs no conversion.
"""

import math
from contextlib import nullcontext

import torch
from torch import Tensor

from pretrain.errors import UserError

# The cubic convolution coefficient of torch's (non-antialiased) bicubic interpolation.
_CUBIC_A = -0.75


def sample_pos_embed(pos_embed: Tensor, boxes: Tensor | None, grid: tuple[int, int]) -> Tensor:
    """Position embeddings of the patches of crops that lie anywhere in the field.

    Boxes are axis-aligned, so bicubic sampling is separable: with two small interpolation matrices per crop,
    the result is `W_y P W_x^T`. That is exact, and its backward pass writes the field's gradient once.

    Args:
        pos_embed: the field, (1, h*w, D) for a square field or (1, h, w, D).
        boxes: (B, 4) as (x0, y0, x1, y1) in field coordinates, [0, 1] from border to border. `x0 > x1` mirrors the crop
            left to right (`y0 > y1` top to bottom). Points beyond the outermost cells read clamped cells. None is the
            whole field, once.
        grid: (H, W), patches per crop.

    Returns:
        (B, H*W, D), row-major, in float32, or float64 where the field is: bicubic weights lose too much in bfloat16.

    Raises:
        ValueError: the field is neither square nor given with its two sides.
    """
    kind = pos_embed.device.type
    with nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):
        field = as_grid(pos_embed)
        field = field.to(torch.promote_types(field.dtype, torch.float32))
        h, w, dim = field.shape
        grid_h, grid_w = grid
        if boxes is None:
            x0, x1 = field.new_zeros(1), field.new_ones(1)
            y0, y1 = x0, x1
        else:
            x0, y0, x1, y1 = boxes.to(field).unbind(1)
        weights_y = interpolation_matrix(y0, y1, grid_h, h)
        weights_x = interpolation_matrix(x0, x1, grid_w, w)
        num_boxes = len(x0)
        rows = weights_y.reshape(num_boxes * grid_h, h) @ field.reshape(h, w * dim)  # (B*H, w*D)
        columns = weights_x.repeat_interleave(grid_h, dim=0)  # (B*H, W, w)
        samples = torch.bmm(columns, rows.view(num_boxes * grid_h, w, dim))  # (B*H, W, D)
        return samples.view(num_boxes, grid_h * grid_w, dim)


def as_grid(pos_embed: Tensor) -> Tensor:
    """The field (1, h*w, D) or (1, h, w, D) as (h, w, D); a flat one must be square."""
    if pos_embed.dim() == 4:
        return pos_embed[0]
    side = math.isqrt(pos_embed.shape[1])
    if side * side != pos_embed.shape[1]:
        raise ValueError(
            f"a field of {pos_embed.shape[1]} positions is not square; pass it as (1, h, w, D) instead of (1, h*w, D)"
        )
    return pos_embed[0].view(side, side, -1)


def interpolation_matrix(start: Tensor, stop: Tensor, num_points: int, size: int) -> Tensor:
    """Bicubic weights of `num_points` patch centres between `start` and `stop` over `size` cells of one axis.

    Args:
        start, stop: (B,) crop borders in [0, 1]; `start > stop` runs backwards.

    Returns:
        (B, num_points, size) of the borders' type; each row sums to one and has at most four non-zero entries.
    """
    steps = torch.arange(num_points, device=start.device, dtype=start.dtype) + 0.5
    cells_a_step = (stop - start) * (size / num_points)  # exactly one where a field is read on its own grid
    position = start[:, None] * size + steps * cells_a_step[:, None] - 0.5  # in cells, as with align_corners=False
    left = position.floor()
    taps = torch.arange(-1, 3, device=start.device)
    distance = (position - left)[..., None] - taps
    cells = (left[..., None].long() + taps).clamp_(0, size - 1)  # border clamp
    weights = position.new_zeros(*position.shape, size)
    return weights.scatter_add_(-1, cells, _cubic(distance.abs()))


def sincos_pos_embed(points: Tensor, dim: int) -> Tensor:
    """Fixed sine-cosine position embeddings at any coordinates: half the channels for x, half for y.

    Args:
        points: (..., 2) as (x, y), in patches.
        dim: D, a multiple of four.

    Returns:
        (..., D)
    """
    frequencies = 10000 ** -(torch.arange(dim // 4, dtype=points.dtype, device=points.device) / (dim // 4))
    angles = points[..., None] * frequencies  # (..., 2, D/4)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def sincos_field(height: int, width: int, dim: int) -> Tensor:
    """A field (1, height*width, D) that begins as sine-cosine embeddings of its cells' centres.

    Raises UserError unless D is a multiple of four: sine and cosine of x and y.
    """
    if dim % 4:
        raise UserError(f"sine-cosine positions need a width that is a multiple of 4, and it is {dim}")
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return sincos_pos_embed(torch.stack([columns, rows], dim=-1).flatten(0, 1), dim)[None]


def _cubic(t: Tensor) -> Tensor:
    """Cubic convolution kernel at distances `t` in [0, 2]."""
    a = _CUBIC_A
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return torch.where(t <= 1, near, far)
