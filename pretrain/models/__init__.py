"""Model room: the trunk, its position field, packed attention, projection heads."""
