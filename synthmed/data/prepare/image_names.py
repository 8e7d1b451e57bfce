"""Finding images by what tables call them: a path of any computer, a part of it, a name, with or without its ending."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from synthmed.errors import DataError


class ImageNames:
    """The images of a source by the names that a table may give them.

    Args:
        images: Their paths inside the source, with '/'.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self._of_name: dict[str, list[str]] = {}
        for image in images:
            name = _parts(image)[-1]
            for word in {name.casefold(), PurePosixPath(name).stem.casefold()}:
                self._of_name.setdefault(word, []).append(image)

    def find(self, text: str, where: str) -> str | None:
        """Return the image that a table means, `None` where it means none.

        The path in the table and the one inside the source agree in the parts at the end that both have: the table's
        may begin at a disk, or be the file name alone. Of several images the one that agrees in most parts is meant.

        Args:
            text: The cell.
            where: What an error calls it.

        Raises:
            DataError: It may mean several images.
        """
        parts = _parts(text)
        candidates = self._of_name.get(parts[-1].casefold(), []) if parts else []
        ranked = [(rank, image) for image in candidates if (rank := _agreement(parts, _parts(image)))]
        best = max((rank for rank, _ in ranked), default=None)
        found = [image for rank, image in ranked if rank == best]
        if len(found) > 1:
            raise DataError(
                f"{where}: {text} may be {found[0]} or {found[1]}", "name images by their path inside SOURCE"
            )
        return found[0] if found else None


def _agreement(parts: list[str], image: list[str]) -> tuple[int, bool, bool, bool] | None:
    """Return how well a table's path fits an image's, the best last in order; `None` where a part differs."""
    shared = min(len(parts), len(image))
    folders, inside = parts[-shared:-1], image[-shared:-1]
    if [folder.casefold() for folder in folders] != [folder.casefold() for folder in inside]:
        return None
    has_ending = parts[-1].casefold() == image[-1].casefold()
    as_written = folders == inside and parts[-1] in (image[-1], PurePosixPath(image[-1]).stem)
    return shared, has_ending, as_written, parts == image


def _parts(text: str) -> list[str]:
    # Macs write an umlaut as two signs.
    return [part for part in re.split(r"[/\\]+", unicodedata.normalize("NFC", text)) if part not in ("", ".")]
