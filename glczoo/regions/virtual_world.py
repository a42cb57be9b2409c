"""The made-up world behind a virtual region: a landscape, and the species that live in it.

Shapes: axes[A, H, W] · lonlat[N, 2] · z[N, A] · probability[N, K], with A axes, N places, K species.

The world has six *axes* (`AXES`, after Ellenberg's indicator values), each with mean 0 and variance 1, and
species have their niches in them. `light` varies over hundreds of metres: of all data only the satellite
patch shows it well. `virtual.py` writes what the files of GeoLifeCLEF 2023 show of it.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio

from glczoo.data.raster_files import write_geotiff

__all__ = ["AXES", "Flora", "Grid", "Landscape", "Tile", "bilinear", "noise_field", "standard"]

AXES = ("temperature", "moisture", "reaction", "nutrients", "disturbance", "light")
"""Names of the axes, in order."""
WEST, NORTH, STEP = 5.0, 47.0, 1 / 120  # north-west corner of every world; 30 arc seconds
SIDE, PIXELS = 128, 11132  # pixels along a patch, and in a degree of latitude: 10 m each
_FINE = 0.9  # how much of light no raster knows: its share of the standard deviation


@dataclass(frozen=True)
class Grid:
    """Square cells of `step` degrees from a north-west corner, `side` x `side`."""

    west: float
    north: float
    step: float
    side: int

    def cells(self, lonlat: np.ndarray) -> np.ndarray:
        """Row and column of places, float64[2, N]; whole numbers are the north-west corners of cells."""
        return np.stack([self.north - lonlat[:, 1], lonlat[:, 0] - self.west]) / self.step

    def resample(self, fields: np.ndarray, source: "Grid") -> np.ndarray:
        """`fields[..., H, W]` of another grid at the centres of these cells."""
        steps = (np.arange(self.side) + 0.5) * self.step
        lat, lon = np.meshgrid(self.north - steps, self.west + steps, indexing="ij")
        cells = source.cells(np.stack([lon.ravel(), lat.ravel()], axis=1))
        return bilinear(fields, cells).reshape(*fields.shape[:-2], self.side, self.side)

    def write(self, path: Path, values: np.ndarray, nodata: float | None = None) -> None:
        """Write a GeoTIFF of one band. `nodata`: the value that means no data."""
        transform = rasterio.Affine(self.step, 0, self.west, 0, -self.step, self.north)
        write_geotiff(path, values[None], "EPSG:4326", transform, nodata=nodata, compress="deflate")


class Tile:
    """A periodic picture of 10 m pixels."""

    def __init__(self, picture: np.ndarray) -> None:
        """Repeat a square picture without end."""
        self.period = len(picture)
        self.wrapped = np.pad(picture, (0, SIDE), mode="wrap").astype(np.float32)

    def around(self, row: int, col: int) -> np.ndarray:
        """The 128 x 128 pixels that hold pixel (row, col) at [64, 64]."""
        top, left = (row - SIDE // 2) % self.period, (col - SIDE // 2) % self.period
        return self.wrapped[top : top + SIDE, left : left + SIDE]


class Landscape:
    """The axes as maps of 30 arc seconds, light finer; and where places may lie."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        """Draw a landscape of `size` x `size` cells."""

        def noise(length: float) -> np.ndarray:  # length in cells
            return noise_field(size, length, rng)

        self.cells = Grid(WEST, NORTH, STEP, size)
        # Soil and footprint have grids of their own, which reach over the edges of the climate's.
        soil, human = 0.0089831528, 0.00989
        self.soil_cells = Grid(WEST - 0.0031, NORTH + 0.0047, soil, round(size * STEP / soil) + 2)
        self.human_cells = Grid(WEST - 0.0072, NORTH + 0.0019, human, round(size * STEP / human) + 2)
        south = np.linspace(-1.5, 1.5, size)[:, None]
        self.relief = standard(noise(size / 14) + 0.5 * noise(size / 50))
        rows, cols = np.indices((size, size))
        towns = np.zeros((size, size))
        for rank, (row, col) in enumerate(size * rng.uniform(0.15, 0.85, (12, 2)), 1):
            towns += np.exp(-np.hypot(rows - row, cols - col) / (size * 0.05)) / rank
        temperature = standard(0.8 * south - self.relief + 0.3 * noise(size / 20))
        moisture = standard(0.6 * self.relief + noise(size / 16) + 0.4 * noise(2))
        reaction = standard(noise(size / 22) + 0.6 * noise(3))
        nutrients = standard(0.4 * reaction - 0.5 * self.relief + noise(size / 25) + 0.6 * noise(3))
        disturbance = standard(np.log(0.02 + towns) - 0.4 * self.relief + 0.4 * noise(3))
        light = np.sqrt(1 - _FINE**2) * standard(0.6 * disturbance - 0.5 * moisture + noise(4))
        self.axes = np.stack([temperature, moisture, reaction, nutrients, disturbance, light])
        # Two tiles whose periods have no common divisor: their sum does not repeat within the world.
        self.tiles = (
            Tile(0.8 * _FINE * noise_field(1024, 28, rng)),
            Tile(0.6 * _FINE * noise_field(1125, 9, rng)),
        )
        holes = self.soil_cells.resample(noise(size / 40), self.cells)
        self.holes = holes > np.quantile(holes, 0.98)  # lakes, which soil maps leave out

    def at(self, lonlat: np.ndarray) -> np.ndarray:
        """z[N, A] of places; light is that of their very pixel."""
        z = bilinear(self.axes, self.cells.cells(lonlat)).T
        z[:, -1] += [self.fine_light(*pixel)[SIDE // 2, SIDE // 2] for pixel in self.pixels(lonlat)]
        return z

    def pixels(self, lonlat: np.ndarray) -> list[list[int]]:
        """Row and column of places in pixels of 10 m, counted from the world's corner."""
        narrower = np.cos(np.radians(NORTH))
        offset = np.stack([NORTH - lonlat[:, 1], (lonlat[:, 0] - WEST) * narrower], axis=1)
        return (offset * PIXELS).astype(int).tolist()

    def fine_light(self, row: int, col: int) -> np.ndarray:
        """The part of light that no raster knows, float32[128, 128]; the pixel itself is at [64, 64]."""
        return self.tiles[0].around(row, col) + self.tiles[1].around(row, col)

    def light(self, lonlat: np.ndarray) -> np.ndarray:
        """The part of light that no raster knows, at many places, float64[N]."""
        row, col = np.array(self.pixels(lonlat)).T
        pictures = ((tile.wrapped, tile.period) for tile in self.tiles)
        return sum(picture[row % period, col % period] for picture, period in pictures)

    def even_places(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Places spread evenly, lonlat[num, 2], by Roberts' (2018) additive recurrence."""
        steps = np.arange(2 * num + 100)[:, None] * np.array([0.7548776662, 0.5698402910])
        return self._on_land((steps + rng.random(2)) % 1)[:num]

    def visited_places(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Places where people look for plants, lonlat[num, 2]: the more disturbed, the more often."""
        lonlat = self._on_land(rng.random((20 * num + 100, 2)))
        effort = 1.3 * bilinear(self.axes[4], self.cells.cells(lonlat)) + rng.gumbel(size=len(lonlat))
        return lonlat[np.argsort(-effort)[:num]]

    def regular_places(self, num: int) -> np.ndarray:
        """Centres of num x num equal parts of the land, row by row from the north-west, lonlat[num², 2]."""
        share = (np.arange(num) + 0.5) / max(num, 1)
        return self._lonlat(np.stack(np.meshgrid(share, share), axis=-1).reshape(-1, 2))

    def _lonlat(self, share: np.ndarray) -> np.ndarray:
        """Places at shares of the land's width and height; the outer eighth of the rasters is a margin."""
        margin, extent = self.cells.side // 8 * STEP, self.cells.side * STEP
        inside = margin + share * (extent - 2 * margin)
        return np.round(np.array([WEST, NORTH]) + inside * np.array([1, -1]), 6)  # as in the tables

    def _on_land(self, share: np.ndarray) -> np.ndarray:
        lonlat = self._lonlat(share)
        row, col = self.soil_cells.cells(lonlat).astype(int)
        return lonlat[~self.holes[row, col]]


class Flora:
    """Species with Gaussian logit niches (ter Braak & Looman 1986).

    The odds of a species are `odds[K]` at `optimum[K, A]` and fall with the distance from it in units of
    `tolerance[K, A]`.
    """

    def __init__(self, num: int, land: Landscape, rng: np.random.Generator) -> None:
        """Draw `num` species, as common as gives surveys of this landscape their size."""
        self.ids = np.arange(1, num + 1)
        self.ids[num // 2 :] += 1  # the real list has a gap too: a class is not its id less one
        self.optimum = rng.normal(0, 1, (num, len(AXES)))
        choosy = rng.normal(0, 0.7, (num, len(AXES)))  # about some axes more than about others
        choosy -= choosy.mean(axis=1, keepdims=True)
        self.tolerance = np.exp(rng.normal(-0.1, 0.25, (num, 1)) - choosy)  # specialists to generalists
        self.tolerance[:, -1] *= 0.6  # so that what only the satellite sees matters
        self.detectability = np.exp(rng.normal(0, 1.2, num))
        self.detectability /= self.detectability.max()
        wanted = 13 if num >= 100 else max(num / 8, 1.05)
        commonness, z = np.exp(rng.normal(0, 1.2, num)), land.at(land.even_places(1000, rng))
        low, high = -15.0, 15.0
        for _ in range(40):  # bisection for the factor that gives surveys their size
            middle = (low + high) / 2
            self.odds = commonness * np.exp(middle)
            too_many = self.probability(z).sum(axis=1).mean() > wanted
            low, high = (low, middle) if too_many else (middle, high)

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
        """Presence-only records at N places: positions of place and species, int64[num] each.

        Every species and every place has at least one; some places have many.
        """
        probability = self.probability(z)
        interest = np.log(probability * self.detectability) + rng.gumbel(size=probability.shape)
        liked = np.argsort(-interest, axis=1)  # at each place a draw without replacement
        more = (len(z) * rng.random(num - len(self.ids) - len(z)) ** 2).astype(int)
        place = np.sort(np.concatenate([np.arange(len(z)), more]))
        rank = np.arange(len(place)) - np.searchsorted(place, place)
        kind = np.concatenate([liked[place, rank % len(self.ids)], np.arange(len(self.ids))])
        place = np.concatenate([place, np.argmax(interest, axis=0)])  # and each species at a likely place
        row = rng.permutation(num)
        return place[row], kind[row]

    def table(self) -> tuple[str, dict[str, np.ndarray]]:
        """Header and columns of `truth/responses.csv`."""
        peak = self.odds / (1 + self.odds)
        table = {"speciesId": self.ids, "max_probability": peak, "detectability": self.detectability}
        table |= {f"optimum_{axis}": self.optimum[:, a] for a, axis in enumerate(AXES)}
        table |= {f"tolerance_{axis}": self.tolerance[:, a] for a, axis in enumerate(AXES)}
        return ";".join(table), table

    def _alone(self, z: np.ndarray) -> np.ndarray:
        """Probability[N, K] whether or not a survey finds anything."""
        distance = np.zeros((len(z), len(self.ids)))
        for a in range(len(AXES)):  # [N, K, A] at once would be large
            distance += ((z[:, a, None] - self.optimum[:, a]) / self.tolerance[:, a]) ** 2
        odds = self.odds * np.exp(-0.5 * distance)
        return (odds / (1 + odds)).clip(1e-9, 1 - 1e-9)


def standard(field: np.ndarray) -> np.ndarray:
    """The field with mean 0 and variance 1."""
    return (field - field.mean()) / field.std()


def noise_field(side: int, length: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth standard noise, float64[side, side], periodic; `length` is the smoothing's sigma in cells."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    damping = np.exp(-2 * (np.pi * length * frequency) ** 2)
    white = rng.standard_normal((side, side))
    return standard(np.fft.irfft2(np.fft.rfft2(white) * damping, s=(side, side)))


def bilinear(fields: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """`fields[..., H, W]` between the centres of their cells, [..., N]; level beyond the outermost."""
    last = np.array(fields.shape[-2:])[:, None] - 1
    at = (cells - 0.5).clip(0, last)
    low = np.minimum(at.astype(int), last - 1)
    (row, col), (down, right) = low, at - low
    upper = fields[..., row, col] * (1 - right) + fields[..., row, col + 1] * right
    lower = fields[..., row + 1, col] * (1 - right) + fields[..., row + 1, col + 1] * right
    return upper * (1 - down) + lower * down
