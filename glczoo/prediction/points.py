"""Which species grow at these points? The most probable ones with probabilities, or the Kaggle file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator

from glczoo.data.occurrences import Points, SpeciesIndex
from glczoo.data.region import Region
from glczoo.data.sensitive import shown_coarsely
from glczoo.data.table_files.writing import table_writer, texts, write_csv
from glczoo.decoding import Decoding, Rule
from glczoo.errors import GlczooError
from glczoo.runs.run import Run
from glczoo.runs.scoring import default_accelerator
from glczoo.runs.trained import TrainedModel

__all__ = [
    "Answers",
    "PredictedTable",
    "Predictor",
    "answer",
    "predict_points",
    "write_submission",
    "shown_probabilities",
]

_POINTS = 8192  # points at a time: 330 MB of probabilities of 10,039 species


@dataclass(frozen=True)
class Answers:
    """What a model predicts at points: a table's columns (see `predict_points`), and what is left out."""

    columns: dict[str, np.ndarray]  # without rows if no point can be answered
    decoding: Decoding
    points: int  # how many were answered
    left_out: Points
    reasons: np.ndarray  # str[len(left_out)]

    @property
    def set_size(self) -> float:
        """Species in a set on average; nan without a point."""
        return float(self.columns["in_set"].sum() / self.points) if self.points else float("nan")

    def reason_counts(self) -> dict[str, int]:
        """How many points were left out for each reason."""
        reasons, counts = np.unique(self.reasons, return_counts=True)
        return {str(reason): int(number) for reason, number in zip(reasons, counts, strict=True)}


@dataclass(frozen=True)
class PredictedTable:
    """A table that `predict_points` wrote."""

    points: int  # answered
    decoding: Decoding
    set_size: float  # species in a set on average
    left_out: dict[str, int]  # points by reason
    left_out_file: Path  # there if any were left out


class Predictor:
    """A run, a published model, or the mean of several, asked from Python; `glczoo.load` makes one.

    Attributes:
        model: the `TrainedModel` behind it.
    """

    def __init__(self, model: TrainedModel) -> None:
        """Predict by a model."""
        self.model = model

    @classmethod
    def load(cls, run: "str | Path | Sequence[str | Path]") -> "Predictor":
        """Load a model; see `glczoo.load`."""
        return cls(Run.load([run] if isinstance(run, str | Path) else list(run)))

    def __repr__(self) -> str:
        """What is loaded."""
        model = self.model
        return f"<{model.name}: {len(model.species):,} species, {len(model.bands)} bands>"

    def predict(
        self,
        lon: float | Sequence[float] | np.ndarray,
        lat: float | Sequence[float] | np.ndarray,
        patch_id: int | Sequence[int] | np.ndarray | None = None,
        ids: int | str | Sequence[int] | Sequence[str] | np.ndarray | None = None,
        *,
        k: int | None = None,
        top: int = 0,
        region: Region | str | Path | None = None,
        batch_size: int = 256,
        columns: Mapping[str, Sequence[object] | np.ndarray] | None = None,
    ) -> pd.DataFrame:
        """The species to expect at places.

        Args:
            lon: degrees east, one number or N.
            lat: degrees north, as many.
            patch_id: names of the places' JPEG patches, for models that see any.
            ids: what to call the places, numbers or texts; 0 to N - 1 if None.
            k: predict this many species; by the model's own rule if None.
            top: list this many species at least, in the set or not.
            region: region.yaml with the rasters, or its folder; the model's own if None.
            batch_size: places in a batch.
            columns: what bands of `kind: values` ask for, by name and N each: the places' keys in the tables
                of values, such as surveyId, or the values themselves.

        Returns:
            A row for each place and species, most probable first: id, lon, lat, rank (from 1), speciesId,
            species (its name, "" where none is known), probability and in_set (1: predicted, 0: listed
            because of `top`). Of a model of presence-only records alone the column is `suitability`, a rank
            among the places of the records and no probability of presence. Places that cannot be answered
            have no row; `.attrs["left_out"]` lists them, a dict of id, lon, lat and reason for each (plain
            values, so that tables can be concatenated and saved).

        Raises:
            MissingError: a raster is not there.
            GlczooError: lon, lat, patch_id and ids differ in length, a place is not on Earth, or the region
                is not the model's.
        """
        points = _points(lon, lat, patch_id, ids, columns or {})
        if isinstance(region, str | Path):
            region = Region.load(region)
        answers = answer(self.model, points, region, k=k, top=top, batch_size=batch_size)
        table = pd.DataFrame(answers.columns)
        left = answers.left_out
        rows = zip(left.ids, left.lon, left.lat, answers.reasons, strict=True)
        table.attrs["left_out"] = [
            {"id": number.item(), "lon": float(east), "lat": float(north), "reason": str(reason)}
            for number, east, north, reason in rows
        ]
        return table


