"""Weight files in the layouts that are published: tensors dropped, renamed, reshaped, of other types, not finite;
hostile headers, metadata and pickles; damaged bytes.

What is accepted is finite, fills a backbone that computes, and is, undamaged, equal to what was written.
"""

import copy
import functools
import io
import json
import os
import pickle
import struct
from contextlib import suppress

import torch
from harness import Wrong
from mutations import HOSTILE, mutate_bytes, mutate_tree, pick
from safetensors.torch import save

from cropfield.categories import in_metadata
from pretrain.errors import UserError
from pretrain.files import read_tensors
from pretrain.models.vit import VisionTransformer
from pretrain.models.weights import build_backbone, fill_backbone, read_backbone

RAN = "code-ran"
METADATA = {"num_heads": "2", "field_size": "4x4", "method": "x", "categories": json.dumps([{"id": 1, "name": "a"}])}
VALUES = (
    *HOSTILE, "0x0", "4x", "x", "-4x-4", "4x4x4", "1e9x1", "2.0", "\u0664", "99999999999999999999", "0", "-2", "3",
    "16x1",
)  # fmt: skip
DTYPES = (
    torch.bool, torch.int64, torch.uint8, torch.float16, torch.bfloat16, torch.float64, torch.complex64,
    torch.float8_e4m3fn,
)  # fmt: skip


class Hostile:
    def __reduce__(self):
        return os.mkdir, (RAN,)


@functools.cache
def backbone() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(patch_size=4, embed_dim=16, depth=2, num_heads=2, field_size=4).eval()


def layout(rng) -> dict:
    """Tensors by name, as one or another project publishes them."""
    state = {name: value.clone() for name, value in backbone().state_dict().items()}
    match int(rng.integers(5)):
        case 0:
            return state
        case 1:
            return {"model": {f"backbone.net.{name}": value for name, value in state.items()}}
        case 2:
            return {
                "teacher": {f"backbone.{k}": v for k, v in state.items()},
                "student": {f"backbone.{k}": v + 1 for k, v in state.items()},
            }
        case 3:
            state["pos_embed"] = torch.cat([torch.zeros(1, 1, 16), state["pos_embed"]], 1)
            return {"state_dict": state | {"head.weight": torch.zeros(3, 16)}}
        case _:
            return {"model": state | {"register_tokens": torch.zeros(1, 4, 16), "mask_token": torch.zeros(1, 16)}}


def change_tensor(tensor: torch.Tensor, rng) -> torch.Tensor:
    tensor = tensor.clone()
    match int(rng.integers(9)):
        case 0:
            return tensor.to(pick(rng, DTYPES))
        case 1:
            tensor.view(-1)[:1] = pick(rng, (float("nan"), float("inf"), -float("inf"), 1e38))
        case 2:
            return tensor[None]
        case 3:
            return tensor.reshape(-1)
        case 4:
            return tensor[:0]
        case 5:
            return tensor.repeat(2, *[1] * (tensor.dim() - 1))
        case 6:
            return tensor.sum()
        case 7:
            return pick(
                rng,
                (
                    tensor.to_sparse,
                    tensor.to("meta").clone,
                    lambda: torch.nn.Parameter(tensor),
                    lambda: tensor.t() if tensor.dim() == 2 else tensor,
                ),
            )()
        case _:
            return tensor.flip(0)
    return tensor


def change(state: dict, rng) -> None:
    """One to three tensors, in place."""
    for _ in range(int(rng.integers(1, 4))):
        place = state
        while any(isinstance(value, dict) for value in place.values()):
            place = pick(rng, [value for value in place.values() if isinstance(value, dict)])
        if not place:
            return
        name = pick(rng, list(place))
        match int(rng.integers(5)):
            case 0:
                del place[name]
            case 1:
                new = pick(
                    rng,
                    (
                        name.replace("0", "7"),
                        name.replace("blocks", "rope"),
                        name + ".x",
                        "blocks.x.y",
                        "blocks.",
                        "a\nb",
                        "",
                        5,
                        ("a",),
                        "blocks.0.1.2",
                        "blocks.-1.norm1.weight",
                        "blocks.99999999999.norm1.weight",
                    ),
                )
                place[new] = place.pop(name)
            case 2:
                place[name] = copy.deepcopy(pick(rng, VALUES))
            case _:
                if isinstance(place[name], torch.Tensor):
                    with suppress(RuntimeError, IndexError):
                        place[name] = change_tensor(place[name], rng)


