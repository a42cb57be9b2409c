"""The page about a region that `glczoo region check` draws: its records on maps, its bands in small."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from glczoo.figures.style import (
    BLUE,
    GREEN,
    NO_DATA,
    ORANGE,
    RED,
    SEQUENTIAL,
    Extent,
    literal,
    on_map,
    thinned,
)

__all__ = ["RegionPage", "Thumbnail", "draw_region"]

_TABLES = {  # name, colour and marker of what a table holds
    "po": ("presence-only records", BLUE, "o"),
    "pa": ("presence-absence surveys", ORANGE, "^"),
    "test": ("test points", GREEN, "s"),
}
_SUSPECTS = "XDPv*<>ph8"
_MAX_THUMBNAILS = 48
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
    extent: Extent  # of `land`
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
    reasons = list(dict.fromkeys(reason for places in page.suspects.values() for reason in places))
    bands = _Bands(page.thumbnails)
    heights = [0.55, 1.75, up + 0.65, 0.25 + 0.17 * -(-len(reasons) // 2), bands.height]
    height = sum(heights) + 0.3
    figure = Figure(figsize=(_PAGE, height))

    def at(left: float, top: float, width: float, high: float) -> Axes:
        """Axes in inches, from the top left corner of the page."""
        return figure.add_axes((left / _PAGE, 1 - (top + high) / height, width / _PAGE, high / height))

    tops = np.cumsum([0, *heights])
    figure.text(_MARGIN / _PAGE, 1 - 0.25 / height, literal(page.title), fontsize=14, weight="bold", va="top")
    text = at(_MARGIN, tops[1], 3, 1.6)
    text.axis("off")
    text.text(0, 1, literal("\n".join(page.summary)), va="top", fontsize=7.5, linespacing=1.5)
    _ranks(at(4.15, tops[1] + 0.2, 1.4, 1.05), page.records)
    _world(at(6.0, tops[1] + 0.2, 1.85, 1.05), page, reasons)
    for number, name in enumerate(page.tables):
        left = _MARGIN + 0.3 + number * (_PAGE - 2 * _MARGIN + 0.25) / maps
        _map(at(left, tops[2] + 0.25, across, up), page, name, reasons)
    _legend(at(_MARGIN, tops[3], _PAGE - 2 * _MARGIN, heights[3]), page, reasons)
    figure.text(_MARGIN / _PAGE, 1 - tops[4] / height, bands.heading, fontsize=9, va="top")
    bands.draw(at, tops[4] + 0.5)
    figure.text(
        _MARGIN / _PAGE,
        0.12 / height,
        "Numbers: least and greatest value. Colours span the 2nd to the 98th percentile; grey: no data. "
        "Filled: share of the cells of all patches without data.",
        fontsize=6.5,
        color="#444444",
    )
    return figure


class _Bands:
    """Every band in small, in rows of six or eight; the first of a group bears the group's name."""

    def __init__(self, thumbnails: Sequence[Thumbnail]) -> None:
        self.shown = thumbnails[:_MAX_THUMBNAILS]
        self.columns = 6 if len(self.shown) <= 24 else 8
        self.side = (_PAGE - 2 * _MARGIN) / self.columns
        tall = max((t.values.shape[0] / t.values.shape[1] for t in self.shown), default=0)
        self.high = self.side * 0.9 * min(max(tall, 0.4), 1.2)
        self.row = self.high + 0.7
        self.height = 0.2 + self.row * -(-len(self.shown) // self.columns)
        cut = len(self.shown) < len(thumbnails)
        self.heading = f"Bands, the first {len(self.shown)} of {len(thumbnails)}" if cut else "Bands"

    def draw(self, at: Callable[[float, float, float, float], Axes], top: float) -> None:
        """Draw them from `top` downwards; `at` gives axes by left, top, width and height in inches."""
        for number, thumbnail in enumerate(self.shown):
            line, column = divmod(number, self.columns)
            axis = at(_MARGIN + column * self.side, top + line * self.row, self.side * 0.9, self.high)
            _thumbnail(axis, thumbnail, 110 // self.columns)
            if number and self.shown[number - 1].group == thumbnail.group:
                continue
            free = self.columns - column  # places in the row, up to the next group's name
            following = self.shown[number : number + free]
            room = next((i for i, t in enumerate(following) if t.group != thumbnail.group), free)
            axis.annotate(
                literal(thumbnail.group, 100 // self.columns * room),
                (0, 1),
                (0, 12),
                xycoords="axes fraction",
                textcoords="offset points",
                fontsize=7,
                weight="bold",
            )


def _map(axis: Axes, page: RegionPage, name: str, reasons: Sequence[str]) -> None:
    west, east, south, north = page.extent
    shade = np.where(page.land[..., None], [232, 232, 226], [255, 255, 255]).astype(np.uint8)
    axis.imshow(shade, extent=page.extent, interpolation="nearest", aspect="auto")
    (lon, lat), (what, colour, marker) = page.tables[name], _TABLES[name]
    seen = thinned(lon, lat, page.extent)
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
        counts = [
            f"{len(places[reason][0]):,} {table.upper()}"
            for table, places in page.suspects.items()
            if reason in places
        ]
        axis.scatter(
            [],
            [],
            s=22,
            c=RED,
            marker=_SUSPECTS[number % len(_SUSPECTS)],
            linewidths=0.5,
            edgecolors="black",
            label=literal(f"{reason}: {', '.join(counts)}"),
        )
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
    axis.set(
        yscale="log", ylim=(0.8, 1.5 * max([8, *(counts.max(initial=0) for counts in records.values())]))
    )
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
            off = ~on_map(lon, lat, page.extent)
            number += int(off.sum())
            _mark(axis, lon[off], lat[off], reasons.index(reason))
    axis.set(xlim=(-180, 180), ylim=(-90, 90), xticks=[-180, -90, 0, 90, 180], yticks=[-90, 0, 90])
    axis.grid(lw=0.4, color="#BBBBBB")
    axis.set_axisbelow(True)
    axis.set_aspect("equal", anchor="NW")
    axis.tick_params(labelsize=6.5, length=2, pad=2)
    axis.set_title(f"Where it lies; {number:,} points elsewhere", fontsize=8, loc="left")


def _thumbnail(axis: Axes, thumbnail: Thumbnail, letters: int) -> None:
    axis.set_facecolor(NO_DATA)
    known = thumbnail.values[np.isfinite(thumbnail.values)]
    low, high = np.percentile(known, (2, 98)) if len(known) else (0, 1)
    axis.imshow(thumbnail.values, cmap=SEQUENTIAL, vmin=low, vmax=high, interpolation="nearest")
    axis.set(xticks=[], yticks=[], anchor="N")
    for side in axis.spines.values():
        side.set_linewidth(0.4)
    axis.set_title(literal(thumbnail.name, letters), fontsize=7, pad=2)
    axis.set_xlabel(literal(thumbnail.text), fontsize=5.8, labelpad=2)
