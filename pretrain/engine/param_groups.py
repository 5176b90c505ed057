"""Parameter groups of the pretraining optimizer."""

from omegaconf import ListConfig
from torch import nn
from torch.optim import Optimizer


def param_groups(model: nn.Module) -> list[dict]:
    """Trained parameters by part, "backbone", "prototypes" or "rest", each split by whether weights decay.

    Biases, norms and LayerScale do not; everything else does, the position field, class and mask tokens included, as in
    DINOv2. Each group has a `name`, and a `part` and a flag `decay` that `OptimizerSchedule` reads.
    """
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((_part(name), _decays(name)), []).append(parameter)
    return [
        {"name": f"{part}_{'decay' if decay else 'no_decay'}", "part": part, "decay": decay, "params": params}
        for (part, decay), params in groups.items()
    ]


def with_plain_options(optimizer: Optimizer) -> Optimizer:
    """The same, with tuples for a config's lists (betas): a checkpoint with omegaconf's could not be read back.

    Newer versions of torch make tuples themselves; 2.6 does not.
    """
    for group in optimizer.param_groups:
        group |= {name: tuple(value) for name, value in group.items() if isinstance(value, ListConfig)}
    return optimizer


def _part(name: str) -> str:
    return next((part for part in ("backbone", "prototypes") if part in name.split(".")), "rest")


def _decays(name: str) -> bool:
    parts = name.split(".")
    return parts[-1] not in ("bias", "gamma") and not any(part.startswith("norm") for part in parts)
