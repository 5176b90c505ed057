"""I-JEPA, and StoP if the predictor has stochastic positions: predict the teacher's features of masked blocks."""

import torch
import torch.nn.functional as F
from fvcore.common.param_scheduler import ParamScheduler
from torch import Tensor, nn

from pretrain.errors import UserError
from pretrain.methods.feature_statistics import directional_std, effective_rank, relative_distance
from pretrain.methods.student_teacher import StudentTeacher
from pretrain.models.vit import VisionTransformer
from pretrain.ranges import NotNegative, Positive
from stop.predictor import Predictor


class JEPA(StudentTeacher):
    """I-JEPA's student, teacher and predictor.

    The student sees an image's context patches, the teacher the whole image. From the student's features the predictor
    predicts the teacher's features of the target patches, block by block.

    Args:
        backbone: the student, without a class token; the teacher is a copy of it.
        predictor: with or without stochastic positions (`noise_std`, see `Predictor`).
        momentum: the teacher's momentum over training, from 0 to 1 (I-JEPA: linear, 0.996 -> 1).
        max_iter: length of training in steps.
        init: weight file, ours or public, that initialises both backbones; "" keeps the initial weights.
        half_resolution: also predict the targets at half resolution, resized by "bilinear" or "max" pooling (Table 8);
            None as in StoP and I-JEPA.
        image_mean, image_std: see `StudentTeacher`.
        l1, l2: weights of `sum |A|` and `sum A^2`, the regularisers that Sec. 4.3 compares with StoP's noise.
    """

    def __init__(
        self,
        backbone: VisionTransformer,
        predictor: Predictor,
        momentum: ParamScheduler,
        max_iter: int,
        init: str = "",
        half_resolution: str | None = None,
        l1: NotNegative = 0.0,
        l2: NotNegative = 0.0,
        image_mean: tuple[float, ...] | None = None,
        image_std: tuple[Positive, ...] | None = None,
    ):
        if backbone.cls_token is not None:
            raise UserError("model.backbone: I-JEPA's backbone has no class token; set class_token=False")
        if predictor.backbone_dim != backbone.embed_dim:
            raise UserError(
                f"model.predictor.backbone_dim {predictor.backbone_dim} is not the backbone's {backbone.embed_dim}"
            )
        if half_resolution not in (None, "bilinear", "max"):
            raise UserError(f"model.half_resolution: {half_resolution!r} is neither 'bilinear' nor 'max' nor None")
        super().__init__(nn.ModuleDict({"backbone": backbone}), momentum, max_iter, init, image_mean, image_std)
        self.half_resolution, self.l1, self.l2 = half_resolution, l1, l2
        self.predictor = predictor

    def forward(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """Losses of a step, to be summed.

        Args:
            batch: `global_crops` uint8 (B, 3, H*p, W*p), `context_patches`, one (n, N_c) for each group of its images,
                and `target_patches` (B, M, h, w).
            step: index of the step, from 0.
        """
        images = self.normalised(batch["global_crops"])
        targets = self.targets(images, batch["target_patches"])  # (B, M, h, w, D)
        predicted = self.predict(images, batch["context_patches"], batch["target_patches"]).to(targets.dtype)
        losses = {"loss_prediction": F.smooth_l1_loss(predicted, targets)}
        if self.half_resolution:
            halves = self.halved(predicted), self.halved(targets)
            losses["loss_half_resolution"] = F.smooth_l1_loss(*halves)
        for name, weight, power in (("loss_l1", self.l1, 1), ("loss_l2", self.l2, 2)):
            if weight:
                losses[name] = weight * self.predictor.embed.weight.abs().pow(power).sum()
        return losses

    def clip_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trained parameters by sub-module; gradients are clipped separately for each, if at all."""
        modules = {"backbone": self.student["backbone"], "predictor": self.predictor}
        return {name: [p for p in module.parameters() if p.requires_grad] for name, module in modules.items()}

    @torch.no_grad()
    def diagnose(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars that show early whether training works, see `pretrain.methods.feature_statistics`; has no side
        effects.

        `feature_*`: the teacher's mean patch of each image; `patch_*`: its patches; `target_std`: the targets, 0 if all
        patches have the same (collapse). As in Fig. 4: `norm_A` (Frobenius), `l1_A` (mean absolute entry) and
        `norm_mask_token`.
        """
        images = self.normalised(batch["global_crops"])
        features = self.teacher_features(images)
        targets = self.targets(images, batch["target_patches"])
        matrix = self.predictor.embed.weight
        return {
            "feature_rank": effective_rank(features.mean(1)),
            "feature_std": directional_std(features.mean(1)),
            "patch_rank": effective_rank(features.flatten(0, 1)),
            "patch_std": directional_std(features.flatten(0, 1)),
            "target_std": directional_std(targets.flatten(0, 3)),
            "teacher_student_distance": relative_distance(self.student, self.teacher),
            "norm_A": matrix.norm(),
            "l1_A": matrix.abs().mean(),
            "norm_mask_token": self.predictor.masked_bias.norm(),
        }

    def teacher_features(self, images: Tensor) -> Tensor:
        """(B, H*W, D), from whole images."""
        backbone = self.teacher["backbone"]
        return backbone.encode([backbone.embed(images)])[0]

    @torch.no_grad()
    def targets(self, images: Tensor, patches: Tensor) -> Tensor:
        """The teacher's features of `patches` (B, M, h, w), each token normalised to mean 0 and variance 1: (B, M, h,
        w, D).
        """
        features = self.teacher_features(images)
        return gather(F.layer_norm(features, features.shape[-1:]), patches)

    def predict(self, images: Tensor, context_patches: list[Tensor], target_patches: Tensor) -> Tensor:
        """Predict the targets (B, M, h, w, D) from the context patches."""
        backbone, counts = self.student["backbone"], [len(patches) for patches in context_patches]
        seen = zip(backbone.embed(images).split(counts), context_patches, strict=True)
        contexts = backbone.encode([gather(*group) for group in seen])
        groups = zip(contexts, context_patches, target_patches.flatten(2).split(counts), strict=True)
        predicted = torch.cat([self.predictor(*group, backbone.grid(images)) for group in groups])
        return predicted.unflatten(2, target_patches.shape[2:])

    def halved(self, blocks: Tensor) -> Tensor:
        """Blocks (B, M, h, w, D) at half resolution (B*M, D, ceil(h/2), ceil(w/2))."""
        maps = blocks.flatten(0, 1).permute(0, 3, 1, 2)
        if self.half_resolution == "max":
            return F.max_pool2d(maps, 2, ceil_mode=True)
        size = [(side + 1) // 2 for side in maps.shape[-2:]]
        return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def gather(tokens: Tensor, patches: Tensor) -> Tensor:
    """Tokens (B, N, D) at patch indices (B, ...) -> (B, ..., D)."""
    index = patches.flatten(1)[..., None].expand(-1, -1, tokens.shape[-1])
    return tokens.gather(1, index).unflatten(1, patches.shape[1:])
