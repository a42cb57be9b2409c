"""The invented world in the files of GeoLifeCLEF 2024: for each survey cubes, patches and rows of tables.

Shapes: z[N, A] of the axes at N surveys · cubes [4, 19, 12] (variable, year, month) and [6, 4, 21] (band,
quarter, year) · patches [4, 128, 128] as JPEG, [4, 64, 64] as TIFF · values[N, V].

Layout: geolifeclef-2024 on Kaggle, whose JPEG patches GeoLifeCLEF 2025 replaced by TIFFs; both are here. Each
file shows some of the axes, with noise: monthly climate temperature and moisture, tables all but light,
Landsat light, temperature and moisture dimly, Sentinel-2 light well.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.warp import transform

from glczoo import packaged
from glczoo.data.raster_files import write_geotiff
from glczoo.data.region import Region
from glczoo.progress import Track
from glczoo.regions.virtual_files import Climate, pictures, soil_fields, write_jpeg, write_table
from glczoo.regions.virtual_world import Landscape, bilinear

__all__ = [
    "BLIND",
    "RECORDS",
    "SOLUTION",
    "SURVEYS",
    "Survey",
    "region_text",
    "write_inputs",
    "write_solution",
    "write_tables",
]

SURVEYS = "GLC24_PA_metadata_train.csv"
"""Presence-absence surveys, a row for each species of one."""
RECORDS = "GLC24_P0_metadata_train.csv"
"""Presence-only records; Kaggle's spelling, with a zero."""
BLIND = "GLC24_PA_metadata_test.csv"
"""The surveys to be predicted."""
SOLUTION = "GLC24_SOLUTION_FILE.csv"
"""What they found: surveyId,target_species_ids."""
_VALUES = "EnvironmentalRasters/EnvironmentalRasters"
_CUBES = "TimeSeries-Cubes/TimeSeries-Cubes"
_PLACE = "lon,lat,year,geoUncertaintyInM,areaInM2,region,country"
_RECORD = "publisher,year,month,day,lat,lon,geoUncertaintyInM,taxonRank,date,dayOfYear,speciesId,surveyId"
_FOOTPRINT = [
    *("Built1994", "Built2009", "HFP1993", "HFP2009", "Lights1994", "Lights2009", "NavWater1994"),
    *("NavWater2009", "Pasture1993", "Pasture2009", "Popdensity1990", "Popdensity2010", "Railways", "Roads"),
    *("croplands1992", "croplands2005"),
]
_GAPS = 0.02  # share of the cells of a table of values that are blank, and of Landsat's quarters
_YEARS, _QUARTER_YEARS = 19, 21
# Red, green, blue, near infrared and two of short waves, 0-255, of closed canopy; then what one unit of
# openness and of each axis adds, and what spring, summer, autumn and winter do to it.
_LANDSAT = np.array([12, 16, 7, 86, 52, 24])
_OPEN = np.array([11, 9, 6, -14, 22, 15])
_TINT = np.array([[1, 0, 0, -3, 3, 2], [-2, -1, -1, 7, -7, -4], [1, 1, 1, 0, 2, 1], [-1, 1, 0, 4, -1, 0]])
_SEASON = np.array([[1, 0, 1, -12, 2, 3], [-2, 1, -1, 9, -2, -2], [-1, 0, 0, 4, 0, -1], [2, -1, 0, -4, 0, 1]])


@dataclass(frozen=True)
class Survey:
    """Surveys or places of records of one of the benchmark's groups."""

    group: str  # PA-train, PA-test, PO-train: part of the files' names
    ids: np.ndarray  # int64[N]: surveyId
    lonlat: np.ndarray  # float64[N, 2]
    z: np.ndarray  # float64[N, A]

    @property
    def trees(self) -> tuple[str, str]:
        """Folders of the JPEG patches, colour and near infrared."""
        who, part = self.group.split("-")
        name = f"{who}_{part.title()}_SatellitePatches"
        inner = f"{who}_{part}_patches".lower()
        return f"{name}_RGB/{inner}_rgb", f"{name}_NIR/{inner}_nir"


def write_inputs(
    folder: Path, land: Landscape, groups: list[Survey], rng: np.random.Generator, progress: bool
) -> None:
    """Write the tables of values, the cubes and the patches of every one of `groups`."""
    climate, soil = Climate.of(land, rng), soil_fields(land, rng)
    anomaly = rng.normal(0, 0.6, (_YEARS, 12)) + np.linspace(-0.4, 0.4, _YEARS)[:, None]  # K, everywhere
    wetness = np.exp(rng.normal(0, 0.25, (_YEARS, 12)))  # times the rain of a mean year
    for group in groups:
        cells = land.cells.cells(group.lonlat)
        _write_values(folder, group, land, climate, soil, cells, rng)
        here = Climate(*(bilinear(field, cells) for field in vars(climate).values()))
        monthly = _monthly_climate(here, anomaly, wetness, rng)
        seasons = _landsat_seasons(group.z, rng)
        images = pictures(land, group.lonlat, group.z, rng)
        x, y = transform("EPSG:4326", "EPSG:3035", *group.lonlat.T)
        bar = Track(group.ids.tolist(), title=group.group, unit="surveys", hidden=not progress)
        for i, (image, survey) in enumerate(zip(images, bar, strict=True)):
            _write_cube(folder, group.group, "bioclimatic_monthly", survey, monthly[i])
            _write_cube(folder, group.group, "landsat_time_series", survey, seasons[i])
            for tree, planes in zip(group.trees, (image[:3], image[3:]), strict=True):
                write_jpeg(folder / tree, survey, planes)
            _write_tiff(folder / "SatelitePatches" / group.group, survey, image, (x[i], y[i]))


