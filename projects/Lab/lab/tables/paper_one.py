"""Tables of the first paper (CropField): AP on COCO, mIoU on ADE20K. Table 6 is its recipe, no table of figures."""

from lab.tables.paper_table import Column, PaperTable

_BOX = Column("box AP", "detection", "coco", ("box_AP",))
_MASK = Column("mask AP", "detection", "coco", ("mask_AP",))
_MIOU = Column("ADE20K mIoU", "semantic_seg", "ade20k", ("mIoU",))
_METHOD = ("method", "eff. epochs")
_DETECT = "tools/lazyconfig_train_net.py --config-file configs/COCO/mask_rcnn_cropfield_{} train.init_checkpoint=FILE"
_SEGMENT = "projects/Lab/tools/sweep.py (mIoU, see docs/evaluation_ade20k.md)"
_VITB = {"epochs": 12, "trunk": "ViT-B/16"}
_VITS = {"epochs": 12, "trunk": "ViT-S/16"}

_TABLE_1A = """
DINO              | 1600 | 45.5 | 40.8 | 44.7
MAE               | 1600 | 48.1 | 43.2 | 46.2
iBOT              | 1600 | 47.6 | 42.4 | 47.7
Mugs              | 1600 | 47.0 | 42.0 | -
LoMaR             | 1600 | 38.1 | 35.2 | -
DropPos           |  800 | 47.0 | 42.2 | 45.3
CrIBo             |  800 | 45.4 | 40.5 | -
LOCA              |  600 | 48.3 | 43.0 | 48.5
DINOv2†           |  350 | 47.7 | 42.4 | 47.5
CropField (paper's) | 350 | 49.2 | 43.8 | 48.4
"""
_TABLE_1B = """
DINO              | 3200 | 42.0 | 38.0 | 42.9
iBOT              | 3200 | 43.8 | 39.1 | 44.8
Mugs              | 3200 | 41.3 | 37.2 | -
CrIBo             | 1600 | 42.6 | 38.3 | -
SelfPatch         | 1050 | 40.4 | 36.7 | -
FLSL              |  700 | 45.5 | 40.5 | -
CrOC              |  600 | 40.2 | 36.2 | -
LOCA              |  600 | 40.1 | 36.0 | 44.8
DINOv2†           |  350 | 41.9 | 37.7 | 44.7
CropField (paper's) | 350 | 44.8 | 39.8 | 44.8
"""


def _ablation(number: str, caption: str, labels: tuple[str, ...], printed: str) -> PaperTable:
    """A table of AP with ViT-S/16 after 12 epochs; configs/pretrain/README.md has the pretraining of each row."""
    return PaperTable("one", number, caption, labels, (_BOX, _MASK), printed, _DETECT.format("vits_12ep.py"), _VITS)


TABLES = (
    PaperTable(
        paper="one",
        number="1a",
        caption="COCO (12 epochs) and ADE20K, ViT-B/16",
        labels=_METHOD,
        columns=(_BOX, _MASK, _MIOU),
        printed=_TABLE_1A,
        command=f"{_DETECT.format('vitb_12ep.py')}; {_SEGMENT}",
        where=_VITB,
    ),
    PaperTable(
        paper="one",
        number="1b",
        caption="COCO (12 epochs) and ADE20K, ViT-S/16",
        labels=_METHOD,
        columns=(_BOX, _MASK, _MIOU),
        printed=_TABLE_1B,
        command=f"{_DETECT.format('vits_12ep.py')}; {_SEGMENT}",
        where=_VITS,
    ),
    PaperTable(
        paper="one",
        number="2",
        caption="COCO, 50 epochs, ViT-S/16",
        labels=_METHOD,
        columns=(_BOX, _MASK),
        printed="""
        FLSL                | 700 | 48.0 | 42.6
        CropField (paper's) | 350 | 48.7 | 43.3
        """,
        command=_DETECT.format("vits_50ep.py"),
        where={"epochs": 50, "trunk": "ViT-S/16"},
    ),
    _ablation(
        "3",
        "position embedding sampling and masked position prediction",
        ("sampling", "L_pos"),
        """
        no  | no  | 41.3 | 37.2
        yes | no  | 43.2 | 38.6
        no  | yes | 43.7 | 39.1
        yes | yes | 44.8 | 39.8
        """,
    ),
    _ablation(
        "4a",
        "distribution of the scale s",
        ("distribution",),
        """
        constant   | 43.0 | 38.6
        uniform    | 43.7 | 39.0
        Beta(2, 5) | 44.8 | 39.8
        """,
    ),
    _ablation(
        "4b",
        "size of the position field",
        ("size",),
        """
        19 x 19 | 44.4 | 39.7
        50 x 50 | 44.8 | 39.8
        """,
    ),
    _ablation(
        "5a",
        "how positions are masked",
        ("position mask",),
        """
        box-wise   | 44.4 | 39.7
        cross-wise | 44.8 | 39.8
        """,
    ),
    _ablation(
        "5b",
        "shares of content and position masking",
        ("images of a batch",),
        """
        100% content masking  | 43.4 | 38.9
        100% position masking | 21.7 | 20.7
        50% each              | 44.8 | 39.8
        """,
    ),
    PaperTable(
        paper="one",
        number="7a",
        caption="with DINOv2's released weights, ViT-B/16",
        labels=_METHOD,
        columns=(_BOX, _MASK, _MIOU),
        printed=_TABLE_1A
        + """
        DINOv2, 142M images     | - | 51.1 | 45.3 | 52.5
        DINOv2-reg, 142M images | - | 52.2 | 46.3 | 54.3
        """.strip(),
        command=f"{_DETECT.format('vitb_12ep.py')}; {_SEGMENT}",
        where=_VITB,
        note="The rows above DINOv2's are those of Table 1a.",
    ),
    PaperTable(
        paper="one",
        number="7b",
        caption="with DINOv2's released weights, ViT-S/16",
        labels=_METHOD,
        columns=(_BOX, _MASK, _MIOU),
        printed=_TABLE_1B
        + """
        DINOv2, 142M images     | - | 47.4 | 42.2 | 49.7
        DINOv2-reg, 142M images | - | 46.5 | 41.5 | 49.7
        """.strip(),
        command=f"{_DETECT.format('vits_12ep.py')}; {_SEGMENT}",
        where=_VITS,
        note="The rows above DINOv2's are those of Table 1b.",
    ),
)
