"""Composed detection data: cut-outs on photographs, with masks that are exact by construction."""
