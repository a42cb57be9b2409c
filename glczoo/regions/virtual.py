"""A virtual region: a made-up landscape in the files of GeoLifeCLEF 2023, with the truth beside it.

Shapes: axes[A, H, W] · lonlat[N, 2] · z[N, A] · probability[N, K], with A axes, N places, K species.

Rasters and JPEG patches are noisy functions of the world's axes (`world.py`). Surveys are independent
Bernoulli draws at evenly spread places; presence-only records come from where people are, of species that
people like. Tables are written without pandas, which belongs to the module that reads them.

Long, as a list of writers is: one for each kind of file, all of them called by `_make`.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio.warp
import torch
from torchvision.io import encode_jpeg
from tqdm import tqdm

from glczoo.files import whole
from glczoo.regions.virtual_world import (
    AXES,
    NORTH,
    SIDE,
    STEP,
    WEST,
    Flora,
    Landscape,
    Tile,
    noise_field,
    standard,
)

__all__ = ["AXES", "VirtualRegion", "make_virtual"]


_NODATA = -3.4028234663852886e38  # float-like: readers must compare with a tolerance
_CLIMATE = "EnvironmentalRasters/Climate/BioClimatic_Average_1981-2010"
_SOIL = "EnvironmentalRasters/Soilgrids"
_FOOTPRINT = "EnvironmentalRasters/HumanFootprint/summarized"
_PO = "Presence_only_occurrences/Presences_only_train.csv"
_PA = "Presence_Absence_surveys/Presences_Absences_train.csv"
_TEST = "For_submission/test_blind.csv"
_PLACE = "lon;lat;x_EPSG3035;y_EPSG3035;geoUncertaintyInM"
_RECORD = f"glcID;gbifID;observer;datasetName;date;dayOfYear;year;{_PLACE};speciesId;patchID;timeSerieID"
_BLIND = f"Id;datasetName;date;dayOfYear;year;patchID;timeSerieID;{_PLACE}"
_BIO_UNITS = [*["0.1 K"] * 2, "0.1 %", "0.001 K", *["0.1 K"] * 7, *["0.1 kg m-2"] * 8]
_SOIL_UNITS = {
    **{"bdod": "cg/cm3", "cec": "mmol(c)/kg", "cfvo": "cm3/dm3", "clay": "g/kg", "nitrogen": "cg/kg"},
    **{"phh2o": "pH x 10", "sand": "g/kg", "silt": "g/kg", "soc": "dg/kg"},
}
# Red, green, blue, near infrared of closed canopy and of open ground; then what one unit of each axis adds.
_CANOPY = (
    np.array([44, 56, 44, 150]),
    np.array([[4, 2, 2, -5], [-4, -1, -2, 12], [2, 3, 1, 0], [-3, 3, -3, 8], [0, 0, 0, 0], [0, 0, 0, 0]]),
)
_GROUND = (
    np.array([110, 106, 82, 162]),
    np.array([[7, 3, 1, -7], [-14, -2, -7, 18], [5, 5, 8, 0], [-6, 3, -6, 10], [3, 2, 3, -2], [0, 0, 0, 0]]),
)
_REGION = """\
# Made by glczoo.regions.virtual: make_virtual("FOLDER", {arguments})
# All of it is made up; truth/ holds what the species really do.
name: virtual
description: "Virtual, nothing in it is real: {species} species, {po} presence-only records, {pa} surveys"
licence: none needed
root: .
bounds: {bounds}
patch_size: {patch_size}
modalities:
  - name: bioclim
    folder: {climate}
    resolution: 30 arc seconds (about 1 km)
    source: made up
    bands:
{climate_bands}
  - name: soil
    folder: {soil}
    resolution: 1 km
    source: made up
    bands:
{soil_bands}
  - name: satellite
    kind: jpeg
    folder: SatelliteImages
    resolution: 10 m
    source: made up
    bands:
      - {{name: red, file: rgb, index: 1, unit: 0-255}}
      - {{name: green, file: rgb, index: 2, unit: 0-255}}
      - {{name: blue, file: rgb, index: 3, unit: 0-255}}
      - {{name: nir, file: nir, index: 1, unit: 0-255}}
  - name: footprint
    folder: {footprint}
    resolution: 0.00989 degrees (about 1 km)
    source: made up
    bands:
      - {{name: hfp2009, file: HFP2009_WGS84.tif, unit: 0-50}}
