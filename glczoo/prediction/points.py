"""Which species grow at these points? The most probable ones with probabilities, or the Kaggle file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from glczoo.data.occurrences import Points, SpeciesIndex
from glczoo.data.region import Region
from glczoo.data.tables import table_writer, write_csv
from glczoo.decoding import Decoding, Rule
from glczoo.runs.run import TrainedModel, ask, load_members, mean_decoding

__all__ = ["Answers", "answer", "predict_points", "probabilities_at", "write_submission"]

_POINTS = 8192  # points at a time: 330 MB of probabilities of 10,039 species


def probabilities_at(
    runs: Sequence[str | Path],
    region: Region,
    points: Points,
    *,
    batch_size: int = 256,
    accelerator: Accelerator | None = None,
) -> tuple[torch.Tensor, SpeciesIndex, Decoding]:
    """Mean of the runs' probabilities at points, float32[N, K], the species, and how sets are answered.

    Raises:
        FileNotFoundError: a run, a raster or a patch is not there.
        ValueError: the runs do not fit each other or the region, or a point cannot be read.
    """
    accelerator = accelerator or Accelerator(cpu=not torch.accelerator.is_available())
    members = load_members(runs)
    probabilities = _mean(accelerator, members, region, points, batch_size)
    return probabilities, members[0].species, mean_decoding(members)[0]


@dataclass(frozen=True)
class Answers:
    """What models answer at points: the columns of a table (see `predict_points`), and what is left out."""

    columns: dict[str, np.ndarray]  # none if no point is answered
    decoding: Decoding
    left: Points  # not answered
    reason: np.ndarray  # str[len(left)]: why


def answer(
    runs: Sequence[str | Path | TrainedModel],
    region: Region,
    points: Points,
    *,
    k: int | None = None,
    top: int = 0,
    batch_size: int = 256,
    accelerator: Accelerator | None = None,
) -> Answers:
    """What `predict_points` writes, for who does not want a file.

    Raises:
        FileNotFoundError: a run, a raster or a patch is not there.
        ValueError: the runs do not fit each other or the region.
    """
    accelerator = accelerator or Accelerator(cpu=not torch.accelerator.is_available())
    members = load_members(runs)
    reason = _left_out(members, region, points)
    answered = points.at(reason == "")
    decoding = Decoding(Rule.TOP_K, k) if k else mean_decoding(members)[0]
    parts = []
    for start in range(0, len(answered), _POINTS):
        some = answered.at(np.arange(start, min(start + _POINTS, len(answered))))
        probabilities = _mean(accelerator, members, region, some, batch_size)
        mask = decoding(probabilities, some.datasets)
        parts.append(_rows(some, probabilities, mask, top, members[0].species))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    return Answers(columns, decoding, points.at(reason != ""), reason[reason != ""])


def predict_points(
    runs: Sequence[str | Path | TrainedModel],
    region: Region,
    points: Points,
    out: Path,
    *,
    k: int | None = None,
    top: int = 0,
    batch_size: int = 256,
    accelerator: Accelerator | None = None,
) -> dict[str, Any]:
    """Write a table id,lon,lat,rank,speciesId,species,probability,in_set for points, most probable first.

    Each point has a row for every species of its set (`in_set` 1) and for its `top` most probable ones.
    Points that lie outside of a raster, have no JPEG patch, or lie where no raster has data are not answered:
    they stand with the reason in a table beside, NAME.left_out.csv, which is there only if there are any.

    Args:
        runs: folders of finished runs, or `hf-hub:ORG/NAME`, that share a vocabulary.
        region: where the points lie.
        points: see `tables.read_points`.
        out: table to write: .parquet by pyarrow, else CSV.
        k: species in a set; None: sets by the decoding kept with the runs.
        top: species to list at least, in the set or not.
        batch_size: points in a batch.
        accelerator: several processes share the work, the first one writes.

    Returns:
        JSON values: points (answered), decoding, set_size (mean), left_out (number by reason), left_out_file.

    Raises:
        FileNotFoundError: a run, a raster or a patch is not there.
        ValueError: the runs do not fit each other or the region, no point can be answered, or pyarrow is not
            installed.
    """
    write = table_writer(out)
    accelerator = accelerator or Accelerator(cpu=not torch.accelerator.is_available())
    given = answer(runs, region, points, k=k, top=top, batch_size=batch_size, accelerator=accelerator)
    left, answered = given.left, len(points) - len(given.left)
    reasons, counts = np.unique(given.reason, return_counts=True)
    told = {str(why): int(number) for why, number in zip(reasons, counts, strict=True)}
    if not answered:
        first = f", the first: {points.named(0)}" if len(points) else ""
        raise ValueError(
            f"none of {len(points)} points can be answered: "
            + "; ".join(f"{number} {why}" for why, number in told.items()) + first
        )  # fmt: skip
    beside = out.with_name(f"{out.stem}.left_out.csv")
    if accelerator.is_main_process:
        write(given.columns)
        beside.unlink(missing_ok=True)
        if len(left):
            where = {"id": left.ids, "lon": left.lon, "lat": left.lat, "patchID": left.patch_id}
            write_csv(beside, where | {"reason": given.reason})
    return {
        "points": answered, "decoding": str(given.decoding),
        "set_size": float(given.columns["in_set"].sum() / answered),
        "left_out": told, "left_out_file": str(beside),
    }  # fmt: skip


def _left_out(members: Sequence[TrainedModel], region: Region, points: Points) -> np.ndarray:
    """Why a point cannot be answered, str[N]; empty where it can."""
    whys: list[list[str]] = [[] for _ in range(len(points))]
    lacks: dict[str, np.ndarray] = {}
    for member in members:
        lacks |= member.open(region).unanswerable(points)
    for why, mask in lacks.items():
        for i in np.flatnonzero(mask).tolist():
            whys[i].append(why)
    return np.array(["; ".join(why) for why in whys], str)


def _mean(
    accelerator: Accelerator, members: Sequence[TrainedModel], region: Region, points: Points, batch_size: int
) -> torch.Tensor:
    total = sum(ask(accelerator, member, region, points, batch_size) for member in members)
    return torch.as_tensor(total) / len(members)


def _rows(
    points: Points, probabilities: torch.Tensor, mask: torch.Tensor, top: int, species: SpeciesIndex
) -> dict[str, np.ndarray]:
    """Columns of the table; `mask`: bool[N, K], which species are answered: always the most probable ones."""
    top, sizes = min(top, len(species)), mask.sum(1)
    values, classes = probabilities.topk(max(top, int(sizes.max())), dim=1)
    rank = torch.arange(1, values.shape[1] + 1)
    listed = rank <= sizes.clamp_min(top)[:, None]
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
        "probability": values[listed].numpy(),
        "in_set": (rank <= sizes[:, None])[listed].int().numpy(),
    }


def write_submission(path: Path, points: Points, mask: torch.Tensor, species: SpeciesIndex) -> None:
    """Write the Kaggle file `Id,Predicted`: the speciesIds of every row's set, joined by spaces."""
    sets = [" ".join(map(str, species.ids[row.numpy()].tolist())) for row in mask]
    write_csv(path, {"Id": points.ids, "Predicted": sets})
