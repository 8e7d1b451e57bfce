"""The arms of a comparison: which images a classifier is trained on."""

from __future__ import annotations

from synthmed.classifier.config import ClassifierConfig
from synthmed.errors import UsageError, nearest

ARMS = ("real", "synthetic", "both")


def parse_arms(text: str) -> tuple[str, ...]:
    """Return the arms of a comma-separated list, in their fixed order.

    Raises:
        UsageError: An unknown arm, or none.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in ARMS:
            raise UsageError(f"unknown arm: {word}", nearest(word, ARMS))
    if not words:
        raise UsageError("no arms given", f"valid: {', '.join(ARMS)}")
    return tuple(arm for arm in ARMS if arm in words)


def batch_shares(arm: str, config: ClassifierConfig) -> dict[str, int]:
    """Return how many images of each source a batch of an arm holds; sources without any are left out."""
    real = {"real": config.batch_size, "synthetic": 0, "both": round(config.batch_size * config.real_share)}[arm]
    shares = {"real": real, "synthetic": config.batch_size - real}
    return {source: count for source, count in shares.items() if count}
