"""Parameter groups of the pretraining optimizer."""

from torch import nn


def param_groups(model: nn.Module) -> list[dict]:
    """Trained parameters in three groups: "decay", "no_decay" (biases, norms, LayerScale) and "prototypes".

    Everything else decays, the position field, class and mask tokens included, as in DINOv2. Each group has a `name`
    and a flag `decay` that `OptimizerSchedule` reads.
    """
    groups = {"decay": [], "no_decay": [], "prototypes": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[_group_of(name)].append(parameter)
    return [{"name": name, "decay": name != "no_decay", "params": params} for name, params in groups.items() if params]


def _group_of(name: str) -> str:
    parts = name.split(".")
    if "prototypes" in parts:
        return "prototypes"
    if parts[-1] in ("bias", "gamma") or any(part.startswith("norm") for part in parts):
        return "no_decay"
    return "decay"
