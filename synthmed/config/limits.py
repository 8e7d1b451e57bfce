"""The largest numbers that options and recipes take: far above what is of use, so low that nothing hangs over them."""

from __future__ import annotations

MAX_SEED = 2**63 - 1
MAX_IMAGES = 100_000_000
MAX_PHANTOMS = 1_000_000  # they are listed in memory
MAX_SHARDS = 999_999  # what the six digits of their names hold
MAX_BATCH_SIZE = 16_384
MAX_STEPS = 100_000_000
MAX_WORKERS = 1024
"""Loader workers that shards are to suit."""
MAX_RANKS = 65_536
"""Training processes that shards are to suit."""
MAX_THREADS = 256
"""Threads or processes that a command itself starts."""
