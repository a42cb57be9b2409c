"""What is made of a grid's layers: a cloud-optimised GeoTIFF, and PNGs to look at.

Shapes: values[L, h, w] of L layers in a block of h x w cells, rows from north to south.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from rasterio.enums import Resampling
from rasterio.windows import Window

from glczoo.figures.style import DIVERGING, SEQUENTIAL, literal
from glczoo.files import require_room, require_same, whole
from glczoo.prediction.grids import Block, Grid

__all__ = ["Layer", "draw", "read_tags", "write_cog"]

_GDAL = {"GDAL_CACHEMAX": 64}  # MB of blocks that GDAL keeps; of itself it takes a twentieth of the machine
_PIXELS = 1000  # cells along the longer side of a PNG: larger maps are drawn from their overviews


@dataclass(frozen=True)
class Layer:
    """One band of a map: its name in files, what it is called on a legend, and its unit."""

    name: str
    title: str
    unit: str
    tags: tuple[tuple[str, str], ...] = ()  # beside the title
    limit: float | None = None  # where a picture's colours end; None: at the largest value
    centred: bool = False  # a difference: its colours diverge from 0


def write_cog(
    path: Path,
    grid: Grid,
    layers: Sequence[Layer],
    read: Callable[[Block], np.ndarray],
    side: int,
    tags: Callable[[], dict[str, str]],
) -> None:
    """Write a tiled, deflated, cloud-optimised GeoTIFF with overviews; memory does not grow with the map.

    Nodata is NaN. Overviews are averages of the cells that have data. A file is written beside `path` first.
    What was written is read back: GDAL does not always say that the disk was full.

    Args:
        path: to write.
        grid: where the cells lie.
        layers: the bands; name, title and unit become description, tag and unit.
        read: float32[L, h, w] of a block.
        side: of the blocks, a multiple of 16.
        tags: of the whole file; asked for when all blocks were read.

    Raises:
        OSError: there is no room, or it cannot be written; names `path`.
    """
    require_room(path, 2 * 4 * len(layers) * grid.height * grid.width + 2**20)
    written = 0
    with rasterio.Env(**_GDAL), whole(path) as partial, TemporaryDirectory(dir=path.parent) as beside:
        plain = Path(beside, "plain.tif")
        with rasterio.open(
            plain, "w", driver="GTiff", height=grid.height, width=grid.width, count=len(layers),
            dtype="float32", crs=grid.crs, transform=grid.transform, nodata=np.nan, tiled=True,
            blockxsize=side, blockysize=side, bigtiff="if_safer",
        ) as target:  # fmt: skip
            for number, layer in enumerate(layers, 1):
                target.set_band_description(number, layer.name)
                target.set_band_unit(number, layer.unit)
                target.update_tags(number, title=layer.title, **dict(layer.tags))
            for block in grid.blocks(side):
                values = np.ascontiguousarray(read(block), np.float32)
                target.write(values, window=_window(block))
                written = zlib.crc32(values.tobytes(), written)
            target.update_tags(**tags())
        rasterio.shutil.copy(
            plain, partial, driver="COG", compress="deflate", predictor="yes", bigtiff="if_safer",
            overview_resampling="average",
        )  # fmt: skip
        found = 0
        with rasterio.open(partial) as file:
            for block in grid.blocks(side):
                found = zlib.crc32(file.read(window=_window(block)).tobytes(), found)
        require_same(path, found == written)


def _window(block: Block) -> Window:
    return Window(block.left, block.top, block.width, block.height)


def read_tags(path: Path) -> dict[str, str]:
    """The tags of a GeoTIFF that `write_cog` wrote."""
    with rasterio.open(path) as file:
        return dict(file.tags())


def draw(path: Path, source: Path, layer: Layer, credit: str, colours: str = SEQUENTIAL) -> None:
    """Draw one band of a GeoTIFF that `write_cog` wrote, with a legend and a scale bar.

    Cells outside of the area of applicability are grey or, where they have a value, greyed (unless the layer
    has a limit, which then is what is to be seen); cells without data are white.

    Args:
        path: PNG to write.
        source: the GeoTIFF.
        layer: which band.
        credit: a line under the map, such as the model's id.
        colours: colour map of matplotlib, one that the colour-blind can read.
    """
    with rasterio.Env(**_GDAL), rasterio.open(source) as file:
        shape = tuple(max(1, round(s * min(1, _PIXELS / max(file.shape)))) for s in file.shape)
        names = list(file.descriptions)

        def read(name: str) -> np.ndarray:
            number = names.index(name) + 1
            return file.read(number, out_shape=shape, resampling=Resampling.nearest)

        values = read(layer.name)
        strange = np.zeros(shape, bool)
        if "applicable" in names and layer.limit is None:
            strange = read("applicable") < 0.5
        west, south, east, north = file.bounds
        geographic = file.crs.is_geographic
        unit, metres = ("degree", 111_195.0) if geographic else file.crs.linear_units_factor
    narrow = float(np.cos(np.radians((south + north) / 2))) if geographic else 1.0
    kilometre = 1000 / metres / narrow  # along a parallel
    aspect = float(np.clip((north - south) / (east - west) / narrow, 0.2, 5))  # of the page
    width = 7.0 if aspect < 1.2 else 8.4 / aspect
    figure = Figure(figsize=(width + 1.6, width * aspect + 1.3), layout="constrained")
    axis = figure.add_subplot()
    shown = np.ma.masked_invalid(values)
    lowest: float | None
    lowest, highest = (
        (0 if layer.unit in ("probability", "suitability") or layer.limit else None),
        layer.limit,
    )
    if layer.centred:
        highest = max(float(np.nanmax(np.abs(values), initial=0)), 1e-6)
        lowest, colours = -highest, DIVERGING
    image = axis.imshow(
        shown, extent=(west, east, south, north), cmap=colours, aspect=1 / narrow, interpolation="nearest",
        vmin=lowest, vmax=highest,
    )  # fmt: skip
    legend = figure.colorbar(image, ax=axis, shrink=0.8, pad=0.02, extend="max" if layer.limit else "neither")
    legend.set_label(literal(layer.unit), fontsize=9)
    legend.ax.tick_params(labelsize=8)
    if strange.any():
        axis.imshow(
            np.ma.masked_where(~strange, np.ones(shape)), extent=(west, east, south, north), cmap="Greys",
            vmin=0, vmax=4, aspect=1 / narrow, interpolation="nearest",
            alpha=np.where(np.isnan(values), 1.0, 0.5),
        )  # fmt: skip
        patch = Patch(facecolor="#d9d9d9", edgecolor="#969696", label="outside the area of applicability")
        figure.legend(handles=[patch], loc="outside lower right", frameon=False, fontsize=8)
    _scale_bar(axis, west, south, east, north, kilometre)
    axis.set_title(literal(layer.title), fontsize=11)
    axis.ticklabel_format(useOffset=False, style="plain")
    axis.tick_params(labelsize=8)
    axis.set_xlabel("longitude, °" if geographic else f"x, {unit}", fontsize=9)
    axis.set_ylabel("latitude, °" if geographic else f"y, {unit}", fontsize=9)
    figure.text(0.01, 0.01, literal(credit), fontsize=7, color="#555555")
    with whole(path) as partial:
        figure.savefig(partial, dpi=150, format="png")
    figure.clear()  # a figure refers to itself: a hundred of them would wait for the garbage collector


def _scale_bar(axis: Any, west: float, south: float, east: float, north: float, kilometre: float) -> None:
    """A bar of a round number of kilometres, about a fifth of the map's width, in its lower left corner."""
    about = (east - west) / kilometre / 5
    power = 10.0 ** np.floor(np.log10(about))
    length = max(step * power for step in (1, 2, 5) if step * power <= about)
    width, height = east - west, north - south
    x, y = west + 0.04 * width, south + 0.05 * height
    pad = 0.012 * width
    back = (x - pad, y - pad * height / width), length * kilometre + 2 * pad, 0.085 * height
    axis.add_patch(Rectangle(*back, facecolor="white", alpha=0.75, zorder=3))
    axis.add_patch(Rectangle((x, y), length * kilometre, 0.012 * height, facecolor="black", zorder=4))
    axis.text(
        x + length * kilometre / 2, y + 0.02 * height, f"{length:g} km", ha="center", va="bottom", fontsize=8,
        zorder=4,
    )  # fmt: skip
