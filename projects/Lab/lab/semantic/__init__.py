"""Semantic segmentation on ADE20K and datasets in its layout."""