def safetensors(state: dict, metadata, rng) -> bytes:
    """With a header that may be hostile."""
    while any(isinstance(value, dict) for value in state.values()):
        state = {f"{k}.{n}": v for k, part in state.items() if isinstance(part, dict) for n, v in part.items()}
    plain = {
        str(k): v.detach().contiguous().clone()
        for k, v in state.items()
        if isinstance(v, torch.Tensor) and v.device.type == "cpu" and not v.is_sparse
    }
    texts = {k: v for k, v in metadata.items() if isinstance(v, str)} if isinstance(metadata, dict) else {}
    data = save(plain, {k: v.encode(errors="replace").decode() for k, v in texts.items() if k.isprintable()})
    if rng.random() < 0.7:
        return data
    length = struct.unpack("<Q", data[:8])[0]
    header = json.dumps(mutate_tree(json.loads(data[8 : 8 + length]), rng)).encode()
    return struct.pack("<Q", pick(rng, (len(header), len(header), 2**63, 10**9, 0))) + header + data[8 + length :]


def torch_file(content, rng) -> bytes:
    file, chance = io.BytesIO(), rng.random()
    if chance < 0.05:
        return pickle.dumps(pick(rng, (Hostile(), content, {"model": Hostile()})), protocol=pick(rng, (0, 2, 4)))
    if chance < 0.1:
        content["model"] = content.get("model", {})
        content["x"] = pick(rng, (Hostile(), content, torch.nn.Linear(2, 2), complex(1, 2), {1, 2}, b"x", range(3)))
    torch.save(content, file, _use_new_zipfile_serialization=rng.random() < 0.8)
    return file.getvalue()


def attempt(rng, folder):
    state, metadata, untouched = layout(rng), dict(METADATA), rng.random() < 0.1
    if not untouched and rng.random() < 0.6:
        change(state, rng)
    if not untouched and rng.random() < 0.5:
        metadata = mutate_tree(metadata, rng, hostile=VALUES)
    if rng.random() < 0.5:
        path, data = folder / "weights.safetensors", safetensors(state, metadata, rng)
    else:
        path, data = folder / "weights.pth", torch_file({**state, "metadata": metadata}, rng)
    damaged = not untouched and rng.random() < 0.3
    path.write_bytes(mutate_bytes(data, rng, pick(rng, (100, 3000))) if damaged else data)
    try:
        use(path, state if untouched else None)
    finally:
        if (folder / RAN).exists():
            raise Wrong("code in the file ran")


def use(path, written: dict | None) -> None:
    in_metadata(read_tensors(path)[1], path)
    file = read_backbone(path)
    if not all(torch.isfinite(value).all() for value in file.state.values()):
        raise Wrong("not finite")
    with suppress(UserError):
        built = build_backbone(file)
        fill_backbone(built, file)
        compute(built)
    ours = copy.deepcopy(backbone())
    fill_backbone(ours, file)
    features = compute(ours)
    if (
        written is not None
        and "register_tokens" not in written.get("model", {})
        and not torch.equal(features, compute(backbone()))
    ):
        raise Wrong("other features than those of the backbone that was written")


@torch.no_grad()
def compute(model: VisionTransformer) -> torch.Tensor:
    parts = model(torch.linspace(0, 1, 3 * 48 * 48).reshape(1, 3, 48, 48))
    features = torch.cat([part.flatten() for part in parts if part is not None])
    largest = max(value.abs().max() for value in model.state_dict().values())
    if largest < 1e6 and not torch.isfinite(features).all():
        raise Wrong("features are not finite")
    return features
