"""What only a GPU shows: the same numbers as on the CPU, by every attention kernel, compiled or not, in bfloat16."""

import importlib.util

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage
from fvcore.common.param_scheduler import LinearParamScheduler

from lab.benchmarks.cases import DetectorCase, OurStep, make_batch, make_method
from lab.benchmarks.gpu import attention_by
from pretrain.engine.trainer import on_device
from pretrain.methods.losses import prototype_cross_entropy
from pretrain.models.attention import Layout, packed_attention
from pretrain.models.vit import VisionTransformer
from stop.jepa import JEPA
from stop.masks import MultiBlockMasks
from stop.predictor import Predictor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

HAS_XFORMERS = importlib.util.find_spec("xformers") is not None
KERNELS = ["sdpa", pytest.param("xformers", marks=pytest.mark.skipif(not HAS_XFORMERS, reason="no xformers"))]
BACKBONE = dict(embed_dim=128, depth=3, num_heads=2, field_size=10, layer_scale=0.3, drop_path_rate=0.0)
HEADS = dict(num_prototypes=512, head_hidden_dim=64, bottleneck_dim=32)


def difference(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """|found - wanted| / |wanted|"""
    found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
    return ((found - wanted).norm() / wanted.norm()).item()


def losses_and_gradients(method, batch, device: str, dtype=None) -> dict[str, torch.Tensor]:
    """One forward and backward pass; `dtype` of autocast."""
    method, batch = method.to(device), {name: on_device(value, device) for name, value in batch.items()}
    method.zero_grad()
    with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
        losses = method(batch, 0)
    sum(losses.values()).backward()
    gradients = {name: p.grad.to("cpu", copy=True) for name, p in method.named_parameters() if p.grad is not None}
    return {name: loss.detach().cpu() for name, loss in losses.items()} | gradients


def assert_close(found: dict, wanted: dict, tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    # The gradient of a key's bias is zero but for rounding, so what is compared is a tensor against the largest.
    scale = max(value.norm() for value in wanted.values())
    off = {name: (found[name] - wanted[name]).norm() / (wanted[name].norm() + 1e-3 * scale) for name in wanted}
    assert max(off.values()) < tolerance, sorted(off.items(), key=lambda item: -item[1])[:5]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-3), (torch.bfloat16, 1e-2)])
def test_every_kernel_is_attention(kernel, dtype, tolerance):
    layout = Layout(((3, 197), (5, 37)))
    wanted = [t.requires_grad_() for t in torch.randn(3, layout.num_tokens, 2, 64, dtype=torch.float64)]
    given = [t.detach().to("cuda", dtype).requires_grad_() for t in wanted]
    upstream = torch.randn(layout.num_tokens, 2, 64, dtype=torch.float64)
    expected = packed_attention(*wanted, layout)
    expected.backward(upstream)
    with attention_by(kernel):
        found = packed_attention(*given, layout)
    found.backward(upstream.to("cuda", dtype))
    assert difference(found, expected) < tolerance
    for ours, reference in zip(given, wanted, strict=True):
        assert difference(ours.grad, reference.grad) < tolerance


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype, tolerance", [(None, 2e-3), (torch.bfloat16, 6e-2)])
def test_a_step_is_that_of_the_cpu(kernel, dtype, tolerance):
    method, batch = make_method(BACKBONE, **HEADS), make_batch(4)
    wanted = losses_and_gradients(method, batch, "cpu")
    with attention_by(kernel):
        assert_close(losses_and_gradients(method, batch, "cuda", dtype), wanted, tolerance)


def test_a_step_of_ijepa_is_that_of_the_cpu():
    torch.manual_seed(0)
    backbone = VisionTransformer(16, 128, 2, 2, field_size=14, class_token=False, learned_field=False, layer_scale=None)
    method = JEPA(backbone, Predictor(128, 64, 2, 2, field_size=14), LinearParamScheduler(0.996, 1.0), max_iter=10)
    crops = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8)
    masks = MultiBlockMasks((14, 14), group_size=3).of_batch(range(4), 4, 1, np.random.default_rng(0), None)
    batch = {"global_crops": crops, "index": torch.arange(4), **masks}
    assert_close(losses_and_gradients(method, batch, "cuda"), losses_and_gradients(method, batch, "cpu"), 2e-3)


