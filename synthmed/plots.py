"""The look of all plots: sizes, colours that colour-blind readers tell apart, and PNGs that are the same bytes again.

Figures are made without pyplot, which would keep every one of them.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synthmed.files.atomic import write_bytes
from synthmed.runtime.progress import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
LABEL_SIZE, TICK_SIZE, LEGEND_SIZE = 13, 11, 12
# Okabe and Ito's colours, and in the place of their black, on which lines would not be seen, Tol's wine.
REAL_COLOUR = "#0072B2"
GENERATED_COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#882255", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
REFERENCE: dict[str, Any] = {"color": "0.45", "linestyle": "--", "linewidth": 1.2}
"""Lines to compare with, such as chance."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, whose parts make room for each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def finish_axes(axes: Any, x_label: str, y_label: str, title: str = "") -> None:
    """Name the axes and bring text and grid into the common look."""
    axes.set_xlabel(x_label, fontsize=LABEL_SIZE)
    axes.set_ylabel(y_label, fontsize=LABEL_SIZE)
    axes.set_title(title, fontsize=LABEL_SIZE)
    axes.tick_params(which="both", labelsize=TICK_SIZE)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)


def plain(text: str, width: int = 0) -> str:
    """Return a name as matplotlib shows it unchanged, in lines of at most `width` signs if that is given.

    It takes what stands between two dollars for mathematics, and leaves a name that begins with _ out of legends.
    """
    text = printable(text)
    lines = textwrap.wrap(text, width, break_on_hyphens=True) if width else [text]
    shown = "\n".join(lines).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def figure_png(figure: Figure) -> bytes:
    """Return a figure as PNG; the same figure gives the same bytes."""
    image = io.BytesIO()
    with warnings.catch_warnings():
        # A class may be named in a script that the font does not have: boxes are shown, nobody can do anything else.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        # Without the version stamp, the same results are the same file.
        figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, whole or not at all."""
    write_bytes(path, figure_png(figure))
