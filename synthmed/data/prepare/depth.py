"""Whether the 16-bit images of a set hold values of fewer bits, which a PNG cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from synthmed.runtime.progress import log

_EIGHTH = 1 << 13


@dataclass
class DepthNote:
    """Notices a set whose 16-bit values use a small part of their range."""

    bits: int | None
    """As the user gave them; then there is nothing to notice."""
    peaks: list[int] = field(default_factory=list)

    def add(self, row: Mapping[str, str]) -> None:
        """Take note of a scanned image."""
        if self.bits is None and "peak" in row:
            self.peaks.append(int(row["peak"]))

    def log(self) -> None:
        """Tell the user if no image uses more than an eighth of the range."""
        if self.peaks and max(self.peaks) < _EIGHTH:
            bits = max(8, max(self.peaks).bit_length())
            log(
                f"none of {len(self.peaks)} images with 16 bits has a value above {max(self.peaks)} of 65535, so they "
                f"are dark: if they hold {bits}-bit values, give --bits {bits}"
            )
