import numpy as np
import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler

from pretrain.errors import UserError
from pretrain.methods.across_ranks import rank
from pretrain.methods.diagnosis import placed_anew
from pretrain.methods.distillation import SelfDistillation
from pretrain.methods.feature_statistics import effective_rank
from pretrain.methods.features import MaskedPatches, crop_features
from pretrain.models.vit import VisionTransformer

IMAGES, LOCALS, PATCHES, FIELD = 4, 3, 16, 12
EVERY = MaskedPatches.of(torch.ones(2 * IMAGES, PATCHES, dtype=torch.bool))


def make_method(drop_path_rate: float = 0.0, **changes) -> SelfDistillation:
    torch.manual_seed(0)
    backbone = VisionTransformer(
        patch_size=8,
        embed_dim=32,
        depth=2,
        num_heads=2,
        field_size=FIELD,
        layer_scale=0.5,
        drop_path_rate=drop_path_rate,
    )  # fmt: skip
    options = dict(
        momentum=CosineParamScheduler(0.9, 1.0), max_iter=10, num_prototypes=64, head_hidden_dim=32, bottleneck_dim=16
    )
    return SelfDistillation(backbone, **{**options, **changes})


def make_random_method(**changes) -> SelfDistillation:
    """One whose every parameter matters: with small weights a crop's class token hardly depends on the crop."""
    method = make_method(**changes)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return method


def make_batch(seed: int = 0) -> dict:
    g = torch.Generator().manual_seed(seed)
    content = torch.zeros(2 * IMAGES, PATCHES, dtype=torch.bool)
    position = content.clone()
    for crop in range(2 * IMAGES):
        chosen = torch.randperm(PATCHES, generator=g)[: 3 + crop % 4]
        (content if crop % 2 else position)[crop, chosen] = True
    return dict(
        global_crops=torch.randint(0, 256, (2 * IMAGES, 3, 32, 32), dtype=torch.uint8, generator=g),
        local_crops=torch.randint(0, 256, (LOCALS * IMAGES, 3, 16, 16), dtype=torch.uint8, generator=g),
        global_boxes=torch.rand(2 * IMAGES, 4, generator=g),
        local_boxes=torch.rand(LOCALS * IMAGES, 4, generator=g),
        content_masks=content,
        position_masks=position,
        index=torch.arange(IMAGES),
    )


def test_each_variant_has_its_terms():
    keys = {
        "CropField": ({}, {"loss_image", "loss_content", "loss_position", "loss_koleo"}),
        "DINOv2": (dict(field_sampling=False, position_loss=False), {"loss_image", "loss_content", "loss_koleo"}),
        "iBOT": (dict(field_sampling=False, position_loss=False, koleo_weight=0), {"loss_image", "loss_content"}),
        "DINO": (dict(position_loss=False, content_loss=False, koleo_weight=0), {"loss_image"}),
    }
    for switches, expected in keys.values():
        assert make_method(**switches)(make_batch(), 0).keys() == expected


def class_tokens(method, batch, crops: str):
    """Of the "teacher", or of the student's "global" or "local" crops, unmasked: (crops, D)"""
    if crops == "teacher":
        return method.teacher_features(batch, {}).cls
    tokens = method.student_features(batch, {}).cls
    return tokens[: 2 * IMAGES] if crops == "global" else tokens[2 * IMAGES :]


def field_of(method, crops: str):
    return (method.teacher if crops == "teacher" else method.student)["backbone"].pos_embed


each_reader = pytest.mark.parametrize("crops", ["teacher", "global", "local"])


@each_reader
def test_a_crop_that_moves_in_the_field_changes_its_own_class_token_alone(crops):
    method, batch = make_random_method(), make_batch()
    boxes = batch["local_boxes" if crops == "local" else "global_boxes"]
    with torch.no_grad():
        before = class_tokens(method, batch, crops)
        for crop in (0, len(boxes) - 1):
            place = boxes[crop].clone()
            boxes[crop] = 1 - place
            changes = (class_tokens(method, batch, crops) - before).abs().amax(1)
            boxes[crop] = place
            assert changes[crop] > 0.01
            changes[crop] = 0
            assert changes.max() < 1e-5


