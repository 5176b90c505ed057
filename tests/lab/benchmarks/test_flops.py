import torch

from lab.benchmarks.cases import OurStep, make_batch, make_method
from lab.benchmarks.flops import count_flops, matmul_rate

BACKBONE = dict(patch_size=8, embed_dim=16, depth=2, num_heads=2, field_size=5, drop_path_rate=0.0)


def test_a_step_counts_by_its_formula():
    """Backbone: 24 D^2 + 4 L D a token and block, 3 p^2 D a patch; heads by their widths; backward twice that.

    Of tokens that no loss reads the last block makes 6 D^2, for others to attend to.
    """
    hidden, bottleneck, prototypes, images = 12, 4, 32, 3
    method = make_method(
        BACKBONE, prototypes, hidden, bottleneck, field_sampling=False, position_loss=False, koleo_weight=0.0
    )
    batch = make_batch(images, 32, 16, 3, patch=8)
    dim, patch_area = 16, 3 * 64
    masked, crops = int(batch["content_masks"].sum()), (2 * images, 3 * images)
    lengths = (17, 5)
    blocks = [c * n * 2 * (24 * dim**2 + 4 * n * dim) for c, n in zip(crops, lengths, strict=True)]
    patches = [c * (n - 1) * 2 * dim * patch_area for c, n in zip(crops, lengths, strict=True)]
    head = 2 * (dim * hidden + hidden**2 + hidden * bottleneck)
    rows = {"student": sum(crops) + masked, "teacher": crops[0] + masked}
    attention = sum(c * n * 2 * 4 * n * dim for c, n in zip(crops, lengths, strict=True))
    unread = {"teacher": crops[0] * 17 - rows["teacher"], "student": crops[0] * 17 + crops[1] * 5 - rows["student"]}
    expected = blocks[0] + patches[0] - 18 * dim**2 * unread["teacher"]
    expected += 3 * (sum(blocks) - 18 * dim**2 * unread["student"]) + 2 * sum(patches)  # no gradient of pixels
    expected += head * (rows["teacher"] + 3 * rows["student"])
    expected += 2 * bottleneck * prototypes * (rows["teacher"] + 3 * rows["student"])
    found = count_flops(OurStep(method, batch, amp=False))
    # Over: attention's backward pass makes the scores anew; positions are interpolated by small products.
    assert expected < found < expected + attention + 0.1 * expected


def test_attention_and_accumulating_products_are_counted_on_the_cpu():
    q = torch.randn(2, 3, 5, 8, requires_grad=True)
    forward = 2 * 2 * 2 * 3 * 5 * 5 * 8
    attend = torch.nn.functional.scaled_dot_product_attention
    assert count_flops(lambda: attend(q, q, q)) == forward
    assert count_flops(lambda: attend(q, q, q).sum().backward()) == forward + 5 * forward // 2
    a, b, total = torch.randn(3, 4), torch.randn(4, 5), torch.zeros(3, 5)
    assert count_flops(lambda: total.addmm_(a, b)) == 2 * 3 * 4 * 5


def test_the_rate_is_operations_over_seconds():
    times = iter((0.0, 90.0, 91.0, 94.0))  # the warm-up does not count
    rate = matmul_rate("cpu", torch.float32, side=8, clock=lambda: next(times))()
    assert rate == 2 * 2 * 8**3 / 3
