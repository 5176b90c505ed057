"""Tables 13 to 17 of the second paper (StoP), which add invariance-based methods. Tables 9 to 12 are its recipes."""

from lab.tables.paper_table import Column, PaperTable
from lab.tables.paper_two import (
    AT_224,
    DAVIS,
    DAVIS_ROWS,
    DINOS,
    FINETUNE,
    PROBE,
    RECOVERED,
    TRANSFER,
    TRANSFER_ROWS,
    VIDEO,
)

TABLES = (
    PaperTable(
        paper="two",
        number="13",
        caption="linear probe on other datasets, with invariance-based methods",
        labels=("method", "arch"),
        columns=TRANSFER,
        printed="""
        DINO | ViT-B/16 | 84.8 | 55.2 | 50.1 | 83.2 | 53.4
        iBOT | ViT-B/16 | 85.5 | 56.7 | 50.0 | 62.1 | 64.6
        iBOT | ViT-L/16 | 88.3 | 60.4 | 57.3 | 85.7 | 62.8
        """.rstrip()
        + TRANSFER_ROWS,
        command=PROBE.format("cifar100 (places205, inat18, clevr_count, clevr_dist)"),
        where=AT_224,
        note=f"The better of last layer and last four layers (App. C.2). {RECOVERED}",
    ),
    PaperTable(
        paper="two",
        number="14",
        caption="linear probe on ImageNet-1k, with invariance-based methods",
        labels=("method", "arch", "epochs"),
        columns=(Column("top-1", "linear_probe", "imagenet", ("top1",)),),
        printed="""
        SimCLR v2      | RN152 (2x)  | 800  | 79.1
        BYOL           | RN200 (2x)  | 800  | 79.6
        DINO           | ViT-B/16    | 400  | 78.1
        DINO           | ViT-B/8     | 300  | 80.1
        MoCo v3        | ViT-B/16    | 300  | 76.7
        MoCo v3        | ViT-BN-L/7  | 300  | 81.0
        MSN            | ViT-L/7     | 200  | 80.7
        iBOT           | ViT-B/16    | 250  | 79.8
        iBOT           | ViT-L/16    | 250  | 81.0
        data2vec       | ViT-L/16    | 1600 | 77.3
        MAE            | ViT-B/16    | 1600 | 68.0
        MAE            | ViT-L/16    | 1600 | 75.8
        MAE            | ViT-H/14    | 1600 | 77.2
        I-JEPA         | ViT-B/16    | 600  | 72.9
        I-JEPA         | ViT-L/16    | 600  | 77.5
        I-JEPA         | ViT-H/14    | 300  | 79.3
        StoP (paper's) | ViT-B/16    | 600  | 74.5
        StoP (paper's) | ViT-L/16    | 600  | 78.5
        StoP (paper's) | ViT-H/14    | 300  | 79.6
        """,
        command=PROBE.format("imagenet"),
        where=AT_224,
        note="The better of last layer and last four layers (App. C.2). The text has lost the x of RN152 (2x).",
    ),
    PaperTable(
        paper="two",
        number="15",
        caption="fine-tuning on ImageNet-1k",
        labels=("method", "arch", "epochs"),
        columns=(Column("top-1", "finetune", "imagenet", ("top1",)),),
        printed="""
        I-JEPA         | ViT-B/16 | 600 | 82.9
        StoP (paper's) | ViT-B/16 | 600 | 83.1
        """,
        command=FINETUNE.format("imagenet"),
        where=AT_224,
    ),
    PaperTable(
        paper="two",
        number="16",
        caption="semi-supervised video object segmentation, DAVIS-2017, with invariance-based methods",
        labels=("method", "arch"),
        columns=DAVIS,
        printed="""
        DINO | ViT-B/16 | 60.7 | 63.9 | 62.3
        iBOT | ViT-B/16 | 60.9 | 63.3 | 62.1
        iBOT | ViT-L/16 | 61.7 | 63.9 | 62.8
        """.rstrip()
        + DAVIS_ROWS,
        command=VIDEO,
        where=DINOS,
        note=RECOVERED,
    ),
    PaperTable(
        paper="two",
        number="17",
        caption="fine-tuning with 1% of ImageNet-1k's labels, with invariance-based methods",
        labels=("method", "arch", "epochs"),
        columns=(Column("top-1", "finetune", "imagenet_1pct", ("top1",)),),
        printed="""
        DINO           | ViT-B/8  | 300  | 70.0
        iBOT           | ViT-B/16 | 400  | 69.7
        MAE            | ViT-L/16 | 1600 | 67.0
        I-JEPA         | ViT-L/16 | 600  | 69.4
        StoP (paper's) | ViT-L/16 | 600  | 71.7
        """,
        command=FINETUNE.format("imagenet_1pct") + " --train-list 1percent.txt",
        where=AT_224,
    ),
)
