"""A step of self-distillation as one would first write it: the reference of ours in the tests, and its yardstick.

One forward pass for each size of crops, logits in full, a loop over pairs of crops, parameters updated one by one
(torch's default `AdamW` on a CPU is that loop). Nothing of `pretrain` helps to compute it.
"""

import math

import torch
import torch.nn.functional as F
from plain_vit import PlainBackbone, PlainHead
from torch import Tensor, nn


class PlainStep(nn.Module):
    """Student, teacher and the losses of Eq. 6, with the weights of `ours`, a `SelfDistillation`.

    The arguments are those of `SelfDistillation`, which gives the heads and masked tokens that they call for. As they
    are here it is DINOv2, with the paper's values; `momentum` is the teacher's at the start of `max_iter` steps.
    """

    def __init__(
        self,
        ours: nn.Module,
        field_sampling: bool = False,
        content_loss: bool = True,
        position_loss: bool = False,
        koleo_weight: float = 1.0,
        centering: str = "softmax",
        student_temp: float = 0.1,
        teacher_temp: float = 0.04,
        centre_momentum: float = 0.9,
        momentum: float = 0.992,
        max_iter: int = 1000,
    ):
        super().__init__()
        self.predicted = ["content"] * content_loss + ["position"] * position_loss
        heads = ["image", *self.predicted]
        self.student, self.teacher = (
            nn.ModuleDict({f"{name}_head": PlainHead(side[f"{name}_head"]) for name in heads})
            for side in (ours.student, ours.teacher)
        )
        self.student["backbone"], self.teacher["backbone"] = (
            PlainBackbone(ours.student["backbone"]),
            PlainBackbone(ours.teacher["backbone"]),
        )
        self.teacher.requires_grad_(False).eval()
        tokens = {"content": ours.mask_token, "position": ours.pos_mask_token}
        self.tokens = nn.ParameterDict({name: tokens[name].detach().clone() for name in self.predicted})
        self.register_buffer("mean", ours.image_mean.clone())
        self.register_buffer("std", ours.image_std.clone())
        for name in heads:
            centre = getattr(ours.centering[name], "centre", torch.zeros(()))
            self.register_buffer(f"{name}_centre", centre.clone())
        self.field_sampling, self.koleo_weight = field_sampling, koleo_weight
        self.centering, self.centre_momentum = centering, centre_momentum
        self.student_temp, self.teacher_temp = student_temp, teacher_temp
        self.momentum, self.max_iter = momentum, max_iter
        self.seen = {}  # logits of the step, for the centres

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """`batch` as `SelfDistillation.forward` has it -> the losses, weighted."""
        num_images = len(batch["index"])
        masks = {name: batch[f"{name}_masks"] for name in self.predicted}
        with torch.no_grad():
            teacher = self.features(self.teacher, batch, "global", {})
            targets = {"image": self.targets("image", teacher[:, 0])}
            targets |= {name: self.targets(name, teacher[:, 1:][patches]) for name, patches in masks.items()}
        student = self.features(self.student, batch, "global", masks)
        cls = student[:, 0]
        if "local_crops" in batch:
            cls = torch.cat([cls, self.features(self.student, batch, "local", {})[:, 0]])
        losses = {"loss_image": self.image_loss(self.student["image_head"](cls), targets["image"], num_images)}
        for name, patches in masks.items():
            logits = self.student[f"{name}_head"](student[:, 1:][patches])
            losses[f"loss_{name}"] = self.patch_loss(logits, targets[name], patches)
        if self.koleo_weight:
            views = _at_least_float32(student[:, 0]).split(num_images)
            losses["loss_koleo"] = self.koleo_weight * sum(koleo(view) for view in views)
        return losses

    def features(self, side: nn.ModuleDict, batch: dict[str, Tensor], size: str, masks: dict[str, Tensor]) -> Tensor:
        """All "global" or "local" crops through student or teacher, in one batch -> (B, 1 + N, D)"""
        images = (batch[f"{size}_crops"].to(self.mean.dtype) - self.mean) / self.std
        boxes = batch[f"{size}_boxes"] if self.field_sampling else None
        return side["backbone"](images, boxes, masks, self.tokens)

    def targets(self, name: str, tokens: Tensor) -> Tensor:
        """The teacher's tokens (n, D) -> what the student is to say of them (n, K)"""
        logits = self.seen[name] = _at_least_float32(self.teacher[f"{name}_head"](tokens))
        if self.centering == "sinkhorn":
            return sinkhorn_knopp(logits / self.teacher_temp)
        centre = getattr(self, f"{name}_centre") if self.centering == "softmax" else 0
        return F.softmax((logits - centre) / self.teacher_temp, dim=-1)

    def image_loss(self, logits: Tensor, targets: Tensor, num_images: int) -> Tensor:
        """Eq. 1: every student crop with every view of the teacher but itself"""
        total, pairs = 0.0, 0
        for s, student in enumerate(_at_least_float32(logits).split(num_images)):
            log_p = F.log_softmax(student / self.student_temp, dim=-1)
            for t, target in enumerate(targets.split(num_images)):
                if s != t:
                    total = total - (target * log_p).sum(-1).mean()
                    pairs += 1
        return total / pairs

    def patch_loss(self, logits: Tensor, targets: Tensor, patches: Tensor) -> Tensor:
        """Eqs. 4 and 5: of each crop the mean over its `patches` (V*B, N), divided by all crops"""
        log_p = F.log_softmax(_at_least_float32(logits) / self.student_temp, dim=-1)
        per_crop = patches.sum(1, keepdim=True).clamp(min=1)
        weights = (1 / per_crop.to(log_p.dtype)).expand_as(patches)[patches]
        return -((targets * log_p).sum(-1) * weights).sum() / len(patches)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Centres and teacher follow; momentum rises from its start to 1 along half a cosine."""
        for name, logits in self.seen.items():
            if self.centering == "softmax":
                centre = getattr(self, f"{name}_centre")
                centre.mul_(self.centre_momentum).add_(logits.mean(0), alpha=1 - self.centre_momentum)
        rest = (1 + math.cos(math.pi * min(1.0, step / self.max_iter))) / 2
        momentum = 1 - (1 - self.momentum) * rest
        for theirs, own in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            theirs.mul_(momentum).add_(own, alpha=1 - momentum)


def sinkhorn_knopp(scores: Tensor, iterations: int = 3) -> Tensor:
    """Scale columns (prototypes) and rows (tokens) of exp(scores) (n, K) in turn: each row ends with a sum of one."""
    q = scores.exp()
    for _ in range(iterations):
        q = q / q.sum(0, keepdim=True)
        q = q / q.sum(1, keepdim=True)
    return q


def koleo(tokens: Tensor, eps: float = 1e-8) -> Tensor:
    """-mean log distance of class tokens (n, D) to their nearest neighbours on the sphere"""
    with torch.autocast(tokens.device.type, enabled=False):
        tokens = F.normalize(tokens, dim=-1, eps=eps)
        similarity = tokens @ tokens.T
        similarity.fill_diagonal_(-1)
        distances = F.pairwise_distance(tokens, tokens[similarity.argmax(1)], eps=eps)
        return -(distances + eps).log().mean()


def plain_step(
    model: PlainStep, optimizer: torch.optim.Optimizer, batch: dict, step: int, amp: bool, clip: float = 3.0
) -> dict:
    """One training step -> the losses"""
    optimizer.zero_grad()
    with torch.autocast(model.mean.device.type, torch.bfloat16, enabled=amp):
        losses = model(batch)
    sum(losses.values()).backward()
    for name, module in model.student.items():
        tokens = model.tokens.values() if name == "backbone" else []
        nn.utils.clip_grad_norm_([*module.parameters(), *tokens], clip)
    optimizer.step()
    model.after_step(step)
    return losses


def plain_optimizer(model: PlainStep, lr: float, weight_decay: float = 0.04) -> torch.optim.AdamW:
    """Biases, norms and LayerScale do not decay; prototypes are a group of their own, to be frozen by its `lr`."""
    groups = {"decay": [], "no_decay": [], "prototypes": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spared = any(word in name for word in ("bias", "norm", "gamma"))
            groups["prototypes" if "prototypes" in name else "no_decay" if spared else "decay"].append(parameter)
    return torch.optim.AdamW(
        [
            {"name": name, "params": parameters, "weight_decay": 0.0 if name == "no_decay" else weight_decay}
            for name, parameters in groups.items()
        ],
        lr=lr,
    )


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
