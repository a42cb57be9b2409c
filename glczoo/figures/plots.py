"""Pictures for people, all in the colours that are named here: safe for the colour-blind.

What a report shows, each by a function of arrays that returns its Figure, or draws on the Axes that it is
given (in a notebook say `%matplotlib inline` first):

    training_curves · reliability · set_sizes · auc_by_records · block_map · importance · response_curves

and the page about a region that `glczoo region check` draws. Long because no other module draws curves.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, SymmetricalLogLocator

from glczoo.files import whole

__all__ = [
    "PALETTE",
    "SEQUENTIAL",
    "UNCERTAIN",
    "ClickMap",
    "RegionPage",
    "Thumbnail",
    "auc_by_records",
    "block_map",
    "draw_region",
    "importance",
    "png",
    "reliability",
    "response_curves",
    "save",
    "set_sizes",
    "svg_uri",
    "training_curves",
]

# Okabe and Ito 2008, "Color Universal Design"; without yellow, which white paper swallows.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
SEQUENTIAL, UNCERTAIN = "viridis", "cividis"  # of values, and of how little they are worth
_GREY = "#777777"
_NO_DATA = "#D9D9D9"
_TABLES = {  # name, colour and marker of what a table holds
    "po": ("presence-only records", BLUE, "o"),
    "pa": ("presence-absence surveys", ORANGE, "^"),
    "test": ("test points", GREEN, "s"),
}
_SUSPECTS = "XDPv*<>ph8"
_MAX_THUMBNAILS = 48
_PIXELS = 500  # of a map along a side: points that fall into one are drawn once
_CLICK_SIDE = 1100  # pixels of a map to click: more than a page shows it with, so that none is magnified
_PAGE, _MARGIN = 8.27, 0.45  # inches: the width of A4


@dataclass(frozen=True)
class Thumbnail:
    """A band in small: values[h, w], nan where there is no data, and what is written above and below."""

    group: str
    name: str
    values: np.ndarray
    text: str


@dataclass(frozen=True)
class RegionPage:
    """What a page about a region shows. Places are (lon[n], lat[n]) in degrees."""

    title: str
    summary: Sequence[str]
    land: np.ndarray  # bool[h, w], north up: where the rasters have data
    extent: tuple[float, float, float, float]  # west, east, south, north of `land`
    tables: Mapping[str, tuple[np.ndarray, np.ndarray]]
    suspects: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]  # table → reason → places
    records: Mapping[str, np.ndarray] = field(default_factory=dict)  # table → records of each species
    thumbnails: Sequence[Thumbnail] = ()


def draw_region(page: RegionPage) -> Figure:
    """A page about a region: its records on maps, what is suspicious, and every band in small.

    It is as wide as A4, and as high as its maps and bands make it.
    """
    west, east, south, north = page.extent
    wide = np.cos(np.radians((south + north) / 2)) * (east - west) / (north - south)
    maps = max(2, len(page.tables))
    across = (_PAGE - 2 * _MARGIN - 0.25 * (maps - 1)) / maps - 0.3
    up = min(across / wide, 1.25 * across)
    across = up * wide
    reasons = list(dict.fromkeys(reason for of in page.suspects.values() for reason in of))
    shown = page.thumbnails[:_MAX_THUMBNAILS]
    columns = 6 if len(shown) <= 24 else 8
    small = (_PAGE - 2 * _MARGIN) / columns
    tall = max((t.values.shape[0] / t.values.shape[1] for t in shown), default=0)
    high = small * 0.9 * min(max(tall, 0.4), 1.2)
    row = high + 0.7
    heights = [
        0.55,
        1.75,
        up + 0.65,
        0.25 + 0.17 * -(-len(reasons) // 2),
        0.2 + row * -(-len(shown) // columns),
    ]
    height = sum(heights) + 0.3
    figure = Figure(figsize=(_PAGE, height))

    def at(left: float, top: float, width: float, high: float) -> Axes:
        """Axes in inches, from the top left corner of the page."""
        return figure.add_axes((left / _PAGE, 1 - (top + high) / height, width / _PAGE, high / height))

    tops = np.cumsum([0, *heights])
    figure.text(_MARGIN / _PAGE, 1 - 0.25 / height, page.title, fontsize=14, weight="bold", va="top")
    text = at(_MARGIN, tops[1], 3, 1.6)
    text.axis("off")
    text.text(0, 1, "\n".join(page.summary), va="top", fontsize=7.5, linespacing=1.5)
    _ranks(at(4.15, tops[1] + 0.2, 1.4, 1.05), page.records)
    _world(at(6.0, tops[1] + 0.2, 1.85, 1.05), page, reasons)
    for number, name in enumerate(page.tables):
        left = _MARGIN + 0.3 + number * (_PAGE - 2 * _MARGIN + 0.25) / maps
        _map(at(left, tops[2] + 0.25, across, up), page, name, reasons)
    _legend(at(_MARGIN, tops[3], _PAGE - 2 * _MARGIN, heights[3]), page, reasons)
    told = f", the first {len(shown)} of {len(page.thumbnails)}" if len(shown) < len(page.thumbnails) else ""
    figure.text(_MARGIN / _PAGE, 1 - tops[4] / height, f"Bands{told}", fontsize=9, va="top")
    for number, thumbnail in enumerate(shown):
        line, column = divmod(number, columns)
        axis = at(_MARGIN + column * small, tops[4] + 0.5 + line * row, small * 0.9, high)
        _thumbnail(axis, thumbnail, 110 // columns)
        if number == 0 or shown[number - 1].group != thumbnail.group:
            here = shown[number : number + columns - column]
            room = next((i for i, t in enumerate(here) if t.group != thumbnail.group), columns - column)
            letters = 100 // columns * room
            axis.annotate(
                _fitted(thumbnail.group, letters), (0, 1), (0, 12), xycoords="axes fraction",
                textcoords="offset points", fontsize=7, weight="bold",
            )  # fmt: skip
    figure.text(
        _MARGIN / _PAGE, 0.12 / height, "Numbers: least and greatest value. Colours span the 2nd to the 98th "
        "percentile; grey: no data. Filled: share of the cells of all patches without data.",
        fontsize=6.5, color="#444444",
    )  # fmt: skip
    return figure


def training_curves(steps: Mapping[str, Mapping[str, Sequence[float | None] | np.ndarray]]) -> Figure:
    """Training loss and validation F1 of every epoch, the steps one after the other.

    Args:
        steps: what to call each step → `loss`[E] and `validation_f1`[E] (None or nan where it was not
            measured) of its epochs. Losses of different kinds cannot be compared with each other.
    """
    curves = {
        name: {key: np.array(values, float) for key, values in told.items()} for name, told in steps.items()
    }
    measured = any(np.isfinite(told["validation_f1"]).any() for told in curves.values())
    figure = Figure(figsize=(5.2, 4.6 if measured else 2.8), layout="constrained")
    axes = figure.subplots(2 if measured else 1, 1, sharex=True, squeeze=False)[:, 0]
    for axis, key, title in zip(
        axes, ("loss", "validation_f1"), ("training loss", "validation F1"), strict=False
    ):
        _plain(axis)
        start = 1
        for number, (name, told) in enumerate(curves.items()):
            epoch = np.arange(start, start + len(told[key]))
            axis.plot(
                epoch, told[key], color=PALETTE[number % len(PALETTE)], marker="o", ms=2.5, lw=1.4, label=name
            )
            start += len(epoch)
        axis.set_ylabel(title)
        axis.xaxis.get_major_locator().set_params(integer=True)
    if all((told["loss"] > 0).all() for told in curves.values()):
        axes[0].set_yscale("log")
        axes[0].yaxis.set_minor_formatter(NullFormatter())
        axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].legend(frameon=False, fontsize=8)
    axes[-1].set_xlabel("epoch")
    return figure


def reliability(
    number: np.ndarray, probability: np.ndarray, frequency: np.ndarray, axis: Axes | None = None
) -> Figure:
    """Observed against predicted frequency: on the diagonal, a probability means what it says.

    Args:
        number: entries (a species in a survey) in every bin, [bins]; drawn as bars on a log scale.
        probability: their mean predicted probability, [bins], nan where there are none.
        frequency: their share of presences, [bins]. `metrics.reliability` gives all three.
        axis: where to draw.
    """
    axis = _plain(axis)
    edges = np.linspace(0, 1, len(number) + 1)
    bars = axis.twinx()
    bars.bar(edges[:-1], number, np.diff(edges), align="edge", color="#DDDDDD", edgecolor="white", zorder=0)
    bars.set(yscale="log", ylim=(0.8, max(10, np.max(number)) ** 2))  # the lower half of the picture
    bars.yaxis.set_minor_locator(NullLocator())
    bars.set_yticks([10**k for k in range(0, 1 + int(np.log10(max(10, np.max(number)))))])
    bars.set_ylabel("entries (bars, log scale)", color=_GREY, fontsize=8)
    bars.tick_params(labelsize=7, colors=_GREY)
    bars.spines[["top", "left"]].set_visible(False)
    axis.set_zorder(bars.get_zorder() + 1)
    axis.patch.set_visible(False)
    axis.plot([0, 1], [0, 1], "--", color=_GREY, lw=1, label="perfectly calibrated")
    seen = np.asarray(number) > 0
    axis.plot(
        np.asarray(probability)[seen],
        np.asarray(frequency)[seen],
        "o-",
        color=BLUE,
        ms=4,
        clip_on=False,
        label="model",
    )
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted probability", ylabel="observed frequency")
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    return _figure(axis)


def set_sizes(predicted: np.ndarray, observed: np.ndarray, axis: Axes | None = None) -> Figure:
    """How many surveys have how many species: answered (filled) and found (outlined). int[N] each."""
    axis = _plain(axis)
    largest = max(np.max(predicted), np.max(observed))
    width = max(1, int(np.ceil((largest + 1) / 40)))
    edges = [left - 0.5 for left in range(0, int(largest) + width + 1, width)]
    axis.hist(predicted, edges, color=SKY, label=f"predicted, mean {np.mean(predicted):.1f}")
    axis.hist(
        observed,
        edges,
        color="black",
        histtype="step",
        lw=1.5,
        label=f"observed, mean {np.mean(observed):.1f}",
    )
    axis.set(xlabel="species in a survey", ylabel="surveys", xlim=(edges[0], edges[-1]))
    axis.legend(frameon=False, fontsize=8)
    return _figure(axis)


def auc_by_records(auc: np.ndarray, records: Mapping[str, np.ndarray]) -> Figure:
    """AUC of every species against how often the training surveys name it; the line joins medians.

    Args:
        auc: [K], nan where it is undefined.
        records: what to call a table → its number of records of every species, [K].
    """
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots(1, max(1, len(records)), sharey=True, squeeze=False)[0]
    known = np.isfinite(auc)
    for number, (axis, (name, counts)) in enumerate(zip(axes, records.items(), strict=False)):
        _plain(axis)
        x, y = np.asarray(counts)[known], np.asarray(auc)[known]
        axis.axhline(0.5, color=_GREY, lw=1, ls="--")
        axis.scatter(
            x, y, s=14, color=PALETTE[number], alpha=0.6 if len(x) < 500 else 0.25, linewidths=0,
            rasterized=len(x) > 1000,
        )  # fmt: skip
        if len(x) >= 20:
            groups = np.array_split(np.argsort(x, kind="stable"), min(10, len(x) // 5))
            middle = [(np.median(x[g]), np.median(y[g])) for g in groups]
            axis.plot(*zip(*middle, strict=True), color="black", lw=1.4)
        least = x.min(initial=x.max(initial=1))
        if least > 0:
            axis.set(xscale="log", xlim=(least / 1.5, 1.5 * x.max(initial=least)))
        else:
            axis.set_xscale("symlog", linthresh=1)
            axis.set_xlim(-0.2, max(2, 1.5 * x.max()))
            axis.xaxis.set_major_locator(SymmetricalLogLocator(linthresh=1, base=10))
        axis.set_xlabel(f"records, {name}")
    axes[0].set_ylabel("AUC of the species")
    return figure


def block_map(
    bounds: np.ndarray, values: np.ndarray, number: np.ndarray, label: str, axis: Axes | None = None
) -> Figure:
    """A map of blocks in the colour of their value, with the number of surveys in each where it has room.

    Args:
        bounds: west, south, east, north in degrees, [n, 4].
        values: [n].
        number: surveys, [n].
        label: what the values are.
        axis: where to draw.
    """
    west, south = bounds[:, :2].min(0)
    east, north = bounds[:, 2:].max(0)
    narrow = float(np.cos(np.radians((south + north) / 2)))
    aspect = (north - south) / (east - west) / narrow
    axis = _plain(axis, height=0.6 + 3.8 * float(np.clip(aspect, 0.3, 1.6)))
    colours = ScalarMappable(Normalize(np.min(values), np.max(values)), SEQUENTIAL)
    room = (bounds[:, 2] - bounds[:, 0]) / max(east - west, (north - south) / narrow) > 0.045
    for (w, s, e, n), value, many, fits in zip(bounds, values, number, room, strict=True):
        red, green, blue, _ = colours.to_rgba(value)
        axis.add_patch(Rectangle((w, s), e - w, n - s, fc=(red, green, blue), ec="white", lw=0.8))
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        if fits:
            axis.text(
                (w + e) / 2, (s + n) / 2, f"{many}", ha="center", va="center", fontsize=6.5,
                color="white" if dark else "black",
            )  # fmt: skip
    pad_x, pad_y = 0.03 * (east - west), 0.03 * (north - south)
    axis.set(
        xlim=(west - pad_x, east + pad_x), ylim=(south - pad_y, north + pad_y), xlabel="longitude, °",
        ylabel="latitude, °",
    )  # fmt: skip
    axis.set_aspect(1 / narrow)
    axis.ticklabel_format(useOffset=False)
    axis.locator_params(nbins=6)
    bar = _figure(axis).colorbar(colours, ax=axis, shrink=0.8, pad=0.02)
    bar.set_label(label)
    bar.ax.tick_params(labelsize=8)
    return _figure(axis)


def importance(
    names: Sequence[str],
    lost: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    label: str,
    axis: Axes | None = None,
) -> Figure:
    """Bars of what is lost without each of several inputs, with intervals; the largest stands at the top.

    Args:
        names: of the inputs.
        lost: [n].
        low: lower end of the interval, [n].
        high: upper end, [n].
        label: what is lost.
        axis: where to draw.
    """
    axis = _plain(axis, height=0.9 + 0.22 * len(names))
    order = np.argsort(lost, kind="stable")
    lost, low, high = (np.asarray(values)[order] for values in (lost, low, high))
    place = np.arange(len(order))
    axis.barh(place, lost, color=BLUE, height=0.7)
    axis.errorbar(
        lost,
        place,
        xerr=np.maximum(0, [lost - low, high - lost]),
        fmt="none",
        ecolor="black",
        elinewidth=1,
        capsize=2,
    )
    axis.axvline(0, color="black", lw=0.8)
    axis.set_yticks(place, [_fitted(names[i], 32) for i in order])
    axis.set(ylim=(-0.6, len(order) - 0.4), xlabel=label)
    return _figure(axis)


def response_curves(
    values: np.ndarray,
    probability: np.ndarray,
    bands: Sequence[str],
    species: Sequence[str],
    at: np.ndarray | None = None,
    columns: int = 2,
) -> Figure:
    """How the probability of each species follows each band, a small picture for every band.

    Args:
        values: of every band along its range, [C, T].
        probability: [C, T, n].
        bands: what to call the bands, unit included.
        species: what to call the species, n.
        at: value of each band while others vary, [C]: a thin line.
        columns: pictures in a row.
    """
    rows = -(-len(bands) // columns)
    figure = Figure(figsize=(2.6 * columns, 1.7 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axis in axes.flat[len(bands) :]:
        axis.axis("off")
    for c, (axis, band) in enumerate(zip(axes.flat, bands, strict=False)):
        _plain(axis)
        if at is not None:
            axis.axvline(at[c], color="#BBBBBB", lw=0.8)
        for i, name in enumerate(species):
            style = ("-", "--", ":", "-.")[i % 4]
            axis.plot(
                values[c], probability[c, :, i], style, color=PALETTE[i % len(PALETTE)], lw=1.6, label=name
            )
        axis.set_title(_fitted(band, 34), fontsize=8.5, loc="left")
        axis.locator_params(axis="x", nbins=4)
        axis.tick_params(labelsize=7)
    axes[0, 0].set_ylim(0, None)
    figure.supylabel("probability", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, [_fitted(label, 40) for label in labels], loc="outside upper left",
        ncols=min(2 * columns, len(labels)), frameon=False, fontsize=8, handlelength=3,
    )  # fmt: skip
    return figure


def svg_uri(figure: Figure) -> str:
    """A figure as the `src` of an HTML image, `data:image/svg+xml;base64,…`."""
    written = io.BytesIO()
    with rc_context({"svg.fonttype": "path"}):
        figure.savefig(written, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(written.getvalue()).decode()


def save(figure: Figure, path: Path) -> None:
    """Write a PNG: all of it, or none."""
    with whole(path) as partial:
        figure.savefig(partial, dpi=160, format="png")


def png(values: np.ndarray, low: float | None = None, high: float | None = None) -> bytes:
    """A pixel for each value: values[h, w] from `low` to `high` in viridis, or colours uint8[h, w, 3]."""
    written = io.BytesIO()
    imsave(written, values, vmin=low, vmax=high, format="png")
    return written.getvalue()


class ClickMap:
    """A map to click: `pixels` uint8[H, W, 3], and which place a pixel stands for, exactly.

    A pixel (x, y) is counted from the top left corner of the picture, whole numbers between two pixels.
    """

    def __init__(
        self,
        values: np.ndarray,
        extent: tuple[float, float, float, float],
        places: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Draw the map.

        Args:
            values: float[h, w] of the background, north up, nan where there is no data.
            extent: west, east, south, north of `values` in degrees.
            places: lon[n], lat[n] of dots.
        """
        west, east, south, north = self.extent = extent
        wide = float(np.cos(np.radians((south + north) / 2)) * (east - west) / (north - south))
        width, height = _CLICK_SIDE * min(1.0, wide), _CLICK_SIDE / max(1.0, wide)
        self._box = left, top, width, height = 110, 30, round(max(width, 300)), round(max(height, 300))
        across, up = left + width + 30, top + height + 80
        figure = Figure(figsize=(across / 200, up / 200), dpi=200)
        axis = figure.add_axes((left / across, 1 - (top + height) / up, width / across, height / up))
        axis.set_facecolor(_NO_DATA)
        known = values[np.isfinite(values)]
        low, high = np.percentile(known, (2, 98)) if len(known) else (0, 1)
        axis.imshow(
            values, extent=extent, vmin=low, vmax=high, alpha=np.where(np.isfinite(values), 0.75, 0.0),
            interpolation="nearest", aspect="auto",
        )  # fmt: skip
        seen = _thinned(*places, extent)
        size = float(np.clip(3000 / max(len(seen), 1), 0.5, 8))
        edge = 0.3 if size > 2 else 0  # many would be nothing but edges
        axis.scatter(places[0][seen], places[1][seen], s=size, c="white", linewidths=edge, edgecolors="black")
        axis.set(xlim=(west, east), ylim=(south, north))
        axis.locator_params(nbins=6)
        axis.ticklabel_format(useOffset=False, style="plain")
        axis.tick_params(labelsize=7, length=2, pad=2)
        axis.set_xlabel("degrees east", fontsize=7, labelpad=2)
        axis.set_ylabel("degrees north", fontsize=7, labelpad=2)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        self.pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def place(self, x: float, y: float) -> tuple[float, float] | None:
        """lon, lat of a pixel; None in the margin."""
        left, top, width, height = self._box
        across, down = (x - left) / width, (y - top) / height
        if not (0 <= across <= 1 and 0 <= down <= 1):
            return None
        west, east, south, north = self.extent
        return west + across * (east - west), north - down * (north - south)

    def pixel(self, lon: float, lat: float) -> tuple[float, float]:
        """The pixel of a place, which may lie off the picture."""
        left, top, width, height = self._box
        west, east, south, north = self.extent
        return left + (lon - west) / (east - west) * width, top + (north - lat) / (north - south) * height

    def marked(self, lon: float, lat: float) -> np.ndarray:
        """The map with a ring around a place, uint8[H, W, 3]."""
        pixels, (x, y) = self.pixels.copy(), self.pixel(lon, lat)
        down, across = np.ogrid[: len(pixels), : pixels.shape[1]]
        far = np.hypot(across + 0.5 - x, down + 0.5 - y)
        pixels[abs(far - 17) < 6] = 255
        pixels[abs(far - 17) < 4] = [0xD5, 0x5E, 0x00]  # RED
        return pixels


