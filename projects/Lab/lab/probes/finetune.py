"""Fine-tune a backbone as a classifier (StoP's Tables 5, 15 and 17).

The papers give no recipe. This is the usual one for masked image models, without mixup, cutmix and random augmentation
policies: AdamW, layer-wise learning rate decay, stochastic depth, label smoothing, warm-up and cosine. The defaults are
MAE's.
"""

import logging
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab.probes.features import framed_batches, own_pool
from lab.probes.framing import FramedImages
from lab.probes.labelled import LabelledImages
from lab.probes.recipes import Recipe
from pretrain.engine.schedules import warmup_cosine
from pretrain.errors import UserError
from pretrain.files import read_torch_file, write_torch_file
from pretrain.models.vit import VisionTransformer

logger = logging.getLogger(__name__)


class Classifier(nn.Module):
    """A backbone, pooled by its class token (or mean patch), and a linear layer initialised to 0."""

    def __init__(self, backbone: VisionTransformer, num_classes: int):
        super().__init__()
        self.backbone, self.pool = backbone, own_pool(backbone)
        self.head = nn.Linear(backbone.embed_dim, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S), normalised -> logits (B, classes)."""
        cls, patches = self.backbone(images)
        return self.head(cls if self.pool == "cls" else patches.mean(1))


def layer_groups(model: Classifier, layer_decay: float, weight_decay: float) -> list[dict]:
    """Parameter groups with `scale` = layer_decay ** (number of layers above): 1 for the head and the last norm.

    No weight decay on vectors, class token and positions.
    """
    depth, groups = len(model.backbone.blocks), {}
    for name, parameter in model.named_parameters():
        layer = depth + 1
        if name.startswith(("backbone.patch_embed", "backbone.cls_token", "backbone.pos_embed")):
            layer = 0
        elif name.startswith("backbone.blocks."):
            layer = int(name.split(".")[2]) + 1
        decays = parameter.ndim > 1 and name not in ("backbone.cls_token", "backbone.pos_embed")
        groups.setdefault((layer, decays), []).append(parameter)
    return [
        {"params": p, "scale": layer_decay ** (depth + 1 - layer), "weight_decay": weight_decay if decays else 0.0}
        for (layer, decays), p in groups.items()
    ]


class FineTuning:
    """Trains a classifier epoch by epoch; all random numbers follow from seed and epoch, so it can be resumed.

    Args:
        model: on its device for training.
        state: file for model and optimizer state, written after each epoch; None: not saved.
        num_workers: processes that read images.
    """

    def __init__(
        self,
        model: Classifier,
        train: LabelledImages,
        val: LabelledImages,
        recipe: Recipe,
        state: Path | None = None,
        num_workers: int = 0,
    ):
        self.model, self.train, self.val = model.requires_grad_(True), train, val
        self.recipe = recipe = replace(recipe, batch_size=min(recipe.batch_size, len(train)))
        self.state, self.num_workers, self.epoch = state, num_workers, 0
        self.device = model.head.weight.device
        self.batch_size = recipe.batch_size
        self.steps = len(train) // self.batch_size
        self.lr = warmup_cosine(recipe.lr * self.batch_size / 256, 0.0, recipe.warmup_epochs / recipe.epochs)
        groups = layer_groups(model, recipe.layer_decay, recipe.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999))

    def resume(self) -> None:
        """Load `state` if it exists. Raises UserError if it belongs to another model or recipe."""
        if self.state is None or not self.state.is_file():
            return
        kept = read_torch_file(self.state)
        try:
            self.model.load_state_dict(kept["model"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.epoch = kept["epoch"]
            if other := [name for name, value in asdict(self.recipe).items() if kept["recipe"][name] != value]:
                raise ValueError(f"with another {', '.join(other)}")
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"{self.state} is of another run ({reason}); choose another --output") from None

    def run(self) -> dict[str, float]:
        """Train to the end; returns top-1 and top-5 accuracy on the validation images after the last epoch, in
        percent.
        """
        while self.epoch < self.recipe.epochs:
            loss = self.train_epoch()
            self.epoch += 1
            if self.state:
                kept = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
                write_torch_file(self.state, kept | {"epoch": self.epoch, "recipe": asdict(self.recipe)})
            logger.info(f"epoch {self.epoch} of {self.recipe.epochs}: loss {loss:.4f}")
        return self.evaluate()

    def train_epoch(self) -> float:
        """Train one epoch; returns the mean loss. Raises UserError if it is not finite."""
        self.model.train()
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.epoch)  # order of the images, stochastic depth
        first = (self.epoch + 1) * len(self.train)
        order = (first + torch.randperm(len(self.train))).split(self.batch_size)[: self.steps]
        batches, total, seen = [items.tolist() for items in order], 0.0, 0
        views = dict(views=self.recipe.epochs + 1, seed=self.recipe.seed, batches=batches)
        for step, (images, labels) in enumerate(self.readable(self.train, **views)):
            self.set_lr((self.epoch + step / self.steps) / self.recipe.epochs)
            total, seen = total + self.step(images, labels), seen + len(images)
        if not seen:
            raise UserError(f"{self.train.source.root}: none of its images can be read; copy them again")
        return total / self.steps

    def set_lr(self, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(progress) * group["scale"]

    def readable(
        self, images: LabelledImages, views: int = 1, seed: int = 0, batches: list | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches without broken images: normalised (b, 3, S, S) on the device, and labels (b,) on the CPU."""
        framed = FramedImages(images, range(len(images)), self.recipe.image_size, self.recipe.framing, views, seed)
        for pixels, indices in framed_batches(framed, self.device, num_workers=self.num_workers, batches=batches):
            whole = indices >= 0
            yield pixels[whole.to(pixels.device)], images.labels[indices[whole]]

    def logits(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.amp):
            return self.model(images).float()

    def step(self, images: Tensor, labels: Tensor) -> float:
        if not len(images):
            return 0.0  # all images are broken
        labels, smoothing = labels.to(self.device), self.recipe.label_smoothing
        loss = F.cross_entropy(self.logits(images), labels, label_smoothing=smoothing)
        if not loss.isfinite():
            raise UserError(f"the loss is not finite in epoch {self.epoch + 1}; choose a smaller --lr")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Accuracies on the readable validation images, in percent."""
        self.model.eval()
        right, seen = torch.zeros(2), 0
        for images, labels in self.readable(self.val):
            logits = self.logits(images).cpu()
            best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            right, seen = right + torch.stack([best[:, 0].sum(), best.any(1).sum()]), seen + len(labels)
        if not seen:
            raise UserError(f"{self.val.source.root}: none of its images can be read; copy them again")
        return dict(zip(("top1", "top5"), (100 * right / seen).tolist(), strict=True))
