"""Propagate object masks through videos by patch similarity: DAVIS-2017 (second paper, Tables 3 and 16)."""
