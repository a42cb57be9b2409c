"""The sample region that travels with glczoo: an invented world to learn with, whose truth lies beside it.

    python -m glczoo.regions.sample_region FOLDER

It is a virtual region (see `virtual_world`) cut to the size of a package: a satellite raster in the place of
JPEG patches, so that every place can be answered, short tables, and species with invented names whose
epithets tell where they grow (*palustris* where it is wet, *umbrosa* in the shade).

Shapes: lonlat[N, 2] · z[N, A] · probability[N, K], with A axes, N places, K species.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from glczoo.data.raster_files import write_geotiff
from glczoo.errors import GlczooError
from glczoo.files import whole
from glczoo.regions.virtual_files import (
    CLIMATE,
    FOOTPRINT,
    SOIL,
    surfaces,
    visits,
    write_climate,
    write_soil_and_footprint,
    write_table,
)
from glczoo.regions.virtual_world import AXES, NORTH, WEST, Flora, Grid, Landscape, bilinear

__all__ = ["make_sample_region", "true_probabilities"]

_SPECIES, _RECORDS, _SURVEYS, _SIZE, _SEED = 120, 8000, 1600, 96, 14
_STEP = 1 / 400  # degrees, a cell of the satellite raster: 278 m from north to south
_TRUTH = 60  # cells along a side of the map of true probabilities
_BLOCKS, _FOLDS = 6, 5  # squares along a side of the region, whose surveys are held out together
_PACKED: dict[str, Any] = {"compress": "deflate", "zlevel": 9, "interleave": "band"}  # of rasters

_BIO_UNITS = [*["0.1 K"] * 2, "0.1 %", "0.001 K", *["0.1 K"] * 7, *["0.1 kg m-2"] * 8]
_SOIL_UNITS = {
    **{"bdod": "cg/cm3", "cec": "mmol(c)/kg", "cfvo": "cm3/dm3", "clay": "g/kg", "nitrogen": "cg/kg"},
    **{"phh2o": "pH x 10", "sand": "g/kg", "silt": "g/kg", "soc": "dg/kg"},
}
# Epithets of species that want little and much of each axis.
_EPITHETS = {
    "temperature": (
        ("frigida", "nivalis", "borealis", "algida"),
        ("thermophila", "meridionalis", "tepida", "aestiva"),
    ),
    "moisture": (
        ("xerophila", "arida", "sabulosa", "siccata"),
        ("palustris", "uliginosa", "fontana", "hygrophila"),
    ),
    "reaction": (
        ("acidophila", "turfosa", "silicicola", "ericetorum"),
        ("calcarea", "calcicola", "cretacea", "dolomitica"),
    ),
    "nutrients": (
        ("oligotropha", "macilenta", "exigua", "sterilis"),
        ("nitrophila", "fertilis", "pinguis", "opulenta"),
    ),
    "disturbance": (
        ("remota", "recondita", "solitaria", "intacta"),
        ("ruderalis", "viaria", "urbana", "vicinalis"),
    ),
    "light": (
        ("umbrosa", "nemorosa", "sciaphila", "opaca"),
        ("heliophila", "aprica", "lucida", "campestris"),
    ),
}  # fmt: skip
_GENERA = (
    "Ardolvia Bremuntia Calovenna Dastriga Elvenora Fimbrosta Gelmaria Hostrava Ivrenda Jorvinda Kelmuria "
    "Lundrica Merovinta Nastelma Orvanda Pelmosta Quendria Rovelina Sartonela Tervania Ulmirta Velantria "
    "Wendoria Xelvinia Yarmosta Zeltria Brunavia Corvelma Drosanta Evernola Falmiria Grevonta"
).split()

_REGION = """\
# Made by python -m glczoo.regions.sample_region, all of it invented. truth/ holds what the species really do:
# probabilities.tif has a band for each species, named after it, and niches.csv says what each wants.
name: sample
description: An invented world to learn with, nothing in it is real
licence: none needed
root: .
bounds: {bounds}
patch_size: 16
modalities:
  - name: bioclim
    folder: {climate}
    resolution: 30 arc seconds (about 1 km)
    provenance: invented
    bands:
{climate_bands}
  - name: soil
    folder: {soil}
    resolution: 1 km
    provenance: invented
    bands:
{soil_bands}
  - name: satellite
    folder: EnvironmentalRasters/Satellite
    resolution: 0.0025 degrees (about 250 m)
    provenance: invented
    bands:
      - {{name: red, file: satellite.tif, index: 1, unit: 0-255}}
      - {{name: green, file: satellite.tif, index: 2, unit: 0-255}}
      - {{name: blue, file: satellite.tif, index: 3, unit: 0-255}}
      - {{name: nir, file: satellite.tif, index: 4, unit: 0-255}}
  - name: footprint
    folder: {footprint}
    resolution: 0.00989 degrees (about 1 km)
    provenance: invented
    bands:
      - {{name: hfp2009, file: HFP2009_WGS84.tif, unit: 0-50}}
