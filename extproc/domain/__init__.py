"""The nouns. Small, frozen, and known to everything above."""
