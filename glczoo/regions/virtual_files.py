"""What a virtual region's rasters, JPEG patches and tables look like, and how they are written.

Shapes: lonlat[N, 2] · z[N, A], with N places and A axes. Tables are written without pandas, which belongs to
the module that reads them.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio.warp
import torch
from torchvision.io import encode_jpeg

from glczoo.progress import Track
from glczoo.regions.virtual_world import SIDE, Landscape, Tile, noise_field, standard

__all__ = [
    "CLIMATE",
    "FOOTPRINT",
    "KELVIN",
    "SOIL",
    "Climate",
    "credits",
    "pictures",
    "soil_fields",
    "surfaces",
    "visits",
    "write_climate",
    "write_jpeg",
    "write_patches",
    "write_soil_and_footprint",
    "write_table",
]

_NODATA = -3.4028234663852886e38  # float-like: readers must compare with a tolerance
CLIMATE = "EnvironmentalRasters/Climate/BioClimatic_Average_1981-2010"
"""Folder of the climate's rasters, as in GeoLifeCLEF 2023."""
SOIL = "EnvironmentalRasters/Soilgrids"
"""Folder of the soil's rasters."""
FOOTPRINT = "EnvironmentalRasters/HumanFootprint/summarized"
"""Folder of the human footprint."""
KELVIN = 3.5
"""Of mean temperature, by one unit of the temperature axis."""

# Red, green, blue, near infrared of closed canopy and of open ground; then what one unit of each axis adds.
_CANOPY = (
    np.array([44, 56, 44, 150]),
    np.array([[4, 2, 2, -5], [-4, -1, -2, 12], [2, 3, 1, 0], [-3, 3, -3, 8], [0, 0, 0, 0], [0, 0, 0, 0]]),
)
_GROUND = (
    np.array([110, 106, 82, 162]),
    np.array([[7, 3, 1, -7], [-14, -2, -7, 18], [5, 5, 8, 0], [-6, 3, -6, 10], [3, 2, 3, -2], [0, 0, 0, 0]]),
)


@dataclass(frozen=True)
class Climate:
    """The year of a landscape, fields[H, W] that are noisy functions of its axes."""

    mean: np.ndarray  # K
    swing: np.ndarray  # half of the way from winter to summer, K
    daily: np.ndarray  # from night to day, K
    wet: np.ndarray  # 1: rain falls in summer, -1: in winter
    rain: np.ndarray  # mm a year
    uneven: np.ndarray  # share by which the wettest month exceeds the mean one

    @classmethod
    def of(cls, land: Landscape, rng: np.random.Generator) -> "Climate":
        """Draw the noise; a generator in the same state gives another climate the same."""
        noisy = _noisy(land, rng)
        temperature, moisture = land.axes[:2]
        mean = 273.15 + 9 + KELVIN * noisy(temperature, 0.1)
        swing = 9 + 0.8 * noisy(-land.relief, 0.5)
        daily = 9 - 1.2 * noisy(moisture)
        wet = np.tanh(noisy(land.relief, 1))
        rain = 950 * np.exp(0.3 * noisy(moisture))
        return cls(mean, swing, daily, wet, rain, 0.3 + 0.1 * np.tanh(noisy(temperature, 0.5)))

    def bioclim(self) -> list[np.ndarray]:
        """bio1 to bio19; the real files hold ten times these, in whole numbers."""
        mean, swing, daily, wet, rain, uneven = vars(self).values()
        top, bottom = mean + swing + daily / 2, mean - swing - daily / 2
        warmth = [top, bottom, top - bottom, mean + 0.5 * swing * wet, mean - 0.5 * swing * wet]
        warmth += [mean + 0.9 * swing, mean - 0.9 * swing]
        rains = [rain, rain / 12 * (1 + uneven), rain / 12 * (1 - uneven), 140 * uneven]
        rains += [rain / 4 * (1 + share * uneven) for share in (0.9, -0.9, -0.5 * wet, 0.5 * wet)]
        return [mean, daily, 100 * daily / (top - bottom), 70 * swing, *warmth, *rains]


def write_climate(folder: Path, land: Landscape, rng: np.random.Generator) -> None:
    """bio1 to bio19 as correlated, noisy and curved functions of the axes, in the units of the real files.

    A generator in the same state gives another climate the same noise.
    """
    for number, field in enumerate(Climate.of(land, rng).bioclim(), 1):
        values = np.round(10 * field * (1 + 0.001 * noise_field(land.cells.side, 1, rng)))
        land.cells.write(folder / f"bio{number}.tif", values.astype(np.uint16))


