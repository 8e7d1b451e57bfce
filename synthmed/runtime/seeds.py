"""Seeds and generators; the only place that makes them.

Every random number in synthmed comes from a 64-bit seed derived from the run's seed and a name of what it is for,
so that nothing depends on the order, the batch or the process in which it is drawn.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *parts: str | int) -> int:
    """Return a seed in [0, 2^63) for a purpose, e.g. `derive_seed(0, "sample", 1, 12)`.

    The parts are joined with their types, so that ("a", 1) and ("a", "1") differ.
    """
    # NumPy's own integers and strings print otherwise, in each version of NumPy otherwise again.
    plain = [str(part) if isinstance(part, str) else int(part) for part in parts]
    text = repr((int(seed), *plain)).encode()
    # 63 bits: torch takes signed 64-bit seeds on some devices.
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def numpy_generator(seed: int, *parts: str | int) -> np.random.Generator:
    """Return a NumPy generator for a purpose."""
    return np.random.default_rng(derive_seed(seed, *parts))


def torch_generator(seed: int, *parts: str | int) -> torch.Generator:
    """Return a torch generator for a purpose, on the CPU: device generators give other numbers for the same seed."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *parts))
