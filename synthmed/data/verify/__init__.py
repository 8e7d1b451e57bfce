"""Whether a folder of shards is what it says, byte by byte."""
