"""Figures and statistics of what a pretraining learned."""
