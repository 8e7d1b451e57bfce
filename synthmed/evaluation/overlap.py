"""The picture of how far real and generated features overlap.

Values are features [N, D], or points [N, 2] on two principal components.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from synthmed.evaluation.pictures import COLUMNS, NAME_WIDTH, REAL_STYLE, Values, add_legend, set_style
from synthmed.plots import LABEL_SIZE, finish_axes, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 2000
"""Points shown per set; more would hide one another. The first ones are shown: sets have no meaningful order."""


def draw_overlap(
    *,
    real: Values,
    generated: Mapping[str, Values],
    extractor: str,
    classes: Sequence[str] = (),
    real_labels: NDArray[np.int64] | None = None,
    generated_labels: Mapping[str, NDArray[np.int64]] | None = None,
) -> Figure:
    """Return real and generated features on the first two principal components of the real ones, one panel per set.

    As in the paper's supplement, Fig. S3, with an ellipse two standard deviations around the mean of each cloud.

    Args:
        real: Features of the real images; the components are theirs alone.
        generated: Features by set.
        extractor: What the features are.
        classes: Names, for one row of panels per class; none draws all classes together.
        real_labels: [N], needed with `classes`.
        generated_labels: [N] by set, needed with `classes`.
    """
    mean, axes, shares = principal_axes(real)
    points = {name: (values - mean) @ axes.T for name, values in generated.items()}
    real_points = (real - mean) @ axes.T
    columns = len(generated) if classes else min(COLUMNS, len(generated))
    cells = [(label, name) for label in (range(len(classes)) if classes else [None]) for name in generated]
    figure, panels = _panels(len(cells), columns)
    for panel, (label, name) in zip(panels.flat, cells, strict=False):
        labels = (generated_labels or {}).get(name)
        _draw_cloud(panel, _of_class(real_points, real_labels, label), REAL_STYLE)
        _draw_cloud(panel, _of_class(points[name], labels, label), set_style(generated, name))
        words = (name,) if label is None else (name, classes[label])
        finish_axes(panel, "", "", "\n".join(plain(word, NAME_WIDTH) for word in words))
    x_label = f"first component\n({shares[0]:.0%} of the real variance)"
    _name_outer_axes(panels, len(cells), x_label, f"second component\n({shares[1]:.0%})")
    title = f"{extractor} features, principal components of the real ones; ellipses at two deviations"
    figure.suptitle(
        plain(title, 44),
        fontsize=LABEL_SIZE,
    )
    styles = {"real": REAL_STYLE, **{name: set_style(generated, name) for name in generated}}
    add_legend(figure, {name: _handle(style) for name, style in styles.items()})
    return figure


def _panels(count: int, columns: int) -> tuple[Figure, NDArray[Any]]:
    """Return a figure with room for some panels, and its grid of axes [rows, columns]."""
    rows = -(-count // columns)
    figure = new_figure(max(3.6 * columns, 5.4), 3.5 * rows + 1.5)
    return figure, figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)


def _of_class(points: Values, labels: NDArray[np.int64] | None, label: int | None) -> Values:
    """Return the points of one class; `None` is all of them."""
    if label is None:
        return points
    assert labels is not None
    chosen: Values = points[labels == label]
    return chosen


def _name_outer_axes(panels: NDArray[Any], used: int, x_label: str, y_label: str) -> None:
    """Hide the panels after the used ones, and label the axes of the lowest and of the leftmost ones."""
    from matplotlib.ticker import MaxNLocator

    rows, columns = panels.shape
    panels[0, 0].xaxis.set_major_locator(MaxNLocator(4))  # shared by all
    for index, panel in enumerate(panels.flat):
        panel.set_visible(index < used)
        if index < used <= index + columns:
            panel.set_xlabel(x_label, fontsize=LABEL_SIZE)
            panel.tick_params(labelbottom=True)
    for row in range(rows):
        panels[row, 0].set_ylabel(y_label, fontsize=LABEL_SIZE)


def principal_axes(features: Values) -> tuple[Values, Values, tuple[float, float]]:
    """Return the mean [D], the first two principal axes [2, D] and their shares of the variance.

    The sign of an axis is such that its largest entry is positive: two machines then draw the same picture.
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


def _handle(style: Mapping[str, Any]) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="", markersize=8, **style)
