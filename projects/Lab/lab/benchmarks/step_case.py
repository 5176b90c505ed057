"""What the benchmarks of pretraining run: a method of any size on crops of noise, with its optimizer."""

import numpy as np
import torch
from fvcore.common.param_scheduler import CosineParamScheduler
from torch import Tensor

from pretrain.data.masks import CropMasks
from pretrain.engine.param_groups import param_groups
from pretrain.engine.trainer import PretrainTrainer
from pretrain.methods.distillation import SelfDistillation
from pretrain.models.vit import VisionTransformer

SHAPES = {"vits": dict(embed_dim=384, num_heads=6), "vitb": dict(embed_dim=768, num_heads=12)}
CLIP, LR = 3.0, 1e-4


def make_method(
    trunk: dict | None = None,
    num_prototypes: int = 65536,
    head_hidden_dim: int = 2048,
    bottleneck_dim: int = 256,
    **switches,
) -> SelfDistillation:
    """The recipe of Table 6; `trunk`: arguments of the `VisionTransformer`, else ViT-S/16."""
    torch.manual_seed(0)
    net = VisionTransformer(**{"drop_path_rate": 0.1, **(trunk or SHAPES["vits"])})
    sizes = dict(num_prototypes=num_prototypes, head_hidden_dim=head_hidden_dim, bottleneck_dim=bottleneck_dim)
    return SelfDistillation(net, CosineParamScheduler(0.992, 1.0), 1000, **sizes, **switches).train()


def make_batch(
    images: int = 4, global_size: int = 224, local_size: int = 96, num_local: int = 8, patch: int = 16
) -> dict[str, Tensor]:
    """Two global and `num_local` local crops an image as `CropLoader` gives them: noise at random boxes, real masks."""
    generator = torch.Generator().manual_seed(0)
    masks = CropMasks((global_size // patch, global_size // patch))

    def crop_rng(view: int, offset: int) -> np.random.Generator:
        return np.random.default_rng((view, offset))

    batch = masks.of_batch(range(images), images, 2, np.random.default_rng(0), crop_rng)
    for name, count, size in (("global", 2, global_size), ("local", num_local, local_size)):
        shape = (count * images, 3, size, size)
        if count:
            batch[f"{name}_crops"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
            corners = torch.rand(count * images, 2, 2, generator=generator).sort(dim=1).values
            batch[f"{name}_boxes"] = corners.flatten(1)
    return batch | {"index": torch.arange(images)}


class OurStep:
    """Call it for a step of `PretrainTrainer`, without its loader and its log."""

    def __init__(self, method: SelfDistillation, batch: dict[str, Tensor], amp: bool):
        self.method, self.batch, self.amp, self.count = method, batch, amp, 0
        self.device = next(method.parameters()).device
        self.optimizer = torch.optim.AdamW(param_groups(method), lr=LR, weight_decay=0.04, fused=True)
        self.trainer = PretrainTrainer(method, None, self.optimizer, amp, CLIP)
        self.num_images = len(batch["index"])

    def compile(self) -> None:
        self.method.compile_parts()

    def forward(self) -> Tensor:
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
            return sum(self.method(self.batch, self.count).values())

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def __call__(self) -> float:
        loss = self.forward()
        self.backward(loss)
        self.trainer.clip_gradients()
        self.optimizer.step()
        self.method.after_step(self.count)
        self.count += 1
        return loss.item()
