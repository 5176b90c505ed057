import torch
from fvcore.common.param_scheduler import ConstantParamScheduler
from omegaconf import ListConfig

from pretrain.engine.param_groups import param_groups, with_plain_options
from pretrain.methods.distillation import SelfDistillation
from pretrain.models.vit import VisionTransformer


def test_every_trained_parameter_is_in_the_group_that_dinov2_gives_it():
    backbone = VisionTransformer(patch_size=8, embed_dim=16, depth=1, num_heads=2, field_size=3)
    method = SelfDistillation(backbone, ConstantParamScheduler(0.9), 1, num_prototypes=8, head_hidden_dim=8)
    names = {id(p): name for name, p in method.named_parameters()}
    groups = {g["name"]: {names[id(p)] for p in g["params"]} for g in param_groups(method)}
    assert {name: (g["part"], g["decay"]) for name, g in zip(groups, param_groups(method), strict=True)} == {
        "backbone_decay": ("backbone", True),
        "backbone_no_decay": ("backbone", False),
        "rest_decay": ("rest", True),
        "rest_no_decay": ("rest", False),
        "prototypes_decay": ("prototypes", True),
    }
    trained = [name for name, p in method.named_parameters() if p.requires_grad]
    assert sorted(name for group in groups.values() for name in group) == sorted(trained)
    prefix = "student.backbone."
    assert {f"{prefix}pos_embed", f"{prefix}cls_token"} < groups["backbone_decay"]
    assert {"mask_token", "pos_mask_token"} < groups["rest_decay"]
    assert {f"{prefix}blocks.0.ls1.gamma", f"{prefix}norm.weight", f"{prefix}blocks.0.norm1.weight"} < groups[
        "backbone_no_decay"
    ]
    assert f"{prefix}blocks.0.attn.qkv.weight" in groups["backbone_decay"]
    assert f"{prefix}blocks.0.attn.qkv.bias" in groups["backbone_no_decay"]
    heads = ("image", "content", "position")
    assert groups["prototypes_decay"] == {f"student.{head}_head.prototypes.weight" for head in heads}
    assert torch.optim.AdamW(param_groups(method)).param_groups[0]["decay"]


def test_an_optimizers_state_has_no_lists_of_the_config():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    optimizer.param_groups[0]["betas"] = ListConfig([0.9, 0.99])  # as torch 2.6 keeps them
    assert with_plain_options(optimizer).state_dict()["param_groups"][0]["betas"] == (0.9, 0.99)
    assert type(optimizer.param_groups[0]["betas"]) is tuple
