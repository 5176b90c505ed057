"""Counts of operations and of waits for the device: what a GPU's host is busy with, found without a GPU."""

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# These make no kernel: views, and memory that is not filled.
NO_KERNEL = set(
    "alias as_strided detach expand lift_fresh permute select slice split split_with_sizes squeeze t transpose unbind "
    "unsqueeze view _unsafe_view empty empty_like empty_strided new_empty".split()
)
# What these return, or how much of it, the host knows only when the device has computed it.
WAITS = {"nonzero", "_local_scalar_dense", "masked_select", "_unique2", "nms", "equal"}


class Operations(TorchDispatchMode):
    """Count operations, and those that wait for the device, while it is active. A boolean index waits, too."""

    def __init__(self):
        super().__init__()
        self.number, self.waits = 0, []
        self.lists = _Lists(self.waits)

    def __enter__(self) -> "Operations":
        self.lists.__enter__()
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self.lists.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        self.number += name not in NO_KERNEL
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in WAITS or any(index is not None and index.dtype == torch.bool for index in indices):
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


class _Lists(TorchFunctionMode):
    """Notes `tolist`, which is no operation on a CPU."""

    def __init__(self, waits: list[str]):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.tolist:
            self.waits.append("tolist")
        return func(*args, **(kwargs or {}))
