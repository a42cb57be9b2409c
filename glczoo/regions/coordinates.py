"""Where a cell lies, as bands: what a model of presence-only records draws smooth surfaces over."""

from pathlib import Path

import numpy as np
import rasterio

from glczoo.data.occurrences import Points
from glczoo.data.patch_source import PatchSource
from glczoo.data.raster_files import write_geotiff
from glczoo.data.rasters import project
from glczoo.data.region import Band, Region
from glczoo.data.sphere import east_north
from glczoo.files import lock, whole
from glczoo.regions.densities import add_modality

__all__ = ["COORDINATES", "sample_cells", "write_coordinates"]

COORDINATES = "coordinates"
"""Name of the modality that holds kilometres east and north."""
_CELLS = 2000  # along a side at most: finer than half a thousandth of the region nothing is smooth


def write_coordinates(region: Region, source: PatchSource, middle: tuple[float, float], out: Path) -> Region:
    """Write km east and north of a middle as two bands, and the region that has them as its last modality.

    They take the place of those that the region has: a published model brings none along, and says of which
    middle they are.

    Args:
        region: described by `source`.
        source: whose first stack of rasters gives the grid; of larger ones coarser cells.
        middle: lon, lat in degrees.
        out: folder for coordinates.tif and region.yaml, which are replaced.

    Raises:
        GlczooError: another process writes there.
    """
    stack = source.stacks[0]
    height, width = stack.shape
    coarser = -(-max(height, width) // _CELLS)
    fine = stack.transform
    transform = rasterio.Affine(
        fine.a * coarser, fine.b * coarser, fine.c, fine.d * coarser, fine.e * coarser, fine.f
    )
    rows, cols = -(-height // coarser), -(-width // coarser)
    cell = np.indices((rows, cols)).reshape(2, -1) + 0.5
    plane = east_north(_degrees(transform, stack.crs, *cell), middle)
    lon, lat = middle
    how = f"glczoo region coordinates --middle {lon:.6f} {lat:.6f}"
    file = out / "coordinates.tif"
    bands = [
        Band(name=name, file=file.name, index=index, unit="km", provenance=how)
        for index, name in ((1, "east"), (2, "north"))
    ]
    others = [modality for modality in region.modalities if modality.name != COORDINATES]
    plain = region.model_copy(update={"modalities": others})
    with lock(out / "region.yaml"):
        out.mkdir(parents=True, exist_ok=True)
        plane[~np.isfinite(plane)] = np.nan
        values = plane.T.reshape(2, rows, cols).astype(np.float32)
        with whole(file) as partial:
            write_geotiff(
                partial, values, stack.crs, transform, nodata=np.nan, compress="deflate", predictor=3
            )
        return add_modality(plain, out, COORDINATES, bands, how)


def sample_cells(source: PatchSource, number: int, seed: int = 0) -> Points:
    """Centres of random cells of a source's first raster where every raster has data: `number` at most."""
    stack = source.stacks[0]
    height, width = stack.shape
    generator = np.random.default_rng(seed)
    row, col = generator.integers(0, height, 4 * number), generator.integers(0, width, 4 * number)
    points = _degrees(stack.transform, stack.crs, row + 0.5, col + 0.5)
    with_data = np.ones(len(points), bool)
    for each in source.stacks:
        with_data &= np.isfinite(each.values_at(points.lon, points.lat)).all(1)
    return points.at(np.flatnonzero(with_data)[:number])


def _degrees(transform: rasterio.Affine, crs: str, row: np.ndarray, col: np.ndarray) -> Points:
    """Points of fractional cells."""
    x = transform.a * col + transform.b * row + transform.c
    y = transform.d * col + transform.e * row + transform.f
    if crs != "EPSG:4326":
        x, y = project(crs, "EPSG:4326", x, y)
    return Points(x, y, np.full(len(x), -1), np.arange(len(x)))
