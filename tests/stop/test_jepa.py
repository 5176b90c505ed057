import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from fvcore.common.param_scheduler import LinearParamScheduler

from lab.benchmarks.operations import Operations
from pretrain.engine.param_groups import param_groups
from pretrain.errors import UserError
from pretrain.methods.feature_statistics import directional_std, effective_rank
from pretrain.models.attention import pack
from pretrain.models.vit import VisionTransformer
from stop.jepa import JEPA, gather
from stop.masks import MultiBlockMasks
from stop.predictor import Predictor

DIM, IMAGES = 32, 4


def make_method(grid=(6, 6), predictor=None, backbone=None, **changes) -> JEPA:
    torch.manual_seed(0)
    backbone_options = dict(class_token=False, field_init="sincos", learned_field=False, layer_scale=None)
    net = VisionTransformer(8, DIM, 2, 2, field_size=grid, **{**backbone_options, **(backbone or {})})
    head = Predictor(DIM, 16, 2, 2, field_size=grid, **{"noise_std": 0.25, **(predictor or {})})
    method = JEPA(net, head, LinearParamScheduler(0.996, 1.0), max_iter=10, **changes).double()
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if not name.endswith("pos_embed"):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def make_batch(grid=(6, 6), images=IMAGES, share=slice(None), group_size=64) -> dict:
    g = torch.Generator().manual_seed(1)
    crops = torch.randint(0, 256, (images, 3, grid[0] * 8, grid[1] * 8), dtype=torch.uint8, generator=g)
    masks = MultiBlockMasks(grid, min_keep=3, group_size=group_size)
    drawn = masks.of_batch(range(images)[share], images, 1, np.random.default_rng(2), None)
    return {"global_crops": crops[share], "index": torch.arange(images)[share], **drawn}


@pytest.mark.parametrize("group_size", [64, 3])
def test_loss_equals_the_method_written_out(group_size):
    """Image by image and block by block, with the backbones' own forward passes and no packing."""
    method, batch = make_method(predictor=dict(noise_std=0.0)), make_batch(group_size=group_size)
    contexts = [seen for group in batch["context_patches"] for seen in group]
    assert len({len(seen) for seen in contexts}) == (1 if group_size == 64 else 2)
    pixels = (batch["global_crops"].double() - method.image_mean) / method.image_std
    student, teacher, predictor = method.student["backbone"], method.teacher["backbone"], method.predictor
    losses = []
    for image, seen, blocks in zip(pixels, contexts, batch["target_patches"], strict=True):
        _, features = teacher(image[None])
        mean, variance = features.mean(-1, keepdim=True), features.var(-1, correction=0, keepdim=True)
        targets = ((features - mean) / (variance + 1e-5).sqrt())[0]
        tokens = (student.embed_patches(image[None]) + student.pos_embed)[:, seen]
        context = student.encode([tokens])[0][0]
        psi = predictor.pos_embed[0]
        for block in blocks:
            rows = torch.cat([predictor.embed(context) + psi[seen], psi[block.flatten()] + predictor.mask_token])
            for layer in predictor.blocks:
                rows = layer(rows, one_sequence(rows[None]))
            predicted = predictor.proj(predictor.norm(rows))[len(seen) :]
            difference = (predicted - targets[block.flatten()]).abs()
            losses.append(torch.where(difference < 1, difference.square() / 2, difference - 0.5).mean())
    found = method(batch, 0)
    assert found.keys() == {"loss_prediction"}
    torch.testing.assert_close(found["loss_prediction"], torch.stack(losses).mean(), atol=1e-6, rtol=1e-6)


def one_sequence(tokens):
    return pack([tokens])[1]


def test_a_step_never_waits_for_the_device():
    method, batch = make_method(), make_batch()
    with Operations() as operations:
        sum(method(batch, 0).values()).backward()
        method.after_step(0)
    assert not operations.waits and operations.number > 100


def test_targets_are_normalised_and_gathered_from_the_whole_image():
    method, batch = make_method(), make_batch()
    targets = method.targets(method.normalised(batch["global_crops"]), batch["target_patches"])
    assert targets.shape == (*batch["target_patches"].shape, DIM) and not targets.requires_grad
    torch.testing.assert_close(targets.mean(-1), torch.zeros_like(targets[..., 0]), atol=1e-12, rtol=0)
    torch.testing.assert_close(targets.var(-1, correction=0), torch.ones_like(targets[..., 0]), atol=1e-3, rtol=0)
    everything = method.targets(method.normalised(batch["global_crops"]), torch.arange(36).expand(IMAGES, 1, 1, 36))[
        :, 0, 0
    ]
    for i, blocks in enumerate(batch["target_patches"]):
        assert torch.equal(targets[i], everything[i, blocks])  # teacher first, then gather


