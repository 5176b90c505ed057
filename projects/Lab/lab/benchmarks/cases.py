"""Cases for the benchmarks: a pretraining step and a detector's training iteration, both on random data."""

from pathlib import Path

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from fvcore.common.param_scheduler import CosineParamScheduler
from torch import Tensor, nn

from pretrain.data.masks import CropMasks
from pretrain.engine.lazy_config import load_config
from pretrain.engine.param_groups import param_groups
from pretrain.engine.trainer import PretrainTrainer
from pretrain.methods.distillation import SelfDistillation
from pretrain.models.vit import VisionTransformer, compile_blocks

SHAPES = {"vits": dict(embed_dim=384, num_heads=6), "vitb": dict(embed_dim=768, num_heads=12)}
CLIP, LR = 3.0, 1e-4
CONFIGS = Path(__file__).resolve().parents[4] / "configs" / "COCO"


def make_method(
    backbone: dict | None = None,
    num_prototypes: int = 65536,
    head_hidden_dim: int = 2048,
    bottleneck_dim: int = 256,
    **switches,
) -> SelfDistillation:
    """The recipe of Table 6. backbone: arguments of `VisionTransformer`; None: ViT-S/16."""
    torch.manual_seed(0)
    net = VisionTransformer(**{"drop_path_rate": 0.1, **(backbone or SHAPES["vits"])})
    sizes = dict(num_prototypes=num_prototypes, head_hidden_dim=head_hidden_dim, bottleneck_dim=bottleneck_dim)
    return SelfDistillation(net, CosineParamScheduler(0.992, 1.0), 1000, **sizes, **switches).train()


def make_batch(
    images: int = 4, global_size: int = 224, local_size: int = 96, num_local: int = 8, patch: int = 16
) -> dict[str, Tensor]:
    """A batch as from `CropLoader`, two global and `num_local` local crops an image: noise, random boxes, real
    masks.
    """
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


class Case:
    """Callable that runs one optimizer step; subclasses define `forward`."""

    optimizer: torch.optim.Optimizer

    def __init__(self, device: torch.device, num_images: int, amp: bool):
        self.device, self.num_images, self.amp = device, num_images, amp
        self.dtype = torch.bfloat16 if amp else torch.float32

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def update(self) -> None:
        self.optimizer.step()

    def __call__(self) -> float:
        self.optimizer.zero_grad()
        with self.autocast():
            loss = self.forward()
        self.backward(loss)
        self.update()
        return loss.item()


class OurStep(Case):
    """A step of `PretrainTrainer`, without loader and logging."""

    def __init__(self, method: SelfDistillation, batch: dict[str, Tensor], amp: bool):
        super().__init__(next(method.parameters()).device, len(batch["index"]), amp)
        self.method, self.batch, self.count = method, batch, 0
        self.optimizer = torch.optim.AdamW(param_groups(method), lr=LR, weight_decay=0.04, fused=True)
        self.trainer = PretrainTrainer(method, None, self.optimizer, amp, CLIP)

    def compile(self) -> None:
        self.method.compile_parts()

    def forward(self) -> Tensor:
        return sum(self.method(self.batch, self.count).values())

    def update(self) -> None:
        self.trainer.clip_gradients()
        self.optimizer.step()
        self.method.after_step(self.count)
        self.count += 1


class DetectorCase(Case):
    """A training iteration of a config's Mask R-CNN.

    Args:
        config: a file of configs/COCO.
        stock: use Detectron2's parts: `ViT` of the same shape, without windows and relative positions, `RPN` and
            `StandardROIHeads`.
        image_size: (H, W).
        objects: number of objects in an image; COCO's average is 7.
    """

    def __init__(self, config: str, overrides: list[str], stock: bool, images: int, image_size, amp: bool, objects=7):
        torch.manual_seed(0)
        cfg = load_config(CONFIGS / config, overrides)
        super().__init__(torch.device(cfg.train.device), images, amp)
        if stock:
            cfg.model.backbone.net = stock_backbone(cfg.model.backbone.net)
            cfg.model.proposal_generator._target_, cfg.model.roi_heads._target_ = RPN, StandardROIHeads
        self.model: nn.Module = instantiate(cfg.model).to(self.device).train()
        cfg.optimizer.params.model = self.model
        self.optimizer = instantiate(cfg.optimizer)
        classes = self.model.roi_heads.num_classes
        self.batch = [random_sample(image_size, objects, classes) for _ in range(images)]

    def compile(self) -> None:
        compile_blocks(self.model)

    def forward(self) -> Tensor:
        with EventStorage():
            return sum(self.model(self.batch).values())

    @torch.no_grad()
    def infer(self) -> list:
        """Detections of the batch in eval mode, in float32 as users evaluate."""
        self.model.eval()
        found = self.model(self.batch)
        self.model.train()
        return found


def stock_backbone(net):
    """Config of Detectron2's plain ViT with the shape of `net`."""
    from detectron2.config import LazyCall as L
    from detectron2.modeling import ViT

    alike = {key: net[key] for key in ("patch_size", "embed_dim", "depth", "num_heads", "drop_path_rate")}
    return L(ViT)(
        img_size=1024,
        window_size=0,
        use_rel_pos=False,
        pretrain_img_size=net.field_size * net.patch_size,
        pretrain_use_cls_token=False,
        out_feature="last_feat",
        **alike,
    )


def random_sample(image_size: tuple[int, int], objects: int, num_classes: int) -> dict:
    """A random image with objects and masks, in the format of Detectron2's mapper."""
    height, width = image_size
    corners = torch.rand(objects, 2, 2).sort(dim=1).values * torch.tensor([width, height])
    instances = Instances((height, width), gt_boxes=Boxes(corners.flatten(1)))
    instances.gt_classes = torch.randint(num_classes, (objects,))
    instances.gt_masks = BitMasks(torch.rand(objects, height, width) > 0.5)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": instances}