def _monthly_climate(
    here: Climate, anomaly: np.ndarray, wetness: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Monthly pr (0.01 kg m-2), tas, tasmax and tasmin (0.1 K) at N places, float32[N, 4, 19, 12].

    Args:
        here: fields[N] of the mean year at the places.
        anomaly: K, [19, 12].
        wetness: factor of the rain, [19, 12].
        rng: of what each place and month adds.
    """
    number = len(here.mean)
    month = np.cos(2 * np.pi * (np.arange(12) - 6) / 12)  # 1 in July
    warmth = (here.mean[:, None] + here.swing[:, None] * month)[:, None]
    tas = warmth + anomaly + rng.normal(0, 0.2, (number, _YEARS, 12))
    half = (here.daily / 2)[:, None, None]
    share = 1 + here.uneven[:, None] * here.wet[:, None] * month
    rain = (here.rain[:, None] / 12 * share)[:, None] * wetness
    rain *= np.exp(rng.normal(0, 0.1, (number, _YEARS, 12)))
    cubes = np.stack([100 * rain, 10 * tas, 10 * (tas + half), 10 * (tas - half)], axis=1)
    return np.round(cubes).astype(np.float32)


def _landsat_seasons(z: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reflectances by quarter and year, float32[N, 6, 4, 21] of 0-255, NaN where clouds hid a quarter.

    A pixel of 30 m mixes the light of its neighbours, and a warmer place is greener in winter.
    """
    light = z[:, 5] + rng.normal(0, 0.5, len(z))
    openness = ((light + 2.2) / 4.4).clip(0, 1)
    still = _LANDSAT + openness[:, None] * _OPEN + z[:, :4] @ _TINT
    season = _SEASON * (1 - 0.25 * z[:, 0].clip(-2, 2))[:, None, None]
    cubes = (still[:, None] + season).transpose(0, 2, 1)[..., None]
    cubes = cubes + rng.normal(0, 2, (len(z), 6, 4, _QUARTER_YEARS))
    hidden = rng.random((len(z), 1, 4, _QUARTER_YEARS)) < _GAPS
    return np.where(hidden, np.nan, np.round(cubes).clip(0, 255)).astype(np.float32)


def _write_values(
    folder: Path,
    group: Survey,
    land: Landscape,
    climate: Climate,
    soil: Mapping[str, np.ndarray],
    cells: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Write the five tables of values of a group, at `cells` of the landscape; some of theirs are blank."""
    temperature, moisture, reaction, nutrients, disturbance, _ = group.z.T

    def noise(number: int) -> np.ndarray:
        return rng.normal(0, 0.5, (number, len(group.ids)))

    elevation = 600 + 350 * bilinear(land.relief, cells)
    cover = np.stack([moisture, -temperature, temperature, -moisture, reaction, nutrients, disturbance])
    cover = np.concatenate([cover, disturbance + noise(1), noise(4)]) + noise(12)
    share = 100 * np.exp(cover) / np.exp(cover).sum(0)
    tables = {
        "Climate/Average 1981-2010/{}-bioclimatic": {
            f"Bio{i}": np.round(10 * bilinear(field, cells)) for i, field in enumerate(climate.bioclim(), 1)
        },
        "Elevation/{}-elevation": {"Elevation": np.round(elevation)},
        "Human Footprint/{}-human_footprint": dict(
            zip(
                [f"HumanFootprint-{name}" for name in _FOOTPRINT],
                (4 + 2 * disturbance + 4 * noise(len(_FOOTPRINT))).clip(0, 10).round(2),
                strict=True,
            )
        ),
        "LandCover/{}-landcover": {
            f"LandCover-{i}": column for i, column in enumerate([*share.round(1), share.max(0).round()], 1)
        },
        "SoilGrids/{}-soilgrids": {
            f"Soilgrid-{name}": bilinear(field, cells).round(1) for name, field in soil.items()
        },
    }
    for name, columns in tables.items():
        blank = rng.random((len(columns), len(group.ids))) < _GAPS
        texts = {
            column: np.where(gap, "", values.astype(str))
            for (column, values), gap in zip(columns.items(), blank, strict=True)
        }
        path = folder / _VALUES / f"{name.format('GLC24-' + group.group)}.csv"
        write_table(path, ",".join(["surveyId", *columns]), {"surveyId": group.ids, **texts}, ",")


def write_tables(
    folder: Path,
    surveys: Mapping[str, np.ndarray],
    records: Mapping[str, np.ndarray],
    blind: Mapping[str, np.ndarray],
) -> None:
    """Write the metadata: PA with a row for each species, PO, and PA to be predicted.

    Args:
        folder: of the region.
        surveys: columns of the rows of PA, as `virtual_files.visits` names them, speciesId and surveyId.
        records: of PO; the patchID is the surveyId.
        blind: of the surveys of the test table, in the same way.
    """
    records = dict(records) | {"surveyId": records["patchID"]}
    blind = dict(blind) | {"surveyId": blind["patchID"]}
    for file, header, table in (
        (SURVEYS, f"{_PLACE},speciesId,surveyId", surveys),
        (BLIND, f"{_PLACE},surveyId", blind),
    ):
        number = table["surveyId"]
        columns = dict(table) | {
            "geoUncertaintyInM": np.array([0.0, 5.0, 10.0])[number % 3],
            "areaInM2": np.array([79.0, 100.0, np.inf])[number % 3],
            "region": np.where(table["lat"] > np.median(table["lat"]), "NORTH", "SOUTH"),
            "country": np.full(len(number), "Nowhere"),
        }
        if "speciesId" in columns:
            columns["speciesId"] = columns["speciesId"].astype(float)  # as the real file writes them
        write_table(folder / file, header, columns, ",")
    day = records["dayOfYear"]
    date = (records["year"] - 1970).astype("datetime64[Y]").astype("datetime64[D]") + (day - 1)
    texts = date.astype(str)
    columns = dict(records) | {
        "publisher": np.array(["Pl@ntNet", "iNaturalist", "Observation.org"])[records["surveyId"] % 3],
        "month": np.array([int(text[5:7]) for text in texts]),
        "day": np.array([int(text[8:]) for text in texts]),
        "geoUncertaintyInM": np.array([3.0, 10.0, 50.0])[records["surveyId"] % 3],
        "taxonRank": np.full(len(day), "SPECIES"),
        "date": texts,
        "speciesId": records["speciesId"].astype(float),
    }
    write_table(folder / RECORDS, _RECORD, columns, ",")


def write_solution(path: Path, ids: np.ndarray, species: np.ndarray) -> None:
    """Write surveyId,target_species_ids of rows: `ids`[n] of surveys, `species`[n] of what each row found."""
    surveys, first = np.unique(ids, return_index=True)
    surveys = surveys[np.argsort(first)]
    sets = np.array([" ".join(map(str, species[ids == survey].tolist())) for survey in surveys])
    table = {"surveyId": surveys, "target_species_ids": sets}
    write_table(path, "surveyId,target_species_ids", table, ",")


def region_text(numbers: Mapping[str, int], bounds: list[float]) -> str:
    """`region.yaml`: that of GeoLifeCLEF 2024 with another name, and with the TIFFs of 2025.

    Args:
        numbers: arguments of `make_virtual`.
        bounds: west, south, east, north in degrees.
    """
    counts = "{species} species, {po} presence-only records, {pa} surveys".format(**numbers)
    regions = packaged.folder("recipes") / "regions"
    described, with_tiffs = (Region.load(regions / f"{name}.yaml") for name in ("glc24", "glc25"))
    patches = next(modality for modality in with_tiffs.modalities if modality.name == "sentinel")
    described = described.model_copy(
        update={
            "name": "virtual24",
            "description": f"Virtual, nothing in it is real: {counts}",
            "licence": "none needed",
            "bounds": tuple(bounds),
            "patch_size": numbers["patch_size"],
            "modalities": [patches if m.name == patches.name else m for m in described.modalities],
            "tests": {},
        }
    )
    made = "# Made by glczoo region make-virtual --layout glc24; truth/ holds what the species really do."
    return f"{made}\nroot: .\n{described.text()}"


def _write_cube(folder: Path, group: str, kind: str, survey: int, cube: np.ndarray) -> None:
    """Write a cube as the benchmark's: non-contiguous, training Landsat with hyphens in the file's name."""
    spelt = "landsat-time-series" if (kind, group[-5:]) == ("landsat_time_series", "train") else kind
    path = folder / _CUBES / f"GLC24-{group}-{kind}" / f"GLC24-{group}-{spelt}_{survey}_cube.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()  # on a full disk torch's writer may end the process
    torch.save(torch.from_numpy(np.ascontiguousarray(cube.transpose(0, 2, 1))).transpose(1, 2), file)
    path.write_bytes(file.getvalue())


def _write_tiff(tree: Path, survey: int, image: torch.Tensor, place: tuple[float, float]) -> None:
    """Write the middle of a patch as reflectances, 64 x 64 of 10 m in LAEA Europe."""
    name = str(survey)
    path = tree / name[-2:] / name[-4:-2] / f"{name}.tiff"
    values = (image[:, 32:96, 32:96].to(torch.int16) * 24).numpy()
    corner = rasterio.Affine(10, 0, round(place[0], -1) - 320, 0, -10, round(place[1], -1) + 320)
    write_geotiff(path, values, "EPSG:3035", corner, nodata=-1, compress="lzw", interleave="pixel")
