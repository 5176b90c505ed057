"""Which features `embeddings.py` computes. Imports nothing large, so --help comes at once."""

from dataclasses import dataclass

KINDS = ("cls", "mean", "patches")
DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Wanted:
    """What to compute.

    kinds: from KINDS: class token (D,), mean of the patch tokens (D,), patch tokens (H, W, D), all after the final
    norm.
    image_size: side in pixels, a multiple of the patch size.
    framing: "centre" or "whole", see `framing.view`.
    shard: most images in a file.
    """

    kinds: tuple[str, ...] = ("cls",)
    image_size: int = 224
    framing: str = "centre"
    dtype: str = "float32"
    shard: int = 10_000
