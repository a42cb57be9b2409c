"""A virtual region: a made-up landscape in the files of GeoLifeCLEF 2023, with the truth beside it.

Shapes: axes[A, H, W] · lonlat[N, 2] · z[N, A] · probability[N, K], with A axes, N places, K species.

The world has six *axes* (`AXES`, after Ellenberg's indicator values), each with mean 0 and variance 1. A
species has a Gaussian niche in them. Rasters and JPEG patches are noisy functions of the axes. `light` varies
over hundreds of metres: of all data only the satellite patch shows it well. Surveys are independent Bernoulli
draws at evenly spread places; presence-only records come from where people are and of species they like.
Writes GeoTIFFs with rasterio, and tables without pandas, which belongs to the module that reads them.
"""

import csv
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasterio.warp
import torch
from torchvision.io import encode_jpeg
from tqdm import tqdm

__all__ = ["AXES", "VirtualRegion", "make_virtual"]

AXES = ("temperature", "moisture", "reaction", "nutrients", "disturbance", "light")

_WEST, _NORTH, _STEP = 5.0, 47.0, 1 / 120  # north-west corner of every world, 30 arc seconds
_SIDE, _PIXELS = 128, 11132  # pixels along a patch, and in a degree of latitude: 10 m each
_FINE = 0.9  # share of the standard deviation of light that no raster knows
_NODATA = -3.4028234663852886e38  # float-like: readers must compare with a tolerance
_CLIMATE = "EnvironmentalRasters/Climate/BioClimatic_Average_1981-2010"
_SOIL = "EnvironmentalRasters/Soilgrids"
_FOOTPRINT = "EnvironmentalRasters/HumanFootprint/summarized"
_PO = "Presence_only_occurrences/Presences_only_train.csv"
_PA = "Presence_Absence_surveys/Presences_Absences_train.csv"
_TEST = "For_submission/test_blind.csv"
_BIO_UNITS = [*["0.1 K"] * 2, "0.1 %", "0.001 K", *["0.1 K"] * 7, *["0.1 kg m-2"] * 8]
_SOIL_UNITS = ["cg/cm3", "mmol(c)/kg", "cm3/dm3", "g/kg", "cg/kg", "pH x 10", "g/kg", "g/kg", "dg/kg"]
_SOIL_NAMES = ["bdod", "cec", "cfvo", "clay", "nitrogen", "phh2o", "sand", "silt", "soc"]
_RECORD = (
    "glcID;gbifID;observer;datasetName;date;dayOfYear;year;lon;lat;x_EPSG3035;y_EPSG3035;geoUncertaintyInM"
    ";speciesId;patchID;timeSerieID"
)
_BLIND = (
    "Id;datasetName;date;dayOfYear;year;patchID;timeSerieID;lon;lat;x_EPSG3035;y_EPSG3035;geoUncertaintyInM"
)
# Red, green, blue, near infrared of closed canopy and of open ground, and what a unit of each axis adds.
_CANOPY = np.array([48.0, 62, 48, 150]), np.array(
    [[4, 2, 2, -5], [-4, -1, -2, 12], [2, 3, 1, 0], [-3, 3, -3, 8], [0, 0, 0, 0], [0, 0, 0, 0]]
)
_OPEN = np.array([120.0, 114, 90, 162]), np.array(
    [[8, 2, 1, -7], [-18, -3, -9, 18], [8, 7, 10, 0], [-9, 6, -7, 10], [3, 2, 3, -2], [0, 0, 0, 0]]
)


@dataclass(frozen=True)
class VirtualRegion:
    """What was made: counts, and the mean number of species of a PA survey."""

    folder: Path
    num_species: int
    num_po: int
    num_po_places: int
    num_pa: int
    num_test: int
    num_grid: int
    num_patches: int
    mean_set_size: float


