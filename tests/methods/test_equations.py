"""The losses against the paper's equations, written out plainly in float64: values and gradients.

Everything on the plain side is loops, exponentials and sums; nothing of `pretrain.methods` helps to compute it.
"""

import math

import pytest
import torch
from fvcore.common.param_scheduler import CosineParamScheduler

from pretrain.methods.distillation import SelfDistillation, patch_weights
from pretrain.methods.losses import koleo_loss
from pretrain.models.vit import VisionTransformer

IMAGES, GLOBALS, LOCALS, PATCHES, DIM, PROTOTYPES = 3, 2, 3, 6, 8, 10
STUDENT_TEMP, TEACHER_TEMP = 0.1, 0.04


def make_method(**changes) -> SelfDistillation:
    """A method in float64 whose teacher, centres and tokens differ from what they are at the start."""
    torch.manual_seed(0)
    trunk = VisionTransformer(patch_size=4, embed_dim=DIM, depth=1, num_heads=2, field_size=3)
    options = dict(momentum=CosineParamScheduler(0.6, 1.0), max_iter=5, koleo_weight=0.5)
    sizes = dict(num_prototypes=PROTOTYPES, head_hidden_dim=12, bottleneck_dim=5)
    method = SelfDistillation(trunk, **{**options, **sizes, **changes}).double()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in method.named_buffers():
            if name.endswith("centre"):
                buffer.normal_(std=0.05)
    return method


def features(*shape, seed: int = 0, requires_grad: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_(requires_grad)


def plain_logits(head, tokens):
    """MLP with exact GELU, unit vectors, cosine with each prototype: (n, D) -> (n, K)"""
    for layer in head.mlp:
        if isinstance(layer, torch.nn.Linear):
            tokens = tokens @ layer.weight.T + layer.bias
        else:
            tokens = 0.5 * tokens * (1 + torch.erf(tokens / math.sqrt(2)))
    prototypes = head.prototypes.weight
    tokens = tokens / (tokens**2).sum(-1, keepdim=True).sqrt()
    return tokens @ (prototypes / (prototypes**2).sum(-1, keepdim=True).sqrt()).T


def plain_log_p(head, tokens):
    scaled = plain_logits(head, tokens) / STUDENT_TEMP
    return scaled - scaled.exp().sum(-1, keepdim=True).log()


def plain_targets(method, name, tokens):
    """Teacher assignments (n, K) by softmax centering, or by scaling columns and rows of the matrix in turn."""
    with torch.no_grad():
        logits = plain_logits(method.teacher[f"{name}_head"], tokens)
        centre = getattr(method.centering[name], "centre", None)
        if centre is not None:
            e = ((logits - centre) / TEACHER_TEMP).exp()
            return e / e.sum(-1, keepdim=True)
        q = (logits / TEACHER_TEMP).exp()
        for _ in range(3):
            q = q / q.sum(0, keepdim=True)
            q = q / q.sum(1, keepdim=True)
        return q


def assert_same_with_gradients(ours, expected, wanted):
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    for a, b in zip(torch.autograd.grad(ours, wanted), torch.autograd.grad(expected, wanted), strict=True):
        assert b.abs().max() > 1e-6  # not a comparison of zeros
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("centering", ["softmax", "sinkhorn"])
@pytest.mark.parametrize("num_global, num_local", [(2, 3), (2, 0), (3, 1)])
def test_class_token_loss_is_eq_1_over_all_pairs_of_two_views(centering, num_global, num_local):
    method = make_method(centering=centering)
    student = features((num_global + num_local) * IMAGES, DIM, seed=1, requires_grad=True)
    teacher = features(num_global * IMAGES, DIM, seed=2)
    head = method.student["image_head"]
    log_p, targets = plain_log_p(head, student), plain_targets(method, "image", teacher)
    total, pairs = 0.0, 0
    for image in range(IMAGES):
        for view in range(num_global):
            for crop in range(num_global + num_local):
                if crop != view:
                    total = total - (targets[view * IMAGES + image] * log_p[crop * IMAGES + image]).sum()
                    pairs += 1
    assert pairs == IMAGES * num_global * (num_global - 1 + num_local)
    wanted = [student, *head.parameters()]
    assert_same_with_gradients(method.image_loss(student, teacher, IMAGES), total / pairs, wanted)


@pytest.mark.parametrize("name", ["content", "position"])
@pytest.mark.parametrize("loss_on", ["masked", "all"])
def test_patch_losses_are_eqs_4_and_5(name, loss_on):
    method = make_method(loss_on=loss_on)
    crops = GLOBALS * IMAGES
    student = features(crops, PATCHES, DIM, seed=3, requires_grad=True)
    teacher = features(crops, PATCHES, DIM, seed=4)
    mask = torch.zeros(crops, PATCHES, dtype=torch.bool)
    for crop in (0, 2, 5):  # the other crops are masked otherwise, or not at all
        mask[crop, torch.randperm(PATCHES, generator=torch.Generator().manual_seed(crop))[: 1 + crop]] = True
    head = method.student[f"{name}_head"]
    log_p, targets = plain_log_p(head, student), plain_targets(method, name, teacher)
    total = 0.0
    for crop in range(crops):
        counted = [i for i in range(PATCHES) if mask[crop, i] or (loss_on == "all" and mask[crop].any())]
        for i in counted:
            total = total - (targets[crop, i] * log_p[crop, i]).sum() / len(counted)
    wanted = [student, *head.parameters()]
    (read,) = method.read_patches({name: mask}).values()
    loss = method.patch_loss(name, student[read], teacher[read], patch_weights(read)[read])
    assert_same_with_gradients(loss, total / crops, wanted)


def plain_koleo(tokens):
    """-1/n sum_i log min_j |x_i - x_j| of unit vectors"""
    points = [token / (token**2).sum().sqrt() for token in tokens]
    total = 0.0
    for i, point in enumerate(points):
        distances = [((point - other) ** 2).sum().sqrt() for j, other in enumerate(points) if j != i]
        total = total - min(distances).log()
    return total / len(points)


def test_koleo_is_its_formula():
    tokens = features(7, 4, seed=5, requires_grad=True)
    ours, expected = koleo_loss(tokens), plain_koleo(tokens)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)  # 1e-6: ours keeps logarithms from zero
    (a,), (b,) = torch.autograd.grad(ours, tokens), torch.autograd.grad(expected, tokens)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_a_step_sums_eq_6_with_koleo_of_each_global_view_on_the_trunks_class_tokens():
    method = make_method()
    size = 4 * 3, 4 * 2  # pixels: 3 x 3 and 2 x 2 patches
    g = torch.Generator().manual_seed(6)
    masks = torch.zeros(2, GLOBALS * IMAGES, 9, dtype=torch.bool)
    masks[0, ::2, :4] = masks[1, 1::2, 3:] = True
    batch = {
        "global_crops": torch.randint(0, 256, (GLOBALS * IMAGES, 3, size[0], size[0]), dtype=torch.uint8, generator=g),
        "local_crops": torch.randint(0, 256, (LOCALS * IMAGES, 3, size[1], size[1]), dtype=torch.uint8, generator=g),
        "global_boxes": torch.rand(GLOBALS * IMAGES, 4, generator=g),
        "local_boxes": torch.rand(LOCALS * IMAGES, 4, generator=g),
        "content_masks": masks[0],
        "position_masks": masks[1],
        "index": torch.arange(IMAGES),
    }
    losses = method(batch, 0)
    assert losses.keys() == {"loss_image", "loss_content", "loss_position", "loss_koleo"}
    cls, _ = method.student_features(batch, {"content": masks[0], "position": masks[1]}, {})
    expected = 0.5 * (plain_koleo(cls[:IMAGES]) + plain_koleo(cls[IMAGES : 2 * IMAGES]))
    torch.testing.assert_close(losses["loss_koleo"], expected, rtol=0, atol=1e-6)