@each_reader
@pytest.mark.parametrize("box", [(0.1, 0.5, 0.35, 0.9), (0.95, 0.05, 0.6, 0.4)], ids=["straight", "mirrored"])
def test_a_crops_gradient_reaches_only_cells_of_the_field_under_its_box(crops, box):
    """Bicubic sampling reads two cells to each side of a point, and the outermost points lie inside the box."""
    method, batch = make_random_method(), make_batch()
    name = "local_boxes" if crops == "local" else "global_boxes"
    batch[name][1] = torch.tensor(box)
    field = field_of(method, crops).requires_grad_()
    token = class_tokens(method, batch, crops)[1]
    (gradient,) = torch.autograd.grad(token @ torch.randn(32), field)
    reached = gradient.view(FIELD, FIELD, 32).abs().amax(2) > 0
    centres = (torch.arange(FIELD) + 0.5) / FIELD
    (x0, x1), (y0, y1) = sorted(box[::2]), sorted(box[1::2])
    rows, columns = ((low - 2 / FIELD < centres) & (centres < high + 2 / FIELD) for low, high in ((y0, y1), (x0, x1)))
    under = rows[:, None] & columns
    assert not reached[~under].any() and reached[under].float().mean() > 0.5


@each_reader
def test_a_mirrored_box_reads_the_mirrored_field(crops):
    method, batch = make_random_method(), make_batch()
    with torch.no_grad():
        before = class_tokens(method, batch, crops)
        field = field_of(method, crops).view(FIELD, FIELD, -1)
        field.copy_(field.flip(1))
        assert (class_tokens(method, batch, crops) - before).abs().amax(1).min() > 0.01
        for name in ("global_boxes", "local_boxes"):
            batch[name][:, ::2] = 1 - batch[name][:, ::2]
        torch.testing.assert_close(class_tokens(method, batch, crops), before, atol=1e-4, rtol=1e-4)


def test_the_teacher_reads_its_own_field_and_unmasked_global_crops_alone():
    method, batch = make_random_method(), make_batch()
    with torch.no_grad():
        before = class_tokens(method, batch, "teacher")
        others = {name: value for name, value in batch.items() if name in ("global_crops", "global_boxes")}
        method.student["backbone"].pos_embed.add_(1.0)
        assert torch.equal(class_tokens(method, others, "teacher"), before)
        method.teacher["backbone"].pos_embed.neg_()
        assert (class_tokens(method, batch, "teacher") - before).abs().amax(1).min() > 0.01


def test_without_field_sampling_every_crop_reads_the_whole_field():
    method, batch = make_method(field_sampling=False, position_loss=False), make_batch()
    before = method(batch, 0)
    batch["global_boxes"] = torch.rand_like(batch["global_boxes"])
    after = method(batch, 0)
    assert all(torch.equal(before[name], after[name]) for name in before)
    backbone, crops = method.student["backbone"], batch["local_crops"]
    pixels = (crops.float() - method.image_mean) / method.image_std
    expected = backbone.embed_patches(pixels) + backbone.sample_positions(None, (2, 2))
    torch.testing.assert_close(method.embed(backbone, crops, batch["local_boxes"], {})[:, 1:], expected)


def test_masking_replaces_content_or_position_and_nothing_else():
    method, batch = make_method(), make_batch()
    with torch.no_grad():
        method.mask_token.fill_(0.3)
        method.pos_mask_token.fill_(0.7)
        backbone, crops, boxes = method.student["backbone"], batch["global_crops"], batch["global_boxes"]
        content = backbone.embed_patches((crops.float() - method.image_mean) / method.image_std)
        positions = backbone.sample_positions(boxes, (4, 4))
        tokens = method.embed(backbone, crops, boxes, method.masked_patches(batch))[:, 1:]
    c, p = batch["content_masks"], batch["position_masks"]
    torch.testing.assert_close(tokens[c], 0.3 + positions[c])
    torch.testing.assert_close(tokens[p], content[p] + 0.7)
    torch.testing.assert_close(tokens[~(c | p)], (content + positions)[~(c | p)])