def _map(axis: Axes, page: RegionPage, name: str, reasons: Sequence[str]) -> None:
    west, east, south, north = page.extent
    shade = np.where(page.land[..., None], [232, 232, 226], [255, 255, 255]).astype(np.uint8)
    axis.imshow(shade, extent=page.extent, interpolation="nearest", aspect="auto")
    (lon, lat), (what, colour, marker) = page.tables[name], _TABLES[name]
    seen = _thinned(lon, lat, page.extent)
    size = float(np.clip(6000 / max(len(seen), 1), 1, 9)) * (1.8 if marker == "^" else 1)
    axis.scatter(lon[seen], lat[seen], s=size, c=colour, marker=marker, linewidths=0, alpha=0.8)
    for reason, (odd_lon, odd_lat) in page.suspects.get(name, {}).items():
        _mark(axis, odd_lon, odd_lat, reasons.index(reason))
    axis.set(xlim=(west, east), ylim=(south, north))
    axis.locator_params(nbins=5)
    axis.tick_params(labelsize=6.5, length=2, pad=2)
    axis.set_xlabel("degrees east", fontsize=6.5, labelpad=1)
    axis.set_ylabel("degrees north", fontsize=6.5, labelpad=1)
    axis.set_title(f"{len(lon):,} {what}", fontsize=9, loc="left")


