"""Everything that can make images: one folder per family, and the door that all of them come through."""
