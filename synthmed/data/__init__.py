"""From raw releases to shards, and from shards to batches."""
