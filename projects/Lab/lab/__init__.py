"""Evaluation and analysis of pretrained backbones."""
