"""The default device, and whether bfloat16 pays on it."""

import torch

from pretrain.errors import UserError, reason


def default_device() -> str:
    """ "cuda" where there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def bf16_pays() -> bool:
    """Whether bf16 matrix products are faster than fp32 here: Ampere or newer GPUs, CPUs with AMX or AVX512-BF16.

    CPUs without either only emulate bf16 and are left in fp32.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def check_usable(device: str, name: str = "train.device") -> None:
    """Raise UserError unless tensors can be made, and read, on `device`, given as `name`."""
    try:
        torch.zeros(1, device=device).tolist()
    except Exception as error:  # each kind of device has its own
        raise UserError(
            f"{name}: {device!r} cannot be used here ({reason(error)}); choose cpu, cuda or cuda:N"
        ) from None