def _points(lon: Any, lat: Any, patch_id: Any, ids: Any, further: Mapping[str, Any]) -> Points:
    """Places of what somebody passed, checked."""
    try:
        columns: dict[str, np.ndarray] = {
            "lon": np.atleast_1d(np.asarray(lon, np.float64)),
            "lat": np.atleast_1d(np.asarray(lat, np.float64)),
        }
    except (TypeError, ValueError) as error:
        raise GlczooError(f"lon and lat are numbers of degrees: {error}") from None
    number = len(columns["lon"])
    columns["patch_id"] = np.full(number, -1) if patch_id is None else np.atleast_1d(np.asarray(patch_id))
    columns["ids"] = np.arange(number) if ids is None else np.atleast_1d(np.asarray(ids))
    sizes = {name: column.shape for name, column in columns.items()}
    if set(sizes.values()) != {(number,)}:
        raise GlczooError(f"lon, lat, patch_id and ids are one number or equally many each, got {sizes}")
    for name, texts_too in (("patch_id", False), ("ids", True)):
        kind = columns[name].dtype.kind
        if kind not in "iu" and not (texts_too and kind in "UOT"):
            allowed = "whole numbers or texts" if texts_too else "whole numbers"
            raise GlczooError(f"{name} are {allowed}, got {columns[name].dtype}")
        columns[name] = columns[name].astype(np.int64 if kind in "iu" else str)
    wrong = (np.abs(columns["lon"]) > 180) | (np.abs(columns["lat"]) > 90)  # nan: listed as left out
    if wrong.any():
        first = int(wrong.argmax())
        raise GlczooError(
            f"{wrong.sum()} of {number} places are not on Earth, the first: lon {columns['lon'][first]:g}, "
            f"lat {columns['lat'][first]:g}; lon lies in [-180, 180], lat in [-90, 90] (degrees)"
        )
    own = {name: np.atleast_1d(np.asarray(column)) for name, column in further.items()}
    wrong_size = [name for name, column in own.items() if column.shape != (number,)]
    if wrong_size:
        raise GlczooError(f"columns[{wrong_size[0]!r}] needs {number} values, as many as there are places")
    return Points(columns["lon"], columns["lat"], columns["patch_id"], columns["ids"], columns=own)


def shown_probabilities(
    model: TrainedModel,
    points: Points,
    region: Region | None = None,
    batch_size: int = 256,
    accelerator: Accelerator | None = None,
) -> torch.Tensor:
    """Probabilities as they may be shown, float32[N, K]: those of sensitive species at their cells' centres.

    They are nan where nothing can be predicted at the centre.

    Raises:
        MissingError: a raster or a patch is not there.
        GlczooError: the region's bands are not the model's, or a point cannot be read.
    """

    def predict(places: Points) -> torch.Tensor:
        return model.probabilities(places, region, batch_size=batch_size, accelerator=accelerator)

    def answerable(places: Points) -> np.ndarray:
        return _reasons(model, places, region) == ""

    described = region or (model.region if model.run is not None else None)
    species = model.species.guarded(described.sensitive if described is not None else {})
    return shown_coarsely(predict(points), points, species, predict, answerable)


def answer(
    model: TrainedModel,
    points: Points,
    region: Region | None = None,
    *,
    k: int | None = None,
    top: int = 0,
    batch_size: int = 256,
    accelerator: Accelerator | None = None,
) -> Answers:
    """What `predict_points` writes, without a file.

    `k`: this many species in the place of the model's rule; `top`: list this many of the most probable too.

    Raises:
        MissingError: a raster or a patch is not there.
        GlczooError: the region's bands are not the model's.
    """
    accelerator = accelerator or default_accelerator()
    reasons = _reasons(model, points, region)
    answered = points.at(reasons == "")
    decoding = Decoding(Rule.TOP_K, k) if k is not None else model.decoding
    none = torch.empty(0, len(model.species))
    parts = [_rows(answered.at(np.arange(0)), none, decoding, top, model)]
    for start in range(0, len(answered), _POINTS):
        some = answered.at(np.arange(start, min(start + _POINTS, len(answered))))
        probabilities = shown_probabilities(model, some, region, batch_size, accelerator)
        parts.append(_rows(some, probabilities, decoding, top, model))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Answers(columns, decoding, len(answered), points.at(reasons != ""), reasons[reasons != ""])