tables:
  po: {{file: records.csv}}
  pa: {{file: surveys.csv}}
split: {{file: folds.csv, test: [0]}}
species: {{file: species.csv, name: species}}
"""


def make_sample_region(folder: Path) -> Path:
    """Write the sample region; the same bytes each time.

    Args:
        folder: must not be there. Written beside and renamed: it is whole or not there.

    Raises:
        GlczooError: there is something at `folder`.
    """
    if folder.exists():
        raise GlczooError("it is there already", where=folder, remedy="Name another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole(folder) as partial:
        _write(partial)
    return folder


def true_probabilities(lonlat: np.ndarray) -> np.ndarray:
    """The probability that a survey of a place finds each species, float64[N, K]."""
    land, flora, _ = _world()
    return flora.probability(land.at(lonlat))


def _world() -> tuple[Landscape, Flora, list[np.random.Generator]]:
    """Landscape, species, and the random numbers of all else."""
    streams = np.random.default_rng(_SEED).spawn(6)  # so that one part does not shift the others
    land = Landscape(_SIZE, streams[0])
    return land, Flora(_SPECIES, land, streams[1]), streams


def _write(folder: Path) -> None:
    land, flora, streams = _world()
    write_climate(folder / CLIMATE, land, streams[2])
    write_soil_and_footprint(folder, land, streams[2])
    _write_satellite(folder / "EnvironmentalRasters/Satellite/satellite.tif", land, streams[5])

    even, rng = land.even_places(_SURVEYS, streams[3]), streams[4]
    visited = land.visited_places(_RECORDS // 2, rng)
    lonlat = np.concatenate([even, visited])
    z, place_ids = land.at(lonlat), 1 + rng.permutation(len(lonlat))
    survey, kind = np.nonzero(flora.survey(z[:_SURVEYS], rng))
    header = "datasetName;year;dayOfYear;lon;lat;patchID;speciesId"
    day = rng.integers(60, 300, _SURVEYS)
    pa = visits(lonlat, place_ids, np.arange(_SURVEYS), day, ["inventory", "monitoring"], rng)
    rows = {name: column[survey] for name, column in pa.items()} | {"speciesId": flora.ids[kind]}
    write_table(folder / "surveys.csv", header, rows)
    place, kind = flora.records(z[_SURVEYS:], _RECORDS, rng)
    day = rng.integers(40, 330, len(place))
    po = visits(lonlat, place_ids, _SURVEYS + place, day, ["herbarium", "app"], rng)
    write_table(folder / "records.csv", header, po | {"speciesId": flora.ids[kind]})
    folds = {"patchID": place_ids[:_SURVEYS], "fold": _folds(even, rng)}
    write_table(folder / "folds.csv", "patchID;fold", folds)

    names = _names(flora, streams[1])
    write_table(folder / "species.csv", "speciesId;species", {"speciesId": flora.ids, "species": names})
    columns, table = flora.table()
    rounded = {key: values.round(4) for key, values in table.items()} | {"species": names}
    write_table(folder / "truth/niches.csv", columns.replace("speciesId", "speciesId;species"), rounded)
    _write_truth(folder / "truth/probabilities.tif", land, flora, names)
    (folder / "region.yaml").write_text(_region_yaml(), "utf-8")


def _write_satellite(path: Path, land: Landscape, rng: np.random.Generator) -> None:
    """Red, green, blue and near infrared: canopy, open ground and buildings in shares that light decides."""
    extent = land.cells.side * land.cells.step
    grid = Grid(WEST, NORTH, _STEP, round(extent / _STEP))
    centre = (np.arange(grid.side) + 0.5) * grid.step
    lat, lon = np.meshgrid(NORTH - centre, WEST + centre, indexing="ij")
    lonlat = np.stack([lon.ravel(), lat.ravel()], axis=1)
    z = bilinear(land.axes, land.cells.cells(lonlat)).T
    openness = np.zeros(len(lonlat))
    within = (np.arange(5) - 2) / 5 * grid.step  # light is averaged over 25 points of a cell
    for east in within:
        for north in within:
            light = z[:, AXES.index("light")] + land.light(lonlat + [east, north])
            openness += ((light + 2.2) / 4.4).clip(0, 1) / len(within) ** 2
    canopy, ground, built = surfaces(z)
    share = (0.05 * np.exp(z[:, AXES.index("disturbance")])).clip(0, 0.6)[:, None]
    plants = canopy + openness[:, None] * (ground - canopy)
    colours = (1 - share) * plants + share * built.mean(axis=0) + rng.normal(0, 2, plants.shape)
    values = colours.clip(0, 255).astype(np.uint8).T.reshape(4, grid.side, grid.side)
    corner = rasterio.Affine(grid.step, 0, WEST, 0, -grid.step, NORTH)
    write_geotiff(path, values, "EPSG:4326", corner, **_PACKED)


def _write_truth(path: Path, land: Landscape, flora: Flora, names: np.ndarray) -> None:
    """True probabilities that a survey finds each species, a band for each, in parts of 255."""
    lonlat = land.regular_places(_TRUTH)
    values = (255 * flora.probability(land.at(lonlat))).round().astype(np.uint8)
    step = np.ptp(lonlat[:, 0]) / (_TRUTH - 1)
    west, north = lonlat[0] + [-step / 2, step / 2]
    transform = rasterio.Affine(step, 0, west, 0, -step, north)
    planes = values.T.reshape(-1, _TRUTH, _TRUTH)
    write_geotiff(path, planes, "EPSG:4326", transform, names=names.tolist(), scale=1 / 255, **_PACKED)


def _folds(lonlat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The fold of each survey, int64[N]: neighbours are held out together."""
    low, extent = lonlat.min(axis=0), np.ptp(lonlat, axis=0)
    col, row = (_BLOCKS * (lonlat - low) / extent).clip(0, _BLOCKS - 1e-9).astype(int).T
    fold_of = rng.permutation(np.arange(_BLOCKS**2) % _FOLDS)
    return fold_of[row * _BLOCKS + col]


