"""Diagnostics of a `SelfDistillation` in training: is it learning, and does it read its field?"""

import numpy as np
import torch
from torch import Tensor, nn

from pretrain.data.crops import place_in_field
from pretrain.methods.feature_statistics import (
    assignment_statistics,
    directional_std,
    effective_rank,
    mean_cosine,
    relative_distance,
    rms,
)
from pretrain.methods.features import MaskedPatches, crop_features
from pretrain.methods.losses import prototype_cross_entropy


@torch.no_grad()
def diagnose(method: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scalars that tell early whether learning happens, see `pretrain.methods.feature_statistics`; changes nothing.

    Features and targets are the teacher's, of the global crops. Assignments of head `name` ("image": class tokens,
    the student's against the teacher's of another view; "content", "position": masked patches) have names that end in
    `_name`. Whether the backbone reads its field: `moved_field` and `hidden_position_cost`. The cost is two and a
    quarter forward passes of the global crops.
    """
    masked, num_images = method.masked_patches(batch), len(batch["index"])
    global_crops = {name: value for name, value in batch.items() if not name.startswith("local_")}
    training = method.student.training
    method.student.eval()  # drop path would draw from the run's random numbers
    student = method.student_features(global_crops, masked)
    crops, grid = batch["global_crops"], method.student["backbone"].grid(batch["global_crops"])
    everywhere = MaskedPatches.of(torch.ones(len(crops), grid[0] * grid[1], dtype=torch.bool, device=crops.device))
    teacher = method.teacher_features(batch, masked | {"every": everywhere})
    values = {
        "feature_rank": effective_rank(teacher.cls),
        "feature_std": directional_std(teacher.cls),
        "patch_rank": effective_rank(teacher.patches["every"]),
        "patch_std": directional_std(teacher.patches["every"]),
        "teacher_student_distance": relative_distance(method.student, method.teacher),
    }
    pairs = {"image": (student.cls, teacher.cls.roll(num_images, 0))}  # another view's
    pairs |= {kind: (student.patches[kind], teacher.patches[kind]) for kind in masked}
    for name, pair in pairs.items():
        statistics = assignments(method, name, *pair)
        values |= {f"{statistic}_{name}": value for statistic, value in statistics.items()}
    values |= moved_field(method, batch, teacher.cls, teacher.patches["every"].unflatten(0, (len(crops), -1)))
    if "position" in masked:
        mask = masked["position"].mask
        values["hidden_position_cost"] = hidden_position_cost(method, batch, mask, *pairs["position"])
    method.student.train(training)
    return values


def moved_field(method: nn.Module, batch: dict[str, Tensor], cls: Tensor, patches: Tensor) -> dict[str, Tensor]:
    """How large the teacher's field is beside its content, and how far its features move with another t_s.

    cls: (V*B, D) and patches: (V*B, N, D), of the global crops at their own boxes. The first view of a quarter of
    the images is placed anew. Without field sampling every crop has the same place, and there are no cosines.

    Returns:
        field_rms, content_rms: of the field and of the patch embedding's output.
        moved_feature_cosine, moved_patch_cosine: between class tokens or patches at the two places.
    """
    backbone, num_images = method.teacher["backbone"], len(batch["index"])
    few = -(-num_images // 4)
    crops = batch["global_crops"][:few]
    content = backbone.embed_patches(method.normalised(crops))
    values = {"field_rms": rms(backbone.pos_embed), "content_rms": rms(content)}
    if method.field_sampling:
        views = torch.cat([batch[f"{kind}_boxes"] for kind in ("global", "local") if f"{kind}_boxes" in batch])
        views = views.unflatten(0, (-1, num_images))
        boxes = placed_anew(views[:, :few].cpu().numpy()).to(crops.device)
        tokens = backbone.with_class_token(content + backbone.sample_positions(boxes, backbone.grid(crops)))
        (moved,) = backbone.encode([tokens])
        values["moved_feature_cosine"] = mean_cosine(moved[:, 0], cls[:few])
        values["moved_patch_cosine"] = mean_cosine(moved[:, 1:], patches[:few])
    return values


def placed_anew(views: np.ndarray) -> Tensor:
    """Boxes (V, B, 4) of all crops of B images -> those (B, 4) of the first view after another t_s, always the same."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(
        np.stack([place_in_field(boxes, rng.uniform(0.2, 1), rng)[0] for boxes in views.swapaxes(0, 1)])
    )


def hidden_position_cost(
    method: nn.Module, batch: dict[str, Tensor], mask: Tensor, hidden: Tensor, teacher: Tensor
) -> Tensor:
    """What hiding a position costs: position loss with e_POS less with the patch's own position, nats a patch.

    Of the masked patches in the first view of half of the images; NaN if none. For a student in eval mode.

    mask: (V*B, N), positions hidden. hidden, teacher: (n, D), features there, the student's with e_POS.
    """
    own, theirs, backbone = method.student["position_head"], method.teacher["position_head"], method.student["backbone"]
    targets, prototypes = theirs(teacher), theirs.prototypes()
    centre = method.centering["position"].current_centre(targets, prototypes, method.teacher_temp)  # with all ranks
    mask = mask[: -(-len(batch["index"]) // 2)]
    crops = mask.any(1).nonzero().flatten()
    if not len(crops):
        return centre.new_tensor(torch.nan)
    tokens = method.embed(backbone, batch["global_crops"][crops], batch["global_boxes"][crops], {})
    shown = crop_features(backbone, [tokens], {"position": MaskedPatches.of(mask[crops])}).patches["position"]
    count = len(shown)
    signs = targets.new_tensor([1 / count, -1 / count]).repeat_interleave(count)
    student, targets = torch.cat([own(hidden[:count]), own(shown)]), targets[:count].repeat(2, 1)
    return prototype_cross_entropy(
        student[:, None], own.prototypes(), targets[:, None], prototypes, centre, signs.new_ones(1, 1), signs,
        method.student_temp, method.teacher_temp, method.block_rows, method.subtract_targets,
    )  # fmt: skip


def assignments(method: nn.Module, name: str, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    """Features (n, D) of both through head `name` -> `assignment_statistics`."""
    own, theirs = method.student[f"{name}_head"], method.teacher[f"{name}_head"]
    student, teacher, prototypes = own(student), theirs(teacher), theirs.prototypes()
    centre = method.centering[name].current_centre(teacher, prototypes, method.teacher_temp)
    return assignment_statistics(
        student, own.prototypes(), teacher, prototypes, centre, method.teacher_temp, method.block_rows
    )
