"""Semantic segmentation: ADE20K and its layout."""
