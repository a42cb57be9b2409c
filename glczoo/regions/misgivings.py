"""What an ecologist would not train on without a word: labels, names and places that mislead."""

import numpy as np

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.regions.check_result import ROWS, TableCheck
from glczoo.regions.species_names import named_twice, near_names
from glczoo.regions.suspects import NO_DATA, PILE

__all__ = ["doubts_of_names", "doubts_of_patches", "doubts_of_samples"]

_MOSTLY_EMPTY = 0.9  # share of surveys without any species
_SHOWN = 3
_WITHOUT_DATA = 0.05  # share of samples where no raster has a value
_FILLED = 0.5  # share of a band's cells in the patches


def doubts_of_samples(samples: Samples, species: SpeciesIndex) -> list[str]:
    """Problems of the labels and places of one table."""
    check = _doubts_of_records if samples.presence_only else _doubts_of_surveys
    return check(samples, species) if len(samples) else ["no row is left to learn from"]


def _doubts_of_records(records: Samples, species: SpeciesIndex) -> list[str]:
    doubts = []
    if len(species) == 1:
        doubts.append(
            f"one species, {species.label(0)}: cross-entropy (`loss: ce`) has nothing to tell it from, its "
            "probability is 1 everywhere. Use a loss with background places (`loss: sinr_full`), or add the "
            "records of other species as a target group"
        )
    number = np.bincount(records.species, minlength=len(species))
    most = int(number.argmax())
    if len(species) > 1 and number[most] > 0.9 * len(records):
        doubts.append(
            f"{100 * number[most] / len(records):.0f} % of the records are of {species.label(most)}: a model "
            "that always names it looks good; judge by AUC, and mind the rare ones"
        )
    return doubts + _piled(records, "records")


def _doubts_of_surveys(surveys: Samples, species: SpeciesIndex) -> list[str]:
    doubts = []
    sizes = surveys.sizes()
    kinds = len(np.unique(surveys.species))
    if kinds == 0:
        return [f"none of {len(surveys)} surveys has a species: is the column of presence read right?"]
    if (sizes == kinds).all():
        doubts.append(
            f"every survey has every one of {kinds} species: without a single absence nothing can be learnt. "
            "Are the absences in a column of their own (`presence` in region.yaml), or are these records "
            "(table `po`)?"
        )
    elif (everywhere := np.flatnonzero(np.bincount(surveys.species) == len(surveys))).size:
        shown = ", ".join(species.label(k) for k in everywhere[:_SHOWN].tolist())
        doubts.append(
            f"{len(everywhere)} species are in every survey ({shown}): nothing can be learnt of them"
        )
    if (empty := (sizes == 0).mean()) > _MOSTLY_EMPTY:
        doubts.append(
            f"{100 * empty:.0f} % of the surveys have no species: is the column of presence read right?"
        )
    return doubts + _piled(surveys, "surveys")


def doubts_of_patches(table: TableCheck, size: int) -> list[str]:
    """Problems of what the rasters hold around the rows of a table; `size`: cells along a patch's side."""
    doubts = []
    empty = table.suspicious.get(NO_DATA, 0)
    if empty > max(1, _WITHOUT_DATA * table.rows):
        doubts.append(
            f"{empty} of {table.rows} {ROWS[table.name]} lie where no raster has data, nothing can be learnt "
            "there: do they lie in the sea, are lon and lat right, or is a value taken for no data that is "
            "none (`nodata` in region.yaml)?"
        )
    filled = {band: share for band, share in table.filled.items() if share > _FILLED}
    if filled:
        worst = max(filled, key=lambda band: filled[band])
        others = f" and {len(filled) - 1} more bands" if len(filled) > 1 else ""
        doubts.append(
            f"{100 * filled[worst]:.1f} % of the cells of {worst}{others} in patches of {size} cells have no "
            "data and are filled by the mean: are patches wider than the raster (a smaller `patch_size`), or "
            "is a value taken for no data that is none (`nodata`)?"
        )
    return doubts


def _piled(samples: Samples, rows: str) -> list[str]:
    """Places that hold so many samples that their surroundings are learnt by heart."""
    _, number = np.unique(samples.lon + 1j * samples.lat, return_counts=True)
    if number.max() >= max(PILE, 0.2 * len(samples)) and len(samples) > 1:
        advice = "a centroid, a museum, or one place asked again and again?"
        hint = (
            " `records: {cell_km: 1}` in region.yaml keeps one of each species" if rows == "records" else ""
        )
        return [f"{number.max()} of {len(samples)} {rows} lie at one place: {advice}{hint}"]
    return []


def doubts_of_names(species: SpeciesIndex) -> list[str]:
    """Names of the vocabulary that may be one species."""
    names = [name for name in species.names if name]
    doubts = []
    for pairs, what in (
        (near_names(names), "differ by one letter"),
        (named_twice(names), "stand there with and without author or subspecies"),
    ):
        if pairs:
            shown = ", ".join(f"{one} / {other}" for one, other in pairs[:_SHOWN])
            shown += " …" if len(pairs) > _SHOWN else ""
            doubts.append(
                f"species: {len(pairs)} pair(s) of names {what}: {shown}. If they are one species, give them "
                "one name in the tables and one row in the species table"
            )
    return doubts