def _mark(axis: Axes, lon: np.ndarray, lat: np.ndarray, number: int) -> None:
    marker = _SUSPECTS[number % len(_SUSPECTS)]
    size = 22 if len(lon) <= 200 else 9
    axis.scatter(lon, lat, s=size, c=RED, marker=marker, linewidths=0.5, edgecolors="black", zorder=3)


def _legend(axis: Axes, page: RegionPage, reasons: Sequence[str]) -> None:
    axis.axis("off")
    for number, reason in enumerate(reasons):
        of = [
            f"{len(places[reason][0]):,} {table.upper()}"
            for table, places in page.suspects.items()
            if reason in places
        ]
        axis.scatter([], [], s=22, c=RED, marker=_SUSPECTS[number % len(_SUSPECTS)], linewidths=0.5,
                     edgecolors="black", label=f"{reason}: {', '.join(of)}")  # fmt: skip
    if reasons:
        axis.legend(loc="upper left", fontsize=7.5, frameon=False, ncols=2, borderaxespad=0, labelspacing=0.5)
    else:
        axis.text(0, 1, "No suspicious points.", fontsize=7.5, va="top")


def _ranks(axis: Axes, records: Mapping[str, np.ndarray]) -> None:
    for name, counts in records.items():
        ranked = np.sort(counts[counts > 0])[::-1]
        _, colour, marker = _TABLES[name]
        ms = 2.5 if len(ranked) < 100 else 0
        axis.plot(
            np.arange(1, len(ranked) + 1),
            ranked,
            color=colour,
            marker=marker,
            ms=ms,
            lw=1.2,
            label=name.upper(),
        )
    axis.set(yscale="log", ylim=(0.8, 1.5 * max(8, *(counts.max(initial=0) for counts in records.values()))))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.locator_params(axis="x", nbins=4, integer=True)
    axis.set_title("Records of each species", fontsize=8, loc="left")
    axis.set_xlabel("species by rank", fontsize=6.5, labelpad=1)
    axis.tick_params(labelsize=6.5, length=2, pad=2)
    axis.spines[["top", "right"]].set_visible(False)
    if records:
        axis.legend(fontsize=6.5, frameon=False, handlelength=1)


