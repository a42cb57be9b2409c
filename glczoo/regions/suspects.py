"""Points that deserve a second look: what goes wrong with coordinates before they reach a table.

The tests are those that cleaners of records use (CoordinateCleaner, Zizka et al. 2019,
doi:10.1111/2041-210X.13152), as far as the table and the rasters can tell without other maps.
"""

import numpy as np

from glczoo.data.occurrences import Points, Samples
from glczoo.data.patch_source import PatchSource
from glczoo.data.places import within

__all__ = ["NO_DATA", "PILE", "num_duplicates", "suspects"]

NO_DATA = "no data at the point (sea?)"
"""Why a point is suspicious where no raster has a value."""
PILE = 20
"""Records of one place, at least; and ten times as many as places hold on average."""


def suspects(
    points: Points, source: PatchSource, bounds: tuple[float, float, float, float] | None
) -> dict[str, np.ndarray]:
    """Suspicious points by reason, bool[N] each. A point stands under the first reason that applies.

    Args:
        points: of a table; piles are looked for among presence-only records alone, since surveys repeat.
        source: the rasters that the points must lie on.
        bounds: west, south, east, north of the region, None where they are not known.
    """
    lon, lat = points.lon, points.lat
    outside, gaps, empty = _at_rasters(points, source)
    reasons = {"at 0° E, 0° N": (np.abs(lon) < 0.01) & (np.abs(lat) < 0.01)}
    if bounds:
        reasons["lon and lat exchanged?"] = ~within(lon, lat, bounds) & within(lat, lon, bounds)
    reasons |= {"outside of the rasters": outside, NO_DATA: empty}
    if isinstance(points, Samples) and points.presence_only:
        reasons["piles of one place (centroids?)"] = _piled(lon, lat)
    reasons["rounded to 0.1° or coarser"] = _round(lon) & _round(lat)
    reasons["gaps at the point"] = gaps
    taken = np.zeros(len(points), bool)
    for reason, mask in reasons.items():
        reasons[reason] = mask & ~taken
        taken |= mask
    return reasons


def num_duplicates(records: Samples) -> int:
    """Presence-only records whose species and place another record has already."""
    place = np.unique(records.lon + 1j * records.lat, return_inverse=True)[1]
    return len(records) - len(np.unique(place + 1j * records.species))


def _at_rasters(points: Points, source: PatchSource) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points off any raster; on all, with some bands without data there; with all bands without, bool[N]."""
    off, some, every = np.zeros(len(points), bool), np.zeros(len(points), bool), np.ones(len(points), bool)
    for stack in source.stacks:
        missing = np.isnan(stack.values_at(points.lon, points.lat))
        off |= stack.outside(*stack.locate(points.lon, points.lat))
        some |= missing.any(axis=1)
        every &= missing.all(axis=1)
    every &= bool(source.stacks)
    return off, some & ~every & ~off, every & ~off


def _piled(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    _, place, number = np.unique(lon + 1j * lat, return_inverse=True, return_counts=True)
    return (number >= max(PILE, 10 * number.mean()))[place]


def _round(degrees: np.ndarray) -> np.ndarray:
    return np.abs(degrees * 10 - np.round(degrees * 10)) < 1e-6
