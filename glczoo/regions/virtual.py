"""A virtual region: a made-up landscape in the files of GeoLifeCLEF 2023 or 2024, with the truth beside it.

Shapes: axes[A, H, W] · lonlat[N, 2] · z[N, A] · probability[N, K], with A axes, N places, K species.

Rasters and JPEG patches are noisy functions of the world's axes (`virtual_world.py`). Surveys are independent
Bernoulli draws at evenly spread places; presence-only records come from where people are, of species that
people like.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from glczoo.errors import GlczooError
from glczoo.files import new_folder
from glczoo.regions.virtual_files import (
    CLIMATE,
    FOOTPRINT,
    KELVIN,
    SOIL,
    credits,
    visits,
    write_climate,
    write_patches,
    write_soil_and_footprint,
    write_table,
)
from glczoo.regions.virtual_glc24 import (
    SOLUTION,
    Survey,
    region_text,
    write_inputs,
    write_solution,
    write_tables,
)
from glczoo.regions.virtual_world import AXES, NORTH, SIDE, STEP, WEST, Flora, Landscape

__all__ = ["AXES", "Layout", "VirtualRegion", "make_virtual"]

Layout = Literal["glc23", "glc24"]
"""Of which GeoLifeCLEF the files of a virtual region are."""

_PO = "Presence_only_occurrences/Presences_only_train.csv"
_PA = "Presence_Absence_surveys/Presences_Absences_train.csv"
_WARMER = "EnvironmentalRasters/Climate/Warmer"
_TEST = "For_submission/test_blind.csv"
_PLACE = "lon;lat;x_EPSG3035;y_EPSG3035;geoUncertaintyInM"
_RECORD = f"glcID;gbifID;observer;datasetName;date;dayOfYear;year;{_PLACE};speciesId;patchID;timeSerieID"
_BLIND = f"Id;datasetName;date;dayOfYear;year;patchID;timeSerieID;{_PLACE}"
_BIO_UNITS = [*["0.1 K"] * 2, "0.1 %", "0.001 K", *["0.1 K"] * 7, *["0.1 kg m-2"] * 8]
_SOIL_UNITS = {
    **{"bdod": "cg/cm3", "cec": "mmol(c)/kg", "cfvo": "cm3/dm3", "clay": "g/kg", "nitrogen": "cg/kg"},
    **{"phh2o": "pH x 10", "sand": "g/kg", "silt": "g/kg", "soc": "dg/kg"},
}
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
    provenance: made up
    bands:
{climate_bands}
  - name: soil
    folder: {soil}
    resolution: 1 km
    provenance: made up
    bands:
{soil_bands}
  - name: satellite
    kind: jpeg
    folder: SatelliteImages
    resolution: 10 m
    provenance: made up
    bands:
      - {{name: red, file: rgb, index: 1, unit: 0-255}}
      - {{name: green, file: rgb, index: 2, unit: 0-255}}
      - {{name: blue, file: rgb, index: 3, unit: 0-255}}
      - {{name: nir, file: nir, index: 1, unit: 0-255}}
  - name: footprint
    folder: {footprint}
    resolution: 0.00989 degrees (about 1 km)
    provenance: made up
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
    patch_size: int | None = None,
    seed: int = 0,
    warming: float = 0.0,
    layout: Layout = "glc23",
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
    - `grid.csv`, where `grid` is not 0: patchID;lon;lat, row by row from the north-west.

    With `warming`, `warmer.yaml` is the same region in another climate: its climate rasters are those of
    temperatures that are so many kelvins higher everywhere, all else is as it was, and `grid_warmer[N, K]` of
    `probabilities.npz` is what the same niches mean there.

    Args:
        folder: must not exist, or be empty.
        species: number of species K; PA surveys hold 13 of them on average, K / 8 if K < 100.
        po: presence-only records, at about half as many places.
        pa: surveys; one in twenty is a second visit to the place of another.
        test: rows of the test table.
        size: cells of 30 arc seconds along one side of the landscape; places keep off the outer eighth.
        grid: points along one side of a regular grid of known truth; 0 for none.
        patch_size: written into `region.yaml`; the other files do not depend on it. None: 128, in glc24 64.
        seed: of the whole world.
        warming: kelvins of another climate, -20 to 20; 0: none, as glc24 must have.
        layout: glc23, or glc24: the same species, surveys and records in the files of GeoLifeCLEF 2024 (see
            `virtual_glc24`), each survey with a surveyId; `truth/GLC24_SOLUTION_FILE.csv` is the solution.
        progress: show a bar while patches are written.

    Raises:
        ExistsError: the folder is not empty.
        GlczooError: an argument is out of range; all such are named.
    """
    numbers = {"species": species, "po": po, "pa": pa, "test": test, "size": size, "grid": grid}
    side = {"glc23": 128, "glc24": 64}[layout]
    numbers |= {"patch_size": side if patch_size is None else patch_size, "seed": seed}
    limits = {"species": (2, 10**4), "po": (species + 1, 10**6), "pa": (1, 10**6), "test": (1, 10**6)}
    limits |= {"size": (32, 1000), "grid": (0, 1000), "patch_size": (1, SIDE), "seed": (0, 2**63)}
    wrong = [
        f"{k} = {numbers[k]}, not in [{a}, {b}]" for k, (a, b) in limits.items() if not a <= numbers[k] <= b
    ]
    if not -20 <= warming <= 20:
        wrong.append(f"warming = {warming}, not in [-20, 20]")
    if warming and layout == "glc24":
        wrong.append(f"warming = {warming}, which needs the rasters of layout glc23")
    if wrong:
        raise GlczooError(f"no such virtual region: {'; '.join(wrong)} (po holds a record of every species)")
    folder = Path(folder).resolve()
    with new_folder(folder) as partial:
        made = _make(partial, numbers, layout, warming, progress)
    return VirtualRegion(folder, *made)


