"""From a release of images to shards, and from shards to batches."""
