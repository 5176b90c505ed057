"""report.html: what a pretrain-then-detect run did, in numbers, curves and pictures, in one file."""
