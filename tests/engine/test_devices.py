"""Where bfloat16 is the default."""

import pytest
import torch

from pretrain.engine.devices import bf16_pays


@pytest.mark.parametrize("amx, avx512_bf16", [(False, False), (True, False), (False, True)])
def test_a_cpu_with_amx_or_avx512_bf16_trains_in_bfloat16(amx, avx512_bf16, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    assert bf16_pays() == (amx or avx512_bf16)
