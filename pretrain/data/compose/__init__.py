"""Composed detection data: cut-outs placed on photographs, with the exact masks that only a composer knows."""