def test_a_compiled_step_is_the_same():
    method, batch = make_method(BACKBONE, block_rows=16, **HEADS), make_batch(4)
    wanted = losses_and_gradients(method, batch, "cuda", torch.bfloat16)
    method.compile_parts()
    assert_close(losses_and_gradients(method, batch, "cuda", torch.bfloat16), wanted, 5e-2)
    assert method.block_rows == 64


@pytest.mark.parametrize("groups, per_group, views", [(40, 10, 2), (700, 1, 1)])
def test_prototype_losses_equal_the_formula_in_float64(groups, per_group, views):
    torch.manual_seed(0)
    student, teacher = torch.randn(groups, per_group, 256).double(), torch.randn(groups, views, 256).double()
    prototypes, theirs = torch.randn(2, 4096, 256).double() / 16
    student, teacher = student / student.norm(dim=-1, keepdim=True), teacher / teacher.norm(dim=-1, keepdim=True)
    centre, pairing, weights = torch.randn(4096).double() / 10, torch.rand(per_group, views), torch.rand(groups)
    student.requires_grad_(), prototypes.requires_grad_()
    targets = torch.softmax((teacher @ theirs.T - centre) / 0.04, dim=-1)
    pairs = -torch.einsum("nvk,nsk->nsv", targets, torch.log_softmax(student @ prototypes.T / 0.1, dim=-1))
    expected = (pairs * pairing.double() * weights.double()[:, None, None]).sum()
    expected.backward()
    on_gpu = [t.detach().cuda().float() for t in (student, prototypes, teacher, theirs, centre, pairing, weights)]
    on_gpu[0].requires_grad_(), on_gpu[1].requires_grad_()
    found = prototype_cross_entropy(*on_gpu, student_temp=0.1, teacher_temp=0.04)
    found.backward()
    assert difference(found, expected) < 1e-5
    assert difference(on_gpu[0].grad, student.grad) < 1e-5 and difference(on_gpu[1].grad, prototypes.grad) < 1e-5


def test_training_in_bfloat16_goes_as_in_float32():
    """Sixty steps on one batch: the loss falls, and by the same."""
    batch = {name: value.cuda() for name, value in make_batch(8).items()}
    falls = []
    for amp in (False, True):
        step = OurStep(make_method(BACKBONE, **HEADS).cuda(), batch, amp)
        losses = [step() for _ in range(60)]
        assert all(torch.isfinite(torch.tensor(losses)))
        falls.append(losses[0] - losses[-1])
    assert falls[0] > 0.05 and falls[1] == pytest.approx(falls[0], rel=0.2)


def test_proposals_and_heads_are_detectron2s():
    """All anchors and regions are sampled, and images have objects that differ in number."""
    shared = [f"model.{part}.batch_size_per_image=100000" for part in ("proposal_generator", "roi_heads")]
    theirs = {"proposal_generator": "proposal_generator.RPN", "roi_heads": "StandardROIHeads"}
    theirs = [f"model.{part}._target_=detectron2.modeling.{name}" for part, name in theirs.items()]
    stock, ours = (
        DetectorCase("mask_rcnn_cropfield_tiny.py", [*shared, *changes], False, 3, (128, 128), amp=False)
        for changes in (theirs, [])
    )
    ours.model.load_state_dict(stock.model.state_dict())
    stock.batch[1]["instances"] = stock.batch[1]["instances"][:2]
    with EventStorage():
        wanted, found = stock.model(stock.batch), ours.model(stock.batch)
    # A region's edge that rounds to the other side may change a pixel of its mask.
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    for part in (stock, ours):
        part.model.roi_heads.box_predictor.test_score_thresh = 0.0
    for theirs, own in zip(stock.infer(), ours.infer(), strict=True):
        theirs, own = theirs["instances"], own["instances"]
        assert len(theirs) > 0
        torch.testing.assert_close(own.scores, theirs.scores, rtol=1e-3, atol=1e-5)
