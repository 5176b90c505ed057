"""Linear classifiers on a frozen backbone's features: a whole sweep trained at once, on the same batches.

The protocol is VISSL's (StoP, App. C.2): SGD with Nesterov momentum 0.9, linear layers on the last layer and on the
last four concatenated, each with and without batch normalisation before it; the best on the validation images is
reported. VISSL decays the learning rate in steps or by a cosine, depending on the dataset; here it is a cosine to zero.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.probes.feature_cache import Features
from pretrain.errors import UserError


@dataclass(frozen=True)
class Setting:
    """One classifier of the sweep. lr: for 256 images a step; scaled with the batch size, as in VISSL."""

    pool: str  # "cls" or "patch"
    layers: int  # number of last layers, concatenated
    batch_norm: bool  # without affine parameters, which the linear layer makes redundant, as in MAE
    lr: float
    weight_decay: float

    @property
    def features(self) -> str:
        return f"{self.pool}_last{'' if self.layers == 1 else self.layers}"


@dataclass(frozen=True)
class Result:
    """Accuracy of a classifier on the validation images, in percent."""

    setting: Setting
    top1: float
    top5: float


def sweep(
    pools: Sequence[str],
    layers: Sequence[int] = (1, 4),
    batch_norm: Sequence[bool] = (True, False),
    lrs: Sequence[float] = (0.003, 0.01, 0.03, 0.1, 0.3),
    weight_decays: Sequence[float] = (0.0, 0.0005),
) -> list[Setting]:
    """Every combination of settings. The learning rates are around VISSL's 0.01; its weight decay is 0.0005."""
    return [Setting(*choice) for choice in itertools.product(pools, layers, batch_norm, lrs, weight_decays)]


class Heads(nn.Module):
    """Linear classifiers on the same features with the same normalisation: (b, D) -> logits (heads, b, classes)."""

    def __init__(self, dim: int, num_classes: int, count: int, batch_norm: bool):
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, affine=False, eps=1e-6) if batch_norm else nn.Identity()
        self.heads = nn.ModuleList(nn.Linear(dim, num_classes) for _ in range(count))
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def forward(self, features: Tensor) -> Tensor:
        weight, bias = (torch.cat([getattr(head, name) for head in self.heads]) for name in ("weight", "bias"))
        return F.linear(self.norm(features), weight, bias).unflatten(1, (len(self.heads), -1)).transpose(0, 1)


class Probes(nn.Module):
    """The classifiers of a sweep. Those with the same features are computed in one matrix product."""

    def __init__(self, settings: Sequence[Setting], dim: int, num_classes: int):
        super().__init__()
        self.groups: dict[tuple[str, int, bool], list[Setting]] = {}
        for setting in settings:
            self.groups.setdefault((setting.pool, setting.layers, setting.batch_norm), []).append(setting)
        self.heads = nn.ModuleList(
            Heads(layers * dim, num_classes, len(group), batch_norm)
            for (_, layers, batch_norm), group in self.groups.items()
        )

    @property
    def settings(self) -> list[Setting]:
        """Settings in the order of the logits."""
        return [setting for group in self.groups.values() for setting in group]

    def param_groups(self, batch_size: int) -> list[dict]:
        """Parameter groups for the optimizer; biases decay too, as in VISSL."""
        heads = [head for heads in self.heads for head in heads.heads]
        return [
            {"params": list(head.parameters()), "lr": s.lr * batch_size / 256, "weight_decay": s.weight_decay}
            for head, s in zip(heads, self.settings, strict=True)
        ]

    def forward(self, select: Callable[[str, int], Tensor]) -> Tensor:
        """select(pool, layers) -> features (b, layers * D); returns logits (settings, b, classes)."""
        kinds = {(pool, layers): select(pool, layers) for pool, layers, _ in self.groups}
        logits = [heads(kinds[pool, layers]) for (pool, layers, _), heads in zip(self.groups, self.heads, strict=True)]
        return torch.cat(logits)


def train_probes(
    train: Features,
    num_classes: int,
    settings: Sequence[Setting],
    epochs: int = 28,
    batch_size: int = 256,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Probes:
    """Train all classifiers on the same batches, independently. An epoch uses one view of each image.

    Raises:
        UserError: fewer than two images.
    """
    if len(train) < 2:
        raise UserError(f"{len(train)} readable training image(s): a classifier needs two or more")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probes = Probes(settings, train.values.shape[-1], num_classes).to(device).train()
        batch_size = min(batch_size, len(train))
        optimizer = torch.optim.SGD(probes.param_groups(batch_size), lr=0.0, momentum=0.9, nesterov=True)
        steps = epochs * (len(train) // batch_size)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
        for view, which in _batches(len(train), epochs, batch_size):
            logits = probes(_selector(train, which, view, device))
            labels = train.labels[which].to(device).repeat(len(logits))
            loss = F.cross_entropy(logits.flatten(0, 1), labels, reduction="sum") / batch_size
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return probes.eval()


def _batches(count: int, epochs: int, batch_size: int) -> Iterator[tuple[int, Tensor]]:
    """(epoch, image indices (batch_size,)) of every step; incomplete batches are dropped."""
    for epoch in range(epochs):
        order = torch.randperm(count)
        for start in range(0, count - batch_size + 1, batch_size):
            yield epoch, order[start : start + batch_size]


def _selector(features: Features, which: Tensor, view: int, device) -> Callable[[str, int], Tensor]:
    return lambda pool, layers: features.select(pool, layers, which, view).to(device)


@torch.no_grad()
def evaluate_probes(probes: Probes, val: Features, batch_size: int = 256) -> list[Result]:
    """Results in the order of the sweep's groups. A diverged classifier has accuracy 0."""
    device = next(probes.parameters()).device
    right = torch.zeros(len(probes.settings), 2)
    for which in torch.arange(len(val)).split(batch_size):
        logits = probes(_selector(val, which, 0, device)).cpu()
        best = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == val.labels[which, None]
        best &= logits.isfinite().all(-1, keepdim=True)
        right += torch.stack([best[..., 0].sum(1), best.any(-1).sum(1)], dim=1)
    shares = (100 * right / len(val)).tolist()
    return [Result(setting, *share) for setting, share in zip(probes.settings, shares, strict=True)]


def best_by_features(results: Sequence[Result]) -> dict[str, Result]:
    """The best classifier by top-1 for each kind of features; the first in case of a tie."""
    best: dict[str, Result] = {}
    for result in results:
        kind = result.setting.features
        if kind not in best or result.top1 > best[kind].top1:
            best[kind] = result
    return best
