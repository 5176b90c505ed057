"""What the trainer does with a batch before the method sees it."""

import torch

from pretrain.engine.trainer import on_device


def test_tensors_and_lists_of_them_go_to_the_device():
    groups, names = [torch.zeros(2, 3), torch.zeros(1, 4)], ("a", "b")
    moved = on_device(groups, "meta")
    assert all(part.is_meta for part in moved) and [part.shape for part in moved] == [(2, 3), (1, 4)]
    assert on_device(torch.zeros(2), "meta").is_meta and on_device(names, "meta") is names