@dataclass(frozen=True)
class _Places:
    """Where surveys, records and the grid of known truth are; the last are positions in the first three."""

    lonlat: np.ndarray  # float64[N, 2]
    z: np.ndarray  # float64[N, A]
    patch_id: np.ndarray  # int64[N]
    site: np.ndarray
    test: np.ndarray
    visited: np.ndarray
    on_grid: np.ndarray

    @classmethod
    def draw(
        cls, numbers: Mapping[str, int], land: Landscape, even: np.random.Generator, rng: np.random.Generator
    ) -> "_Places":
        """Draw them: `even` those of surveys, `rng` those of records, and all ids."""
        num_sites = numbers["pa"] - numbers["pa"] // 20
        num_visited = (numbers["po"] - numbers["species"] + 1) // 2
        spread = land.even_places(num_sites + numbers["test"], even)
        visited = land.visited_places(num_visited, rng)
        lonlat = np.concatenate([spread, visited, land.regular_places(numbers["grid"])])
        z, patch_id = land.at(lonlat), 3_000_000 + rng.choice(4_000_000, len(lonlat), replace=False)
        edges = np.cumsum([num_sites, numbers["test"], num_visited])
        return cls(lonlat, z, patch_id, *np.split(np.arange(len(lonlat)), edges))