def test_the_student_sees_nothing_but_the_context():
    method, batch = make_method(predictor=dict(noise_std=0.0)), make_batch()
    images = method.normalised(batch["global_crops"])
    before = method.predict(images, batch["context_patches"], batch["target_patches"])
    hidden = torch.ones(IMAGES, 36, dtype=torch.bool).scatter_(1, batch["context_patches"][0], False)
    pixels = hidden.view(IMAGES, 1, 6, 6).repeat_interleave(8, 2).repeat_interleave(8, 3)
    after = method.predict(images + 9.0 * pixels, batch["context_patches"], batch["target_patches"])
    assert torch.equal(before, after)


def test_noise_of_sigma_zero_is_i_jepa_and_context_is_never_noisy():
    batch = make_batch()
    plain, noisy = make_method(predictor=dict(noise_std=0.0)), make_method(predictor=dict(noise_std=0.5))
    seen = {}
    for name, method in (("plain", plain), ("noisy", noisy)):
        method.predictor.blocks[0].register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
        method(batch, 0)
    length = batch["context_patches"][0].shape[1]
    rows = {name: tokens.unflatten(0, (IMAGES * 4, -1)) for name, tokens in seen.items()}
    assert torch.equal(rows["plain"][:, :length], rows["noisy"][:, :length])
    assert not (rows["plain"][:, length:] == rows["noisy"][:, length:]).any()
    without = make_method(predictor=dict(noise_std=0.0, covariance="fixed"))
    assert torch.equal(plain(batch, 0)["loss_prediction"], without(batch, 0)["loss_prediction"])


def test_gradient_reaches_everything_trained_and_nothing_of_the_teacher():
    method = make_method().train()
    sum(method(make_batch(), 0).values()).backward()
    trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.any() for p in trained.values())
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())
    assert not any("pos_embed" in name for name in trained)
    assert not any(module.training for module in method.teacher.modules())
    clipped = [id(p) for group in method.clip_groups().values() for p in group]
    optimised = [id(p) for group in param_groups(method) for p in group["params"]]
    assert sorted(clipped) == sorted(optimised) == sorted(map(id, trained.values()))
    assert optimised.count(id(method.predictor.embed.weight)) == 1


def test_learned_positions_are_trained_in_backbone_and_predictor():
    method = make_method(backbone=dict(learned_field=True), predictor=dict(learned_positions=True))
    sum(method(make_batch(), 0).values()).backward()
    assert method.student["backbone"].pos_embed.grad.any() and method.predictor.pos_embed.grad.any()


