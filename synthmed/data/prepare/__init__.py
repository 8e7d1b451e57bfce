"""From a release of real images to a folder of shards, split by patient."""