def soil_fields(land: Landscape, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What soil maps would show, fields[H, W] by the names of SoilGrids, in its units."""
    noisy = _noisy(land, rng)
    temperature, moisture, reaction, nutrients = land.axes[:4]
    texture = noisy(standard(reaction + noisy(-land.relief, 1)))
    clay, silt = 230 + 70 * np.tanh(texture), 380 + 60 * np.tanh(noisy(texture + moisture))
    carbon = 300 * np.exp(0.4 * noisy(moisture - 0.5 * temperature))
    return {
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


def write_soil_and_footprint(folder: Path, land: Landscape, rng: np.random.Generator) -> None:
    """Nine soil rasters, on a grid of their own and with holes, and the human footprint."""
    for name, field in soil_fields(land, rng).items():
        values = np.where(land.holes, _NODATA, land.soil_cells.resample(field, land.cells).round(1))
        path = folder / SOIL / f"crop_proj_{name}_5-15cm_mean_1000.tif"
        land.soil_cells.write(path, values.astype(np.float32), _NODATA)
    noisy = _noisy(land, rng)
    pressure = land.human_cells.resample(12 + 9 * noisy(land.axes[4]), land.cells).clip(0, 50)
    land.human_cells.write(folder / FOOTPRINT / "HFP2009_WGS84.tif", pressure.astype(np.float32), _NODATA)


def _noisy(land: Landscape, rng: np.random.Generator) -> Callable[..., np.ndarray]:
    """A function that adds a share of smooth noise to a field."""

    def noisy(field: np.ndarray, share: float = 0.25) -> np.ndarray:
        return field + share * noise_field(land.cells.side, 1.5, rng)

    return noisy


def pictures(
    land: Landscape, lonlat: np.ndarray, z: np.ndarray, rng: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Red, green, blue and near infrared around each place, uint8[4, 128, 128] of 10 m.

    Light at each pixel picks a colour from the place's palette: 200 from closed canopy to open ground, which
    warmth, moisture and soil tint, then 56 of buildings, which disturbance multiplies.
    """
    shade = np.linspace(0, 1, 200)[:, None]
    canopy, ground, built = surfaces(z)
    share_built = (0.05 * np.exp(z[:, 4])).clip(0, 0.6)
    texture, blocks = (
        Tile(noise_field(1024, 0.8, rng)),
        Tile(np.kron(rng.random((128, 128)), np.ones((8, 8)))),
    )
    for i, (row, col) in enumerate(land.pixels(lonlat)):
        fine, rough = land.fine_light(row, col), texture.around(row, col)
        light = z[i, 5] + fine - fine[SIDE // 2, SIDE // 2]
        openness = ((light + 2.2) / 4.4).clip(0, 1)
        plants = (199 * openness + rough * (18 - 12 * openness)).clip(0, 199)
        houses = (228 + 9 * rough).clip(200, 255)
        colour = np.where(blocks.around(row, col) < share_built[i], houses, plants).astype(np.uint8)
        palette = np.concatenate([canopy[i] + shade * (ground[i] - canopy[i]), built]).clip(0, 255)
        yield torch.from_numpy(np.take(palette.astype(np.uint8).T, colour, axis=1))  # contiguous


def write_jpeg(folder: Path, patch_id: int, planes: torch.Tensor) -> None:
    """Write `planes`, uint8[1 or 3, H, W], to a tree of patches, CD/AB/XXXXABCD.jpeg."""
    name = str(patch_id)
    path = folder / name[-2:] / name[-4:-2] / f"{name}.jpeg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_jpeg(planes, quality=80).numpy().tobytes())


def write_patches(
    folder: Path,
    land: Landscape,
    lonlat: np.ndarray,
    z: np.ndarray,
    patch_ids: np.ndarray,
    rng: np.random.Generator,
    progress: bool,
) -> None:
    """Write two JPEG files for each place."""
    bar = Track(patch_ids.tolist(), title="patches", unit="patches", hidden=not progress)
    for image, patch_id in zip(pictures(land, lonlat, z, rng), bar, strict=True):
        for tree, planes in (("rgb", image[:3]), ("nir", image[3:])):
            write_jpeg(folder / tree, patch_id, planes)


def surfaces(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Red, green, blue and near infrared of canopy[N, 4] and ground[N, 4] at places, of buildings[56, 4]."""
    canopy, ground = (base + z @ tint for base, tint in (_CANOPY, _GROUND))
    return canopy, ground, np.linspace([85, 82, 80, 75], [165, 160, 155, 125], 56)


def visits(
    lonlat: np.ndarray,
    patch_ids: np.ndarray,
    place: np.ndarray,
    day: np.ndarray,
    sources: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Columns of visits to places; the last of the sources writes dates as Unix seconds.

    `place`: position of each visit's place; `day`: of the year.
    """
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


def credits(species_ids: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Columns of records: which species, found by whom."""
    num = len(species_ids)
    observers = np.array(["", "Virtual botanist", "Pair, A. Anna;Pair, B. Bo"])  # one holds the separator
    return {
        "glcID": 5_000_000 + rng.permutation(num),
        "gbifID": np.where(rng.random(num) < 0.3, "", (3e9 + rng.permutation(num)).astype(str)),
        "observer": rng.choice(observers, num),
        "speciesId": species_ids,
    }


def write_table(path: Path, header: str, columns: Mapping[str, np.ndarray], separator: str = ";") -> None:
    """Write the columns that the `header` names, with the `separator` that stands in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = header.split(separator)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(zip(*(columns[name].tolist() for name in names), strict=True))