def make_virtual(
    folder: str | Path,
    *,
    species: int = 200,
    po: int = 20000,
    pa: int = 1000,
    test: int = 500,
    size: int = 256,
    grid: int = 0,
    patch_size: int = 128,
    seed: int = 0,
    progress: bool = True,
) -> VirtualRegion:
    """Make a virtual region: 29 GeoTIFFs, JPEG patches, three tables, `region.yaml` and `truth/`.

    The same arguments give the same bytes. `truth/` holds `responses.csv` (speciesId;max_probability;
    detectability; then optimum_AXIS and tolerance_AXIS), `probabilities.npz` (species_ids[K]; for X in pa,
    test, grid: X[N, K] and X_axes[N, A], float32; rows of pa are the surveys in order of first appearance,
    those of test and grid the rows of their tables), `test_species.csv` (Id;speciesId) and, where asked for,
    `grid.csv` (patchID;lon;lat, row by row from the north-west). A probability is that of being found by a
    survey that finds anything at all: no survey is empty.

    Args:
        folder: must not exist, or be empty.
        species: number of species K; PA surveys hold 13 of them on average, K / 8 if K < 100.
        po: presence-only records, at about half as many places.
        pa: surveys; one in twenty is a second visit to the place of another.
        test: rows of the test table.
        size: cells of 30 arc seconds along one side of the landscape; places keep off the outer eighth.
        grid: points along one side of a regular grid of known truth; 0 for none.
        patch_size: written into `region.yaml`; the other files do not depend on it.
        seed: of the whole world.
        progress: show a bar while patches are written.

    Raises:
        FileExistsError: the folder is not empty.
        ValueError: an argument is out of range; all such are named.
    """
    given = {"species": species, "po": po, "pa": pa, "test": test, "size": size, "grid": grid}
    given |= {"patch_size": patch_size, "seed": seed}
    limits = {"species": (2, 10**4), "po": (species + 1, 10**6), "pa": (1, 10**6), "test": (1, 10**6)}
    limits |= {"size": (32, 1000), "grid": (0, 1000), "patch_size": (1, _SIDE), "seed": (0, 2**63)}
    wrong = [f"{k} = {given[k]} is not in [{a}, {b}]" for k, (a, b) in limits.items() if not a <= given[k] <= b]
    if wrong:
        raise ValueError(f"no such virtual region: {'; '.join(wrong)} (every species needs a record in po)")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and not empty: name another folder, or delete it first")
    partial = folder.with_name(f".{folder.name}-{os.getpid()}")  # renamed when whole
    partial.mkdir(parents=True)
    try:
        made = _make(partial, given, progress)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return VirtualRegion(folder, *made)


def _make(folder: Path, given: Mapping[str, int], progress: bool) -> tuple:
    """Write all files; return the fields of `VirtualRegion`. Each part has its own stream of chance."""
    streams = np.random.default_rng(given["seed"]).spawn(6)
    land = _Landscape(given["size"], streams[0])
    flora = _Flora(given["species"], land, streams[1])
    land.write_rasters(folder, streams[2])
    num_pa, num_test = given["pa"], given["test"]
    num_sites, num_visited = num_pa - num_pa // 20, (given["po"] - given["species"] + 1) // 2
    sites = land.even_places(num_sites + num_test, streams[3])
    lonlat = np.concatenate([sites, land.visited_places(num_visited, streams[3]), land.grid(given["grid"])])
    z = land.at(lonlat)
    rng = streams[4]
    patch = 3_000_000 + rng.choice(4_000_000, len(lonlat), replace=False)
    _write_patches(folder / "SatelliteImages", land, lonlat, z, patch, streams[5], progress)

    # PA: the last surveys visit the first places again; rows of one survey do not stand together.
    place = np.concatenate([np.arange(num_sites), np.arange(num_pa - num_sites)])
    day = rng.integers(60, 300, num_sites)[place] + 30 * (np.arange(num_pa) >= num_sites)
    pa_probability = flora.probability(z[place])
    survey, kind = np.nonzero(_survey(pa_probability, rng))
    row = rng.permutation(len(survey))
    survey, kind = survey[row], kind[row]
    order = np.argsort(np.unique(survey, return_index=True)[1])
    visits = _visits(lonlat, patch, place, day, ["inventory", "monitoring", "conservatory"], rng)
    pa = {name: column[survey] for name, column in visits.items()} | _credits(flora.ids[kind], rng)
    _write_table(folder / _PA, ";" + _RECORD, pa | {"": row})

    place_po, kind_po = _records(z[num_sites + num_test :][:num_visited], flora, given["po"], rng)
    day_po = rng.integers(40, 330, len(place_po))
    names = ["herbarium", "app", "app automatic", "portal"]
    po = _visits(lonlat, patch, num_sites + num_test + place_po, day_po, names, rng)
    _write_table(folder / _PO, _RECORD, po | _credits(flora.ids[kind_po], rng))

    place_test = np.arange(num_sites, num_sites + num_test)
    test_id = 1 + rng.permutation(num_test)
    visits = _visits(lonlat, patch, place_test, rng.integers(60, 300, num_test), ["inventory", "monitoring"], rng)
    _write_table(folder / _TEST, _BLIND, visits | {"Id": test_id})

    test_probability, on_grid = flora.probability(z[place_test]), slice(num_sites + num_test + num_visited, None)
    row_test, kind_test = np.nonzero(_survey(test_probability, rng))
    truth = folder / "truth"
    found = {"Id": test_id[row_test], "speciesId": flora.ids[kind_test]}
    _write_table(truth / "test_species.csv", "Id;speciesId", found)
    if given["grid"]:
        table = {"patchID": patch[on_grid], "lon": lonlat[on_grid, 0], "lat": lonlat[on_grid, 1]}
        _write_table(truth / "grid.csv", "patchID;lon;lat", table)
    flora.write(truth / "responses.csv")
    arrays = {"pa": pa_probability[order], "pa_axes": z[place][order], "test": test_probability}
    arrays |= {"test_axes": z[place_test], "grid": flora.probability(z[on_grid]), "grid_axes": z[on_grid]}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    np.savez(truth / "probabilities.npz", species_ids=flora.ids, **arrays)
    (folder / "region.yaml").write_text(_region_yaml(given), encoding="utf-8")
    counts = (given["po"], num_visited, num_pa, num_test, given["grid"] ** 2, len(lonlat))
    return given["species"], *counts, len(survey) / num_pa


