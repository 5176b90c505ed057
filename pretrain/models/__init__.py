"""The backbone, its position field, packed attention, projection heads."""