def test_masked_tokens_start_at_zero():
    method = make_method()
    assert not method.mask_token.any() and not method.pos_mask_token.any()


def test_encoding_gives_class_tokens_of_all_crops_and_the_named_patches():
    backbone = make_random_method().student["backbone"].eval()
    groups = [torch.randn(3, 5, 32), torch.randn(4, 3, 32)]
    masks = {name: torch.zeros(3, 4, dtype=torch.bool) for name in ("some", "none", "last")}
    masks["some"].view(-1)[[0, 3, 4, 11]] = masks["last"][1, 3] = True
    with torch.no_grad():
        cls, patches = crop_features(backbone, groups, {name: MaskedPatches.of(mask) for name, mask in masks.items()})
        first, second = backbone.encode(groups)
    torch.testing.assert_close(cls, torch.cat([first[:, 0], second[:, 0]]))
    for name, mask in masks.items():
        torch.testing.assert_close(patches[name], first[:, 1:][mask])


def test_a_masked_patch_counts_as_a_share_of_its_crop_and_a_crop_as_a_share_of_all():
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True], [False, True, False]])
    patches = MaskedPatches.of(mask)
    assert torch.equal(patches.index, torch.tensor([0, 2, 6, 7, 8, 10]))
    expected = torch.tensor([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 1], dtype=torch.float64) / 4
    torch.testing.assert_close(patches.weight, expected)


def test_gradient_reaches_everything_trained_and_nothing_of_the_teacher():
    method = make_method().train()
    sum(method(make_batch(), 0).values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in method.parameters() if p.requires_grad)
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert not any(module.training for module in method.teacher.modules())
    trained = {id(p) for p in method.parameters() if p.requires_grad}
    clipped = [id(p) for group in method.clip_groups().values() for p in group]
    assert sorted(clipped) == sorted(trained)  # each trained parameter is clipped exactly once


@pytest.mark.parametrize("centering", ["softmax", "sinkhorn", "none"])
def test_a_diagnosis_leaves_no_trace(centering):
    method, batch = make_method(centering=centering, drop_path_rate=0.5).train(), make_batch()
    sum(method(batch, 0).values()).backward()
    kept = {name: value.clone() for name, value in [*method.named_parameters(), *method.named_buffers()]}
    grads = [p.grad.clone() for p in method.student.parameters()]
    modes, rng = [m.training for m in method.modules()], torch.get_rng_state()

    values = method.diagnose(batch)

    assert torch.equal(torch.get_rng_state(), rng) and [m.training for m in method.modules()] == modes
    assert all(torch.equal(kept[n], v) for n, v in [*method.named_parameters(), *method.named_buffers()])
    assert all(torch.equal(p.grad, grad) for p, grad in zip(method.student.parameters(), grads, strict=True))
    assert all(value.dim() == 0 and torch.isfinite(value) and not value.requires_grad for value in values.values())


def test_a_diagnosis_says_what_the_features_say():
    method, batch = make_method(), make_batch()
    with torch.no_grad():
        cls, patches = method.teacher_features(batch, {"every": EVERY})
        sharp = method.diagnose(batch)
        for p in method.student["backbone"].parameters():
            p.zero_()  # every image is the same to this backbone
        method.teacher.load_state_dict(method.student.state_dict())
        same = method.diagnose(batch)
    assert sharp["feature_rank"] == effective_rank(cls) and 1 < sharp["feature_rank"] <= 2 * IMAGES
    assert sharp["patch_rank"] == effective_rank(patches["every"]) > 2
    assert sharp["teacher_student_distance"] == 0
    for head in ("image", "content", "position"):
        assert 0 < sharp[f"target_entropy_{head}"] < sharp[f"target_spread_{head}"] <= 1
        torch.testing.assert_close(same[f"target_entropy_{head}"], same[f"target_spread_{head}"])
        assert same[f"accuracy_{head}"] == 1
    assert same["feature_std"] < 1e-3
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(1.0)
    assert method.diagnose(batch)["teacher_student_distance"] > 0.1


