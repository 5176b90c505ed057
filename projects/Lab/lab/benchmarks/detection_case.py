"""The detectors that the benchmark runs: a config's Mask R-CNN, and the same over Detectron2's own plain ViT."""

from contextlib import nullcontext
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from pretrain.engine.lazy_config import load_config
from pretrain.models.vit import compile_blocks

CONFIGS = Path(__file__).resolve().parents[4] / "configs" / "COCO"


class DetectorCase:
    """A detector, its optimizer and one batch of noise. Calling it is a training iteration.

    Args:
        config: a file of configs/COCO.
        stock: put Detectron2's `ViT` of the same shape, without windows and relative positions, into the trunk's place.
        image_size: (H, W).
        objects: an image; COCO has 7.
    """

    def __init__(self, config: str, overrides: list[str], stock: bool, images: int, image_size, amp: bool, objects=7):
        torch.manual_seed(0)
        cfg = load_config(CONFIGS / config, overrides)
        if stock:
            cfg.model.backbone.net = stock_trunk(cfg.model.backbone.net)
        self.device, self.amp, self.num_images = torch.device(cfg.train.device), amp, images
        self.model: nn.Module = instantiate(cfg.model).to(self.device).train()
        cfg.optimizer.params.model = self.model
        self.optimizer = instantiate(cfg.optimizer)
        classes = self.model.roi_heads.num_classes
        self.batch = [random_sample(image_size, objects, classes) for _ in range(images)]

    def compile(self) -> None:
        compile_blocks(self.model)

    def forward(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        with EventStorage(), self.autocast():
            return sum(self.model(self.batch).values())

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def __call__(self) -> float:
        loss = self.forward()
        self.backward(loss)
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def infer(self) -> list:
        """Detections of the batch, by the model in evaluation mode, in float32 as its users evaluate it."""
        self.model.eval()
        found = self.model(self.batch)
        self.model.train()
        return found

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.amp else nullcontext()


def stock_trunk(net):
    """The config of Detectron2's plain ViT with the shape of `net`'s."""
    from detectron2.config import LazyCall as L
    from detectron2.modeling import ViT

    return L(ViT)(
        img_size=1024,
        patch_size=net.patch_size,
        embed_dim=net.embed_dim,
        depth=net.depth,
        num_heads=net.num_heads,
        drop_path_rate=net.drop_path_rate,
        window_size=0,
        use_rel_pos=False,
        pretrain_img_size=net.field_size * net.patch_size,
        pretrain_use_cls_token=False,
        out_feature="last_feat",
    )


def random_sample(image_size: tuple[int, int], objects: int, num_classes: int) -> dict:
    """One image with objects and masks, as Detectron2's mapper gives it."""
    height, width = image_size
    corners = torch.rand(objects, 2, 2).sort(dim=1).values * torch.tensor([width, height])
    instances = Instances((height, width), gt_boxes=Boxes(corners.flatten(1)))
    instances.gt_classes = torch.randint(num_classes, (objects,))
    instances.gt_masks = BitMasks(torch.rand(objects, height, width) > 0.5)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": instances}
