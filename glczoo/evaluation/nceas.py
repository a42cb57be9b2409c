"""The NCEAS benchmark: trained on presence-only records, judged by surveys. `glczoo study` with `benchmark`.

Elith et al. 2020 (doi:10.17161/bi.v15i2.13384) give, for six regions, records and random places with the
values of covariates there, and presence-absence surveys of the same species. A folder for each region holds

    po.csv            siteid, spid, group, x, y, values: a record a row
    background.csv    siteid, x, y, values: random places
    env_GROUP.csv     siteid, x, y, values of the surveys of a group of species
    pa_GROUP.csv      siteid, x, y, a column 0/1 for each species, rows as in env_GROUP.csv

A study file names the regions, their CRS, which values are categories, and what others published:

    name: nceas
    benchmark: nceas
    seeds: [0, 1, 2]
    regions:
      can: {crs: "EPSG:4008", categorical: [ontveg], published: {MaxEnt: 0.718}}

Surveys choose nothing: they are read when a region's model is finished, and only its AUC is computed from
them.
"""

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from glczoo.data.occurrences import Points
from glczoo.data.rasters import project
from glczoo.data.region import Strict, parse, read_yaml
from glczoo.data.region_sections import Name
from glczoo.data.sphere import east_north
from glczoo.errors import GlczooError, MissingError
from glczoo.evaluation.evaluate import markdown
from glczoo.files import lock, whole, will_write
from glczoo.json_text import read_json
from glczoo.metrics import ranking
from glczoo.recipe import override
from glczoo.training.presence_only import Sites, Suitability, fit_suitability

__all__ = ["Benchmark", "BenchmarkTable", "RegionScore", "is_benchmark", "run_benchmark"]

_OWN_COLUMNS = {"siteid", "spid", "group", "x", "y"}


class BenchmarkRegion(Strict):
    """One region of the benchmark: a line."""

    crs: str = Field(description="of x and y, as PROJ knows it")
    categorical: list[str] = Field(default=[], description="columns whose values are categories")
    published: dict[str, float] = Field(default={}, description="mean AUC of others' models, by a name")


class Benchmark(Strict):
    """The file of the study."""

    name: Name = Field(description="folder of the results, inside of runs")
    benchmark: Literal["nceas"] = Field(description="which benchmark")
    seeds: list[int] = Field(default=[0], min_length=1, description="every region is fitted once by each")
    root: str | None = Field(
        default=None, description="folder of the regions' folders; null: GLCZOO_DATA, else here"
    )
    runs: str = Field(default="runs", description="folder for the results")
    regions: dict[Name, BenchmarkRegion] = Field(min_length=1)

    @property
    def folder(self) -> Path:
        """Where the regions' folders lie."""
        return Path(self.root or os.environ.get("GLCZOO_DATA", "."))


@dataclass(frozen=True)
class RegionScore:
    """A region's model by one seed."""

    region: str
    seed: int
    species: int
    sites: int  # places of the records
    surveys: int
    blocks: int
    auc_held_out: float  # of held-out records against the target group, by the chosen mean
    auc: float  # of surveys, mean over species
    auc_each: dict[str, float]  # by species
    weights: dict[str, float]
    candidates: dict[str, float]  # AUC of held-out records
    seconds: float


@dataclass(frozen=True)
class BenchmarkTable:
    """What the benchmark measured, beside what others published."""

    name: str
    published: dict[str, dict[str, float]]  # by region
    each: list[RegionScore]

    def to_json(self) -> dict[str, Any]:
        """What `table.json` holds."""
        return {"name": self.name, "published": self.published, "each": [vars(score) for score in self.each]}

    def markdown(self) -> str:
        """A row for each region: mean over seeds ± standard deviation."""
        names = list(dict.fromkeys(name for values in self.published.values() for name in values))
        rows = []
        for region, published in self.published.items():
            scores = [score for score in self.each if score.region == region]
            aucs = [score.auc for score in scores]
            spread = f" ± {stdev(aucs):.4f}" if len(aucs) > 1 else ""
            rows.append(
                {
                    "region": region,
                    "species": scores[0].species,
                    "sites": scores[0].sites,
                    "surveys": scores[0].surveys,
                    "held_out": mean(score.auc_held_out for score in scores),
                    "auc": f"{mean(aucs):.4f}{spread}",
                    "seconds": f"{mean(score.seconds for score in scores):.0f}",
                    **published,
                }
            )
        columns = {
            "region": "region",
            "species": "species",
            "sites": "places of records",
            "surveys": "surveys",
            "held_out": "AUC, held-out records",
            "auc": "AUC, surveys",
            **{name: name for name in names},
            "seconds": "seconds",
        }
        return markdown(rows, columns)


