"""report.html: numbers, curves and pictures of a pretrain-then-detect run in one file."""