def _world(axis: Axes, page: RegionPage, reasons: Sequence[str]) -> None:
    """Where the map lies, and the suspicious points that lie off it."""
    west, east, south, north = page.extent
    axis.add_patch(Rectangle((west, south), east - west, north - south, fc="black", ec="black", lw=1))
    axis.scatter(
        [(west + east) / 2], [(south + north) / 2], s=90, c="none", edgecolors="black", linewidths=0.8
    )
    number = 0
    for places in page.suspects.values():
        for reason, (lon, lat) in places.items():
            off = ~_on_map(lon, lat, page.extent)
            number += int(off.sum())
            _mark(axis, lon[off], lat[off], reasons.index(reason))
    axis.set(xlim=(-180, 180), ylim=(-90, 90), xticks=[-180, -90, 0, 90, 180], yticks=[-90, 0, 90])
    axis.grid(lw=0.4, color="#BBBBBB")
    axis.set_axisbelow(True)
    axis.set_aspect("equal", anchor="NW")
    axis.tick_params(labelsize=6.5, length=2, pad=2)
    axis.set_title(f"Where it lies; {number:,} points elsewhere", fontsize=8, loc="left")


def _thumbnail(axis: Axes, thumbnail: Thumbnail, letters: int) -> None:
    axis.set_facecolor(_NO_DATA)
    known = thumbnail.values[np.isfinite(thumbnail.values)]
    low, high = np.percentile(known, (2, 98)) if len(known) else (0, 1)
    axis.imshow(thumbnail.values, cmap=SEQUENTIAL, vmin=low, vmax=high, interpolation="nearest")
    axis.set(xticks=[], yticks=[], anchor="N")
    for side in axis.spines.values():
        side.set_linewidth(0.4)
    axis.set_title(_fitted(thumbnail.name, letters), fontsize=7, pad=2)
    axis.set_xlabel(thumbnail.text, fontsize=5.8, labelpad=2)


def _plain(axis: Axes | None, height: float = 3.2) -> Axes:
    """Axes with two spines and small figures: those given, or the only ones of a new Figure."""
    if axis is None:
        axis = Figure(figsize=(5.2, height), layout="constrained").add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.xaxis.label.set_fontsize(9)
    axis.yaxis.label.set_fontsize(9)
    return axis


def _figure(axis: Any) -> Figure:
    return axis.figure


def _fitted(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _on_map(lon: np.ndarray, lat: np.ndarray, extent: tuple[float, float, float, float]) -> np.ndarray:
    west, east, south, north = extent
    return (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)


def _thinned(lon: np.ndarray, lat: np.ndarray, extent: tuple[float, float, float, float]) -> np.ndarray:
    """Points of the map, one for each pixel: millions of them are drawn as fast as a few."""
    west, east, south, north = extent
    on_map = np.flatnonzero(_on_map(lon, lat, extent))
    col = ((lon[on_map] - west) / (east - west) * _PIXELS).astype(int)
    row = ((lat[on_map] - south) / (north - south) * _PIXELS).astype(int)
    return on_map[np.unique(row * (_PIXELS + 1) + col, return_index=True)[1]]
