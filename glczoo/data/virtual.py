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
    lonlat = np.concatenate([sites, land.visited_places(num_visited, streams[3]), land.regular_places(given["grid"])])
    z = land.at(lonlat)
    rng = streams[4]
    patch = 3_000_000 + rng.choice(4_000_000, len(lonlat), replace=False)
    _write_patches(folder / "SatelliteImages", land, lonlat, z, patch, streams[5], progress)

    # PA: the last surveys visit the first places again; rows of one survey do not stand together.
    place = np.concatenate([np.arange(num_sites), np.arange(num_pa - num_sites)])
    day = rng.integers(60, 300, num_sites)[place] + 30 * (np.arange(num_pa) >= num_sites)
    pa_probability = flora.probability(z[place])
    survey, kind = np.nonzero(flora.survey(z[place], rng))
    row = rng.permutation(len(survey))
    survey, kind = survey[row], kind[row]
    order = np.argsort(np.unique(survey, return_index=True)[1])
    visits = _visits(lonlat, patch, place, day, ["inventory", "monitoring", "conservatory"], rng)
    pa = {name: column[survey] for name, column in visits.items()} | _credits(flora.ids[kind], rng)
    _write_table(folder / _PA, ";" + _RECORD, pa | {"": row})

    place_po, kind_po = flora.records(z[num_sites + num_test :][:num_visited], given["po"], rng)
    day_po = rng.integers(40, 330, len(place_po))
    names = ["herbarium", "app", "app automatic", "portal"]
    po = _visits(lonlat, patch, num_sites + num_test + place_po, day_po, names, rng)
    _write_table(folder / _PO, _RECORD, po | _credits(flora.ids[kind_po], rng))

    place_test = np.arange(num_sites, num_sites + num_test)
    test_id = 1 + rng.permutation(num_test)
    visits = _visits(lonlat, patch, place_test, rng.integers(60, 300, num_test), ["inventory", "monitoring"], rng)
    _write_table(folder / _TEST, _BLIND, visits | {"Id": test_id})

    test_probability, on_grid = flora.probability(z[place_test]), slice(num_sites + num_test + num_visited, None)
    row_test, kind_test = np.nonzero(flora.survey(z[place_test], rng))
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

    def at(self, lonlat: np.ndarray) -> np.ndarray:
        """z[N, A] of places; light is that of their very pixel."""
        z = _bilinear(self.axes, self.cells.cells(lonlat)).T
        z[:, -1] += [self.fine_light(*pixel)[_SIDE // 2, _SIDE // 2] for pixel in self.pixels(lonlat)]
        return z

    def pixels(self, lonlat: np.ndarray) -> list[list[int]]:
        """Row and column of places in pixels of 10 m, counted from the world's corner."""
        narrower = np.cos(np.radians(_NORTH))
        offset = np.stack([_NORTH - lonlat[:, 1], (lonlat[:, 0] - _WEST) * narrower], axis=1)
        return (offset * _PIXELS).astype(int).tolist()

    def fine_light(self, row: int, col: int) -> np.ndarray:
        """The part of light that no raster knows, float32[128, 128]; the pixel itself is at [64, 64]."""
        return _window(self.tiles[0], row, col) + _window(self.tiles[1], row, col)

    def even_places(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Places spread evenly, lonlat[num, 2], by an additive recurrence (Roberts 2018)."""
        steps = np.arange(2 * num + 100)[:, None] * np.array([0.7548776662, 0.5698402910])
        return self._on_land((steps + rng.random(2)) % 1)[:num]

    def visited_places(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Places where people look for plants, lonlat[num, 2]: the more disturbed, the more often."""
        lonlat = self._on_land(rng.random((20 * num + 100, 2)))
        effort = 1.3 * _bilinear(self.axes[4], self.cells.cells(lonlat)) + rng.gumbel(size=len(lonlat))
        return lonlat[np.argsort(-effort)[:num]]

    def regular_places(self, num: int) -> np.ndarray:
        """Centres of num x num equal parts of the land, row by row from the north-west, lonlat[num², 2]."""
        share = (np.arange(num) + 0.5) / max(num, 1)
        return self._lonlat(np.stack(np.meshgrid(share, share), axis=-1).reshape(-1, 2))

    def _lonlat(self, share: np.ndarray) -> np.ndarray:
        """Places at shares of the land's width and height; the outer eighth of the rasters is a margin."""
        margin, extent = self.cells.side // 8 * _STEP, self.cells.side * _STEP
        inside = margin + share * (extent - 2 * margin)
        return np.round(np.array([_WEST, _NORTH]) + inside * np.array([1, -1]), 6)

    def _on_land(self, share: np.ndarray) -> np.ndarray:
        lonlat = self._lonlat(share)
        row, col = self.soil_cells.cells(lonlat).astype(int)
        return lonlat[~self.holes[row, col]]

    def write_rasters(self, folder: Path, rng: np.random.Generator) -> None:
        """Covariates as correlated, noisy and curved functions of the axes, in the units of the real files."""

        def noisy(field: np.ndarray, share: float = 0.25) -> np.ndarray:
            return field + share * _noise(self.cells.side, 1.5, rng)

        temperature, moisture, reaction, nutrients, disturbance, _ = self.axes
        mean = 9 + 3.5 * noisy(temperature, 0.1)
        swing = 9 + 0.8 * noisy(-self.relief, 0.5)  # half of the range between summer and winter, K
        daily = 9 - 1.2 * noisy(moisture)
        rain = 950 * np.exp(0.3 * noisy(moisture))  # mm a year
        uneven = 0.3 + 0.1 * np.tanh(noisy(temperature, 0.5))
        top, bottom, wet = mean + swing + daily / 2, mean - swing - daily / 2, np.tanh(noisy(self.relief, 1))
        kelvin = [mean, top, bottom, mean + 0.5 * swing * wet, mean - 0.5 * swing * wet]
        bio1, bio5, bio6, bio8, bio9, bio10, bio11 = (
            10 * (t + 273.15) for t in [*kelvin, mean + 0.9 * swing, mean - 0.9 * swing]
        )
        bio7 = 10 * (top - bottom)
        months = [rain, rain / 12 * (1 + uneven), rain / 12 * (1 - uneven), 140 * uneven]
        quarters = [rain / 4 * (1 + s * uneven) for s in (0.9, -0.9, -0.5 * wet, 0.5 * wet)]
        climate = [bio1, 10 * daily, 1e4 * daily / bio7, 700 * swing, bio5, bio6, bio7, bio8, bio9, bio10, bio11]
        climate += [10 * v for v in months + quarters]
        for number, field in enumerate(climate, 1):
            values = np.round(field * (1 + 0.002 * _noise(self.cells.side, 1, rng))).astype(np.uint16)
            self.cells.write(folder / _CLIMATE / f"bio{number}.tif", values)

        texture = noisy(_standard(reaction + noisy(-self.relief, 1)))
        clay, silt = 230 + 70 * np.tanh(texture), 380 + 60 * noisy(texture + moisture)
        carbon = 300 * np.exp(0.4 * noisy(moisture - 0.5 * temperature))
        soil = [
            130 - 0.03 * carbon + 3 * noisy(reaction),
            180 + 0.4 * clay + 30 * noisy(nutrients),
            150 * np.exp(0.4 * noisy(self.relief)),
            clay,
            250 * np.exp(0.35 * noisy(nutrients)) + 0.2 * carbon,
            62 + 9 * np.tanh(0.7 * noisy(reaction)),
            1000 - clay - silt,
            silt,
            carbon,
        ]
        fields = self.soil_cells.resample(np.stack(soil), self.cells)
        for name, field in zip(_SOIL_NAMES, np.where(self.holes, _NODATA, fields.round(1)), strict=True):
            path = folder / _SOIL / f"crop_proj_{name}_5-15cm_mean_1000.tif"
            self.soil_cells.write(path, field.astype(np.float32), _NODATA)
        pressure = self.human_cells.resample(12 + 9 * noisy(disturbance), self.cells).clip(0, 50)
        self.human_cells.write(folder / _FOOTPRINT / "HFP2009_WGS84.tif", pressure.astype(np.float32), _NODATA)


class _Flora:
    """Species with Gaussian logit niches (ter Braak & Looman 1986): odds[K] at optimum[K, A], tolerance[K, A]."""

    def __init__(self, num: int, land: _Landscape, rng: np.random.Generator) -> None:
        self.ids = np.arange(1, num + 1)
        self.ids[num // 2 :] += 1  # the real list has a gap too: a class is not its id less one
        self.optimum = rng.normal(0, 1, (num, len(AXES)))
        choosy = rng.normal(0, 0.7, (num, len(AXES)))  # on some axes more than on others
        choosy -= choosy.mean(axis=1, keepdims=True)
        self.tolerance = np.exp(rng.normal(-0.1, 0.25, (num, 1)) - choosy)  # specialists to generalists
        self.tolerance[:, -1] *= 0.6  # so that what only the satellite sees matters
        self.detectability = np.exp(rng.normal(0, 1.2, num))
        self.detectability /= self.detectability.max()
        wanted = 13 if num >= 100 else max(num / 8, 1.05)
        commonness, z = np.exp(rng.normal(0, 1.2, num)), land.at(land.even_places(1000, rng))
        low, high = -15.0, 15.0
        for _ in range(40):  # bisection for the factor that gives surveys their size
            self.odds = commonness * np.exp((low + high) / 2)
            too_many = self.probability(z).sum(axis=1).mean() > wanted
            low, high = (low, (low + high) / 2) if too_many else ((low + high) / 2, high)

    def probability(self, z: np.ndarray) -> np.ndarray:
        """Probability[N, K] of being found by a survey that finds anything."""
        alone = self._alone(z)
        return alone / -np.expm1(np.log1p(-alone).sum(axis=1, keepdims=True))

    def survey(self, z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Independent Bernoulli draws, bool[N, K], given that they are not all false."""
        alone = self._alone(z)
        any_so_far = -np.expm1(np.log1p(-alone).cumsum(axis=1))
        first = (any_so_far < any_so_far[:, -1:] * rng.random((len(z), 1))).sum(axis=1, keepdims=True)
        kind = np.arange(len(self.ids))
        return (kind == first) | (kind > first) & (rng.random(alone.shape) < alone)

    def records(self, z: np.ndarray, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Presence-only records at N places: position of the place and of the species, int64[num] each.

        Every species and every place has one; some places have many.
        """
        probability = self.probability(z)
        interest = np.log(probability * self.detectability) + rng.gumbel(size=probability.shape)
        liked = np.argsort(-interest, axis=1)  # a draw without replacement at each place
        more = (len(z) * rng.random(num - len(self.ids) - len(z)) ** 2).astype(int)
        place = np.sort(np.concatenate([np.arange(len(z)), more]))
        rank = np.arange(len(place)) - np.searchsorted(place, place)
        kind = liked[place, rank % len(self.ids)]
        once = np.argmax(interest, axis=0)  # the place of each species' sure record
        row = rng.permutation(num)
        return np.concatenate([place, once])[row], np.concatenate([kind, np.arange(len(self.ids))])[row]

    def _alone(self, z: np.ndarray) -> np.ndarray:
        distance = np.zeros((len(z), len(self.ids)))
        for axis in range(len(AXES)):
            distance += ((z[:, axis, None] - self.optimum[:, axis]) / self.tolerance[:, axis]) ** 2
        odds = self.odds * np.exp(-0.5 * distance)
        return (odds / (1 + odds)).clip(1e-9, 1 - 1e-9)

    def write(self, path: Path) -> None:
        peak = self.odds / (1 + self.odds)
        table = {"speciesId": self.ids, "max_probability": peak, "detectability": self.detectability}
        table |= {f"optimum_{axis}": self.optimum[:, a] for a, axis in enumerate(AXES)}
        table |= {f"tolerance_{axis}": self.tolerance[:, a] for a, axis in enumerate(AXES)}
        _write_table(path, ";".join(table), table)


def _write_patches(
    folder: Path,
    land: _Landscape,
    lonlat: np.ndarray,
    z: np.ndarray,
    patch_ids: np.ndarray,
    rng: np.random.Generator,
    progress: bool,
) -> None:
    """Write the JPEG files of all places.

    Light at each pixel picks a colour from the place's palette: 200 from closed canopy to open ground, which
    moisture, soil and warmth tint, then 56 of buildings, which disturbance multiplies.
    """
    shade = np.linspace(0, 1, 200)[:, None, None]
    canopy, ground = (base + z @ tint for base, tint in (_CANOPY, _OPEN))
    built = np.linspace([85, 82, 80, 75], [165, 160, 155, 125], 56)
    rough = np.pad(_noise(1024, 0.8, rng), ((0, _SIDE), (0, _SIDE)), mode="wrap").astype(np.float32)
    blocks = np.pad(np.kron(rng.random((128, 128)), np.ones((8, 8))), ((0, _SIDE), (0, _SIDE)), mode="wrap")
    share_built = (0.05 * np.exp(z[:, 4])).clip(0, 0.6)
    bar = tqdm(patch_ids.tolist(), desc="patches", unit="patch", disable=not progress)
    for i, ((row, col), patch_id) in enumerate(zip(land.pixels(lonlat), bar, strict=True)):
        fine, texture = land.fine_light(row, col), _window(rough, row, col)
        openness = ((z[i, 5] + fine - fine[_SIDE // 2, _SIDE // 2] + 2.2) / 4.4).clip(0, 1)
        colour = (199 * openness + texture * (18 - 12 * openness)).clip(0, 199)
        colour = np.where(_window(blocks, row, col) < share_built[i], (228 + 9 * texture).clip(200, 255), colour)
        palette = np.concatenate([canopy[i] + shade[:, 0] * (ground[i] - canopy[i]), built]).clip(0, 255)
        image = torch.from_numpy(palette.astype(np.uint8).T[:, colour.astype(np.uint8)])
        digits = str(patch_id)
        for name, bands in (("rgb", image[:3]), ("nir", image[3:])):
            path = folder / name / digits[-2:] / digits[-4:-2] / f"{digits}.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_jpeg(bands.contiguous(), quality=80).numpy().tobytes())


def _visits(
    lonlat: np.ndarray,
    patch_ids: np.ndarray,
    place: np.ndarray,
    day: np.ndarray,
    sources: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Columns of visits to places; the last of the sources writes dates as Unix seconds."""
    num, (lon, lat) = len(place), lonlat[place].T
    source, year = rng.integers(len(sources), size=num), rng.integers(2017, 2022, num)
    date = (year - 1970).astype("datetime64[Y]").astype("datetime64[D]") + (day - 1)
    seconds = date.astype("datetime64[s]").astype(np.int64).astype(str)
    x, y = rasterio.warp.transform("EPSG:4326", "EPSG:3035", lon, lat)
    return {
        "datasetName": np.array([f"Virtual {name}" for name in sources])[source],
        "date": np.where(source == len(sources) - 1, seconds, date.astype(str)),
        "dayOfYear": day,
        "year": year,
        "lon": lon,
        "lat": lat,
        "x_EPSG3035": np.round(x),
        "y_EPSG3035": np.round(y),
        "geoUncertaintyInM": rng.choice([1.0, 5.0, 7.1, 10.0, 50.0], num),
        "patchID": patch_ids[place],
        "timeSerieID": patch_ids[place] - 1_000_000,
    }


def _credits(species_ids: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Columns of records: who found which species; one observer's name holds the separator."""
    num = len(species_ids)
    return {
        "glcID": 5_000_000 + rng.permutation(num),
        "gbifID": np.where(rng.random(num) < 0.3, "", (3e9 + rng.permutation(num)).astype(str)),
        "observer": np.array(["", "", "Virtual botanist", "Pair, A. Anna;Pair, B. Bo"])[rng.integers(4, size=num)],
        "speciesId": species_ids,
    }


def _write_table(path: Path, header: str, columns: Mapping[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = header.split(";")
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=";", lineterminator="\n")
        writer.writerow(names)
        writer.writerows(zip(*(columns[name].tolist() for name in names), strict=True))


def _region_yaml(given: Mapping[str, int]) -> str:
    """`region.yaml`: the channels of GeoLifeCLEF 2023 in its order."""
    arguments = ", ".join(f"{name}={value}" for name, value in given.items())
    extent = given["size"] * _STEP
    bounds = [round(v, 6) for v in (_WEST, _NORTH - extent, _WEST + extent, _NORTH)]
    modality = "  - name: {}\n    {}folder: {}\n    resolution: {}\n    source: made up\n    bands:\n".format
    band = "      - {{name: {}, file: {}, unit: {}}}\n".format
    bio = [band(f"bio{i}", f"bio{i}.tif", unit) for i, unit in enumerate(_BIO_UNITS, 1)]
    soil = [
        band(name, f"crop_proj_{name}_5-15cm_mean_1000.tif", unit)
        for name, unit in zip(_SOIL_NAMES, _SOIL_UNITS, strict=True)
    ]
    colours = [band(name, f"rgb, index: {i}", "0-255") for i, name in enumerate(["red", "green", "blue"], 1)]
    return "".join(
        [
            f'# Made by glczoo.data.virtual: make_virtual("FOLDER", {arguments})\n',
            "# All of it is made up; truth/ holds what the species really do.\n",
            f"name: virtual\ndescription: Virtual, nothing in it is real. {given['species']} made-up species, ",
            f"{given['po']} presence-only records, {given['pa']} surveys\nlicence: none needed\nroot: .\n",
            f"bounds: {bounds}\npatch_size: {given['patch_size']}\nmodalities:\n",
            modality("bioclim", "", _CLIMATE, "30 arc seconds (about 1 km)"),
            *bio,
            modality("soil", "", _SOIL, "1 km"),
            *soil,
            modality("satellite", "kind: jpeg\n    ", "SatelliteImages", "10 m"),
            *colours,
            band("nir", "nir", "0-255"),
            modality("footprint", "", _FOOTPRINT, "0.00989 degrees (about 1 km)"),
            band("hfp2009", "HFP2009_WGS84.tif", "0-50"),
            f"tables:\n  po: {{file: {_PO}}}\n  pa: {{file: {_PA}}}\n  test: {{file: {_TEST}}}\n",
        ]
    )


def _standard(field: np.ndarray) -> np.ndarray:
    return (field - field.mean()) / field.std()


def _noise(side: int, length: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth standard noise, float64[side, side], periodic; `length` is the sigma of the smoothing in cells."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    damping = np.exp(-2 * (np.pi * length * frequency) ** 2)
    return _standard(np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * damping, s=(side, side)))


def _bilinear(fields: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """`fields[..., H, W]` between the centres of their cells, [..., N]; beyond the outer centres they stay level."""
    last = np.array(fields.shape[-2:])[:, None] - 1
    at = (cells - 0.5).clip(0, last)
    low = np.minimum(at.astype(int), last - 1)
    (row, col), (down, right) = low, at - low
    upper = fields[..., row, col] * (1 - right) + fields[..., row, col + 1] * right
    lower = fields[..., row + 1, col] * (1 - right) + fields[..., row + 1, col + 1] * right
    return upper * (1 - down) + lower * down


def _window(tile: np.ndarray, row: int, col: int) -> np.ndarray:
    """128 x 128 pixels of a periodic tile (wrapped by 128) with pixel (row, col) at [64, 64]."""
    period = len(tile) - _SIDE
    top, left = (row - _SIDE // 2) % period, (col - _SIDE // 2) % period
    return tile[top : top + _SIDE, left : left + _SIDE]