def test_a_diagnosis_compares_the_student_of_a_view_with_the_teacher_of_the_other():
    method, batch = make_random_method(), make_batch()
    with torch.no_grad():
        method.teacher.load_state_dict(method.student.state_dict())  # so that they agree on many crops
        method.centering["image"].centre.normal_(std=0.01)
        student = method.student_features(batch, method.masked_patches(batch)).cls
        teacher = method.teacher_features(batch, {}).cls
        own, theirs = method.student["image_head"], method.teacher["image_head"]
        said = (own(student) @ own.prototypes().T).argmax(1)
        meant = (theirs(teacher) @ theirs.prototypes().T - method.centering["image"].centre).argmax(1)
        pairs = [(said[v * IMAGES + i], meant[(1 - v) * IMAGES + i]) for v in range(2) for i in range(IMAGES)]
        accuracy = sum(bool(a == b) for a, b in pairs) / len(pairs)
        assert accuracy != (said[: 2 * IMAGES] == meant).float().mean().item()  # of a view with itself
        assert method.diagnose(batch)["accuracy_image"].item() == pytest.approx(accuracy)


def test_koleo_needs_two_images_over_all_processes(on_ranks):
    method, batch = make_random_method(), make_batch()

    def images(chosen: list[int]) -> dict:
        views = {name: value.unflatten(0, (-1, IMAGES))[:, chosen].flatten(0, 1) for name, value in batch.items()}
        return views | {"index": torch.tensor(chosen)}

    with torch.no_grad():
        together = method(images([0, 1]), 0)["loss_koleo"]
        apart = on_ranks(lambda: method(images([rank()]), 0)["loss_koleo"])
    torch.testing.assert_close(sum(apart) / 2, together)


@pytest.mark.parametrize("centering", ["softmax", "sinkhorn"])
def test_what_hiding_a_position_costs_is_the_loss_with_e_pos_less_the_loss_without(centering):
    """Patch by patch with full logits, of half of the first view; drop path is off."""
    method, batch, half = make_method(drop_path_rate=0.5, centering=centering).train(), make_batch(), IMAGES // 2
    with torch.no_grad():
        method.pos_mask_token.normal_(generator=torch.Generator().manual_seed(0))
        for p in method.student.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        cost = method.diagnose(batch)["hidden_position_cost"]
        mask, s, t = batch["position_masks"], method.student["position_head"], method.teacher["position_head"]
        hidden = {"position": MaskedPatches.of(mask)}
        targets = t(method.teacher_features(batch, hidden).patches["position"])
        centre = method.centering["position"].current_centre(targets, t.prototypes(), 0.04)
        targets = torch.softmax((targets @ t.prototypes().T - centre) / 0.04, -1)[: mask[:half].sum()]
        losses = []
        backbone, crops, boxes = method.eval().student["backbone"], batch["global_crops"], batch["global_boxes"]
        for masked in (hidden, {}):
            (features,) = backbone.encode([method.embed(backbone, crops, boxes, masked)])
            log_p = torch.log_softmax(s(features[:half, 1:][mask[:half]]) @ s.prototypes().T / 0.1, -1)
            losses.append(-(targets * log_p).sum(-1).mean())
    torch.testing.assert_close(cost, losses[0] - losses[1], atol=1e-4, rtol=1e-4)
    assert cost.abs() > 1e-2
    batch["position_masks"][:half] = False
    assert method.diagnose(batch)["hidden_position_cost"].isnan()


