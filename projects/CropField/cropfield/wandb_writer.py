"""Weights & Biases as one more of Detectron2's event writers."""

from collections import defaultdict

from detectron2.utils.events import EventWriter, get_event_storage

from pretrain.errors import UserError


class WandbWriter(EventWriter):
    """Sends every scalar once, at the iteration it belongs to; smoothed as in metrics.json.

    Args:
        config: what the run's page shows as its configuration, a plain dictionary.
        settings: arguments of `wandb.init`: project, name, dir, resume, ...

    Raises:
        UserError: wandb is not installed.
    """

    def __init__(self, config: dict, window: int = 20, **settings):
        try:
            import wandb
        except ImportError:
            raise UserError("train.wandb.enabled needs wandb: pip install wandb, or leave it False") from None
        self.run = wandb.init(config=config, **settings)
        self.window, self.sent = window, -1

    def write(self) -> None:
        by_iteration = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self.window).items():
            if iteration > self.sent:
                by_iteration[iteration][name] = value
        for iteration in sorted(by_iteration):
            self.run.log(by_iteration[iteration], step=iteration)
            self.sent = iteration

    def close(self) -> None:
        self.run.finish()
