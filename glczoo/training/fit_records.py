"""`glczoo fit` of a region without surveys: one run from presence-only records, and its leaderboard.

The run's answers are ranks of suitability among the places of the records (see `models.ranks`), not
probabilities of presence. A species set is as many of the highest ranks as the records name species at a
place on average: fewer than grow there.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.data.patch_source import PatchSource, Statistics
from glczoo.data.region import Region
from glczoo.data.tables import read_samples, read_species
from glczoo.decoding import Decoding, Rule
from glczoo.errors import GlczooError
from glczoo.files import whole
from glczoo.json_text import read_json
from glczoo.memory import announce
from glczoo.recipe import Recipe, write_run_recipe
from glczoo.regions.coordinates import COORDINATES, sample_cells, write_coordinates
from glczoo.runs.export import export_run
from glczoo.training.presence_only import Candidate, Sites, Suitability, fit_suitability

__all__ = ["LEADERBOARD", "RecordsLeaderboard", "fit_records"]

LEADERBOARD = "leaderboard.json"
"""Where a run of a fit to records keeps its leaderboard."""
_PLACES = 5000  # random cells of the region, which the size of the blocks follows
_PLAIN = re.compile(r"[\w ,;.]*")  # a published leaderboard may be anybody's, and stands on cards
_SHARE = 0.6  # of the time goes to the folds, the rest to the fits to all records


@dataclass(frozen=True)
class RecordsLeaderboard:
    """The candidates of a fit to presence-only records, by the records that were held out."""

    candidates: list[Candidate]  # the best first
    auc: float  # of the chosen mean, over species
    species_auc: dict[str, float]  # by speciesId, of those with held-out records
    sites: int  # places of records
    blocks: int
    seconds: float
    left_out: Mapping[str, str] = field(default_factory=dict)  # name → reason
    kind: Literal["records"] = "records"

    def to_json(self) -> dict[str, Any]:
        """What leaderboard.json keeps."""
        return asdict(self)

    def save(self, folder: Path) -> None:
        """Write leaderboard.json into a run's folder."""
        with whole(folder / LEADERBOARD) as partial:
            partial.write_text(json.dumps(self.to_json(), indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "RecordsLeaderboard | None":
        """The leaderboard of a run; None where it has none, or one of surveys.

        Raises:
            GlczooError: it is damaged.
        """
        path = folder / LEADERBOARD
        if not path.is_file():
            return None
        try:
            values = read_json(path)
            if values.get("kind") != "records":
                return None
            board = cls(**{**values, "candidates": [Candidate(**each) for each in values["candidates"]]})
            texts = [each.name for each in board.candidates] + [*board.left_out, *board.left_out.values()]
            if odd := [text for text in texts if not _PLAIN.fullmatch(text)]:
                raise GlczooError(f"{odd[0]!r} is no name")
            board.text()  # numbers that are none are noticed here, and not on a card
            return board
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise GlczooError(f"{path} is damaged: {error}") from None

    def text(self) -> str:
        """The leaderboard for people."""
        width = max(len(each.name) for each in self.candidates)
        lines = [
            f"{self.sites} places of records in {self.blocks} spatial blocks. AUC: how well held-out records "
            f"rank above the other places of records, the mean over {len(self.species_auc)} species",
            "",
            f"| {'candidate':{width}} | weight |   AUC | seconds |",
            f"|{'-' * (width + 2)}|-------:|------:|--------:|",
        ]
        for each in self.candidates:
            weight = f"{each.weight:.2f}" if each.weight else "–"
            lines.append(f"| {each.name:{width}} | {weight:>6} | {each.auc:.3f} | {each.seconds:>7.0f} |")
        lines += [
            f"| {'weighted mean of their ranks':{width}} |        | {self.auc:.3f} | {self.seconds:>7.0f} |",
            "",
            "The mean was chosen by these records, so its AUC is slightly optimistic; and records say where "
            "people look as well as where species grow: only surveys can tell how good the model is.",
            "Answers are ranks of suitability, not probabilities of presence.",
        ]
        lines += [f"Left out: {name} ({reason})" for name, reason in self.left_out.items()]
        return "\n".join(lines)


def fit_records(
    region: Region,
    name: str,
    out: Path,
    *,
    minutes: float | None = None,
    jobs: int = 1,
    seed: int = 0,
    log: Callable[[str], None] = print,
) -> RecordsLeaderboard:
    """Fit presence-only records of a region, and write the run and its leaderboard.

    Args:
        region: with a PO table and rasters; JPEG patches are not looked at: a point is one pixel of them.
        name: of region.yaml or its folder, for the recipe.
        out: the run's folder; folds/ and coordinates/ in it are kept, so that the same call goes on.
        minutes: what it may take, about; candidates that would not fit are left out. None: no bound.
        jobs: threads that grow trees.
        seed: of folds, random features and trees.
        log: prints how far it is.

    Raises:
        MissingError: data are missing.
        GlczooError: the region has no rasters, a table cannot be read, or there are too few places.
    """
    kinds = {modality.name: modality.kind for modality in region.modalities}
    if "raster" not in kinds.values():
        raise GlczooError(f"region {region.name} has no rasters: a model of places needs values there")
    vocabulary = read_species(region)
    if len(vocabulary) == 1:
        raise GlczooError(
            f"the records of region {region.name} are of one species: its places are compared with those of "
            "other species, and there are none",
            remedy="Add records of other species of its kind, or train with loss=sinr_full, which compares "
            "them with background places (glczoo train REGION/recipes/step2.yaml)",
        )
    source = PatchSource(region, [name for name, kind in kinds.items() if kind in ("raster", "values")], 1)
    records = read_samples(region, "po", vocabulary)
    records = records.subset(source.complete(records, "presence-only records", drop=True))
    source.fix_levels(records)
    statistics = source.statistics(records)
    values = (source.values(records) - statistics.mean) / statistics.std
    middle = (float(records.lon.mean()), float(records.lat.mean()))
    sites = Sites.of(
        records,
        records.species,
        len(vocabulary),
        np.nan_to_num(values).astype(np.float32),
        middle=middle,
        levels=tuple(channel for channel, band in enumerate(source.bands) if "=" in band),
    )
    log(f"{len(records)} records of {len(vocabulary)} species at {len(sites.points)} places")
    cells = float(len(sites.points) * (len(source.bands) + len(vocabulary)))
    announce("fit to records", {"places, their values and species": 4.0 * cells})
    fitted = fit_suitability(
        sites,
        sample_cells(source, _PLACES, seed),
        seed,
        jobs=jobs,
        keep=out / "folds",
        limit=float("inf") if minutes is None else 60 * minutes * _SHARE,
        log=log,
    )
    _export(region, vocabulary, records, source, statistics, sites, fitted, middle, out, seed)
    board = RecordsLeaderboard(
        candidates=fitted.candidates,
        auc=fitted.auc,
        species_auc={
            str(vocabulary.ids[k]): auc for k, auc in enumerate(fitted.species_auc.tolist()) if auc == auc
        },
        sites=len(sites.points),
        blocks=fitted.blocks.number,
        seconds=fitted.seconds,
        left_out=fitted.left_out,
    )
    board.save(out)
    return board


def _export(
    region: Region,
    vocabulary: SpeciesIndex,
    records: Samples,
    source: PatchSource,
    statistics: Statistics,
    sites: Sites,
    fitted: Suitability,
    middle: tuple[float, float],
    out: Path,
    seed: int,
) -> None:
    """Write the run: coordinates as rasters, the recipe, a line of metrics, and the model."""
    extended = write_coordinates(region, source, middle, out / COORDINATES)
    modalities = [*source.modalities, COORDINATES]
    seen = PatchSource(extended, modalities, 1, channels=source.bands)
    statistics = Statistics(
        [*statistics.mean, 0.0, 0.0],
        [*statistics.std, sites.length, sites.length],
        [*statistics.filled, 0.0, 0.0],
    )
    size = round(float(sites.presence.sum(1).mean()))
    size = max(1, min(size, len(vocabulary) - 1))  # all of them would say nothing
    recipe = Recipe.model_validate(
        {
            "name": out.name,
            "region": str(out / COORDINATES),
            "model": "ensemble_glc23",
            "modalities": modalities,
            "patch_size": 1,
            "init": "random",
            "data": {"tables": ["po"], "validation": {"po": 0.0}, "incomplete": "drop"},
            "loss": "deepmaxent",
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "epochs": 1,
            "batch_size": 128,
            "keep": "last",
            "decoding": {"rule": "top_k", "value": size},
            "seed": seed,
        }
    )
    write_run_recipe(out, recipe, processes=1)
    line = {"kind": "epoch", "epoch": 0, "step": 0, "loss": None, "validation_f1": None}
    with whole(out / "metrics.jsonl") as partial:
        partial.write_text(json.dumps(line | {"seconds": fitted.seconds}) + "\n", "utf-8")
    export_run(
        out,
        fitted.model,
        vocabulary,
        extended,
        seen,
        statistics,
        activation="rank",
        decoding=Decoding(Rule.TOP_K, size),
        tuned={},
        init="random",
        epoch=0,
    )
