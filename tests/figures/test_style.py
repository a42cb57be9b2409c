"""Names are drawn as they stand, colours are told apart by the colour-blind, files are whole."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from glczoo.figures.region import RegionPage, Thumbnail, draw_region
from glczoo.figures.report import block_map, importance, responses, training_curves
from glczoo.figures.style import PALETTE, literal, save, svg_uri

DOLLARS = r"Cash $\rate of $soil_{"  # as a formula it is an error

# Linear RGB as people without one kind of cone see it (Machado, Oliveira and Fernandes 2009).
SEEN_BY = {
    "protanope": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranope": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanope": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def line(name: str) -> Figure:
    return training_curves({name: {"loss": [2.0, 1.0], "validation_f1": [0.1, 0.2]}})


def bars(name: str) -> Figure:
    return importance([name, "b"], np.ones(2), np.zeros(2), np.ones(2), name)


def curves(name: str) -> Figure:
    return responses(np.zeros((1, 4)), np.zeros((1, 4, 1)), [name], [name])


def blocks(name: str) -> Figure:
    return block_map(np.array([[5.0, 45, 6, 46]]), np.array([0.2]), np.array([3]), name)


def region(name: str) -> Figure:
    places = np.array([1.0]), np.array([50.0])
    return draw_region(
        RegionPage(
            title=name,
            summary=[name],
            land=np.ones((4, 4), bool),
            extent=(0, 4, 49, 53),
            tables={"po": places},
            suspects={"po": {name: places}},
            thumbnails=[Thumbnail(name, name, np.ones((3, 3)), name)],
        )
    )


@pytest.mark.parametrize("draw", [line, bars, curves, blocks, region])
def test_dollars_in_a_name_do_not_break_a_picture(draw: Callable[[str], Figure]) -> None:
    assert svg_uri(draw(DOLLARS)).startswith("data:image/svg+xml;base64,")


@pytest.mark.parametrize("draw", [line, curves, blocks])
def test_the_same_figure_is_the_same_bytes(draw: Callable[[str], Figure]) -> None:
    assert svg_uri(draw("a")) == svg_uri(draw("a"))


def test_a_name_is_drawn_as_it_stands() -> None:
    def pixels(text: str, **how: bool) -> np.ndarray:
        figure = Figure(figsize=(3, 1), dpi=50)
        figure.text(0.1, 0.5, text, **how)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())

    np.testing.assert_array_equal(pixels(literal("$x^2$ a")), pixels("$x^2$ a", parse_math=False))


def test_a_long_name_is_cut_before_its_dollars_are_escaped() -> None:
    assert literal("ab$cd", 3) == "ab…" and literal("a$bcd", 3) == r"a\$…" and literal("abc", 3) == "abc"


def lab(linear: np.ndarray) -> np.ndarray:
    """Linear sRGB to CIE L*a*b* under D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.clip(np.array(to_xyz) @ linear / [0.9505, 1, 1.089], 0, None)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("who", SEEN_BY)
def test_the_colour_blind_can_tell_the_colours_of_lines_apart(who: str) -> None:
    linear = [np.power((np.array(to_rgb(colour)) + 0.055) / 1.055, 2.4) for colour in PALETTE]
    seen = [lab(np.clip(np.array(SEEN_BY[who]) @ colour, 0, 1)) for colour in linear]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)) > 10


def test_a_picture_that_cannot_be_drawn_leaves_no_file(tmp_path: Path) -> None:
    figure = Figure()
    figure.text(0, 0, r"$\nonsense{$")
    with pytest.raises(ValueError):
        save(figure, tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