def is_benchmark(path: Path) -> bool:
    """Whether a study's file describes a benchmark rather than a grid of recipes."""
    return "benchmark" in read_yaml(path)


def run_benchmark(path: Path, overrides: Sequence[str] = ()) -> BenchmarkTable:
    """Train on the records of every region, judge by its surveys, and write `table.json` and `table.md`.

    What is finished is kept: the same command goes on where it was.

    Args:
        path: the study's file.
        overrides: `key=value` for its keys, such as `seeds=[0]`.

    Raises:
        MissingError: a file of a region is not there.
        GlczooError: the study's file is wrong, or a region's files do not fit each other.
    """
    study = parse(Benchmark, override(read_yaml(path), list(overrides)), str(path))
    out = Path(study.runs) / study.name
    will_write(out, folder=True)
    with lock(out / "table.json"):
        out.mkdir(parents=True, exist_ok=True)
        return _run_benchmark(study, out)


def _run_benchmark(study: Benchmark, out: Path) -> BenchmarkTable:
    """Run it in a folder in which no other process works."""
    each = []
    for name, region in study.regions.items():
        for seed in study.seeds:
            kept = out / f"{name}_seed{seed}.json"
            if not kept.exists():
                score = _score(name, region, study.folder / name, seed)
                with whole(kept) as partial:
                    partial.write_text(json.dumps(vars(score), indent=1), "utf-8")
                print(f"{name}, seed {seed}: AUC {score.auc:.4f}, {score.seconds:.0f} s", flush=True)
            each.append(_kept_score(kept))
    table = BenchmarkTable(study.name, {name: r.published for name, r in study.regions.items()}, each)
    for file, text in (("table.json", json.dumps(table.to_json(), indent=1)), ("table.md", table.markdown())):
        with whole(out / file) as partial:
            partial.write_text(text, "utf-8")
    return table


def _kept_score(path: Path) -> RegionScore:
    values = read_json(path)
    try:
        return RegionScore(**values)
    except TypeError:
        raise GlczooError("it is no score of this benchmark: delete it", where=path) from None


def _score(name: str, region: BenchmarkRegion, folder: Path, seed: int) -> RegionScore:
    records = _read(folder / "po.csv")
    background = _read(folder / "background.csv")
    species, number_of = np.unique(records["spid"], return_inverse=True)
    groups, group_of = np.unique(records["group"], return_inverse=True)
    group = np.zeros(len(species), np.int64)
    group[number_of] = group_of
    covariates = _Covariates.of(records, region.categorical)
    places = _points(records, region.crs)
    middle = (float(places.lon.mean()), float(places.lat.mean()))
    sites = Sites.of(
        places,
        number_of,
        len(species),
        covariates(records),
        middle=middle,
        groups=group,
        levels=covariates.levels,
    )
    fitted = fit_suitability(
        sites, _points(background, region.crs), seed, log=lambda text: print(f"  {name}: {text}", flush=True)
    )
    auc_each, surveys = _judge(fitted, folder, region, covariates, middle, sites.length, groups, species)
    return RegionScore(
        region=name,
        seed=seed,
        species=len(species),
        sites=len(sites.points),
        surveys=surveys,
        blocks=fitted.blocks.number,
        auc_held_out=fitted.auc,
        auc=mean(auc_each.values()),
        auc_each=auc_each,
        weights={c.name: c.weight for c in fitted.candidates if c.weight},
        candidates={c.name: c.auc for c in fitted.candidates},
        seconds=fitted.seconds,
    )


