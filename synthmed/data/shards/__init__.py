"""Folders of shards: their plan, writing, reading, and the files beside them."""
