import torch
from torch import nn

from lab.benchmarks.live_bytes import LiveBytes


def test_what_is_made_counts_until_it_is_gone():
    with LiveBytes() as memory:
        a = torch.zeros(1000)
        b = a + 1
        del b
        assert (memory.live, memory.peak) == (4000, 8000)
        c = a.view(10, 100).T[2:]  # no storage of its own
        d = a.double()
        del a, d
        assert memory.live == 4000 and memory.peak == 12000
        del c
    assert memory.live == 0


def test_what_was_there_does_not_count_nor_do_operations_in_place():
    weight = torch.zeros(1000)
    with LiveBytes([weight]) as memory:
        weight.add_(1).view(10, 100)
    assert memory.peak == 0


def test_a_backward_pass_counts_what_it_keeps_and_what_it_makes():
    layer, x = nn.Linear(50, 50, bias=False), torch.zeros(8, 50)
    with LiveBytes([layer.weight, x]) as memory:
        layer(x).sum().backward()
        assert memory.live == layer.weight.grad.untyped_storage().nbytes()
    assert memory.peak > memory.live
