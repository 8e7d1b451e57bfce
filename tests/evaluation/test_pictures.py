"""Plots of an evaluation: what they show, that their text can be read, and the files they end in."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from synthmed.data.images import encode_image
from synthmed.evaluation.content import open_by_content
from synthmed.evaluation.overlap import draw_overlap, principal_axes
from synthmed.evaluation.pictures import Score, draw_scores, draw_sizes, draw_spectra
from synthmed.evaluation.scores import Curve
from synthmed.evaluation.sheets import draw_examples, stack_rows
from synthmed.plots import DPI, GENERATED_COLOURS, REAL_COLOUR, figure_png, new_figure, plain, write_figure

NAMES = ("medfusion", "StyleGAN 3 with a rather long name", "_costs $5 or $6", "ddim-50", "a.b/c:train", "x")
RNG = np.random.default_rng(0)


def features(count: int, width: int = 12) -> NDArray[np.float32]:
    return (RNG.normal(size=(count, width)) * np.linspace(3, 0.1, width)).astype(np.float32)


def overlap(num_sets: int, num_classes: int = 0) -> Figure:
    names, classes = NAMES[:num_sets], [f"class {number}" for number in range(num_classes)]
    labels = np.arange(60) % max(num_classes, 1)
    return draw_overlap(
        real=features(60),
        generated={name: features(60) for name in names},
        extractor="timm:vit_small_patch14_dinov2.lvd142m",
        classes=classes,
        real_labels=labels,
        generated_labels=dict.fromkeys(names, labels),
    )


def sizes(num_sets: int) -> Figure:
    steps = (50, 64, 100, 128, 256, 512, 1000, 1024, 5000, 10000)
    curves = [Curve(name, steps, (3.0,) * 10, (2.0,) * 10, (5.0,) * 10) for name in NAMES[:num_sets]]
    return draw_sizes(curves, score="FID")


def scores(num_sets: int, num_scores: int = 5) -> Figure:
    values = {name: (0.3 * number, 0.3 * number - 0.2, 0.3 * number + 0.1) for number, name in enumerate(NAMES)}
    chosen = {name: values[name] for name in NAMES[:num_sets]}
    return draw_scores([Score(f"score {number}", "lower", chosen, 0.1) for number in range(num_scores)])


def spectra(num_sets: int) -> Figure:
    power = np.linspace(2.0, 1.0, 32)
    return draw_spectra(np.arange(1, 33) / 64, real=power, generated=dict.fromkeys(NAMES[:num_sets], 1.1 * power))


ALL: dict[str, Callable[[], Figure]] = {
    "overlap of 4 sets": lambda: overlap(4),
    "overlap of 2 sets in 3 classes": lambda: overlap(2, 3),
    "sizes of 1 set": lambda: sizes(1),
    "sizes of 6 sets": lambda: sizes(6),
    "4 scores of 1 set": lambda: scores(1, 4),
    "2 scores of 6 sets": lambda: scores(6, 2),
    "spectra of 6 sets": lambda: spectra(6),
}


def axes_of(figure: Figure) -> list[Any]:
    return list(figure.axes)


def visible_texts(figure: Figure) -> list[Text]:
    hidden = {text for axes in figure.axes if not axes.get_visible() for text in axes.findobj(Text)}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in found if text not in hidden]


@pytest.mark.parametrize("name", ALL)
def test_no_text_lies_on_another_or_outside(name: str) -> None:
    figure = ALL[name]()
    png = Image.open(io.BytesIO(figure_png(figure)))
    assert png.size == tuple(int(inches * DPI + 1e-6) for inches in figure.get_size_inches())
    boxes = {text: text.get_window_extent() for text in visible_texts(figure)}
    # Ticks outside of their axis are kept by matplotlib, but not drawn.
    drawn = [(text, box) for text, box in boxes.items() if box.width > 1 and _is_drawn(figure, text)]
    assert len(drawn) > 5
    for text, box in drawn:
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= png.width + 1, text
        assert box.y1 <= png.height + 1, text
        assert float(text.get_fontsize()) >= 11, text
    for (first, one), (second, other) in combinations(drawn, 2):
        shared = min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(shared) <= 1, (first, second)


def _is_drawn(figure: Figure, text: Text) -> bool:
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if text in (tick.label1, tick.label2):
                    slack = 1e-6 * (high - low)
                    return bool(axes.get_visible() and low - slack <= tick.get_loc() <= high + slack)
    return True


def legend_words(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text().replace("\n", " ").strip() for text in legend.get_texts()]


def test_names_are_shown_as_they_are() -> None:
    shown = [word.replace(r"\$", "$") for word in legend_words(overlap(6))]
    assert shown == ["real", *NAMES]
    assert plain("a\x1b[31m", 0) == "a\\x1b[31m"
    # A script that the font lacks is no reason to fail.
    figure_png(draw_sizes([Curve("青光眼", (1, 2), (1, 2), (1, 2), (1, 2))], score="FID"))


def points_of(figure: Figure, panel: int) -> dict[str, NDArray[Any]]:
    return {
        to_hex(cloud.get_facecolor()[0]).upper(): np.asarray(cloud.get_offsets())
        for cloud in axes_of(figure)[panel].collections
    }


def test_overlap_shows_all_sets_on_the_components_of_the_real_one() -> None:
    # The generated ones vary most along the fourth feature, in which the real ones are all the same.
    real = RNG.normal(size=(40, 4)) * [1, 0.1, 5, 0]
    generated = real.copy()
    generated[:, 3] = RNG.normal(size=40) * 100
    figure = draw_overlap(real=real, generated={"a": generated, "b": real[:7] + 1}, extractor="x")
    assert len(figure.axes) == 2
    clouds = points_of(figure, 0)
    assert clouds.keys() == {REAL_COLOUR, GENERATED_COLOURS[0]}
    assert clouds[REAL_COLOUR] == pytest.approx(clouds[GENERATED_COLOURS[0]])
    assert clouds[REAL_COLOUR][:, 0] == pytest.approx((real - real.mean(axis=0))[:, 2], abs=0.5)
    assert len(points_of(figure, 1)[GENERATED_COLOURS[1]]) == 7


def test_overlap_by_class_shows_each_class_in_a_row() -> None:
    real, labels = features(30), np.repeat([0, 1, 2], [15, 10, 5])
    figure = draw_overlap(
        real=real,
        generated={"a": real[::-1], "b": real[:20]},
        extractor="x",
        classes=["k", "l", "m"],
        real_labels=labels,
        generated_labels={"a": labels[::-1], "b": labels[:20]},
    )
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["a\nk", "b\nk", "a\nl", "b\nl", "a\nm", "b\nm"]
    counts = [[len(points) for points in points_of(figure, panel).values()] for panel in range(6)]
    # Class m has no images in b: only real ones are drawn there.
    assert counts == [[15, 15], [15, 15], [10, 10], [10, 5], [5, 5], [5, 0]]


@pytest.mark.parametrize("shape", [(50, 8), (8, 50)])
def test_principal_axes_are_those_of_a_singular_value_decomposition(shape: tuple[int, int]) -> None:
    values = RNG.normal(size=shape) * np.linspace(4, 1, shape[1])
    mean, axes, shares = principal_axes(values.astype(np.float32))
    _, singular, rows = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    assert mean == pytest.approx(values.mean(axis=0), abs=1e-5)
    assert np.abs(axes @ rows[:2].T) == pytest.approx(np.eye(2), abs=1e-4)
    assert shares == pytest.approx((singular**2 / (singular**2).sum())[:2], rel=1e-4)
    assert (np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], 1) > 0).all()


def test_features_without_spread_can_be_drawn() -> None:
    same = np.ones((5, 3), dtype=np.float32)
    assert figure_png(draw_overlap(real=same, generated={"a": same, "b": same[:1], "c": same[:0]}, extractor="x"))


def test_sizes_have_a_line_and_a_band_a_set() -> None:
    (axes,) = axes_of(sizes(3))
    assert len(axes.get_lines()) == len(axes.collections) == 3
    assert legend_words(sizes(2)) == list(NAMES[:2])
    assert "lower is better" in axes.get_ylabel()
    assert axes.get_xlabel() == "generated images"


def test_scores_are_bars_with_intervals_a_number_and_the_floor() -> None:
    values = {"a": (11.64, 10.0, 14.0), "b": (1234.5, 1200.0, 1300.0)}
    figure = draw_scores([Score("FID", "lower", values, 3.0), Score("recall", "higher", {"b": (0.4, 0.41, 0.5)})])
    fid, recall = axes_of(figure)
    assert [bar.get_width() for bar in fid.patches] == [11.64, 1234.5]
    assert [bar.get_width() for bar in recall.patches] == [0.4]
    assert [text.get_text() for text in (*fid.texts, *recall.texts)] == ["11.6", "1234", "0.400"]
    ends = [segment[:, 0].tolist() for lines in fid.collections for segment in lines.get_segments()]
    assert np.ravel(ends) == pytest.approx([10.0, 14.0, 1200.0, 1300.0])
    assert any(line.get_linestyle() == "--" and set(line.get_xdata()) == {3.0} for line in fid.get_lines())
    assert not any(line.get_linestyle() == "--" for line in recall.get_lines())
    assert legend_words(figure) == ["95 % interval", "real against real"]
    # The set keeps its place and colour where another one has no score.
    assert to_hex(recall.patches[0].get_facecolor()).upper() == GENERATED_COLOURS[1]
    assert recall.patches[0].get_y() == fid.patches[1].get_y()
    assert [label.get_text() for label in fid.get_yticklabels()] == ["a", "b"]
    assert legend_words(draw_scores([Score("FID", "lower", {"a": (0.0, 0.0, 0.0)})])) == ["95 % interval"]


def test_real_against_real_is_a_line_in_sizes_and_spectra() -> None:
    figure = draw_sizes([Curve("a", (10, 20), (4, 3), (3, 2), (5, 4))], score="FID", floor=(20, 1.5))
    assert legend_words(figure) == ["a", "real against real (20)"]
    assert list(axes_of(figure)[0].get_lines()[1].get_ydata()) == [1.5, 1.5]
    real, other = np.asarray([4.0, 2.0]), np.asarray([5.0, 2.0])
    figure = draw_spectra(np.asarray([0.1, 0.2]), real=real, generated={"a": real}, held_out=other)
    assert legend_words(figure) == ["real", "a", "other real images"]
    assert list(axes_of(figure)[1].get_lines()[2].get_ydata()) == [1.25, 1.0]


def test_spectra_are_shown_and_divided_by_the_real_one() -> None:
    real = np.asarray([4.0, 2.0, 0.0])
    made = np.asarray([12.0, 6.0, 1.0])
    top, bottom = axes_of(draw_spectra(np.asarray([0.1, 0.2, 0.3]), real=real, generated={"a": made}))
    assert [list(line.get_ydata()) for line in top.get_lines()] == [[4, 2, 0], [12, 6, 1]]
    ratio = bottom.get_lines()[1].get_ydata()
    assert list(ratio[:2]) == [3, 3]
    assert np.isnan(ratio[2])
    assert "cycles per pixel" in bottom.get_xlabel()


def test_rows_hold_the_images_enlarged_in_whole_steps() -> None:
    images = RNG.integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    sheet = stack_rows({"real": images, "made": images[:1]}, 3)
    # 40 pixels become 120, which leaves rows of 120 and a title of 15 + 4, with 4 between all.
    assert sheet.shape == (4 + 2 * (120 + 19 + 4), 4 + 3 * (180 + 4), 3)
    assert (sheet[4 + 19 + 1 : 4 + 19 + 120 : 3, 4 + 1 : 4 + 180 : 3] == images[0]).all()
    second = 4 + 120 + 19 + 4 + 19
    assert (sheet[second : second + 120 : 3, 4 : 4 + 180 : 3] == images[0]).all()
    assert (sheet[second : second + 120, 188:] == 32).all()
    assert sheet[: 4 + 19].max() > 200  # the title


def test_examples_are_of_the_class_that_their_title_names(tmp_path: Path) -> None:
    for number in range(6):
        folder = tmp_path / ("dark", "light")[number % 2]
        folder.mkdir(exist_ok=True)
        image = np.full((96, 96, 3), number + 200 * (number % 2), dtype=np.uint8)
        (folder / f"{number}.png").write_bytes(encode_image(image, "png"))
    real = open_by_content(str(tmp_path))
    made = replace(real.subset(np.flatnonzero(real.labels == 0)), name="made")
    sheet = draw_examples(real=real, generated={"made": made}, count=2)
    pitch = 96 + 18 + 4
    rows = sheet[-4 - 4 * pitch :]  # below words that say that there are real images
    assert sheet[:18].max() > 200
    means = [rows[4 + 18 + row * pitch : row * pitch + pitch, 4:200].mean() for row in range(4)]
    # dark: real, made; light: real, and no images.
    assert max(means[:2]) < 8
    assert means[2] > 190
    assert means[3] == 32


def test_png_is_written_whole_and_is_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_figure(tmp_path / "a.png", sizes(2))
    write_figure(tmp_path / "b.png", sizes(2))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    before = (tmp_path / "a.png").read_bytes()
    broken = new_figure(2, 2)
    monkeypatch.setattr(broken, "savefig", None)
    with pytest.raises(TypeError):
        write_figure(tmp_path / "a.png", broken)
    assert (tmp_path / "a.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
