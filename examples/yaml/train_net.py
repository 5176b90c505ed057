"""A yaml project with a training script of its own: Detectron2's DefaultTrainer on CropField's backbone.

    python train_net.py --config-file faster_rcnn.yaml --train T.json T/ --val V.json V/ \\
        MODEL.WEIGHTS backbone.pth OUTPUT_DIR out

Two lines belong to CropField: the import, which registers the backbone, and `add_cropfield_config`.
"""

import json

from detectron2.config import get_cfg
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup
from detectron2.evaluation import COCOEvaluator

from cropfield import add_cropfield_config


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR, use_fast_impl=False)


def read_config(args):
    cfg = get_cfg()
    add_cropfield_config(cfg)  # MODEL.CROPFIELD
    cfg.merge_from_file(args.config_file)
    with open(args.train[0]) as file:
        number = len(json.load(file)["categories"])
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = number
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("train",), ("val",)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    return cfg


def main(argv=None):
    parser = default_argument_parser()
    for split in ("train", "val"):
        parser.add_argument(f"--{split}", nargs=2, required=True, metavar=("JSON", "IMAGES"))
    args = parser.parse_args(argv)
    for split in ("train", "val"):
        register_coco_instances(split, {}, *getattr(args, split))
    cfg = read_config(args)
    default_setup(cfg, args)
    trainer = Trainer(cfg)
    weight = trainer.model.state_dict()["backbone.net.blocks.0.attn.qkv.weight"]
    initial = weight.clone()
    trainer.resume_or_load(resume=args.resume)
    if cfg.MODEL.WEIGHTS and weight.equal(initial):  # the checkpointer only warns of what does not fit
        raise SystemExit(f"error: {cfg.MODEL.WEIGHTS} has no weights for this backbone; export one of its architecture")
    trainer.train()
    return trainer


if __name__ == "__main__":
    main()
