"""Self-distillation with a position field: CropField, and by switches DINOv2, iBOT and DINO."""

import torch
from fvcore.common.param_scheduler import ParamScheduler
from torch import Tensor, nn

from pretrain.errors import UserError
from pretrain.methods.across_ranks import num_ranks
from pretrain.methods.centering import NoCentering, SinkhornKnopp, SoftmaxCentering
from pretrain.methods.diagnosis import diagnose
from pretrain.methods.features import Features, MaskedPatches, crop_features
from pretrain.methods.losses import koleo_loss, prototype_cross_entropy, subtract_targets_
from pretrain.methods.student_teacher import StudentTeacher
from pretrain.models.heads import ProjectionHead
from pretrain.models.vit import VisionTransformer
from pretrain.ranges import Count, NotNegative, Positive, Prototypes, Share, Temperature, Width


class SelfDistillation(StudentTeacher):
    """Student and teacher, and the losses of Eq. 6: `L_image + L_content + lambda L_KoLeo + L_pos`.

    A step, for one image with views u, v and local crops:

        t = teacher(u, v at their boxes of the field)                 # sees everything
        s = student(mask(u), mask(v), locals at their boxes)          # each view lacks some content or some positions
        L_image   = mean of CE(s.cls[a], t.cls[b]) over a != b        # Eq. 1; b in {u, v}, a also local
        L_content = mean of CE(s[i], t[i]) over patches i without content     # Eq. 5
        L_pos     = mean of CE(s[i], t[i]) over patches i without position    # Eq. 4
        L_KoLeo   = -mean of log |s.cls - nearest other image's s.cls|        # for u and for v
        teacher  <- momentum * teacher + (1 - momentum) * student

    The switches lead from method to method: without `field_sampling` and `position_loss` this is DINOv2, without KoLeo
    (`koleo_weight=0`) too it is iBOT, without any patch loss (`content_loss=False`) it is DINO.

    Args:
        backbone: the student's backbone, with a class token; the teacher is a copy of it.
        momentum: the teacher's momentum over training, from 0 to 1 (Table 6: cosine, 0.992 -> 1).
        max_iter: length of training in steps.
        init: weight file, ours or a public one, from which both backbones start; "" keeps their initial values.
        field_sampling: sample every crop's positions at its box in the field; else every crop reads the whole field.
        content_loss, position_loss: masked content (Eq. 5) and masked position prediction (Eq. 4).
        koleo_weight: lambda; 1 in the paper, 0.1 in DINOv2.
        centering: "softmax", "sinkhorn" or "none" (which collapses, and is there to show it).
        num_prototypes, head_hidden_dim, bottleneck_dim: shape of the three separate heads (Table 6: K = 65,536).
        student_temp, teacher_temp, centre_momentum: 0.1, 0.04 (Table 6), 0.9; the first and last are DINOv2's.
        image_mean, image_std: see `StudentTeacher`.
        block_rows: rows of logits that the losses hold at a time; once compiled for a GPU they hold four times as many,
            in less memory.
    """

    def __init__(
        self,
        backbone: VisionTransformer,
        momentum: ParamScheduler,
        max_iter: int,
        init: str = "",
        field_sampling: bool = True,
        content_loss: bool = True,
        position_loss: bool = True,
        koleo_weight: NotNegative = 1.0,
        centering: str = "softmax",
        num_prototypes: Prototypes = 65536,
        head_hidden_dim: Width = 2048,
        bottleneck_dim: Width = 256,
        student_temp: Temperature = 0.1,
        teacher_temp: Temperature = 0.04,
        centre_momentum: Share = 0.9,
        block_rows: Count = 512,
        image_mean: tuple[float, ...] | None = None,
        image_std: tuple[Positive, ...] | None = None,
    ):
        if backbone.cls_token is None:
            raise UserError("model.backbone: self-distillation needs a class token; set class_token=True")
        if centering not in ("softmax", "sinkhorn", "none"):
            raise UserError(f"model.centering: {centering!r} is neither 'softmax' nor 'sinkhorn' nor 'none'")
        heads = ["image"] + ["content"] * content_loss + ["position"] * position_loss
        student = nn.ModuleDict({"backbone": backbone})
        for name in heads:
            student[f"{name}_head"] = ProjectionHead(
                backbone.embed_dim, num_prototypes, head_hidden_dim, bottleneck_dim
            )
        super().__init__(student, momentum, max_iter, init, image_mean, image_std)
        self.field_sampling, self.koleo_weight = field_sampling, koleo_weight
        self.student_temp, self.teacher_temp, self.block_rows = student_temp, teacher_temp, block_rows
        self.subtract_targets = subtract_targets_

        self.centering = nn.ModuleDict()
        for name in heads:
            self.centering[name] = {
                "softmax": lambda: SoftmaxCentering(num_prototypes, centre_momentum),
                "sinkhorn": SinkhornKnopp,
                "none": NoCentering,
            }[centering]()
        # e_MASK and e_POS: part of training, not of the backbone; zero at the start.
        self.mask_token = nn.Parameter(torch.zeros(backbone.embed_dim)) if content_loss else None
        self.pos_mask_token = nn.Parameter(torch.zeros(backbone.embed_dim)) if position_loss else None

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """One step's losses, weighted, to be summed.

        Args:
            batch: global crops uint8 (V*B, 3, S, S) view-major with boxes (V*B, 4) and content and position masks
                (V*B, N); local crops (L*B, 3, s, s) with boxes. See `pretrain.data.batches`.
            step: number of the step, from 0.
        """
        masked = self.masked_patches(batch)
        with torch.no_grad():
            teacher = self.teacher_features(batch, masked)
        student = self.student_features(batch, masked)
        return self.losses(student, teacher, masked, len(batch["index"]))

    def masked_patches(self, batch: dict[str, Tensor]) -> dict[str, MaskedPatches]:
        """Masked patches by kind, "content" and "position", where there is a loss for it; other masks are ignored."""
        kinds = [kind for kind in ("content", "position") if f"{kind}_head" in self.student]
        return {kind: MaskedPatches.of(batch[f"{kind}_masks"]) for kind in kinds}

    def teacher_features(self, batch: dict[str, Tensor], masked: dict[str, MaskedPatches]) -> Features:
        """Features of the global crops, which the teacher sees unmasked."""
        backbone = self.teacher["backbone"]
        return crop_features(backbone, [self.embed(backbone, batch["global_crops"], batch["global_boxes"], {})], masked)

    def student_features(self, batch: dict[str, Tensor], masked: dict[str, MaskedPatches]) -> Features:
        """Features of the masked global crops and, if there are any, of the local crops."""
        backbone = self.student["backbone"]
        groups = [self.embed(backbone, batch["global_crops"], batch["global_boxes"], masked)]
        if "local_crops" in batch:
            groups.append(self.embed(backbone, batch["local_crops"], batch["local_boxes"], {}))
        return crop_features(backbone, groups, masked)

    def losses(
        self, student: Features, teacher: Features, masked: dict[str, MaskedPatches], num_images: int
    ) -> dict[str, Tensor]:
        """The terms of Eq. 6, weighted."""
        losses = {"loss_image": self.image_loss(student.cls, teacher.cls, num_images)}
        for kind, patches in masked.items():
            pair = student.patches[kind], teacher.patches[kind]
            losses[f"loss_{kind}"] = self.patch_loss(kind, *pair, patches.weight)
        if self.koleo_weight:
            if num_images * num_ranks() < 2:
                raise UserError(
                    "KoLeo spreads the images that are in a forward pass together, over all processes, and needs two; "
                    "raise dataloader.train.batch_size, or lower train.accumulate"
                )
            views = student.cls[: len(teacher.cls)].split(num_images)
            losses["loss_koleo"] = self.koleo_weight * sum(koleo_loss(view) for view in views)
        return losses

    def embed(
        self, backbone: VisionTransformer, crops: Tensor, boxes: Tensor, masked: dict[str, MaskedPatches]
    ) -> Tensor:
        """Crops uint8 (B, 3, H*p, W*p) at boxes (B, 4) -> tokens (B, 1 + H*W, D), content or position masked."""
        content = backbone.embed_patches(self.normalised(crops))
        positions = backbone.sample_positions(boxes if self.field_sampling else None, backbone.grid(crops))
        if "content" in masked:
            content = torch.where(masked["content"].mask[..., None], self.mask_token.to(content.dtype), content)
        if "position" in masked:
            positions = torch.where(masked["position"].mask[..., None], self.pos_mask_token, positions)
        return backbone.with_class_token(content + positions)

    def after_step(self, step: int) -> None:
        """Centres and teacher follow the student; call after the optimizer's step."""
        for centering in self.centering.values():
            centering.update()
        super().after_step(step)

    def compile_parts(self) -> None:
        super().compile_parts()
        if self.image_mean.is_cuda:  # one kernel reads and writes a block of logits instead of ten
            self.subtract_targets = torch.compile(subtract_targets_, dynamic=True)
            self.block_rows *= 4

    def clip_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trained parameters by sub-module: gradients are clipped for each on its own, as in DINOv2."""
        groups = {n: [p for p in module.parameters() if p.requires_grad] for n, module in self.student.items()}
        groups["backbone"] += [token for token in (self.mask_token, self.pos_mask_token) if token is not None]
        return groups

    def diagnose(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `pretrain.methods.diagnosis.diagnose`."""
        return diagnose(self, batch)

    def image_loss(self, student_cls: Tensor, teacher_cls: Tensor, num_images: int) -> Tensor:
        """Eq. 1 over all pairs of a student crop and another view of the teacher, averaged over pairs and images."""
        # View-major tokens through the heads, then by image: (B, V + L, d) and (B, V, d).
        student = self.student["image_head"](student_cls).unflatten(0, (-1, num_images)).transpose(0, 1)
        with torch.no_grad():
            teacher = self.teacher["image_head"](teacher_cls).unflatten(0, (-1, num_images)).transpose(0, 1)
        if student.shape[1] < 2:
            raise UserError("the class-token loss compares views of an image and needs two: add global or local crops")
        pairing = student.new_ones(student.shape[1], teacher.shape[1])
        pairing.fill_diagonal_(0)  # the first V student crops are the teacher's own views
        weights = student.new_full((num_images,), 1 / num_images)
        return self.cross_entropy("image", student, teacher, pairing / pairing.sum(), weights)

    def patch_loss(self, name: str, student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
        """Eq. 4 or 5 over features (n, D) of student and teacher, weights (n,): see `MaskedPatches`."""
        tokens = self.student[f"{name}_head"](student)[:, None]  # (n, 1, d)
        with torch.no_grad():
            targets = self.teacher[f"{name}_head"](teacher)[:, None]  # (n, 1, d)
        return self.cross_entropy(name, tokens, targets, tokens.new_ones(1, 1), weights.to(tokens.dtype))

    def cross_entropy(self, name: str, student: Tensor, teacher: Tensor, pairing: Tensor, weights: Tensor) -> Tensor:
        """Centre the teacher's tokens (n, V, d) and compare them with the student's (n, S, d)."""
        teacher_prototypes = self.teacher[f"{name}_head"].prototypes()
        centre = self.centering[name](teacher.flatten(0, 1), teacher_prototypes, self.teacher_temp)
        return prototype_cross_entropy(
            student,
            self.student[f"{name}_head"].prototypes(),
            teacher,
            teacher_prototypes,
            centre,
            pairing,
            weights,
            self.student_temp,
            self.teacher_temp,
            self.block_rows,
            self.subtract_targets,
        )