def test_how_far_features_move_is_between_two_places_of_the_same_crops():
    method, batch = make_random_method(), make_batch()
    with torch.no_grad():
        backbone = method.teacher["backbone"]
        backbone.pos_embed.normal_(generator=torch.Generator().manual_seed(0))
        values, first = method.diagnose(batch), slice(IMAGES // 4)
        views = torch.cat([batch["global_boxes"], batch["local_boxes"]]).unflatten(0, (-1, IMAGES))
        crops = method.normalised(batch["global_crops"][first])
        here, there = (
            backbone(crops, batch["global_boxes"][first]),
            backbone(crops, placed_anew(views[:, first].numpy())),
        )
        for name, a, b in zip(("feature", "patch"), here, there, strict=True):
            expected = torch.nn.functional.cosine_similarity(a, b, dim=-1).mean()
            torch.testing.assert_close(values[f"moved_{name}_cosine"], expected)
        assert values["moved_patch_cosine"] < 0.99
        torch.testing.assert_close(values["field_rms"], backbone.pos_embed.square().mean().sqrt())
        torch.testing.assert_close(values["content_rms"], backbone.embed_patches(crops).square().mean().sqrt())


def test_another_placement_keeps_the_shapes_of_crops_and_the_run_s_random_numbers():
    before = torch.get_rng_state()
    views = torch.rand(6, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).numpy()
    moved = placed_anew(views).numpy()
    assert torch.equal(torch.get_rng_state(), before) and np.array_equal(moved, placed_anew(views).numpy())
    assert moved.min() >= 0 and moved.max() <= 1 and np.abs(moved - views[0]).max() > 0.1
    sides = [boxes[:, 2:] - boxes[:, :2] for boxes in (moved, views[0])]
    factors = sides[0] / sides[1]  # of both sides alike
    np.testing.assert_allclose(factors[:, 0], factors[:, 1])


def test_a_field_that_says_nothing_of_places_is_found_unread():
    method, batch = make_method(), make_batch()
    assert method.diagnose(batch)["moved_patch_cosine"] < 1
    with torch.no_grad():
        for backbone in (method.student["backbone"], method.teacher["backbone"]):
            backbone.pos_embed.fill_(0.5)
        method.pos_mask_token.fill_(0.5)
        values = method.diagnose(batch)
    assert values["moved_patch_cosine"] > 1 - 1e-6 and values["moved_feature_cosine"] > 1 - 1e-6
    assert values["hidden_position_cost"].abs() < 1e-4


def test_what_a_variant_has_not_is_not_diagnosed():
    batch = make_batch()
    dinov2 = make_method(field_sampling=False, position_loss=False).diagnose(batch)
    assert not [name for name in dinov2 if name.startswith(("moved", "hidden"))] and "field_rms" in dinov2
    assert "hidden_position_cost" in make_method(field_sampling=False).diagnose(batch)
    sampled = make_method(position_loss=False).diagnose(batch)
    assert "moved_patch_cosine" in sampled and "hidden_position_cost" not in sampled


def test_a_flipped_crop_is_the_crop_with_every_patch_mirrored_in_place():
    """With its box flipped too, and to a transformer, which does not know the order of its tokens."""
    method, batch = make_method(), make_batch()
    backbone, crops, boxes = method.student["backbone"], batch["global_crops"], batch["global_boxes"]
    in_place = crops.unflatten(-1, (4, 8)).flip(-1).flatten(-2)
    with torch.no_grad():
        flipped = method.embed(backbone, crops.flip(-1), boxes[:, [2, 1, 0, 3]], {})[:, 1:]
        expected = method.embed(backbone, in_place, boxes, {})[:, 1:]
    torch.testing.assert_close(flipped.unflatten(1, (4, 4)).flip(2), expected.unflatten(1, (4, 4)))
    assert (flipped - expected).abs().max() > 0.1


def test_bad_settings_are_refused_with_a_sentence():
    with pytest.raises(UserError, match="neither 'softmax' nor 'sinkhorn'"):
        make_method(centering="mean")
    one_image = make_batch()
    for name, value in one_image.items():
        one_image[name] = value[: len(value) // IMAGES]
    with pytest.raises(UserError, match="KoLeo"):
        make_method()(one_image, 0)
    one_view = {name: value for name, value in make_batch().items() if "local" not in name}
    for name in one_view.keys() - {"index"}:
        one_view[name] = one_view[name][:IMAGES]
    with pytest.raises(UserError, match="compares views"):
        make_method()(one_view, 0)


def test_under_autocast_positions_and_e_pos_stay_in_float32():
    method, batch = make_method(), make_batch()
    masked = method.masked_patches(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = method.embed(method.student["backbone"], batch["global_crops"], batch["global_boxes"], masked)
    assert tokens.dtype == torch.float32


def test_the_backbone_that_others_see_is_the_teachers():
    method = make_method()
    assert method.backbone is method.teacher["backbone"] is not method.student["backbone"]
