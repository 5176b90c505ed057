#!/usr/bin/env python3
"""Export a backbone: the teacher's of a pretraining, or public ViT weights. Without -o, show what a file records.

    tools/export_backbone.py outputs/pretrain/last.pth -o vits16.safetensors --license CC-BY-4.0
    tools/export_backbone.py vits16.safetensors
    tools/export_backbone.py outputs/pretrain/last.pth -o vits16.pth --fold-layer-scale
    tools/export_backbone.py outputs/pretrain/last.pth -o vits16_timm.safetensors --format timm
    tools/export_backbone.py hf://timm/vit_small_patch16_224.dino/model.safetensors -o dino.pth

.safetensors uses timm's names; .pth adds a detector's prefix, for Detectron2's own train.init_checkpoint. Detectron2's
own ViT has no LayerScale and needs --fold-layer-scale, which changes no feature; CropFieldViT accepts both.

--format timm, hf (a folder) or detectron2 writes files that these libraries load themselves, and prints how.

A file records its method, steps and shape; the names of the image folder and of the run's initial weights, if
config.yaml is in the checkpoint's folder; and its license, if given.

The position field is kept unchanged. timm would resample it with antialiasing, unlike torch and Detectron2, so to use
timm at another size than the field's, add --image-size HxW: the field is then sampled exactly for that size.
"""

import argparse
from pathlib import Path

from pretrain.engine.arguments import height_by_width, positive
from pretrain.errors import run_main
from pretrain.progress import say_starting


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a training state, an export or a public ViT: a file or URL")
    parser.add_argument("--num-heads", type=positive, metavar="N", help="of public weights of an unusual width")
    parser.add_argument("-o", "--output", type=Path, nargs="+", help="files to write: .safetensors or .pth")
    formats = ("timm", "hf", "detectron2")  # of pretrain.models.export_formats
    parser.add_argument("--format", choices=formats, help="format of another library; --output is then a single name")
    parser.add_argument("--fold-layer-scale", action="store_true", help="fold gamma into attn.proj and mlp.fc2")
    parser.add_argument("--image-size", type=height_by_width, metavar="HxW", help="sample the field for such images")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--license", metavar="TEXT", help="license of the weights, recorded in the files")
    args = parser.parse_args(argv)
    if not args.output and (args.format or args.fold_layer_scale or args.image_size or args.license):
        parser.error("--format, --fold-layer-scale, --image-size and --license need -o FILE")
    return args


def main() -> None:
    options = parse_args()
    say_starting()
    from pretrain.engine.export import export

    export(options)


if __name__ == "__main__":
    run_main(main)
