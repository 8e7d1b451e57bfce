"""Everything that can make images: one folder a family, and the door that all of them come through."""
