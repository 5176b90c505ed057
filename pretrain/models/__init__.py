"""Model room: the backbone, its position field, packed attention, projection heads."""