def test_the_teacher_follows_linearly_and_stays_where_training_ends():
    method = make_method()
    assert method.momentum(0.0) == 0.996 and method.momentum(1.0) == 1.0
    for step, momentum in ((0, 0.996), (5, 0.998), (10, 1.0), (25, 1.0)):
        with torch.no_grad():
            for p in method.student.parameters():
                p.add_(1.0)
        before = [p.clone() for p in method.teacher.parameters()]
        method.after_step(step)
        for old, new, student in zip(before, method.teacher.parameters(), method.student.parameters(), strict=True):
            torch.testing.assert_close(new, momentum * old + (1 - momentum) * student, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", ["bilinear", "max"])
def test_half_resolution_targets(kind):
    batch = make_batch()
    method = make_method(predictor=dict(noise_std=0.0), half_resolution=kind)
    images = method.normalised(batch["global_crops"])
    predicted = method.predict(images, batch["context_patches"], batch["target_patches"])
    targets = method.targets(images, batch["target_patches"])
    expected = F.smooth_l1_loss(method.halved(predicted), method.halved(targets))
    losses = method(batch, 0)
    torch.testing.assert_close(losses["loss_half_resolution"], expected)
    torch.testing.assert_close(losses["loss_prediction"], F.smooth_l1_loss(predicted, targets))

    even = torch.randn(2, 3, 4, 6, DIM)
    cells = even.unflatten(3, (3, 2)).unflatten(2, (2, 2))  # (B, M, 2, 2, 3, 2, D): squares of four patches
    pooled = cells.mean((3, 5)) if kind == "bilinear" else cells.amax((3, 5))
    torch.testing.assert_close(method.halved(even).permute(0, 2, 3, 1), pooled.flatten(0, 1))
    assert method.halved(torch.randn(2, 3, 5, 7, DIM)).shape == (6, DIM, 3, 4)


def test_regularisers_are_sums_over_a():
    method = make_method(l1=1e-3, l2=1e-2)
    a = method.predictor.embed.weight
    losses = method(make_batch(), 0)
    torch.testing.assert_close(losses["loss_l1"], 1e-3 * a.abs().sum())
    torch.testing.assert_close(losses["loss_l2"], 1e-2 * a.norm() ** 2)


@pytest.mark.parametrize("grid", [(8, 8), (6, 10)])
def test_other_resolutions_train_on_the_same_fields(grid):
    method = make_method(grid=(6, 6))
    sum(method(make_batch(grid), 0).values()).backward()
    assert torch.isfinite(method.predictor.embed.weight.grad).all()


def test_diagnostics_change_nothing_and_see_a_collapse():
    method, batch = make_method().train(), make_batch()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    healthy = method.diagnose(batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(value.dim() == 0 and torch.isfinite(value) for value in healthy.values())
    matrix, bias = method.predictor.embed.weight, method.predictor.mask_token
    torch.testing.assert_close(healthy["norm_A"], matrix.square().sum().sqrt())
    torch.testing.assert_close(healthy["l1_A"], matrix.abs().sum() / matrix.numel())
    torch.testing.assert_close(healthy["norm_mask_token"], bias.square().sum().sqrt())
    with torch.no_grad():
        _, patches = method.teacher["backbone"]((batch["global_crops"].double() - method.image_mean) / method.image_std)
        images = torch.stack([image.mean(0) for image in patches])
        for name, features in (("feature", images), ("patch", torch.cat([*patches]))):
            torch.testing.assert_close(healthy[f"{name}_rank"], effective_rank(features))
            torch.testing.assert_close(healthy[f"{name}_std"], directional_std(features))
        method.teacher["backbone"].norm.weight.mul_(1e-6)
    collapsed = method.diagnose(batch)
    assert collapsed["patch_rank"] < 1.01 < 2 < healthy["patch_rank"]
    assert collapsed["target_std"] < 1e-3 < 0.1 < healthy["target_std"]


def rank_gradient(rank: int, world_size: int, folder) -> None:
    """Loss and gradient of one rank's part of the batch, averaged over ranks as data parallel training does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    share = IMAGES // world_size
    values = torch.cat(loss_and_gradient(slice(rank * share, (rank + 1) * share)))
    dist.all_reduce(values)
    if rank == 0:
        torch.save(values / world_size, folder / "result.pth")
    dist.destroy_process_group()


def loss_and_gradient(share: slice) -> tuple[torch.Tensor, torch.Tensor]:
    method, batch = make_method(), make_batch(share=share)
    places = range(IMAGES)[share]

    def draw(shape):  # noise of the whole batch, of which a rank takes its own images'
        whole = torch.randn(IMAGES, *shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(7))
        return whole[list(places)]

    method.predictor.draw = draw
    loss = method(batch, 0)["loss_prediction"]
    parameters = [p for p in method.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters)
    return loss.detach()[None], torch.cat([g.flatten() for g in gradients])


def test_one_process_and_two_agree(tmp_path):
    # Forked, because importing torch anew takes longer than all of this file.
    mp.start_processes(rank_gradient, (2, tmp_path), nprocs=2, start_method="fork")
    together = torch.load(tmp_path / "result.pth", weights_only=True)
    alone = torch.cat(loss_and_gradient(slice(None)))
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=1e-9)


def test_gather():
    tokens = torch.arange(24.0).view(2, 4, 3)
    patches = torch.tensor([[[3, 0]], [[1, 1]]])
    assert torch.equal(gather(tokens, patches), torch.stack([tokens[0, [[3, 0]]], tokens[1, [[1, 1]]]]))


def test_bad_settings_are_refused_with_a_sentence():
    with pytest.raises(UserError, match="class_token=False"):
        make_method(backbone=dict(class_token=True))
    with pytest.raises(UserError, match="'bilinear' nor 'max'"):
        make_method(half_resolution="area")
    with pytest.raises(UserError, match="backbone_dim 8"):
        JEPA(make_method().student["backbone"], Predictor(8, 16, 1, 1), LinearParamScheduler(0.996, 1.0), 10)


def test_both_backbones_start_from_a_file(tmp_path):
    source = make_method().float().student["backbone"]
    torch.save(source.state_dict(), tmp_path / "backbone.pth")
    torch.manual_seed(1)
    options = dict(class_token=False, field_init="sincos", learned_field=False, layer_scale=None, field_size=6)
    backbone, predictor = VisionTransformer(8, DIM, 2, 2, **options), Predictor(DIM, 16, 2, 2, field_size=(6, 6))
    method = JEPA(
        backbone, predictor, LinearParamScheduler(0.996, 1.0), max_iter=10, init=str(tmp_path / "backbone.pth")
    )
    for ours in (method.student["backbone"], method.teacher["backbone"]):
        for name, value in source.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