def test_softmax_centre_is_the_running_mean_of_the_teachers_logits_over_steps():
    """Step n subtracts what steps before n left, and its own logits are those of the teacher that made its targets."""
    method = make_method(centre_momentum=0.8, content_loss=False, position_loss=False)
    centre = method.centering["image"].centre.clone()
    for step in range(4):
        student = features((GLOBALS + LOCALS) * IMAGES, DIM, seed=10 + step)
        teacher = features(GLOBALS * IMAGES, DIM, seed=20 + step)
        with torch.no_grad():
            torch.testing.assert_close(method.centering["image"].centre, centre, rtol=1e-9, atol=1e-12)
            method.image_loss(student, teacher, IMAGES)
            torch.testing.assert_close(method.centering["image"].centre, centre, rtol=1e-9, atol=1e-12)
            logits = plain_logits(method.teacher["image_head"], teacher)
            for k in range(PROTOTYPES):
                mean = sum(logits[n, k] for n in range(GLOBALS * IMAGES)) / (GLOBALS * IMAGES)
                centre[k] = 0.8 * centre[k] + 0.2 * mean
            method.after_step(step)  # also moves the teacher, whose prototypes the next step's logits use


def test_teacher_is_the_moving_average_of_the_students_it_saw():
    method = make_method()
    expected = [parameter.clone() for parameter in method.teacher.parameters()]
    momenta = []
    for step in range(6):
        with torch.no_grad():
            for parameter in method.student.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        momentum = 1 - 0.4 * (1 + math.cos(math.pi * min(step / 5, 1))) / 2  # 0.6 -> 1 in max_iter = 5 steps
        momenta.append(momentum)
        for old, new in zip(expected, method.student.parameters(), strict=True):
            old.copy_(momentum * old + (1 - momentum) * new.detach())
        method.after_step(step)
    assert momenta[0] == pytest.approx(0.6) and momenta[-1] == 1
    for ours, plain in zip(method.teacher.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-12)
