"""Following objects through videos by the similarity of patches: DAVIS-2017 (second paper, Tables 3 and 16)."""
