"""The size of patches that a region's rasters and samples suggest: as wide as they can fill."""

from pathlib import Path

import numpy as np

from glczoo.data.raster_files import grid_of, has_mask, open_raster
from glczoo.data.rasters import missing_values, without_values
from glczoo.regions.band_look import FoundBand
from glczoo.regions.bands import FoundModality

__all__ = ["suggest_patch_size"]

_PATCH_KM = 128  # width of the paper's climate patches
_LARGEST, _SMALLEST = 128, 4
_FILLED = 0.1  # share of the cells around samples, beyond that at the samples themselves, that may lack data
_LOOK = 2048  # cells along a side that are looked at
_SAMPLES = 2000
_BANDS = 4  # of a modality that are looked at


def suggest_patch_size(
    root: Path, modalities: list[FoundModality], lon: np.ndarray, lat: np.ndarray
) -> tuple[int, str]:
    """Cells along a side, a power of two, and why.

    The one nearest to 128 km, an eighth of the rasters' shorter side, or 128 cells, whichever is least;
    halved while more than 10 % of the cells around the samples lack data that the samples' own cells have.
    What has no data is filled, and at a coast a wide patch would be mostly filling.

    Args:
        root: folder of the files.
        modalities: found in it.
        lon: of the samples, float64[n].
        lat: of the samples.
    """
    rasters = [modality for modality in modalities if modality.kind == "raster"]
    limits = {_LARGEST: f"the paper's {_LARGEST}"}
    for modality in rasters:
        limits[round(_PATCH_KM / modality.cell_km)] = f"the paper's {_PATCH_KM} km, of {modality.name}"
        limits[modality.cells // 8] = f"an eighth of the shorter side of {modality.name}"
    least = min(limits)
    size = 2 ** max(3, round(np.log2(max(least, 1))))
    reason = f"about {limits[least]}"
    sizes = [size // 2**step for step in range(8) if size // 2**step >= _SMALLEST]
    some = np.linspace(0, len(lon) - 1, min(_SAMPLES, len(lon))).astype(int)
    for modality in rasters:
        lacking = _lacking(root, modality, lon[some], lat[some], [1, *sizes])
        excess = dict(zip(sizes, lacking[1:] - lacking[0], strict=True))
        fits = [each for each in sizes if excess[each] <= _FILLED] or sizes[-1:]
        if fits[0] < size:
            reason = (
                f"of {sizes[0]}, {reason}, {excess[size]:.0%} of the cells around the samples would have no "
                f"data in {modality.name}, of {fits[0]} {excess[fits[0]]:.0%}"
            )
            size = fits[0]
            sizes = [each for each in sizes if each <= size]
    width = f"; {min(m.cell_km for m in rasters) * size:.3g} km at the finest" if rasters else ""
    return size, reason + width


def _lacking(
    root: Path, modality: FoundModality, lon: np.ndarray, lat: np.ndarray, sides: list[int]
) -> np.ndarray:
    """Share of the cells without data in patches of each side around points, the mean over some bands."""
    files = [band for band in modality.bands if (root / modality.folder / band.file).exists()]
    some = files[:: max(1, -(-len(files) // _BANDS))]
    shares = [
        _lacking_in(root / modality.folder / band.file, modality, band, lon, lat, sides) for band in some
    ]
    return np.mean(shares, axis=0) if shares else np.zeros(len(sides))


def _lacking_in(
    path: Path, modality: FoundModality, band: FoundBand, lon: np.ndarray, lat: np.ndarray, sides: list[int]
) -> np.ndarray:
    with open_raster(path) as source:
        grid = grid_of(source, modality.crs)
        shape = tuple(min(side, _LOOK) for side in source.shape)
        values = source.read(band.index, out_shape=shape)
        missing = missing_values(values, [source.nodatavals[band.index - 1], band.nodata])
        if has_mask(source, band.index):
            missing |= source.read_masks(band.index, out_shape=shape) == 0
    missing = missing[:: -1 if grid.from_south else 1, :: -1 if grid.from_east else 1]
    known = np.zeros((shape[0] + 1, shape[1] + 1), np.int64)
    known[1:, 1:] = (~missing).cumsum(0).cumsum(1)
    place = without_values(grid).locate(lon, lat)
    shares = []
    for side in sides:
        edges = []
        for cell, cells, coarse in zip(place, (grid.height, grid.width), shape, strict=True):
            start = np.floor((cell - side // 2) * coarse / cells).astype(int)
            stop = np.maximum(start + 1, np.ceil((cell - side // 2 + side) * coarse / cells).astype(int))
            edges.append((start, stop, np.clip(start, 0, coarse), np.clip(stop, 0, coarse)))
        (top, bottom, *rows), (left, right, *cols) = edges
        inside = known[rows[1], cols[1]] - known[rows[0], cols[1]] - known[rows[1], cols[0]]
        inside += known[rows[0], cols[0]]
        shares.append(1 - float((inside / ((bottom - top) * (right - left))).mean()))
    return np.array(shares)
