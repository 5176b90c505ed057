"""Export of a backbone from a training state, and a summary of any weight file."""

import argparse
from dataclasses import replace
from pathlib import Path

from omegaconf import ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pretrain.engine.addresses import local_file
from pretrain.engine.yaml_config import read_config
from pretrain.errors import UserError, printable
from pretrain.models.export_formats import FORMATS, check_name
from pretrain.models.weight_layouts import PATCH_WEIGHT, BackboneFile
from pretrain.models.weights import (
    architecture,
    build_backbone,
    check_ending,
    fill_backbone,
    fold_layer_scale,
    read_backbone,
    resize_field,
    write_backbone,
)
from pretrain.outputs import refuse_existing, refuse_inputs

FACTS = {"data", "started_from"}  # of a run, in its config
RECORDED = ("method", "patch_size", "field_size")  # by every backbone of ours


def export(options: argparse.Namespace) -> None:
    """Write or show what the command line of tools/export_backbone.py asks for.

    Raises:
        UserError: the checkpoint cannot be used, the format does not support its backbone, or an output exists.
    """
    check_names(options.output or [], options.format)
    checkpoint = local_file(options.checkpoint)
    if not options.output:
        print(card(read_backbone(checkpoint)))
        return
    in_folder = ("model.safetensors", "config.json") if options.format == "hf" else ("",)
    refuse_inputs([output / name for output in options.output for name in in_folder], [options.checkpoint])
    if not options.overwrite:
        refuse_existing(*options.output)
    file = read_backbone(checkpoint)
    if not all(isinstance(file.metadata.get(name), str) for name in RECORDED):
        file = published(file, options)
    elif not file.metadata.keys() & FACTS:  # a file that has its own may lie beside another run's config
        file.metadata.update(run_metadata(options.checkpoint.parent / "config.yaml"))
    state, metadata = file.state, file.metadata
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
        print(f"{printable(str(options.output[0]))}: load it with\n\n{lines}")
        return
    count = sum(tensor.numel() for tensor in state.values())
    facts = ", ".join(f"{name} {value}" for name, value in metadata.items())
    for path in options.output:
        write_backbone(path, state, metadata)
        print(printable(f"{path}: {len(state)} tensors, {count / 1e6:.1f} M parameters ({facts})"))


def check_names(outputs: list[Path], kind: str | None) -> None:
    """Raise UserError where a name has another ending than what would be written; kind: of `FORMATS`, or None."""
    if kind and len(outputs) > 1:
        raise UserError(f"--format {kind} writes one --output, and {len(outputs)} are given")
    for path in outputs:
        check_name(path, kind) if kind else check_ending(path)


def published(file: BackboneFile, options: argparse.Namespace) -> BackboneFile:
    """A public ViT as a file of ours, with the metadata that its own file lacks; the same features."""
    backbone = build_backbone(file, options.num_heads)
    fill_backbone(backbone, file)
    source = options.checkpoint.name if options.checkpoint.exists() else str(options.checkpoint)  # a URL
    facts = {"method": "not pretrained here", "source": source, **backbone.metadata}
    return replace(file, state=backbone.state_dict(), metadata=facts, field_size=backbone.field_size)


def card(file: BackboneFile) -> str:
    """A summary of the architecture and the metadata, one line each."""
    found, patch = architecture(file.state), file.state[PATCH_WEIGHT].shape[-1]
    positions = " x ".join(map(str, file.field_size or ())) or "no"
    count = sum(tensor.numel() for tensor in file.state.values())
    lines = [
        f"{file.path}: a ViT of {found['depth']} blocks of {found['width']} channels, patches of {patch} pixels, "
        f"{positions} positions, {count / 1e6:.1f} M parameters"
    ]
    said = dict.fromkeys(("method", "iteration", "data", "license"), "not specified") | file.metadata
    lines += [f"{name}: {value}"[:200] for name, value in said.items()] + file.notes
    return "\n  ".join(map(printable, lines))  # a file may hold anything


def run_metadata(config: Path) -> dict[str, str]:
    """Names of the data and of the initial weights of a run, as far as its config.yaml shows them."""
    try:
        cfg = read_config(config)
        roots, init = OmegaConf.select(cfg, "dataloader.train.source.root"), OmegaConf.select(cfg, "model.init")
    except (UserError, OmegaConfBaseException):
        return {}
    names = [Path(str(root or "")).name for root in (roots if isinstance(roots, ListConfig) else [roots])]
    facts = {"data": ", ".join(names), "started_from": Path(str(init or "")).name}
    return {name: value for name, value in facts.items() if value}
