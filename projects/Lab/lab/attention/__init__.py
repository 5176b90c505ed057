"""Attention: statistics, maps, plots."""
