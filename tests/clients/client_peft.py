"""peft's LoRA on the layers that LayerScale is multiplied into."""

import pytest
import torch

from cropfield import CropFieldViT

peft = pytest.importorskip("peft")


def test_lora_trains_where_it_is_put_and_merges_without_a_change():
    net = CropFieldViT(patch_size=8, embed_dim=32, depth=2, num_heads=2, field_size=4, layer_scale=0.7)
    options = peft.LoraConfig(target_modules=["attn.proj", "fc2"], r=2, init_lora_weights=False)
    model, images = peft.get_peft_model(net, options), torch.randn(2, 3, 32, 48)
    model(images)["last_feat"].square().sum().backward()
    gradients = [p.grad for name, p in model.named_parameters() if "lora_" in name]
    assert len(gradients) == 8 and all(gradient.abs().sum() > 0 for gradient in gradients)
    with torch.no_grad():
        before = model.eval()(images)["last_feat"]
        torch.testing.assert_close(model.merge_and_unload()(images)["last_feat"], before)