def _names(flora: Flora, rng: np.random.Generator) -> np.ndarray:
    """An invented name for each species, str[K]: its epithet says which axis it is most particular about."""
    slope = flora.optimum / flora.tolerance**2  # of the logit, where the axes have their mean
    axis = np.abs(slope).argmax(axis=1)
    names: list[str] = []
    for k, a in enumerate(axis.tolist()):
        epithets = _EPITHETS[AXES[a]][int(slope[k, a] > 0)]
        genus, epithet = rng.choice(_GENERA), rng.choice(epithets)
        while f"{genus} {epithet}" in names:
            genus, epithet = rng.choice(_GENERA), rng.choice(epithets)
        names.append(f"{genus} {epithet}")
    return np.array(names)


def _region_yaml() -> str:
    extent, band = round(_SIZE / 120, 6), "      - {{name: {}, file: {}, unit: {}}}".format
    bioclim = [band(f"bio{i}", f"bio{i}.tif", unit) for i, unit in enumerate(_BIO_UNITS, 1)]
    soil = [band(n, f"crop_proj_{n}_5-15cm_mean_1000.tif", unit) for n, unit in _SOIL_UNITS.items()]
    return _REGION.format(
        bounds=[WEST, round(NORTH - extent, 6), round(WEST + extent, 6), NORTH],
        climate=CLIMATE,
        climate_bands="\n".join(bioclim),
        soil=SOIL,
        soil_bands="\n".join(soil),
        footprint=FOOTPRINT,
    )


if __name__ == "__main__":
    print(make_sample_region(Path(sys.argv[1])))
