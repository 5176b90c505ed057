#!/usr/bin/env python3
"""Take the teacher's backbone out of a pretraining checkpoint; without -o, show what any weight file says of itself.

    tools/export_backbone.py outputs/pretrain/last.pth -o vits16.safetensors --license CC-BY-4.0
    tools/export_backbone.py vits16.safetensors
    tools/export_backbone.py outputs/pretrain/last.pth -o vits16.pth --fold-layer-scale
    tools/export_backbone.py outputs/pretrain/last.pth -o vits16_timm.safetensors --format timm

.safetensors has timm's names; .pth has them with a detector's prefix, for Detectron2's own train.init_checkpoint.
Detectron2's own ViT has no LayerScale and needs --fold-layer-scale, which changes no feature; CropFieldViT takes both.

--format timm, hf (a folder) or detectron2 writes what these load by their own means, and prints the lines that do it.

A file says its method, steps and shape, the names of the images' folder and of weights that the run started from, where
config.yaml lies beside the checkpoint, and its license, where you give one.

The position field is kept as it is. timm would resample it with antialiasing, where torch and Detectron2 do not, so
for timm at another size than the field's own add --image-size HxW: the field is then sampled for that size, exactly.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from pretrain.errors import UserError, run_main


def image_size(text: str) -> tuple[int, int]:
    """ "800x1024" -> (800, 1024): height, width in pixels."""
    try:
        height, width = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH in pixels, such as 800x1024") from None
    return height, width


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="training state of tools/pretrain_net.py; any weights without -o")
    parser.add_argument("-o", "--output", type=Path, nargs="+", help="files to write: .safetensors or .pth")
    parser.add_argument(
        "--format", choices=("timm", "hf", "detectron2"), help="of another library; then --output is one name"
    )
    parser.add_argument(
        "--fold-layer-scale", action="store_true", help="write attn.proj and mlp.fc2 with gamma in them"
    )
    parser.add_argument("--image-size", type=image_size, metavar="HxW", help="sample the field for images of this size")
    parser.add_argument("--license", metavar="TEXT", help="of the weights, to be said by the files")
    args = parser.parse_args(argv)
    if not args.output and (args.format or args.fold_layer_scale or args.image_size or args.license):
        parser.error("nothing is written without -o FILE")
    return args


def card(file) -> str:
    """What the tensors of a `BackboneFile` show and the file says, a line each."""
    from pretrain.models.weight_layouts import PATCH_WEIGHT
    from pretrain.models.weights import describe

    found, patch = describe(file.state), file.state[PATCH_WEIGHT].shape[-1]
    positions = " x ".join(map(str, file.field_size or ())) or "no"
    count = sum(tensor.numel() for tensor in file.state.values())
    lines = [
        f"{file.path}: a ViT of {found['depth']} blocks of {found['width']} channels, patches of {patch} pixels, "
        f"{positions} positions, {count / 1e6:.1f} M parameters"
    ]
    said = {"method": "not said", "iteration": "not said", "data": "not said", "license": "not said"} | file.metadata
    lines += [f"{name}: {value}"[:200] for name, value in said.items()] + file.notes
    lines = [line if line.isprintable() else ascii(line)[1:-1] for line in lines]  # a file may hold anything
    return "\n  ".join(lines)


def of_run(config: Path) -> dict[str, str]:
    """Names of the data and of the weights that a run started from, as far as the config.yaml that it wrote tells."""
    from omegaconf import ListConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from pretrain.engine.yaml_config import read_config

    try:
        cfg = read_config(config)
        roots, init = OmegaConf.select(cfg, "dataloader.train.source.root"), OmegaConf.select(cfg, "model.init")
    except (UserError, OmegaConfBaseException):
        return {}
    names = [Path(str(root or "")).name for root in (roots if isinstance(roots, ListConfig) else [roots])]
    facts = {"data": ", ".join(names), "started_from": Path(str(init or "")).name}
    return {name: value for name, value in facts.items() if value}


def main() -> None:
    options = parse_args()
    from pretrain.models.export_formats import FORMATS
    from pretrain.models.weights import fold_layer_scale, read_backbone, resize_field, write_backbone
    from pretrain.outputs import refuse_inputs

    if not options.output:
        print(card(read_backbone(options.checkpoint)))
        return
    refuse_inputs(options.output, [options.checkpoint])
    if options.format and len(options.output) > 1:
        raise UserError(f"--format {options.format} writes one --output, and {len(options.output)} are given")
    file = read_backbone(options.checkpoint)
    state, metadata = file.state, file.metadata
    if "method" not in metadata:
        raise UserError(f"{options.checkpoint} is no training state; give the last.pth of tools/pretrain_net.py")
    metadata |= of_run(options.checkpoint.parent / "config.yaml")
    if options.license:
        metadata["license"] = options.license
    if options.fold_layer_scale:
        state = fold_layer_scale(state)
        metadata["layer_scale"] = "folded"
    if options.image_size:
        patch = int(metadata["patch_size"])
        if any(side < patch or side % patch for side in options.image_size):
            raise UserError(f"--image-size: both sides must be multiples of the patch, {patch} pixels")
        grid = tuple(side // patch for side in options.image_size)
        state["pos_embed"] = resize_field(state["pos_embed"], file.field_size, grid)
        metadata["field_size"] = f"{grid[0]}x{grid[1]}"
    if options.format:
        size = tuple(int(side) for side in metadata["field_size"].split("x"))
        lines = FORMATS[options.format](options.output[0], replace(file, state=state, field_size=size))
        print(f"{options.output[0]}: load it with\n\n{lines}")
        return
    count = sum(tensor.numel() for tensor in state.values())
    facts = ", ".join(f"{name} {value}" for name, value in metadata.items())
    for path in options.output:
        write_backbone(path, state, metadata)
        print(f"{path}: {len(state)} tensors, {count / 1e6:.1f} M parameters ({facts})")


if __name__ == "__main__":
    run_main(main)