def predict_points(
    model: TrainedModel,
    points: Points,
    out: Path,
    region: Region | None = None,
    *,
    k: int | None = None,
    top: int = 0,
    batch_size: int = 256,
    accelerator: Accelerator | None = None,
) -> PredictedTable:
    """Write a table id,lon,lat,rank,speciesId,species,probability,in_set for points, most probable first.

    Each point has a row for every species of its set (`in_set` 1) and for its `top` most probable ones. Of
    ranks of suitability the column is called `suitability`, for they are no probabilities of presence.
    Points that lie outside of a raster, have no JPEG patch, or lie where no raster has data are not answered:
    they stand with the reason in a table beside, NAME.left_out.csv, which is there only if there are any. In
    CSV a species' name that a spreadsheet would take for a formula has an apostrophe in front.

    Args:
        model: see `Run.load`.
        points: see `tables.read_points`.
        out: table to write: .parquet by pyarrow, else CSV.
        region: where the points lie; the model's own if None.
        k: species in a set; None: sets by the model's own decoding.
        top: species to list at least, in the set or not.
        batch_size: points in a batch.
        accelerator: several processes share the work, the first one writes.

    Raises:
        MissingError: a raster or a patch is not there.
        GlczooError: the region is not the model's, no point can be answered, or pyarrow is not installed.
    """
    write = table_writer(out)
    accelerator = accelerator or default_accelerator()
    answers = answer(model, points, region, k=k, top=top, batch_size=batch_size, accelerator=accelerator)
    reasons = answers.reason_counts()
    beside = out.with_name(f"{out.stem}.left_out.csv")
    if accelerator.is_main_process:
        _write_left_out(beside, answers)
    if not answers.points:
        first = f", the first: {points.named(0)}" if len(points) else ""
        counted = "; ".join(f"{number} {reason}" for reason, number in reasons.items())
        raise GlczooError(
            f"none of {len(points)} points can be answered: {counted}{first}; {beside.name} lists them"
        )
    if accelerator.is_main_process:
        columns = answers.columns
        if out.suffix.lower() == ".csv":
            columns = columns | {"id": _ids(columns["id"]), "species": texts(columns["species"])}
        write(columns)
    return PredictedTable(answers.points, answers.decoding, answers.set_size, reasons, beside)


def _write_left_out(path: Path, answers: Answers) -> None:
    """Write the points that are not answered, each as its table has it; without any there is no file."""
    path.unlink(missing_ok=True)
    left = answers.left_out
    if len(left):
        lon, lat = (texts(axis) if axis.dtype.kind == "U" else axis for axis in left.coordinates())
        columns = {"id": _ids(left.ids), "lon": lon, "lat": lat}
        columns |= {"patchID": left.patch_id} if (left.patch_id >= 0).any() else {}
        write_csv(path, columns | {"reason": texts(answers.reasons)})


def _ids(ids: np.ndarray) -> np.ndarray:
    """Ids of rows as a spreadsheet may open them: numbers as they are, letters as texts."""
    return texts(ids) if ids.dtype.kind == "U" else ids


def _reasons(model: TrainedModel, points: Points, region: Region | None) -> np.ndarray:
    """Why a point cannot be answered, str[N]; empty where it can."""
    reasons: list[list[str]] = [[] for _ in range(len(points))]
    for reason, mask in model.unanswerable(points, region).items():
        for i in np.flatnonzero(mask).tolist():
            reasons[i].append(reason)
    return np.array(["; ".join(each) for each in reasons], str)


def _rows(
    points: Points, probabilities: torch.Tensor, decoding: Decoding, top: int, model: TrainedModel
) -> dict[str, np.ndarray]:
    """Columns of the table; a set always holds the most probable species."""
    species = model.species
    mask = torch.zeros_like(probabilities, dtype=torch.bool)
    if len(points):
        mask = decoding(probabilities.nan_to_num(0), points.datasets) & ~probabilities.isnan()
    top, sizes = min(top, len(species)), mask.sum(1)
    largest = max(top, int(sizes.max())) if len(points) else 0
    values, classes = probabilities.nan_to_num(-1).topk(largest, dim=1)  # nan: not known at such a place
    rank = torch.arange(1, values.shape[1] + 1)
    listed = (rank <= sizes.clamp_min(top)[:, None]) & (values >= 0)
    each = torch.arange(len(points))[:, None].expand_as(listed)[listed].numpy()
    flat = classes[listed].numpy()
    names = species.names or ("",) * len(species)
    return {
        "id": points.ids[each],
        "lon": points.lon[each],
        "lat": points.lat[each],
        "rank": rank.expand_as(listed)[listed].numpy(),
        "speciesId": species.ids[flat],
        "species": np.array([names[i] for i in flat], str),
        model.answer: values[listed].numpy(),
        "in_set": (rank <= sizes[:, None])[listed].int().numpy(),
    }


def write_submission(
    path: Path,
    points: Points,
    mask: torch.Tensor,
    species: SpeciesIndex,
    columns: tuple[str, str] = ("Id", "Predicted"),
) -> None:
    """Write the Kaggle file: the speciesIds of every row's set, joined by spaces.

    `columns` are `id` and `predicted` of the test table: Id,Predicted in GeoLifeCLEF 2023,
    surveyId,predictions in 2024 and 2025.
    """
    sets = [" ".join(map(str, species.ids[row.numpy()].tolist())) for row in mask]
    write_csv(path, {columns[0]: points.ids, columns[1]: sets})
