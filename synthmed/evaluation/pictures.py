"""The plots of an evaluation, as figures from arrays; `plots.write_figure` puts them into files.

Every generated set has one colour, marker and name, in the order given, and real images always the same.
features: [N, D]; sets: name -> values, 1 to 6 of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from synthmed.data.images import ImageArray
from synthmed.data.pixels import to_rgb_arrays
from synthmed.data.sets.image_set import ImageSet
from synthmed.data.sheets import contact_sheet
from synthmed.plots import (
    GENERATED_COLOURS,
    LABEL_SIZE,
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

MAX_POINTS = 2000
"""Shown of each set; more hide one another. They are the first ones, in whose order chance has a say."""
COLUMNS = 3
NAME_WIDTH = 26
FLOOR = "real against real"
SHEET_SIDE = 96
"""Smaller images are shown larger, in whole multiples."""

Values = NDArray[np.floating[Any]]
Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Score:
    """One score of several generated sets."""

    name: str
    better: Better
    values: Mapping[str, tuple[float, float, float]]
    """Set -> value and both ends of its interval; a set for which the score could not be had is left out."""
    floor: float | None = None
    """The score of real images against others of them, in sets of the same sizes."""


@dataclass(frozen=True)
class Curve:
    """A score against the number of generated images, each with its spread."""

    sizes: Sequence[int]
    """Generated images that are scored."""
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def draw_overlap(
    *,
    real: Values,
    generated: Mapping[str, Values],
    extractor: str,
    classes: Sequence[str] = (),
    real_labels: NDArray[np.int64] | None = None,
    generated_labels: Mapping[str, NDArray[np.int64]] | None = None,
) -> Figure:
    """Return real and generated features on the first two principal components of the real ones, a panel a set.

    As in the paper's supplement, Fig. S3, with an ellipse two standard deviations around the mean of each cloud.

    Args:
        real: Features of the real images; the components are theirs alone.
        generated: Features by set.
        extractor: What the features are.
        classes: Names, for a row of panels a class; none draws all classes together.
        real_labels: [N], needed with `classes`.
        generated_labels: [N] by set, needed with `classes`.
    """
    mean, axes, shares = principal_axes(real)
    points = {name: (values - mean) @ axes.T for name, values in generated.items()}
    real_points = (real - mean) @ axes.T
    columns = len(generated) if classes else min(COLUMNS, len(generated))
    cells = [(row, name) for row in (range(len(classes)) if classes else [None]) for name in generated]
    num_rows = -(-len(cells) // columns)
    figure = new_figure(max(3.6 * columns, 5.4), 3.5 * num_rows + 1.5)
    panels = figure.subplots(num_rows, columns, sharex=True, sharey=True, squeeze=False)
    for panel, (row, name) in zip(panels.flat, cells, strict=False):
        real_chosen, chosen, class_name = real_points, points[name], classes[:0]
        if row is not None:
            assert real_labels is not None and generated_labels is not None
            real_chosen, chosen = real_points[real_labels == row], chosen[generated_labels[name] == row]
            class_name = classes[row : row + 1]
        _draw_cloud(panel, real_chosen, _real_style())
        _draw_cloud(panel, chosen, _style(generated, name))
        finish_axes(panel, "", "", "\n".join(plain(word, NAME_WIDTH) for word in (name, *class_name)))
    _name_outer_axes(
        panels,
        len(cells),
        f"first component\n({shares[0]:.0%} of the real variance)",
        f"second component\n({shares[1]:.0%})",
    )
    figure.suptitle(plain(f"{extractor} features, principal components of the real ones", 44), fontsize=LABEL_SIZE)
    handles = {"real": _handle(_real_style()), **{name: _handle(_style(generated, name)) for name in generated}}
    _add_legend(figure, handles)
    return figure


def _name_outer_axes(panels: NDArray[Any], used: int, x_label: str, y_label: str) -> None:
    """Hide the panels behind the used ones, and name the axes of the lowest and of the leftmost ones."""
    from matplotlib.ticker import MaxNLocator

    rows, columns = panels.shape
    panels[0, 0].xaxis.set_major_locator(MaxNLocator(4))  # shared by all
    for number, panel in enumerate(panels.flat):
        panel.set_visible(number < used)
        if number < used <= number + columns:
            panel.set_xlabel(x_label, fontsize=LABEL_SIZE)
            panel.tick_params(labelbottom=True)
    for row in range(rows):
        panels[row, 0].set_ylabel(y_label, fontsize=LABEL_SIZE)


def principal_axes(features: Values) -> tuple[Values, Values, tuple[float, float]]:
    """Return the mean [D], the first two principal axes [2, D] and their shares of the variance.

    An axis points to where its largest entry is positive, so that two machines draw the same picture.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean
    # The eigenvectors of the smaller of the two products: of features, or of images where there are fewer of them.
    wide = centred.shape[1] > len(centred)
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    largest = vectors[:, ::-1][:, :2]
    axes = (centred.T @ largest if wide else largest).T
    axes /= np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), np.finfo(float).tiny)
    axes *= np.where(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1) < 0, -1.0, 1.0)
    total = max(float(values.clip(min=0).sum()), np.finfo(float).tiny)
    return mean, axes, (float(values[-1]) / total, float(values[-2]) / total)