@contextmanager
def _one_thread() -> Iterator[None]:
    """A patch is too small to share: on a busy machine threads take six times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _make(folder: Path, numbers: Mapping[str, int], layout: Layout, warming: float, progress: bool) -> tuple:
    """Draw and write everything; return the fields of `VirtualRegion` after the folder."""
    streams = np.random.default_rng(numbers["seed"]).spawn(6)  # so that one part does not shift the others
    land = Landscape(numbers["size"], streams[0])
    flora = Flora(numbers["species"], land, streams[1])
    same_noise = copy.deepcopy(streams[2])
    if layout == "glc23":
        write_climate(folder / CLIMATE, land, streams[2])
        write_soil_and_footprint(folder, land, streams[2])

    num_pa, num_test, rng = numbers["pa"], numbers["test"], streams[4]
    places = _Places.draw(numbers, land, streams[3], rng)
    lonlat, z, patch_id = places.lonlat, places.z, places.patch_id
    site, test, visited, on_grid = places.site, places.test, places.visited, places.on_grid
    num_sites, num_visited = len(site), len(visited)
    if layout == "glc23":
        with _one_thread():
            write_patches(folder / "SatelliteImages", land, lonlat, z, patch_id, streams[5], progress)

    site = np.concatenate([site, site[: num_pa - num_sites]])  # the last surveys are second visits
    day = rng.integers(60, 300, num_sites)[site] + 30 * (np.arange(num_pa) >= num_sites)
    survey, kind = np.nonzero(flora.survey(z[site], rng))
    row = rng.permutation(len(survey))  # as in the real file, rows of a survey do not stand together
    survey, kind = survey[row], kind[row]
    pa_visits = visits(lonlat, patch_id, site, day, ["inventory", "monitoring", "conservatory"], rng)
    pa = {name: column[survey] for name, column in pa_visits.items()} | credits(flora.ids[kind], rng)
    place, kind = flora.records(z[visited], numbers["po"], rng)
    day = rng.integers(40, 330, len(place))
    po = visits(lonlat, patch_id, visited[place], day, ["herbarium", "app", "portal"], rng)
    po |= credits(flora.ids[kind], rng)
    test_id, day = 1 + rng.permutation(num_test), rng.integers(60, 300, num_test)
    blind = visits(lonlat, patch_id, test, day, ["inventory", "monitoring"], rng) | {"Id": test_id}
    if layout == "glc23":
        write_table(folder / _PA, ";" + _RECORD, pa | {"": row})
        write_table(folder / _PO, _RECORD, po)
        write_table(folder / _TEST, _BLIND, blind)
    else:
        # A survey is a surveyId there: that of a second visit is another one.
        survey_id = patch_id[site] + 10_000_000 * (np.arange(num_pa) >= num_sites)
        write_tables(folder, pa | {"surveyId": survey_id[survey]}, po, blind)
        groups = [
            Survey("PA-train", survey_id, lonlat[site], z[site]),
            Survey("PA-test", patch_id[test], lonlat[test], z[test]),
            Survey("PO-train", patch_id[visited], lonlat[visited], z[visited]),
        ]
        with _one_thread():
            write_inputs(folder, land, groups, streams[2], progress)
        test_id = patch_id[test]

    truth = folder / "truth"
    row, kind = np.nonzero(flora.survey(z[test], rng))
    table = {"Id": test_id[row], "speciesId": flora.ids[kind]}
    write_table(truth / "test_species.csv", "Id;speciesId", table)
    if layout == "glc24":
        write_solution(truth / SOLUTION, test_id[row], flora.ids[kind])
    if numbers["grid"]:
        table = {"patchID": patch_id[on_grid], "lon": lonlat[on_grid, 0], "lat": lonlat[on_grid, 1]}
        write_table(truth / "grid.csv", "patchID;lon;lat", table)
    write_table(truth / "responses.csv", *flora.table())
    surveys = site[np.argsort(np.unique(survey, return_index=True)[1])]  # in order of first appearance
    at = {"pa": z[surveys], "test": z[test], "grid": z[on_grid]}
    arrays = {name: flora.probability(axes) for name, axes in at.items()}
    arrays |= {f"{name}_axes": axes for name, axes in at.items()}
    if warming:
        shift = np.array([warming / KELVIN, 0, 0, 0, 0, 0])
        warmer = copy.copy(land)
        warmer.axes = land.axes + shift[:, None, None]
        write_climate(folder / _WARMER, warmer, same_noise)
        (folder / "warmer.yaml").write_text(_region_yaml(numbers, _WARMER), "utf-8")
        arrays["grid_warmer"] = flora.probability(z[on_grid] + shift)
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    np.savez(truth / "probabilities.npz", allow_pickle=False, species_ids=flora.ids, **arrays)
    text = _region_yaml(numbers) if layout == "glc23" else region_text(numbers, _extent(numbers))
    (folder / "region.yaml").write_text(text, "utf-8")
    counts = (numbers["po"], num_visited, num_pa, num_test, numbers["grid"] ** 2, len(lonlat))
    return numbers["species"], *counts, len(survey) / num_pa


def _extent(numbers: Mapping[str, int]) -> list[float]:
    """West, south, east, north in degrees."""
    extent = numbers["size"] * STEP
    return [round(degree, 6) for degree in (WEST, NORTH - extent, WEST + extent, NORTH)]


def _region_yaml(numbers: Mapping[str, int], climate: str = CLIMATE) -> str:
    """`region.yaml`: the channels of GeoLifeCLEF 2023 in its order, the climate's from a folder."""
    band = "      - {{name: {}, file: {}, unit: {}}}".format
    bioclim = [band(f"bio{i}", f"bio{i}.tif", unit) for i, unit in enumerate(_BIO_UNITS, 1)]
    soil = [band(n, f"crop_proj_{n}_5-15cm_mean_1000.tif", unit) for n, unit in _SOIL_UNITS.items()]
    files = {"climate": climate, "soil": SOIL, "footprint": FOOTPRINT}
    tables = {"po_table": _PO, "pa_table": _PA, "test_table": _TEST}
    return _REGION.format(
        arguments=", ".join(f"{name}={value}" for name, value in numbers.items()),
        bounds=_extent(numbers),
        climate_bands="\n".join(bioclim),
        soil_bands="\n".join(soil),
        **files,
        **tables,
        **numbers,
    )