class _Grid:
    """Cells of a raster: steps in degrees from a north-west corner."""

    def __init__(self, west: float, north: float, step: float, side: int) -> None:
        self.west, self.north, self.step, self.side = west, north, step, side

    def cells(self, lonlat: np.ndarray) -> np.ndarray:
        """Row and column of places, float64[2, N]; whole numbers are north-west corners of cells."""
        return np.stack([self.north - lonlat[:, 1], lonlat[:, 0] - self.west]) / self.step

    def resample(self, fields: np.ndarray, source: "_Grid") -> np.ndarray:
        """`fields[..., H, W]` of another grid at the centres of these cells."""
        steps = (np.arange(self.side) + 0.5) * self.step
        row, col = np.meshgrid(self.north - steps, self.west + steps, indexing="ij")
        cells = source.cells(np.stack([col.ravel(), row.ravel()], axis=1))
        return _bilinear(fields, cells).reshape(*fields.shape[:-2], self.side, self.side)

    def write(self, path: Path, values: np.ndarray, nodata: float | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        transform = rasterio.Affine(self.step, 0, self.west, 0, -self.step, self.north)
        profile = {"width": self.side, "height": self.side, "count": 1, "dtype": values.dtype.name}
        profile |= {"crs": "EPSG:4326", "transform": transform, "nodata": nodata, "compress": "deflate"}
        with rasterio.open(path, "w", driver="GTiff", **profile) as file:
            file.write(values, 1)


class _Landscape:
    """The axes as maps of 30 arc seconds, and light as tiles of 10 m."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        def noise(length: float) -> np.ndarray:  # length in cells
            return _noise(size, length, rng)

        self.cells = _Grid(_WEST, _NORTH, _STEP, size)
        # Soil and footprint have grids of their own, which reach over the edge of the climate's.
        self.soil_cells = _Grid(_WEST - 0.0031, _NORTH + 0.0047, 0.0089831528, round(size * _STEP / 0.00898) + 2)
        self.human_cells = _Grid(_WEST - 0.0072, _NORTH + 0.0019, 0.00989, round(size * _STEP / 0.00989) + 2)
        south = np.linspace(-1.5, 1.5, size)[:, None]
        self.relief = _standard(noise(size / 14) + 0.5 * noise(size / 50))
        people = size * rng.uniform(0.15, 0.85, (12, 1, 1, 2))
        distance = np.stack([np.hypot(*(np.indices((size, size)) - p[0, 0, :, None, None])) for p in people])
        towns = sum(np.exp(-d / (size * 0.05)) / (rank + 1) for rank, d in enumerate(distance))
        moisture = _standard(0.6 * self.relief + noise(size / 16) + 0.4 * noise(2))
        reaction = _standard(noise(size / 22) + 0.6 * noise(3))
        disturbance = _standard(np.log(0.02 + towns) - 0.4 * self.relief + 0.4 * noise(3))
        coarse_light = _standard(0.6 * disturbance - 0.5 * moisture + noise(4))
        self.axes = np.stack(
            [
                _standard(0.8 * south - self.relief + 0.3 * noise(size / 20)),
                moisture,
                reaction,
                _standard(0.4 * reaction - 0.5 * self.relief + noise(size / 25) + 0.6 * noise(3)),
                disturbance,
                np.sqrt(1 - _FINE**2) * coarse_light,
            ]
        )
        holes = self.soil_cells.resample(noise(size / 40), self.cells)
        self.holes = holes > np.quantile(holes, 0.98)  # soil maps leave out lakes and large towns
        # Tiles of periods without a common divisor: their sum does not repeat within the world.
        tiles = 0.8 * _noise(1024, 28, rng), 0.6 * _noise(1125, 9, rng)
        self.tiles = [np.pad(_FINE * t, ((0, _SIDE), (0, _SIDE)), mode="wrap").astype(np.float32) for t in tiles]

    def fine_light(self, lonlat: np.ndarray) -> "list[np.ndarray]":
        """The part of light that no raster knows, float32[N][128, 128] around each place."""
        col = (lonlat[:, 0] - _WEST) * (_PIXELS * np.cos(np.radians(_NORTH)))
        row = (_NORTH - lonlat[:, 1]) * _PIXELS
        return row, col
