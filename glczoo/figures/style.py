"""How pictures look and become files: colours safe for the colour-blind, names drawn as they stand."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave

from glczoo.files import whole

__all__ = [
    "BLUE",
    "DIVERGING",
    "GREEN",
    "GREY",
    "NO_DATA",
    "ORANGE",
    "PALETTE",
    "RED",
    "SEQUENTIAL",
    "SKY",
    "UNCERTAIN",
    "Extent",
    "axes_of",
    "figure_of",
    "literal",
    "on_map",
    "png",
    "save",
    "svg_uri",
    "thinned",
]

# Okabe and Ito 2008, "Color Universal Design"; without yellow, which white paper swallows.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
"""Colours of lines and bars, in order: Okabe and Ito's (2008), which the colour-blind tell apart."""
SEQUENTIAL, UNCERTAIN = "viridis", "cividis"  # of values, and of how little they are worth
DIVERGING = "PuOr"
"""Of differences, loss and gain: a colour map that the colour-blind tell apart too."""
GREY, NO_DATA = "#777777", "#D9D9D9"
_PIXELS = 500  # of a map along a side: points that fall into one are drawn once

Extent = tuple[float, float, float, float]
"""West, east, south, north in degrees."""


def literal(text: str, letters: int | None = None) -> str:
    """A text as matplotlib must get it to draw it as it stands: two `$` in a name are no formula.

    Args:
        text: such as a species, a band or a region's name.
        letters: a longer text is cut to so many, the last of them an ellipsis.
    """
    if letters is not None and len(text) > letters:
        text = text[: letters - 1] + "…"
    return text.replace("$", r"\$")


def axes_of(axis: Axes | None, height: float = 3.2) -> Axes:
    """Axes with two spines and small figures: those given, or the only ones of a new Figure.

    `height`: of a new Figure, in inches.
    """
    if axis is None:
        axis = Figure(figsize=(5.2, height), layout="constrained").add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.xaxis.label.set_fontsize(9)
    axis.yaxis.label.set_fontsize(9)
    return axis


def figure_of(axis: Any) -> Figure:
    """The figure that axes belong to."""
    return axis.figure


def on_map(lon: np.ndarray, lat: np.ndarray, extent: Extent) -> np.ndarray:
    """Which points lie on a map, bool[n]."""
    west, east, south, north = extent
    return (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)


def thinned(lon: np.ndarray, lat: np.ndarray, extent: Extent) -> np.ndarray:
    """Points of the map, one for each pixel: millions of them are drawn as fast as a few."""
    west, east, south, north = extent
    here = np.flatnonzero(on_map(lon, lat, extent))
    col = ((lon[here] - west) / (east - west) * _PIXELS).astype(int)
    row = ((lat[here] - south) / (north - south) * _PIXELS).astype(int)
    return here[np.unique(row * (_PIXELS + 1) + col, return_index=True)[1]]


def svg_uri(figure: Figure) -> str:
    """A figure as the `src` of an HTML image, `data:image/svg+xml;base64,…`."""
    written = io.BytesIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "glczoo"}):  # the same figure, the same bytes
        figure.savefig(written, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(written.getvalue()).decode()


def save(figure: Figure, path: Path) -> None:
    """Draw a PNG, write it beside its place and rename it: never half a picture. `figure`: is not closed."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=160, format="png")
    with whole(path) as partial:
        partial.write_bytes(drawn.getvalue())


def png(values: np.ndarray, low: float | None = None, high: float | None = None) -> bytes:
    """A pixel for each value: values[h, w] from `low` to `high` in viridis, or colours uint8[h, w, 3]."""
    written = io.BytesIO()
    imsave(written, values, vmin=low, vmax=high, format="png")
    return written.getvalue()