def draw_sizes(curves: Mapping[str, Curve], *, score: str, better: Better, floor: Curve | None = None) -> Figure:
    """Return a score against the number of images, a line and the band of its intervals for each set."""
    figure = new_figure(7.5, 5.2 + 0.15 * len(curves))
    axes = figure.add_subplot()
    drawn = [(name, curve, _style(curves, name)) for name, curve in curves.items()]
    if floor is not None:
        drawn.append((FLOOR, floor, {"color": REFERENCE["color"], "marker": "x", "linestyle": "--"}))
    handles = {}
    for name, curve, style in drawn:
        handles[name] = axes.plot(curve.sizes, curve.mean, linewidth=2, markersize=6, **style)[0]
        axes.fill_between(curve.sizes, curve.low, curve.high, color=style["color"], alpha=0.18, linewidth=0)
    sizes = sorted({size for _, curve, _ in drawn for size in curve.sizes})
    axes.set_xscale("log")
    ticks = _spread_ticks(sizes)
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.set_xticks([], minor=True)
    finish_axes(axes, "generated images", f"{plain(score)} ({better} is better)")
    _add_legend(figure, handles)
    return figure


def draw_scores(scores: Sequence[Score]) -> Figure:
    """Return a panel a score with a bar for each set, its interval, and a line for real against real."""
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
    if floor := next((line for line in floors if line is not None), None):
        _add_legend(figure, {FLOOR: floor})
    return figure


def _draw_bars(panel: Any, score: Score, names: Sequence[str]) -> Any:
    """Draw one score and return the line of real against real; `None` without one."""
    floor = None
    for name, (value, low, high) in score.values.items():
        place = names.index(name)
        panel.barh(place, value, height=0.6, color=_style(names, name)["color"])
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
    panel.set_xticks([tick for tick in _round_ticks(low, high) if low - 1e-9 * span <= tick <= high])
    finish_axes(panel, f"{score.better} is better", "", plain(score.name, NAME_WIDTH))
    panel.grid(visible=False, axis="y")
    return floor


def _number(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def _round_ticks(low: float, high: float) -> Sequence[float]:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4).tick_values(low, high)


