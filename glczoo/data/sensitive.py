"""Sensitive species: nothing that is shown of places tells where they are finer than so many kilometres.

Predictions for such a species are those at the centre of the cell that a place lies in, whatever the place;
pictures show its samples at the centres of their cells. Cells are those of `sphere.spatial_blocks`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from glczoo.data.occurrences import Points, Samples, SpeciesIndex
from glczoo.data.sphere import block_bounds, spatial_blocks

Places = TypeVar("Places", bound=Points)

__all__ = ["cell_centres", "shown_coarsely", "shown_places"]


def cell_centres(points: Points, km: float) -> tuple[Points, np.ndarray]:
    """Centres of the cells of `km` that hold points, and the number of every point's cell, int64[N]."""
    number = spatial_blocks(points, km)
    west, south, east, north = block_bounds(points, km).T
    index = np.arange(len(west))
    lon = ((west + east) / 2 + 180) % 360 - 180
    return Points(lon, (south + north) / 2, np.full(len(west), -1), index), number


def shown_coarsely(
    probabilities: Tensor,
    points: Points,
    species: SpeciesIndex,
    predict: Callable[[Points], Tensor],
    answerable: Callable[[Points], np.ndarray],
) -> Tensor:
    """Probabilities[N, K] at points, those of sensitive species from the centres of their cells.

    Args:
        probabilities: at the points themselves.
        points: N places.
        species: says how finely each may be shown.
        predict: probabilities[n, K] at other places.
        answerable: which places can be predicted, bool[n]; in other cells a sensitive species is nan.
    """
    shown = probabilities.clone()
    for km, columns in species.sensitive_groups():
        if not len(points):
            continue
        centres, number = cell_centres(points, km)
        there = answerable(centres)
        values = torch.full((len(centres), len(columns)), torch.nan, dtype=shown.dtype, device=shown.device)
        if there.any():
            at_centres = predict(centres.at(there)).to(shown)
            values[torch.from_numpy(there)] = at_centres[:, torch.from_numpy(columns)]
        shown[:, torch.from_numpy(columns)] = values[torch.from_numpy(number)]
    return shown


def shown_places(points: Places, species: SpeciesIndex) -> Places:
    """Points as pictures may show them: samples of a sensitive species at the centres of its cells."""
    if not isinstance(points, Samples):
        return points
    lon, lat = points.lon.copy(), points.lat.copy()
    for km, columns in species.sensitive_groups():  # the coarsest last: it wins
        sample = np.repeat(np.arange(len(points)), points.sizes())
        held = np.unique(sample[np.isin(points.species, columns)])
        if len(held):
            centres, number = cell_centres(points.at(held), km)
            lon[held], lat[held] = centres.lon[number], centres.lat[number]
    return replace(points, lon=lon, lat=lat)
