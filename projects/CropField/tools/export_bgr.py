#!/usr/bin/env python3
"""Export a yaml detector for programs that pass BGR images regardless of INPUT.FORMAT, such as sahi.

    projects/CropField/tools/export_bgr.py --config-file projects/CropField/configs/mask_rcnn_cropfield_vits.yaml \\
        --weights model_final.pth --output outputs/bgr MODEL.ROI_HEADS.NUM_CLASSES 3

OUTPUT gets config.yaml and model.pth: the same detector with the channels of the patch embedding, mean and deviation
reversed. Programs must `import cropfield` before they build it.
"""

import argparse
from pathlib import Path

from pretrain.errors import UserError, run_main


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", type=Path, required=True, help="a detector's checkpoint")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or empty folder")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    return parser.parse_intermixed_args(argv)


def export(cfg, weights: Path, output: Path) -> None:
    """Write the detector. Raises UserError if the weights are not a detector's, or it already takes BGR."""
    from pretrain.files import read_tensors, write_text, write_torch_file
    from pretrain.outputs import open_output

    state, metadata = read_tensors(weights)
    kernels = [name for name in state if name.endswith("backbone.net.patch_embed.proj.weight")]
    if cfg.INPUT.FORMAT != "RGB" or len(kernels) != 1:
        raise UserError(f"{weights} with INPUT.FORMAT {cfg.INPUT.FORMAT} is not an RGB detector of CropField; give one")
    state[kernels[0]] = state[kernels[0]].flip(1).contiguous()
    state = {
        name.removeprefix("model."): tensor for name, tensor in state.items() if name.startswith("model.")
    } or state
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.FORMAT = "BGR"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = cfg.MODEL.PIXEL_MEAN[::-1], cfg.MODEL.PIXEL_STD[::-1]
    output = open_output(output)
    cfg.MODEL.WEIGHTS = str((output / "model.pth").resolve())
    write_torch_file(output / "model.pth", {"model": state, "metadata": metadata})
    write_text(output / "config.yaml", cfg.dump())


def main() -> None:
    args = parse_args()
    from detectron2.config import get_cfg
    from yaml import YAMLError

    from cropfield import add_cropfield_config
    from pretrain.outputs import output_path, refuse_occupied

    refuse_occupied(output_path(args.output))
    cfg = get_cfg()
    if "CROPFIELD" not in cfg.MODEL:
        add_cropfield_config(cfg)
    try:
        cfg.merge_from_file(args.config_file)
        cfg.merge_from_list(args.opts)
    except (OSError, YAMLError, KeyError, ValueError, TypeError, AttributeError, AssertionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{args.config_file} with these overrides is no yaml config: {reason}; give one") from None
    export(cfg, args.weights, args.output)
    print(f"{args.output}: config.yaml and model.pth, for BGR pixels")


if __name__ == "__main__":
    run_main(main)
