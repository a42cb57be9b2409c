"""Means, deviations and levels of bands over the patches of the training samples."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from glczoo.data.rasters import RasterStack
from glczoo.data.satellite import SatellitePatches
from glczoo.errors import GlczooError
from glczoo.progress import Track

__all__ = ["Statistics", "checked_levels", "jpeg_moments", "raster_levels", "raster_moments"]

_MOST_LEVELS = 200
_EXACT = 2**24  # up to which float32 tells whole numbers apart
Moments = list[tuple[float, float, float]]


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of every band over the training samples' patches, and what was filled."""

    mean: list[float]
    std: list[float]
    filled: list[float]  # share of cells without data, by band


def checked_levels(band: str, levels: np.ndarray) -> np.ndarray:
    """The levels of a categorical band as they are.

    Raises:
        GlczooError: they are no whole numbers, or too many different ones to be classes.
    """
    if len(levels) > _MOST_LEVELS or (np.abs(levels) >= _EXACT).any() or (levels % 1 != 0).any():
        raise GlczooError(
            f"band {band} is categorical and holds {len(levels)} different values, up to "
            f"{levels[-1]:g}; classes are whole numbers, {_MOST_LEVELS} at most. Or kind: number"
        )
    return levels


def raster_levels(
    stack: RasterStack, position: int, place: tuple[np.ndarray, np.ndarray], size: int
) -> list[int]:
    """Different values of a band in the patches of `size` around `place`: (row[N], col[N]).

    `position`: of the band in its stack.

    Raises:
        GlczooError: see `checked_levels`.
    """
    band, levels = stack.bands[position], np.empty(0)
    for rows, weight in stack.coverage(*place, size):
        values = stack.values[rows, :, position]
        known = values[(weight > 0) & ~stack.missing(values)]
        levels = checked_levels(band, np.union1d(levels, known))
    found: list[int] = levels.astype(int).tolist()
    return found


def raster_moments(stack: RasterStack, place: tuple[np.ndarray, np.ndarray], size: int) -> Moments:
    """Mean and standard deviation of each band over the cells of patches, and the share without data.

    `place`: row[N] and col[N] of the patches' centres.
    """
    bands, cells = range(len(stack.bands)), len(place[0]) * size**2
    number, total, squares = ([0.0] * len(bands) for _ in range(3))
    blocks = stack.coverage(*place, size)
    first, is_all = [next(blocks)], next(blocks, None) is None

    def counted(band: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows, weight in first if is_all else stack.coverage(*place, size):
            values = stack.values[rows, :, band]
            counts = np.where(stack.missing(values), 0, weight)
            yield np.where(counts > 0, values, 0).astype(np.float64), counts

    for band in bands:
        for values, counts in counted(band):
            number[band] += counts.sum()
            total[band] += (counts * values).sum()
    mean = [total[band] / max(number[band], 1) for band in bands]
    for band in bands:
        for values, counts in counted(band):
            squares[band] += (counts * (values - mean[band]) ** 2).sum()
    return [
        (float(mean[b]), float(np.sqrt(squares[b] / max(number[b], 1))), float(1 - number[b] / cells))
        for b in bands
    ]


def jpeg_moments(jpegs: SatellitePatches, patch_ids: np.ndarray, size: int, fills: bool = False) -> Moments:
    """Mean and standard deviation of each band over the pixels of patches, and the share without data.

    All patches are there, unless it `fills` those that are not.

    `jpegs`: the opened trees.
    """
    total, number = torch.zeros(2, len(jpegs.bands), dtype=torch.float64), len(patch_ids)
    if fills:
        patch_ids = patch_ids[~jpegs.missing(patch_ids)]
    ids, repeats = np.unique(patch_ids, return_counts=True)
    for patch, repeat in Track(
        zip(ids.tolist(), repeats.tolist(), strict=True),
        total=len(ids), title="satellite statistics", hidden=len(ids) < 2000,
    ):  # fmt: skip
        pixels = jpegs.read(patch, size).to(torch.float64)
        total += repeat * torch.stack([pixels.sum((1, 2)), (pixels**2).sum((1, 2))])
    first, second = (total / max(len(patch_ids) * size**2, 1)).tolist()
    share = 1 - len(patch_ids) / max(number, 1)
    return [(m, max(square - m * m, 0) ** 0.5, share) for m, square in zip(first, second, strict=True)]
