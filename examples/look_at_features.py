"""A CropField file in timm: its patch features and its attention on your own image. Opens as a notebook, by its cells.

    python look_at_features.py backbone.safetensors photo.jpg features.png

Writes the image, its patch features as colours (three principal components), and where the class token looks, side by
side. Only the first cell knows CropField; the rest is plain timm.
"""

# %% The file, as a timm model for images of this size
import sys

import numpy as np
import timm
import torch
from PIL import Image

from pretrain.data import IMAGE_MEAN, IMAGE_STD
from pretrain.data.decode import decode_image
from pretrain.models.weights import read_backbone, resize_field

if len(sys.argv) != 4:
    sys.exit("usage: python look_at_features.py backbone.safetensors photo.jpg features.png")
weights, photo, output = sys.argv[1:]
file = read_backbone(weights)
print(*(f"{name}: {value}" for name, value in file.metadata.items()), sep="\n")
if "patch_size" not in file.metadata:
    sys.exit(f"error: {weights} does not record its shape; give a file that tools/export_backbone.py has written")
if "cls_token" not in file.state:
    sys.exit(f"error: {weights} has no class token, whose attention is shown here")
patch, width = (int(file.metadata[name]) for name in ("patch_size", "embed_dim"))
depth, heads = (int(file.metadata[name]) for name in ("depth", "num_heads"))

image = Image.fromarray(decode_image(photo))  # upright
scale = 512 / max(image.size)
columns, rows = (max(1, round(side * scale / patch)) for side in image.size)
image = image.resize((columns * patch, rows * patch))

state = file.state | {"pos_embed": resize_field(file.state["pos_embed"], file.field_size, (rows, columns))}  # exact
folded = not any(name.endswith(".gamma") for name in state)
model = timm.models.VisionTransformer(
    img_size=(rows * patch, columns * patch),
    patch_size=patch,
    embed_dim=width,
    depth=depth,
    num_heads=heads,
    mlp_ratio=float(file.metadata["mlp_ratio"]),
    init_values=None if folded else 1.0,
    no_embed_class=True,  # the class token has no position
    num_classes=0,
)
model.load_state_dict(state)
model.eval()

# %% Features of the patches, and the last block's attention
seen = []
model.blocks[-1].attn.fused_attn = False  # the fused kernel shows no probabilities
model.blocks[-1].attn.attn_drop.register_forward_hook(lambda module, inputs, result: seen.append(result))
pixels = (torch.tensor(np.asarray(image)) - torch.tensor(IMAGE_MEAN)) / torch.tensor(IMAGE_STD)
with torch.no_grad():
    tokens = model.forward_features(pixels.permute(2, 0, 1)[None])[0]
patches = tokens[1:]

# %% Three principal components as red, green and blue
centred = patches - patches.mean(0)
components = centred @ torch.linalg.svd(centred, full_matrices=False)[2][:3].T
low, high = components.quantile(0.02, dim=0), components.quantile(0.98, dim=0)
colors = ((components - low) / (high - low)).clamp(0, 1).unflatten(0, (rows, columns))

# %% Where the class token looks: mean over heads, white where most
attention = seen[0][0, :, 0, 1:].mean(0).unflatten(0, (rows, columns))
attention = (attention / attention.max())[..., None].expand(-1, -1, 3)


# %% Side by side
def tile(values):
    return Image.fromarray((values.numpy() * 255).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)


picture = Image.new("RGB", (3 * image.width, image.height))
for place, part in enumerate((image, tile(colors), tile(attention))):
    picture.paste(part, (place * image.width, 0))
picture.save(output)
print(f"{output}: {rows} x {columns} patches of {patch} pixels")
