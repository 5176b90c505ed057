"""Attention statistics written the plain way, to compare with: all attention of all images first, then the formulas.

    python tests/reference/plain_attention.py --images 4 --image-size 480

measures time and peak memory of both ways, each in a process of its own, on an untrained ViT-B/16 (or --vits) and
random images, and how far their figures are apart. The plain way holds images x layers x heads x L x L numbers.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from lab.attention.stats import attention_stats
from lab.attention.weights import queries_and_keys
from pretrain.models.attention import pack
from pretrain.models.vit import VisionTransformer


@torch.no_grad()
def attention_probabilities(block, tokens, length):
    """softmax(q k^T / sqrt(head_dim)) of what enters a block, (B*length, D) -> (B, heads, length, length) float32."""
    q, k = queries_and_keys(block, tokens, length)
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)


@torch.no_grad()
def plain_stats(backbone, images):
    """(B, 3, H, W) -> NMI and mean distance in patch sides, each (layers, heads): means over images."""
    grid = backbone.grid(images)
    tokens, layout = pack(
        [backbone.with_class_token(backbone.embed_patches(images) + backbone.sample_positions(None, grid))]
    )
    maps = []
    for block in backbone.blocks:
        maps.append(attention_probabilities(block, tokens, layout.lengths[0]))
        tokens = block(tokens, layout)
    count = grid[0] * grid[1]
    attention = torch.stack(maps)[..., -count:, -count:]  # (layers, B, heads, N, N)
    attention = attention / attention.sum(-1, keepdim=True)
    nmi, distance = zip(*(of_layer(layer, grid) for layer in attention), strict=True)
    return torch.stack(nmi).mean(1), torch.stack(distance).mean(1)


def of_layer(attention, grid):
    """The definitions word for word, in float64: (B, heads, N, N) -> NMI, distance, each (B, heads)."""
    attention = attention.double()
    count = attention.shape[-1]
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).double()
    distances = (places[:, None] - places[None]).square().sum(-1).sqrt()
    joint = attention / count
    p_q, p_k = joint.sum(-1, keepdim=True), joint.sum(-2, keepdim=True)
    information = torch.xlogy(joint, joint / (p_q * p_k).clamp_min(1e-300)).sum((-1, -2))
    h_q, h_k = (-torch.xlogy(p, p).sum((-1, -2)) for p in (p_q, p_k))
    return information / (h_q * h_k).sqrt(), (joint * distances).sum((-1, -2))


def measure(way: str, count: int, size: int, vits: bool) -> None:
    torch.manual_seed(0)
    backbone = VisionTransformer(embed_dim=384, num_heads=6) if vits else VisionTransformer(embed_dim=768, num_heads=12)
    backbone.eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    images = (torch.randn(3, size, size, generator=generator) for _ in range(count))
    start = time.perf_counter()
    if way == "plain":
        nmi, distance = plain_stats(backbone, torch.stack(list(images)))
    else:
        stats = attention_stats(backbone, images)
        nmi, distance = stats.nmi, stats.distance
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "GiB": peak, "nmi": nmi.tolist(), "distance": distance.tolist()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=480)
    parser.add_argument("--vits", action="store_true", help="ViT-S/16 instead of ViT-B/16")
    parser.add_argument("--way", choices=["plain", "ours"], help="only this one, as JSON")
    args = parser.parse_args()
    if args.way:
        return measure(args.way, args.images, args.image_size, args.vits)
    found = {}
    for way in ("plain", "ours"):
        output = subprocess.run([sys.executable, *sys.argv, "--way", way], check=True, capture_output=True).stdout
        found[way] = json.loads(output)
        print(f"{way}: {found[way]['seconds']:.1f} s, peak {found[way]['GiB']:.2f} GiB")
    for name in ("nmi", "distance"):
        plain, ours = (torch.tensor(found[way][name]) for way in ("plain", "ours"))
        print(f"{name}: largest difference {(plain - ours).abs().max():.1e} of {plain.abs().max():.3g}")


if __name__ == "__main__":
    main()