def draw_spectra(frequencies: Values, *, real: Values, generated: Mapping[str, Values]) -> Figure:
    """Return radially averaged power spectra, and below them those of generated images over those of real ones.

    Args:
        frequencies: [K], cycles per pixel, above 0.
        real: [K], mean power; any unit, the same for all.
        generated: [K] by set.
    """
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = new_figure(7.5, 7.2 + 0.15 * len(generated))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    handles = {"real": top.plot(frequencies, real, color=REAL_COLOUR, linewidth=2.5)[0]}
    bottom.axhline(1.0, color=REAL_COLOUR, linewidth=2.5)
    for name, power in generated.items():
        style = {**_style(generated, name), "markevery": max(1, len(frequencies) // 8), "markersize": 6}
        handles[name] = top.plot(frequencies, power, linewidth=1.8, **style)[0]
        ratio = np.divide(power, real, out=np.full(len(real), np.nan), where=np.asarray(real) > 0)
        bottom.plot(frequencies, ratio, linewidth=1.8, **style)
    for panel in (top, bottom):
        panel.set_yscale("log")
    low, high = bottom.get_ylim()
    bottom.set_ylim(min(low, 0.45), max(high, 2.2))  # so that at least three ticks are in it
    # Not as powers of ten: most ratios lie between two of them.
    bottom.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    bottom.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    bottom.yaxis.set_minor_formatter(NullFormatter())
    finish_axes(top, "", "mean power")
    finish_axes(bottom, "spatial frequency (cycles per pixel)", "generated / real")
    _add_legend(figure, handles)
    return figure


def draw_examples(*, real: ImageSet, generated: Mapping[str, ImageSet], count: int = 8) -> ImageArray:
    """Return a sheet with rows of `count` images of each class: real ones, and below them those of each generated set.

    They are the first of each set, which is to say any: sets have no order that says anything.

    Args:
        real: Its classes make the rows.
        generated: Sets of the same classes.
        count: Images in a row.
    """
    rows: dict[str, ImageArray] = {}
    for label, name in enumerate(real.classes):
        for title, images in {"real": real, **generated}.items():
            numbers = np.flatnonzero(images.labels == label)[:count]
            rows[f"{name}: {title}"] = to_rgb_arrays(images.load(numbers))
    return stack_rows(rows, count)


def stack_rows(rows: Mapping[str, ImageArray], count: int) -> ImageArray:
    """Return a sheet of titled rows of images, all with room for `count`; small images are enlarged.

    Args:
        rows: Title -> [n, H, W, 3] uint8, of one size, n <= count.
        count: Images in a row.
    """
    height, width = next(iter(rows.values())).shape[1:3]
    scale = max(1, -(-SHEET_SIDE // min(height, width)))
    sheet = np.full((len(rows), count, height, width, 3), 32, dtype=np.uint8)
    for row, images in zip(sheet, rows.values(), strict=True):
        row[: len(images)] = images
    large = sheet.reshape(-1, height, width, 3).repeat(scale, axis=1).repeat(scale, axis=2)
    return contact_sheet(large, count, row_titles=list(rows), gap=4, text_size=max(14, width * scale // 12))


def _draw_cloud(panel: Any, points: Values, style: Mapping[str, Any]) -> None:
    shown = points[:MAX_POINTS]
    panel.scatter(*shown.T, s=14, alpha=0.45, linewidths=0, color=style["color"], marker=style["marker"])
    if len(points) > 2:
        panel.plot(*_ellipse(points), color="white", linewidth=3.5)
        panel.plot(*_ellipse(points), color=style["color"], linewidth=1.8)


def _ellipse(points: Values) -> Values:
    """Return the outline [2, K] at two standard deviations from the mean of points [N, 2]."""
    angle = np.linspace(0, 2 * math.pi, 100)
    values, vectors = np.linalg.eigh(np.cov(points.T))
    circle = np.stack([np.cos(angle), np.sin(angle)]) * np.sqrt(values.clip(min=0))[:, None]
    outline: Values = points.mean(axis=0)[:, None] + 2 * vectors @ circle
    return outline


def _real_style() -> dict[str, Any]:
    return {"color": REAL_COLOUR, "marker": "o"}


def _style(sets: Mapping[str, object] | Sequence[str], name: str) -> dict[str, Any]:
    """Return colour and marker of a set by its place among all; behind the sixth they begin again."""
    place = list(sets).index(name)
    colour = GENERATED_COLOURS[place % len(GENERATED_COLOURS)]
    return {"color": colour, "marker": MARKERS[(place + 1) % len(MARKERS)]}


def _handle(style: Mapping[str, Any]) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="", markersize=8, **style)


def _add_legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """Put a legend of names and what they look like below all panels, in as many columns as there is room for."""
    labels = [plain(name, NAME_WIDTH) for name in handles]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    # A sign is about 0.6 of its height wide; the mark beside it takes as much as six.
    columns = int(figure.get_figwidth() * 72 / (0.62 * LEGEND_SIZE * (longest + 6)))
    figure.legend(
        handles=list(handles.values()),
        labels=labels,
        loc="outside lower center",
        ncols=min(max(columns, 1), len(labels)),
        fontsize=LEGEND_SIZE,
    )


def _spread_ticks(sizes: Sequence[int]) -> list[int]:
    """Return those of the sizes whose numbers do not run into one another on a logarithmic axis."""
    span = math.log(sizes[-1] / sizes[0]) or 1.0

    def kept() -> Iterator[int]:
        last = -math.inf
        for size in sizes:
            if math.log(size) - last >= 0.09 * span:
                last = math.log(size)
                yield size

    return list(kept())
