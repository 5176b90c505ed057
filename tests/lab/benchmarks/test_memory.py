import pytest
import torch

from lab.benchmarks.memory import full_logits, make_tokens, our_losses, peak
from pretrain.models.heads import Prototypes


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("losses", [our_losses, full_logits])
def test_fake_tensors_take_what_real_ones_take(losses, amp):
    assert peak(losses, 2, 96, amp, dim=8) == peak(losses, 2, 96, amp, dim=8, fake=False) > 0


def test_both_are_the_same_loss_with_the_same_gradients_to_1e_5_of_float64():
    torch.manual_seed(0)
    for student, teacher in make_tokens(3, 16):
        own, theirs, centre = Prototypes(300, 16), Prototypes(300, 16), 0.1 * torch.randn(300)
        ours = our_losses(student, teacher, own, theirs, centre)
        found = torch.autograd.grad(ours, (student, own.weight))
        student = student.detach().double().requires_grad_()
        expected = full_logits(student, teacher.double(), own.double(), theirs.double(), centre.double(), torch.float64)
        wanted = torch.autograd.grad(expected, (student, own.weight))
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=0)
        for a, b in zip(found, wanted, strict=True):
            assert (a - b).norm() < 1e-5 * b.norm()


@pytest.mark.parametrize("amp", [False, True])
def test_a_fifth_of_full_logits_at_64_images_and_no_growth_with_tokens_times_prototypes(amp):
    ours = {images: peak(our_losses, images, 65536, amp) for images in (16, 64)}
    assert ours[64] < 0.2 * peak(full_logits, 64, 65536, amp)
    tokens = 48 * (10 + 2 + 2 * 2 * 196 * 0.3) * 256 * 4
    assert ours[64] - ours[16] < 6 * tokens  # tokens and their gradients, no logits
