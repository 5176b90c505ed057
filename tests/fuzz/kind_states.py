"""Training states (last.pth): parts dropped, retyped, of other shapes; damaged bytes.

What is resumed from has whole weights and steps on; damaged bytes are noticed, or hit nothing that is read.
"""

import copy
import functools
import io
from types import SimpleNamespace

import torch
from harness import Wrong
from kind_weights import change_tensor
from mutations import HOSTILE, mutate_bytes, mutate_tree, pick

from pretrain.engine.checkpoint import restore, training_state


class Method(torch.nn.Sequential):
    backbone = SimpleNamespace(metadata={"depth": "1"})

    def __init__(self):
        super().__init__(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))


def optimizer_of(model: Method) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.01)


def step(model: Method, optimizer: torch.optim.Optimizer) -> bool:
    """Whether it was taken: pretraining stops where a loss is not finite, as that of a weight of 1e38, and in the step
    after one that a moment of 1e38 made."""
    moments = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    if any((t.abs() > 1e30).any() for t in moments):
        return False
    optimizer.zero_grad()
    loss = model(torch.linspace(-1, 1, 24).reshape(4, 6)).square().mean()
    if not torch.isfinite(loss):
        return False
    loss.backward()
    optimizer.step()
    return True


@functools.cache
def good() -> dict:
    torch.manual_seed(0)
    model = Method()
    optimizer = optimizer_of(model)
    for _ in range(3):
        step(model, optimizer)
    return copy.deepcopy(training_state(model, optimizer, 3))


def tensors_in(tree) -> list[tuple]:
    """(container, key) of all of them."""
    found = []
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        if isinstance(value, torch.Tensor):
            found.append((tree, key))
        elif isinstance(value, dict | list):
            found += tensors_in(value)
    return found


def attempt(rng, folder):
    state, chance = copy.deepcopy(good()), rng.random()
    if chance < 0.4:
        state = mutate_tree(dict(state), rng, hostile=HOSTILE)
    elif chance < 0.7:
        container, key = pick(rng, tensors_in(state))
        try:
            container[key] = change_tensor(container[key], rng)
        except (RuntimeError, IndexError):  # what it is has no such change
            pass
    torch.save(state, file := io.BytesIO())
    data, path = file.getvalue(), folder / "last.pth"
    path.write_bytes(mutate_bytes(data, rng, pick(rng, (500, 10**6))) if chance > 0.75 else data)
    torch.manual_seed(1)
    model = Method()
    optimizer = optimizer_of(model)
    done = restore(path, model, optimizer)
    if type(done) is not int or done < 0:
        raise Wrong(f"{done!r} steps done")
    if not all(torch.isfinite(p).all() for p in model.state_dict().values()):
        raise Wrong("weights that are not finite are resumed from")
    if chance > 0.7 and (done != 3 or not same(model.state_dict(), good()["model"])):
        raise Wrong("damage went unnoticed")
    torch.rand(1)
    if step(model, optimizer) and not all(torch.isfinite(p).all() for p in model.parameters()):
        raise Wrong("the first step is not finite")


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())
