"""The evaluations' defaults. Imports nothing large, so --help comes at once."""

from dataclasses import dataclass

PROBE_EPOCHS = {  # of VISSL's linear probes; it has none for 1% of ImageNet, which uses ImageNet's
    "imagenet": 28, "imagenet_1pct": 28, "places205": 14, "inat18": 84, "cifar100": 28,
    "clevr_count": 50, "clevr_dist": 100,
}  # fmt: skip
DATASETS = tuple(PROBE_EPOCHS)


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of fine-tuning, see `finetune.py`.

    lr: for 256 images a step; scaled with the batch size. layer_decay: ratio of the learning rates of successive
    layers.
    framing: see `framing.view`; training uses its views from number 1 on, a new one in each epoch.
    """

    epochs: int = 100
    batch_size: int = 1024
    lr: float = 5e-4
    layer_decay: float = 0.65
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    warmup_epochs: float = 5
    image_size: int = 224
    framing: str = "centre"
    seed: int = 0
    amp: bool = False  # bfloat16 autocast
