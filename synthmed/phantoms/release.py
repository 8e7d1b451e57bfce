"""The embedded data set as a release: drawn eyes instead of files."""

from __future__ import annotations

from synthmed.config.limits import MAX_PHANTOMS
from synthmed.data.datasets import PHANTOM_FUNDUS
from synthmed.data.images import ImageArray
from synthmed.data.prepare.raw import RawItem, Release
from synthmed.data.shards.write import MetadataValue
from synthmed.errors import UsageError

MIN_PHANTOMS = 20


def phantom_release(num_images: int) -> Release:
    """Return eyes to draw, both classes alike (of an odd number, one more without glaucoma).

    Raises:
        UsageError: Too few to fill three splits with both classes, or too many to be listed in memory.
    """
    if not MIN_PHANTOMS <= num_images <= MAX_PHANTOMS:
        few = "few" if num_images < MIN_PHANTOMS else "many"
        raise UsageError(f"too {few} phantoms: {num_images}", f"at least {MIN_PHANTOMS}, at most {MAX_PHANTOMS}")
    items = []
    for number in range(num_images):
        index, label = divmod(number, len(PHANTOM_FUNDUS.classes))
        key = f"phantom-{label}-{index:06d}"
        items.append(RawItem(None, key, key, label, key))
    return Release(PHANTOM_FUNDUS, items, draw=draw_item)


def draw_item(item: RawItem, seed: int, size: int) -> tuple[ImageArray, dict[str, MetadataValue]]:
    """Return the eye of an item, and what is known about it."""
    from synthmed.phantoms.drawing import draw_phantom

    phantom = draw_phantom(seed, item.label, int(item.key.rpartition("-")[2]), size)
    return phantom.image, {"cup_to_disc": round(phantom.cup_to_disc, 6)}
