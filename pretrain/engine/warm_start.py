"""Starting from weights that someone else trained: `model.init` and `train.head_warmup`."""

from omegaconf import DictConfig

from pretrain.errors import UserError


def settle_warm_start(cfg: DictConfig, resumed: bool) -> None:
    """Check a warm start before the model is built; a resumed run has weights of its own and does not read the file.

    Raises:
        UserError: heads would be warmed up on a trunk that has learned nothing.
    """
    init = cfg.model.get("init")
    if cfg.train.head_warmup and not init:
        raise UserError(
            "train.head_warmup keeps the trunk as it starts, and it starts from nothing: add model.init=FILE (weights "
            "of DINOv2, MAE, timm or a run of this project), or train.head_warmup=0"
        )
    if resumed and init:
        cfg.model.init = ""
