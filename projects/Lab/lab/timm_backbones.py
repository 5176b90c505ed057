"""timm's plain ViTs as backbones of this project: loaded like weight files, and checked for equal outputs."""

import difflib

import timm
import torch
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor

from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.errors import UserError
from pretrain.models.vit import VisionTransformer
from pretrain.models.weight_layouts import PATCH_WEIGHT, BackboneFile, backbone_file
from pretrain.models.weights import build_backbone, fill_backbone


def timm_backbone(name: str, pretrained: bool = True) -> VisionTransformer:
    """The backbone of a timm model, frozen, in eval mode. Input is normalised as in this project, not as in timm.

    Args:
        name: e.g. "vit_base_patch16_224.dino".
        pretrained: False keeps timm's random initial weights, without a download.

    Raises:
        UserError: timm has no such model, its weights cannot be downloaded, it is not a plain ViT (see
            `read_backbone`), or its outputs differ, for example because of another activation.
    """
    model = _create(name, pretrained)
    metadata = {"field_size": "x".join(str(side) for side in model.patch_embed.grid_size)}
    metadata["num_heads"] = str(model.blocks[0].attn.num_heads)
    file = backbone_file(f"timm's {name}", model.state_dict(), metadata)
    backbone = build_backbone(file)
    fill_backbone(backbone, file)
    mean, std = (255 * torch.tensor(model.pretrained_cfg[key]) for key in ("mean", "std"))
    _take_our_normalisation(backbone, mean, std)
    _check_features(backbone, model, file, mean, std)
    return backbone


def _create(name: str, pretrained: bool) -> TimmViT:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 1)
        raise UserError(
            f"timm has no model {name}" + (f"; did you mean {near[0]}?" if near else "; see its list_models")
        )
    try:
        model = timm.create_model(name, pretrained=pretrained).eval()
    except (OSError, RuntimeError) as error:  # no connection, no such tag
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise UserError(
            f"the weights of timm's {name} cannot be loaded ({reason}); download the file and give it as --weights, "
            "or use random ones with --timm-random"
        ) from error
    if not isinstance(model, TimmViT):
        raise UserError(
            f"timm's {name} is a {type(model).__name__}, not a plain ViT; take one of timm's vit_* or deit*"
        )
    return model


@torch.no_grad()
def _take_our_normalisation(backbone: VisionTransformer, mean: Tensor, std: Tensor) -> None:
    """Fold the difference in normalisation into the patch embedding; exact, since it is linear and without padding."""
    projection = backbone.patch_embed.proj
    shift, scale = (torch.tensor(IMAGE_MEAN) - mean) / std, torch.tensor(IMAGE_STD) / std
    projection.bias += torch.einsum("dchw,c->d", projection.weight, shift)
    projection.weight *= scale[:, None, None]


@torch.no_grad()
def _check_features(backbone: VisionTransformer, model: TimmViT, file: BackboneFile, mean: Tensor, std: Tensor) -> None:
    """Check for equal patch features on one image: activation, eps or a changed forward pass do not show in the
    weights.
    """
    if any("dropped" in note for note in file.notes):
        return  # they differ, and the reason was logged
    patch = file.state[PATCH_WEIGHT].shape[-1]
    height, width = (patch * side for side in file.field_size)
    pixels = 255 * torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    theirs, ours = (
        (pixels - torch.as_tensor(m).view(3, 1, 1)) / torch.as_tensor(s).view(3, 1, 1)
        for m, s in ((mean, std), (IMAGE_MEAN, IMAGE_STD))
    )
    expected = model.forward_features(theirs)[:, model.num_prefix_tokens :]
    apart = (backbone(ours)[1] - expected).norm() / expected.norm()
    if not apart < 1e-3:
        raise UserError(
            f"timm's {file.path.split()[-1]} is not a plain ViT: its features differ by {apart:.1%} from one's"
        )
