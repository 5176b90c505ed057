"""A DINOv2 step as one would first write it: the yardstick for ours, and its reference in the tests.

One forward pass for each size of crops, logits in full, a loop over pairs of crops, parameters updated one by one
(torch's default `AdamW` on a CPU is that loop). No position loss and no field: a crop reads the whole of `pos_embed`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.benchmarks.plain_vit import PlainHead, PlainTrunk
from pretrain.engine.param_groups import param_groups
from pretrain.methods.distillation import SelfDistillation


class PlainDINOv2(nn.Module):
    """Image, content and KoLeo loss, softmax centering, teacher; starts from the weights of `ours`."""

    def __init__(self, ours: SelfDistillation):
        super().__init__()
        double = ours.image_mean.dtype == torch.float64

        def parts(source: nn.ModuleDict) -> nn.ModuleDict:
            heads = {name: PlainHead(source[name]) for name in ("image_head", "content_head")}
            trunk = PlainTrunk(source["trunk"])
            return nn.ModuleDict({"trunk": trunk.double() if double else trunk, **heads})

        self.student = parts(ours.student)
        self.teacher = parts(ours.teacher).requires_grad_(False).eval()
        self.mask_token = nn.Parameter(ours.mask_token.detach().clone())
        self.register_buffer("mean", ours.image_mean.clone())
        self.register_buffer("std", ours.image_std.clone())
        for name in ("image", "content"):
            self.register_buffer(f"{name}_centre", ours.centering[name].centre.clone())
        self.koleo_weight, self.centre_momentum = ours.koleo_weight, ours.centering["image"].momentum
        self.momentum, self.max_iter = ours.momentum, ours.max_iter
        self.student_temp, self.teacher_temp = ours.student_temp, ours.teacher_temp
        self.seen = {}  # logits of the step, for the centres

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`batch` as `SelfDistillation.forward` has it -> the losses, weighted."""
        num_images, masks = len(batch["index"]), batch["content_masks"]
        crops = [(batch[f"{size}_crops"].to(self.mean.dtype) - self.mean) / self.std for size in ("global", "local")]
        with torch.no_grad():
            teacher = self.teacher["trunk"](crops[0])
            image_targets = self.targets("image", self.teacher["image_head"](teacher[:, 0]))
            content_targets = self.targets("content", self.teacher["content_head"](teacher[:, 1:][masks]))
        student = self.student["trunk"](crops[0], self.mask_token, masks)
        local = self.student["trunk"](crops[1])
        student_cls = torch.cat([student[:, 0], local[:, 0]])
        image_logits = self.student["image_head"](student_cls)
        content_logits = self.student["content_head"](student[:, 1:][masks])
        views = _at_least_float32(student[:, 0]).chunk(len(masks) // num_images)
        return {
            "loss_image": self.image_loss(image_logits, image_targets, num_images),
            "loss_content": self.content_loss(content_logits, content_targets, masks),
            "loss_koleo": self.koleo_weight * sum(self.koleo(view) for view in views),
        }

    def targets(self, name: str, logits: Tensor) -> Tensor:
        """Teacher's logits (n, K) -> softmax around the centre"""
        logits = _at_least_float32(logits)
        self.seen[name] = logits
        return F.softmax((logits - getattr(self, f"{name}_centre")) / self.teacher_temp, dim=-1)

    def image_loss(self, logits: Tensor, targets: Tensor, num_images: int) -> Tensor:
        total, pairs = 0.0, 0
        for s, student in enumerate(_at_least_float32(logits).split(num_images)):
            log_p = F.log_softmax(student / self.student_temp, dim=-1)
            for t, target in enumerate(targets.split(num_images)):
                if s != t:
                    total = total - (target * log_p).sum(-1).mean()
                    pairs += 1
        return total / pairs

    def content_loss(self, logits: Tensor, targets: Tensor, masks: Tensor) -> Tensor:
        log_p = F.log_softmax(_at_least_float32(logits) / self.student_temp, dim=-1)
        per_crop = masks.sum(1, keepdim=True).clamp(min=1)
        weights = (1 / per_crop).expand_as(masks)[masks]
        return -((targets * log_p).sum(-1) * weights).sum() / len(masks)

    def koleo(self, tokens: Tensor, eps: float = 1e-8) -> Tensor:
        with torch.autocast(tokens.device.type, enabled=False):
            tokens = F.normalize(tokens, dim=-1, eps=eps)
            similarity = tokens @ tokens.T
            similarity.fill_diagonal_(-1)
            distances = F.pairwise_distance(tokens, tokens[similarity.argmax(1)], eps=eps)
            return -(distances + eps).log().mean()

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        for name, logits in self.seen.items():
            centre = getattr(self, f"{name}_centre")
            centre.mul_(self.centre_momentum).add_(logits.mean(0), alpha=1 - self.centre_momentum)
        momentum = self.momentum(min(1.0, step / self.max_iter))
        for theirs, own in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            theirs.mul_(momentum).add_(own, alpha=1 - momentum)


def plain_step(model: PlainDINOv2, optimizer: torch.optim.Optimizer, batch: dict, step: int, amp: bool) -> dict:
    """One training step -> the losses"""
    optimizer.zero_grad()
    with torch.autocast(model.mean.device.type, torch.bfloat16, enabled=amp):
        losses = model(batch)
    sum(losses.values()).backward()
    for name, module in model.student.items():
        token = [model.mask_token] if name == "trunk" else []
        nn.utils.clip_grad_norm_([*module.parameters(), *token], 3.0)
    optimizer.step()
    model.after_step(step)
    return losses


def plain_optimizer(model: PlainDINOv2, lr: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(param_groups(model), lr=lr, weight_decay=0.04)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