tables:
  po: {{file: {po_table}}}
  pa: {{file: {pa_table}}}
  test: {{file: {test_table}}}
"""


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

    The same arguments give the same bytes. `truth/` holds

    - `responses.csv`: speciesId;max_probability;detectability; then optimum_AXIS and tolerance_AXIS. The odds
      of a species are max / (1 - max) * exp(-½ Σ ((z - optimum) / tolerance)²);
    - `probabilities.npz`: species_ids[K] and, for X in pa, test and grid, X[N, K] and X_axes[N, A], float32.
      Rows of pa are the surveys in order of first appearance, those of test and grid the rows of their
      tables. Samples find at least one species, and these are the probabilities given that;
    - `test_species.csv`: Id;speciesId, what the test surveys found;
    - `grid.csv`, where asked for: patchID;lon;lat, row by row from the north-west.

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
    limits |= {"size": (32, 1000), "grid": (0, 1000), "patch_size": (1, SIDE), "seed": (0, 2**63)}
    wrong = [f"{k} = {given[k]}, not in [{a}, {b}]" for k, (a, b) in limits.items() if not a <= given[k] <= b]
    if wrong:
        raise ValueError(f"no such virtual region: {'; '.join(wrong)} (po holds a record of every species)")
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and not empty: name another folder, or delete it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole(folder) as partial:
        made = _make(partial, given, progress)
    return VirtualRegion(folder, *made)


def _make(folder: Path, given: Mapping[str, int], progress: bool) -> tuple:
    """Draw and write everything; return the fields of `VirtualRegion` after the folder."""
    streams = np.random.default_rng(given["seed"]).spawn(6)  # so that one part does not shift the others
    land = Landscape(given["size"], streams[0])
    flora = Flora(given["species"], land, streams[1])
    _write_rasters(folder, land, streams[2])

    num_pa, num_test, rng = given["pa"], given["test"], streams[4]
    num_sites, num_visited = num_pa - num_pa // 20, (given["po"] - given["species"] + 1) // 2
    even, visited = land.even_places(num_sites + num_test, streams[3]), land.visited_places(num_visited, rng)
    lonlat = np.concatenate([even, visited, land.regular_places(given["grid"])])
    z, patch_id = land.at(lonlat), 3_000_000 + rng.choice(4_000_000, len(lonlat), replace=False)
    site, test, visited, on_grid = np.split(
        np.arange(len(lonlat)), np.cumsum([num_sites, num_test, num_visited])
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # a patch is too small to share: on a busy machine threads take six times as long
    try:
        _write_patches(folder / "SatelliteImages", land, lonlat, z, patch_id, streams[5], progress)
    finally:
        torch.set_num_threads(threads)

    site = np.concatenate([site, site[: num_pa - num_sites]])  # the last surveys are second visits
    day = rng.integers(60, 300, num_sites)[site] + 30 * (np.arange(num_pa) >= num_sites)
    survey, kind = np.nonzero(flora.survey(z[site], rng))
    row = rng.permutation(len(survey))  # as in the real file, rows of a survey do not stand together
    survey, kind = survey[row], kind[row]
    visits = _visits(lonlat, patch_id, site, day, ["inventory", "monitoring", "conservatory"], rng)
    pa = {name: column[survey] for name, column in visits.items()} | _credits(flora.ids[kind], rng)
    _write_table(folder / _PA, ";" + _RECORD, pa | {"": row})

    place, kind = flora.records(z[visited], given["po"], rng)
    day = rng.integers(40, 330, len(place))
    po = _visits(lonlat, patch_id, visited[place], day, ["herbarium", "app", "portal"], rng)
    _write_table(folder / _PO, _RECORD, po | _credits(flora.ids[kind], rng))

    test_id, day = 1 + rng.permutation(num_test), rng.integers(60, 300, num_test)
    blind = _visits(lonlat, patch_id, test, day, ["inventory", "monitoring"], rng)
    _write_table(folder / _TEST, _BLIND, blind | {"Id": test_id})

    truth = folder / "truth"
    row, kind = np.nonzero(flora.survey(z[test], rng))
    found = {"Id": test_id[row], "speciesId": flora.ids[kind]}
    _write_table(truth / "test_species.csv", "Id;speciesId", found)
    if given["grid"]:
        table = {"patchID": patch_id[on_grid], "lon": lonlat[on_grid, 0], "lat": lonlat[on_grid, 1]}
        _write_table(truth / "grid.csv", "patchID;lon;lat", table)
    _write_table(truth / "responses.csv", *flora.table())
    surveys = site[np.argsort(np.unique(survey, return_index=True)[1])]  # in order of first appearance
    places = {"pa": z[surveys], "test": z[test], "grid": z[on_grid]}
    arrays = {name: flora.probability(at) for name, at in places.items()}
    arrays |= {f"{name}_axes": at for name, at in places.items()}
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    np.savez(truth / "probabilities.npz", allow_pickle=False, species_ids=flora.ids, **arrays)
    (folder / "region.yaml").write_text(_region_yaml(given), "utf-8")
    counts = (given["po"], num_visited, num_pa, num_test, given["grid"] ** 2, len(lonlat))
    return given["species"], *counts, len(survey) / num_pa


def _write_rasters(folder: Path, land: Landscape, rng: np.random.Generator) -> None:
    """Covariates as correlated, noisy and curved functions of the axes, in the units of the real files."""

    def noisy(field: np.ndarray, share: float = 0.25) -> np.ndarray:
        return field + share * noise_field(land.cells.side, 1.5, rng)

    temperature, moisture, reaction, nutrients, disturbance, _ = land.axes
    mean = 273.15 + 9 + 3.5 * noisy(temperature, 0.1)
    swing = 9 + 0.8 * noisy(-land.relief, 0.5)  # half of the way from winter to summer, K
    daily = 9 - 1.2 * noisy(moisture)
    top, bottom, wet = mean + swing + daily / 2, mean - swing - daily / 2, np.tanh(noisy(land.relief, 1))
    warmth = [top, bottom, top - bottom, mean + 0.5 * swing * wet, mean - 0.5 * swing * wet]
    warmth += [mean + 0.9 * swing, mean - 0.9 * swing]
    rain = 950 * np.exp(0.3 * noisy(moisture))  # mm a year
    uneven = 0.3 + 0.1 * np.tanh(noisy(temperature, 0.5))
    rains = [rain, rain / 12 * (1 + uneven), rain / 12 * (1 - uneven), 140 * uneven]
    rains += [rain / 4 * (1 + share * uneven) for share in (0.9, -0.9, -0.5 * wet, 0.5 * wet)]
    climate = [mean, daily, 100 * daily / (top - bottom), 70 * swing, *warmth, *rains]
    for number, field in enumerate(climate, 1):
        values = np.round(10 * field * (1 + 0.001 * noise_field(land.cells.side, 1, rng)))
        land.cells.write(folder / _CLIMATE / f"bio{number}.tif", values.astype(np.uint16))

    texture = noisy(standard(reaction + noisy(-land.relief, 1)))
    clay, silt = 230 + 70 * np.tanh(texture), 380 + 60 * np.tanh(noisy(texture + moisture))
    carbon = 300 * np.exp(0.4 * noisy(moisture - 0.5 * temperature))
    soil = {
        "bdod": 130 - 0.03 * carbon + 3 * noisy(reaction),
        "cec": 180 + 0.4 * clay + 30 * noisy(nutrients),
        "cfvo": 150 * np.exp(0.4 * noisy(land.relief)),
        "clay": clay,
        "nitrogen": 250 * np.exp(0.35 * noisy(nutrients)) + 0.2 * carbon,
        "phh2o": 62 + 9 * np.tanh(0.7 * noisy(reaction)),
        "sand": 1000 - clay - silt,
        "silt": silt,
        "soc": carbon,
    }
    for name, field in soil.items():
        values = np.where(land.holes, _NODATA, land.soil_cells.resample(field, land.cells).round(1))
        path = folder / _SOIL / f"crop_proj_{name}_5-15cm_mean_1000.tif"
        land.soil_cells.write(path, values.astype(np.float32), _NODATA)
    pressure = land.human_cells.resample(12 + 9 * noisy(disturbance), land.cells).clip(0, 50)
    land.human_cells.write(folder / _FOOTPRINT / "HFP2009_WGS84.tif", pressure.astype(np.float32), _NODATA)


def _write_patches(
    folder: Path,
    land: Landscape,
    lonlat: np.ndarray,
    z: np.ndarray,
    patch_ids: np.ndarray,
    rng: np.random.Generator,
    progress: bool,
) -> None:
    """Write two JPEG files for each place.

    Light at each pixel picks a colour from the place's palette: 200 from closed canopy to open ground, which
    warmth, moisture and soil tint, then 56 of buildings, which disturbance multiplies.
    """
    shade = np.linspace(0, 1, 200)[:, None]
    canopy, ground = (base + z @ tint for base, tint in (_CANOPY, _GROUND))
    built = np.linspace([85, 82, 80, 75], [165, 160, 155, 125], 56)
    share_built = (0.05 * np.exp(z[:, 4])).clip(0, 0.6)
    texture, blocks = (
        Tile(noise_field(1024, 0.8, rng)),
        Tile(np.kron(rng.random((128, 128)), np.ones((8, 8)))),
    )
    bar = tqdm(patch_ids.tolist(), desc="patches", unit="patch", disable=not progress)
    for i, ((row, col), patch_id) in enumerate(zip(land.pixels(lonlat), bar, strict=True)):
        fine, rough = land.fine_light(row, col), texture.around(row, col)
        light = z[i, 5] + fine - fine[SIDE // 2, SIDE // 2]
        openness = ((light + 2.2) / 4.4).clip(0, 1)
        plants = (199 * openness + rough * (18 - 12 * openness)).clip(0, 199)
        houses = (228 + 9 * rough).clip(200, 255)
        colour = np.where(blocks.around(row, col) < share_built[i], houses, plants).astype(np.uint8)
        palette = np.concatenate([canopy[i] + shade * (ground[i] - canopy[i]), built]).clip(0, 255)
        image = torch.from_numpy(np.take(palette.astype(np.uint8).T, colour, axis=1))  # contiguous
        name = str(patch_id)
        for tree, channels in (("rgb", image[:3]), ("nir", image[3:])):
            path = folder / tree / name[-2:] / name[-4:-2] / f"{name}.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_jpeg(channels, quality=80).numpy().tobytes())


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
    seconds = date.astype("datetime64[s]").astype(np.int64)
    x, y = rasterio.warp.transform("EPSG:4326", "EPSG:3035", lon, lat)
    return {
        "datasetName": np.array([f"Virtual {name}" for name in sources])[source],
        "date": np.where(source == len(sources) - 1, seconds.astype(str), date.astype(str)),
        "dayOfYear": day,
        "year": year,
        **{"lon": lon, "lat": lat, "x_EPSG3035": np.round(x), "y_EPSG3035": np.round(y)},
        "geoUncertaintyInM": rng.choice([1.0, 5.0, 7.1, 10.0, 50.0], num),
        "patchID": patch_ids[place],
        "timeSerieID": patch_ids[place] - 1_000_000,
    }


def _credits(species_ids: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Columns of records: which species, found by whom."""
    num = len(species_ids)
    observers = np.array(["", "Virtual botanist", "Pair, A. Anna;Pair, B. Bo"])  # one holds the separator
    return {
        "glcID": 5_000_000 + rng.permutation(num),
        "gbifID": np.where(rng.random(num) < 0.3, "", (3e9 + rng.permutation(num)).astype(str)),
        "observer": rng.choice(observers, num),
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
    extent, band = given["size"] * STEP, "      - {{name: {}, file: {}, unit: {}}}".format
    climate = [band(f"bio{i}", f"bio{i}.tif", unit) for i, unit in enumerate(_BIO_UNITS, 1)]
    soil = [band(n, f"crop_proj_{n}_5-15cm_mean_1000.tif", unit) for n, unit in _SOIL_UNITS.items()]
    files = {"climate": _CLIMATE, "soil": _SOIL, "footprint": _FOOTPRINT}
    tables = {"po_table": _PO, "pa_table": _PA, "test_table": _TEST}
    return _REGION.format(
        arguments=", ".join(f"{name}={value}" for name, value in given.items()),
        bounds=[round(degree, 6) for degree in (WEST, NORTH - extent, WEST + extent, NORTH)],
        climate_bands="\n".join(climate),
        soil_bands="\n".join(soil),
        **files,
        **tables,
        **given,
    )