def _judge(
    fitted: Suitability,
    folder: Path,
    region: BenchmarkRegion,
    covariates: "_Covariates",
    middle: tuple[float, float],
    length: float,
    groups: np.ndarray,
    species: np.ndarray,
) -> tuple[dict[str, float], int]:
    """AUC of every species over the surveys of its group, and the number of surveys."""
    auc_each: dict[str, float] = {}
    number = 0
    for group in groups:
        values, presence = _read(folder / f"env_{group}.csv"), _read(folder / f"pa_{group}.csv")
        if values["siteid"].tolist() != presence["siteid"].tolist():
            raise GlczooError(
                f"{folder}: the rows of env_{group}.csv and pa_{group}.csv are not the same sites"
            )
        plane = east_north(_points(values, region.crs), middle) / length
        x = torch.from_numpy(np.concatenate([covariates(values), plane], axis=1).astype(np.float32))
        with torch.inference_mode():
            ranks = torch.cat([fitted.model(part[:, :, None, None]) for part in x.split(1024)])
        known = [(k, name) for k, name in enumerate(species) if name in presence]
        target = torch.from_numpy(np.stack([presence[name].astype(np.float64) > 0 for _, name in known], 1))
        auc: Tensor = ranking(ranks[:, [k for k, _ in known]], target, min_presences=1).auc
        auc_each |= {
            str(name): value for (_, name), value in zip(known, auc.tolist(), strict=True) if value == value
        }
        number += len(x)
    return auc_each, number


@dataclass(frozen=True)
class _Covariates:
    """Columns of values as normalised channels; a category is a channel of 0 and 1 for each of its levels."""

    numeric: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    categories: dict[str, np.ndarray]

    @classmethod
    def of(cls, records: dict[str, np.ndarray], categorical: Sequence[str]) -> "_Covariates":
        """Of the values at records.

        Raises:
            GlczooError: a category is no column.
        """
        names = [name for name in records if name not in _OWN_COLUMNS]
        if unknown := sorted(set(categorical) - set(names)):
            raise GlczooError(f"categorical names {unknown}, the values are {names}")
        numeric = tuple(name for name in names if name not in categorical)
        values = np.stack([_numbers(records[name]) for name in numeric], axis=1)
        std = np.nanstd(values, axis=0)
        levels = {name: _numbers(records[name]) for name in categorical}
        return cls(
            numeric,
            np.nanmean(values, axis=0),
            np.where(std > 0, std, 1.0),
            {name: np.unique(each[~np.isnan(each)]) for name, each in levels.items()},
        )

    @property
    def levels(self) -> tuple[int, ...]:
        """Channels of categories: the last."""
        number = len(self.numeric)
        return tuple(range(number, number + sum(map(len, self.categories.values()))))

    def __call__(self, table: dict[str, np.ndarray]) -> np.ndarray:
        """Channels of a table's rows, float32[N, C]; no data is 0, a level that was not seen is 0 in all."""
        values = np.stack([_numbers(table[name]) for name in self.numeric], axis=1)
        channels = [np.nan_to_num((values - self.mean) / self.std)]
        channels += [_numbers(table[name])[:, None] == levels for name, levels in self.categories.items()]
        return np.concatenate(channels, axis=1).astype(np.float32)


def _numbers(column: np.ndarray) -> np.ndarray:
    return np.where(np.isin(column, ["", "NA"]), "nan", column).astype(np.float64)


def _points(table: dict[str, np.ndarray], crs: str) -> Points:
    x, y = table["x"].astype(np.float64), table["y"].astype(np.float64)
    lon, lat = project(crs, "EPSG:4326", x, y)
    return Points(lon, lat, np.full(len(x), -1), np.arange(len(x)))


def _read(path: Path) -> dict[str, np.ndarray]:
    """Columns of a CSV file, as text."""
    if not path.is_file():
        raise MissingError(f"there is no file {path}; GLCZOO_DATA, or root=, names the folder of the regions")
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    return dict(zip(header, np.array(rows).T, strict=True))
