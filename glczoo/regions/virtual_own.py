"""Files of a made-up place as people have their own: rasters in folders, GBIF's download, a table of plots.

The landscape and its species are those of `virtual_world.py`. Nothing describes the files: they are there for
`glczoo region init` and all that comes after it.
"""

import csv
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glczoo.errors import GlczooError
from glczoo.files import new_folder
from glczoo.regions.virtual_files import CLIMATE, SOIL, write_climate, write_soil_and_footprint
from glczoo.regions.virtual_world import Flora, Landscape

__all__ = ["OwnFiles", "make_own_files"]

_GENERA = ("Virtua", "Ficta", "Simula", "Umbra", "Fabula", "Imago", "Larva", "Nebula", "Cantica", "Chimaera")
_EPITHETS = (
    "alba", "arvensis", "montana", "palustris", "vulgaris", "perennis", "rubra", "lutea", "minor", "major",
    "repens", "tenuis", "hirsuta", "glabra", "nana", "robusta", "pratensis", "sylvatica", "alpina",
    "maritima",
)  # fmt: skip
_RECORD = (  # of a "simple" download's columns
    "gbifID species scientificName occurrenceStatus decimalLatitude decimalLongitude "
    "coordinateUncertaintyInMeters eventDate day month year taxonKey speciesKey basisOfRecord issue"
).split()
_PLOT = ["plot", "date", "longitude", "latitude", "species"]
_SEA = (-30.0, 45.0)  # a place that no raster of such a region reaches


@dataclass(frozen=True)
class OwnFiles:
    """What was written."""

    folder: Path
    species: list[str]
    records: int
    plots: int


def make_own_files(
    folder: str | Path,
    *,
    species: int = 60,
    records: int = 4000,
    plots: int = 600,
    size: int = 128,
    seed: int = 0,
) -> OwnFiles:
    """Write `rasters/climate`, `rasters/soil`, `gbif.csv`, `plots.csv` and `points.csv`.

    `gbif.csv` is tab-separated with GBIF's columns: one record in ten is uncertain by 5 km, one in twenty is
    a preserved specimen, one in fifty has a flag of GBIF's. `plots.csv` has a row for each species of a plot.
    `points.csv` holds 20 places and one in the sea. The same arguments give the same bytes.

    Args:
        folder: must not exist, or be empty.
        species: how many, 2 to 200.
        records: presence-only records, more than there are species.
        plots: presence–absence surveys.
        size: cells of 30 arc seconds along one side, 32 to 1000.
        seed: another number, another place.

    Raises:
        ExistsError: the folder is not empty.
        GlczooError: an argument is out of range; all such are named.
    """
    most = len(_GENERA) * len(_EPITHETS)
    limits = {
        "species": (species, 2, most),
        "records": (records, species + 1, 10**6),
        "plots": (plots, 1, 10**6),
        "size": (size, 32, 1000),
        "seed": (seed, 0, 2**63),
    }
    wrong = [f"{name} = {n}, not in [{a}, {b}]" for name, (n, a, b) in limits.items() if not a <= n <= b]
    if wrong:
        raise GlczooError(f"no such place: {'; '.join(wrong)}")
    folder = Path(folder).resolve()
    names = [f"{genus} {epithet}" for epithet in _EPITHETS for genus in _GENERA][:species]
    with new_folder(folder) as partial:
        _write(partial, names, records, plots, size, seed)
    return OwnFiles(folder, names, records, plots)


def _write(folder: Path, names: Sequence[str], records: int, plots: int, size: int, seed: int) -> None:
    streams = np.random.default_rng(seed).spawn(5)
    land = Landscape(size, streams[0])
    flora = Flora(len(names), land, streams[1])
    made = folder / "rasters"
    made.mkdir(parents=True)
    write_climate(made / CLIMATE, land, streams[2])
    write_soil_and_footprint(made, land, streams[2])
    (made / CLIMATE).rename(made / "climate")
    (made / SOIL).rename(made / "soil")
    shutil.rmtree(made / Path(CLIMATE).parts[0])  # the footprint, and folders that are empty now

    even = land.even_places(plots + 20, streams[3])
    visited = land.visited_places((records - len(names) + 1) // 2, streams[4])
    _write_plots(folder / "plots.csv", names, flora, land, even[:plots], streams[3])
    _write_records(folder / "gbif.csv", names, flora.records(land.at(visited), records, streams[4]), visited)
    places = [*even[plots:].tolist(), _SEA]
    rows = [[f"place {i}", f"{lon:.5f}", f"{lat:.5f}"] for i, (lon, lat) in enumerate(places, 1)]
    _write_rows(folder / "points.csv", ["id", "lon", "lat"], rows, ",")


def _write_plots(
    path: Path,
    names: Sequence[str],
    flora: Flora,
    land: Landscape,
    lonlat: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """A row for each species of each plot."""
    days = _days(rng.integers(60, 300, len(lonlat)), rng.integers(2017, 2022, len(lonlat)))
    rows = [
        [f"plot {plot + 1}", days[plot], f"{lonlat[plot, 0]:.5f}", f"{lonlat[plot, 1]:.5f}", names[kind]]
        for plot, kind in zip(*np.nonzero(flora.survey(land.at(lonlat), rng)), strict=True)
    ]
    _write_rows(path, _PLOT, rows, ",")


def _write_records(
    path: Path, names: Sequence[str], drawn: tuple[np.ndarray, np.ndarray], lonlat: np.ndarray
) -> None:
    """Records as GBIF has them: `drawn` are positions of place and species."""
    rows = []
    for number, (place, kind) in enumerate(zip(*drawn, strict=True)):
        year, month, day = 2000 + number % 22, 4 + number % 6, 1 + number % 28
        uncertainty = 5000 if number % 10 == 7 else (5, 30, 250)[number % 3]
        basis = "PRESERVED_SPECIMEN" if number % 20 == 3 else "HUMAN_OBSERVATION"
        issue = "COORDINATE_ROUNDED" if number % 50 == 11 else ""
        rows.append(
            [
                4_000_000_000 + number, names[kind], f"{names[kind]} Made-up", "PRESENT",
                f"{lonlat[place, 1]:.5f}", f"{lonlat[place, 0]:.5f}", uncertainty,
                f"{year}-{month:02}-{day:02}", day, month, year, 10_000 + kind, 10_000 + kind, basis, issue,
            ]
        )  # fmt: skip
    _write_rows(path, _RECORD, rows, "\t")


def _days(day_of_year: np.ndarray, year: np.ndarray) -> list[str]:
    """Dates as ISO 8601 writes them."""
    start = (year - 1970).astype("datetime64[Y]").astype("datetime64[D]")
    return (start + (day_of_year - 1)).astype(str).tolist()


def _write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]], separator: str) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
