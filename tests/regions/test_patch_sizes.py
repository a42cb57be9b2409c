"""The suggested patch size: wide where there is land all around, narrow along a coast."""

from pathlib import Path

import numpy as np
import pytest
from conftest import write_raster

from glczoo.regions.bands import find_modalities
from glczoo.regions.patch_sizes import suggest_patch_size

SIDE, CELL = 256, 0.036  # about 4 km


def coast(folder: Path, land: np.ndarray) -> Path:
    values = np.where(land, 7, 255).astype("uint8")
    values[land] += np.arange(land.sum()).astype("uint8") % 50
    write_raster(folder / "dem.tif", [values], cell=CELL, nodata=255)
    return folder


def at(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    row, col = cells.T
    return 5 + (col + 0.5) * CELL, 45 - (row + 0.5) * CELL


INLAND = np.ones((SIDE, SIDE), bool)
STRIPES = np.arange(SIDE) % 16 < 8
ISLANDS = STRIPES[:, None] & STRIPES


def test_where_there_is_land_all_around_the_paper_says_how_wide(tmp_path):
    samples = at(np.argwhere(INLAND)[::97])
    size, reason = suggest_patch_size(coast(tmp_path, INLAND), find_modalities(tmp_path)[0], *samples)
    assert size == 32 and reason.startswith("about ")


@pytest.mark.parametrize("kept", [1, 50])
def test_among_islands_of_eight_cells_patches_are_small(tmp_path, kept):
    samples = at(np.argwhere(ISLANDS)[::kept])
    size, reason = suggest_patch_size(coast(tmp_path, ISLANDS), find_modalities(tmp_path)[0], *samples)
    assert size == 4 and "of the cells around the samples would have no data in" in reason


def test_samples_far_from_the_coast_are_not_bothered_by_it(tmp_path):
    land = np.zeros((SIDE, SIDE), bool)
    land[:, :128] = True
    inland = at(np.argwhere(land & (np.arange(SIDE) < 100))[::97])
    on_the_shore = at(np.stack([np.arange(20, 230), np.full(210, 127)], 1))
    modalities = find_modalities(coast(tmp_path, land))[0]
    assert suggest_patch_size(tmp_path, modalities, *inland)[0] == 32
    assert suggest_patch_size(tmp_path, modalities, *on_the_shore)[0] == 4


def test_holes_at_the_samples_themselves_make_patches_no_smaller(tmp_path):
    holes = np.random.default_rng(0).random((SIDE, SIDE)) > 0.2
    samples = at(np.argwhere(INLAND)[::97])
    assert suggest_patch_size(coast(tmp_path, holes), find_modalities(tmp_path)[0], *samples)[0] == 32
