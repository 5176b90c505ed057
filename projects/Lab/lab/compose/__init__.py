"""Composed detection datasets: cut-outs on photographs, with exact masks."""
