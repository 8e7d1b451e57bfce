"""Images of other generators to shards, and shards to plain files."""
