"""The plots of an evaluation, as figures from arrays; `plots.write_figure` puts them into files.

Every generated set has one colour, marker and name, in the order given, and real images always the same.
sets: name -> values, 1 to 6 of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from synthmed.evaluation.scores import Curve
from synthmed.plots import (
    GENERATED_COLOURS,
    LEGEND_SIZE,
    MARKERS,
    REAL_COLOUR,
    REFERENCE,
    TICK_SIZE,
    finish_axes,
    new_figure,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3
NAME_WIDTH = 26
FLOOR = "real against real"
REAL_STYLE = {"color": REAL_COLOUR, "marker": "o"}

Values = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Score:
    """One score of several generated sets."""

    name: str
    better: Literal["lower", "higher"]
    values: Mapping[str, tuple[float, float, float]]
    """Set -> value and both ends of its interval; a set whose score could not be computed is left out."""
    floor: float | None = None
    """The score of real images against others of them, in sets of the same sizes."""


def draw_sizes(curves: Sequence[Curve], *, score: str, floor: tuple[int, float] | None = None) -> Figure:
    """Return a distance against the number of images, a line and the band of its range for each set.

    Args:
        curves: One per set.
        score: The distance.
        floor: Number of real images and their distance to other real ones, where that is known.
    """
    figure = new_figure(7.5, 5.2 + 0.15 * len(curves))
    axes = figure.add_subplot()
    names = [curve.generated for curve in curves]
    handles = {}
    for name, curve in zip(names, curves, strict=True):
        style = set_style(names, name)
        handles[name] = axes.plot(curve.sizes, curve.mean, linewidth=2, markersize=6, **style)[0]
        axes.fill_between(curve.sizes, curve.low, curve.high, color=style["color"], alpha=0.18, linewidth=0)
    if floor is not None:
        handles[f"{FLOOR} ({floor[0]})"] = axes.axhline(floor[1], **REFERENCE)
    axes.set_xscale("log")
    ticks = _spread_ticks(sorted({size for curve in curves for size in curve.sizes}))
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.set_xticks([], minor=True)
    finish_axes(axes, "generated images", f"{plain(score)} (lower is better)", "mean and range of random parts")
    add_legend(figure, handles)
    return figure


def draw_scores(scores: Sequence[Score]) -> Figure:
    """Return one panel per score, with a bar and an interval for each set and a line for real against real."""
    names = list(dict.fromkeys(name for score in scores for name in score.values))
    columns = min(COLUMNS, len(scores))
    rows = -(-len(scores) // columns)
    figure = new_figure(2.2 + 3.6 * columns, (1.6 + 0.5 * len(names)) * rows + 0.6)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    floors = [_draw_bars(panel, score, names) for panel, score in zip(panels.flat, scores, strict=False)]
    for panel in panels.flat[len(scores) :]:
        panel.set_visible(False)
    for panel in panels[:, 0]:
        panel.set_yticks(range(len(names)), [plain(name, NAME_WIDTH) for name in names])
        panel.set_ylim(len(names) - 0.4, -0.6)
    handles = {"95 % interval": panels[0, 0].containers[-1]}
    if floor := next((line for line in floors if line is not None), None):
        handles[FLOOR] = floor
    add_legend(figure, handles)
    return figure


def _draw_bars(panel: Any, score: Score, names: Sequence[str]) -> Any:
    """Draw one score and return the line of real against real; `None` without one."""
    from matplotlib.ticker import MaxNLocator

    floor = None
    for name, (value, low, high) in score.values.items():
        place = names.index(name)
        panel.barh(place, value, height=0.6, color=set_style(names, name)["color"])
        # A score from all images need not lie inside an interval from resamples of them.
        errors = [[max(value - low, 0)], [max(high - value, 0)]]
        panel.errorbar(value, place, xerr=errors, color="black", capsize=4, linewidth=1.4)
    ends = [0.0, *(end for found in score.values.values() for end in found)]
    if score.floor is not None:
        panel.axvline(score.floor, color="white", linewidth=3)
        floor = panel.axvline(score.floor, **{**REFERENCE, "color": "0.25"})
        ends.append(score.floor)
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    # Room for the numbers at the right.
    panel.set_xlim(low - (0.05 * span if low < 0 else 0), high + 0.35 * span)
    for name, (value, _, _) in score.values.items():
        line = names.index(name)
        where = {"ha": "right", "va": "center", "transform": panel.get_yaxis_transform()}
        panel.text(0.98, line, _number(value), fontsize=TICK_SIZE, **where)
    panel.set_xticks([tick for tick in MaxNLocator(4).tick_values(low, high) if low - 1e-9 * span <= tick <= high])
    finish_axes(panel, f"{score.better} is better", "", plain(score.name, NAME_WIDTH))
    panel.grid(visible=False, axis="y")
    return floor


def _number(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def draw_spectra(
    frequencies: Values, *, real: Values, generated: Mapping[str, Values], held_out: Values | None = None
) -> Figure:
    """Return radially averaged power spectra, and below them those of generated images over those of real ones.

    Args:
        frequencies: [K], cycles per pixel, above 0.
        real: [K], mean power; any unit, the same for all.
        generated: [K] by set.
        held_out: [K], of other real images, if there are any.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = new_figure(7.5, 7.2 + 0.15 * len(generated))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    handles = {"real": top.plot(frequencies, real, color=REAL_COLOUR, linewidth=2.5)[0]}
    bottom.axhline(1.0, color=REAL_COLOUR, linewidth=2.5)
    curves = {name: (power, {"linewidth": 1.8, **set_style(generated, name)}) for name, power in generated.items()}
    if held_out is not None:
        curves["other real images"] = (held_out, {**REFERENCE, "color": REAL_COLOUR})
    for name, (power, style) in curves.items():
        marks = {"markevery": max(1, len(frequencies) // 8), "markersize": 6}
        handles[name] = top.plot(frequencies, power, **style, **marks)[0]
        ratio = np.divide(power, real, out=np.full(len(real), np.nan), where=np.asarray(real) > 0)
        bottom.plot(frequencies, ratio, **style, **marks)
    for panel in (top, bottom):
        panel.set_yscale("log")
    low, high = bottom.get_ylim()
    bottom.set_ylim(min(low, 0.45), max(high, 2.2))  # so that at least three ticks are in it
    # Not as powers of ten: most ratios lie between two of them.
    bottom.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    bottom.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    bottom.yaxis.set_minor_formatter(NullFormatter())
    finish_axes(top, "", "mean power (grey levels squared)")
    finish_axes(bottom, "spatial frequency (cycles per pixel)", "power / real power")
    add_legend(figure, handles)
    return figure


def set_style(sets: Mapping[str, object] | Sequence[str], name: str) -> dict[str, Any]:
    """Return colour and marker of a set by its place among all; after the sixth they begin again."""
    place = list(sets).index(name)
    colour = GENERATED_COLOURS[place % len(GENERATED_COLOURS)]
    return {"color": colour, "marker": MARKERS[(place + 1) % len(MARKERS)]}


def add_legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Put a legend of names and what they look like below all panels, in as many columns as there is room for."""
    labels = [plain(name, NAME_WIDTH) for name in handles]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    # A character is about 0.6 of its height wide; the marker beside the name takes as much room as six.
    columns = int(figure.get_figwidth() * 72 / (0.62 * LEGEND_SIZE * (longest + 6)))
    figure.legend(
        handles=list(handles.values()),
        labels=labels,
        loc="outside lower center",
        ncols=min(max(columns, 1), len(labels)),
        fontsize=LEGEND_SIZE,
    )


def _spread_ticks(sizes: Sequence[int]) -> list[int]:
    """Return those of the sizes whose labels do not overlap on a logarithmic axis."""
    span = math.log(sizes[-1] / sizes[0]) or 1.0
    kept: list[int] = []
    for size in sizes:
        if not kept or math.log(size) - math.log(kept[-1]) >= 0.09 * span:
            kept.append(size)
    return kept
