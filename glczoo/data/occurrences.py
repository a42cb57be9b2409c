"""What tables of occurrences become: places, with the species known there.

Shapes: lon[N], lat[N], patch_id[N] · labels as CSR: offsets[N + 1], species[nnz] · targets[B, K].

A *record* is a row of a presence-only table: one species. A *survey* is one visit of a presence-absence
table, in GeoLifeCLEF one (patchID, dayOfYear): grouping by patchID alone would merge repeat visits. Either is
a *sample*. `tables.py` reads them.
"""

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from glczoo.data.sample_columns import join_columns
from glczoo.errors import GlczooError
from glczoo.yaml_text import shown

__all__ = ["Points", "Samples", "SpeciesIndex", "Unplaced", "name_key", "tidy_name"]


def tidy_name(name: str) -> str:
    """A species' name with one plain blank between its words, whatever blanks it was typed with."""
    letters = unicodedata.normalize("NFC", re.sub("[\u200b-\u200d\u2060\ufeff]", "", name))
    return " ".join(letters.split())


def name_key(name: str) -> str:
    """What two spellings of a name have in common that differ by blanks and letter case alone."""
    return tidy_name(name).casefold()


@dataclass(frozen=True)
class SpeciesIndex:
    """The vocabulary: class k stands for species `ids[k]`.

    speciesIds are sorted, distinct and may have gaps (GeoLifeCLEF 2023 counts from 1 to more than the number
    of species): a class is never `id - 1`.
    """

    ids: np.ndarray  # int64[K]
    names: tuple[str, ...] = ()
    sensitive_km: np.ndarray | None = None  # float64[K]: shown no finer than this; 0: as it is, None: all

    def __len__(self) -> int:
        return len(self.ids)

    def classes(self, species_ids: np.ndarray, where: str) -> np.ndarray:
        """Class of every speciesId, int64[n].

        Raises:
            GlczooError: an id is not in the vocabulary; the message counts and names them.
        """
        position = np.searchsorted(self.ids, species_ids).clip(max=len(self.ids) - 1)
        unknown = self.ids[position] != species_ids
        if unknown.any():
            first = np.unique(species_ids[unknown])
            raise GlczooError(
                f"{where}: {len(first)} species of {unknown.sum()} rows are not in the vocabulary of "
                f"{len(self.ids)} species, the first: {first[:5].tolist()}"
            )
        return position

    def classes_of_names(self, names: pd.Series, where: str) -> np.ndarray:
        """Class of every species' name, int64[n]; blanks and letter case are ignored (see `name_key`).

        `names`: as the table has them.

        Raises:
            GlczooError: two species bear one name, or a name is not in the vocabulary.
        """
        codes, distinct = pd.factorize(names.astype(str))
        known = pd.Index([name_key(name) for name in self.names])
        if not known.is_unique:
            twice = [self.names[i] for i in np.flatnonzero(known.duplicated(keep=False))[:6]]
            raise GlczooError(
                f"{where}: names cannot be told apart, two species of the vocabulary are {twice}"
            )
        position = known.get_indexer(pd.Index([name_key(name) for name in distinct]))
        if (position < 0).any():
            unknown, rows = distinct[position < 0], (position[codes] < 0).sum()
            raise GlczooError(
                f"{where}: {len(unknown)} species of {rows} rows are not in the species table of {len(self)} "
                f"names, the first: {unknown[:5].tolist()}; add them to it, each with an id of its own"
            )
        return position[codes]

    def find(self, wanted: Sequence[str]) -> np.ndarray:
        """Classes of speciesIds or names (letter case ignored), each once, int64[n].

        `wanted`: ids or names, as words.

        Raises:
            GlczooError: one is unknown; the message lists the names nearest to it.
        """
        by_name = {name.lower(): k for k, name in enumerate(self.names)}
        known = by_name | {str(i): k for k, i in enumerate(self.ids.tolist())}
        unknown = [name for name in wanted if name.lower() not in known]
        if unknown:
            near = difflib.get_close_matches(unknown[0].lower(), known, n=5)
            labels = [self.label(known[name]) for name in near]
            labels = labels or [self.label(k) for k in range(min(3, len(self)))]
            raise GlczooError(
                f"--species {' '.join(unknown)}: the model predicts no such speciesId or name; of its "
                f"{len(self)} species, {'near' if near else 'the first'}: {', '.join(dict.fromkeys(labels))}"
            )
        return np.array(list(dict.fromkeys(known[name.lower()] for name in wanted)), np.int64)

    def sensitive_groups(self) -> list[tuple[float, np.ndarray]]:
        """Kilometres that some species may be shown at, ascending, and their classes, int64[n] each."""
        if self.sensitive_km is None:
            return []
        kilometres = np.unique(self.sensitive_km[self.sensitive_km > 0]).tolist()
        return [(km, np.flatnonzero(self.sensitive_km == km)) for km in kilometres]

    def guarded(self, sensitive: Mapping[str | int, float]) -> "SpeciesIndex":
        """The same species, those that are named (by id or name) shown no finer than so many kilometres.

        Names that are not in the vocabulary are passed over: a model may know fewer species than its region.

        `sensitive`: kilometres by id or name.
        """
        known = {name_key(name): k for k, name in enumerate(self.names)}
        known |= {str(i): k for k, i in enumerate(self.ids.tolist())}
        kilometres = np.zeros(len(self)) if self.sensitive_km is None else self.sensitive_km.copy()
        for name, km in sensitive.items():
            if (k := known.get(name_key(str(name)))) is not None:
                kilometres[k] = max(kilometres[k], km)
        return replace(self, sensitive_km=kilometres if kilometres.any() else None)

    def label(self, k: int) -> str:
        """A class for people: its speciesId and, where it has one, its name. `k`: the class."""
        return f"{self.ids[k]} {self.names[k]}" if self.names else str(self.ids[k])

    def save(self, path: Path) -> None:
        """Write `species.csv`: class;speciesId;name, and sensitiveKm where a species is sensitive."""
        names = self.names or [""] * len(self)
        table = pd.DataFrame({"class": np.arange(len(self)), "speciesId": self.ids, "name": names})
        if self.sensitive_km is not None:
            table["sensitiveKm"] = self.sensitive_km
        table.to_csv(path, sep=";", index=False)

    @classmethod
    def load(cls, path: Path) -> "SpeciesIndex":
        """Read what `save` wrote.

        Raises:
            GlczooError: the file is not a vocabulary in class order.
        """
        try:
            table = pd.read_csv(path, sep=";", dtype=str, keep_default_na=False)
            if not {"class", "speciesId", "name"} <= set(table):
                raise GlczooError(f"it has the columns {list(table)}")
            names = tuple(table["name"])
            ids = np.array([int(text) for text in table["speciesId"]], np.int64)
            classes = [int(text) for text in table["class"]]
            kilometres = table["sensitiveKm"].to_numpy(float) if "sensitiveKm" in table else None
        except (ValueError, OverflowError) as error:
            raise GlczooError(f"{path} is no vocabulary: {shown(str(error), 300)}") from None
        if (np.diff(ids) <= 0).any() or classes != list(range(len(ids))):
            raise GlczooError(f"{path} is no vocabulary: speciesIds must ascend and classes count from 0")
        if kilometres is not None and not (np.isfinite(kilometres) & (kilometres >= 0)).all():
            raise GlczooError(f"{path} is no vocabulary: sensitiveKm are kilometres, 0 and above")
        return cls(ids, names if any(names) else (), kilometres)


@dataclass(frozen=True)
class Unplaced:
    """What rows of a table hold that have no usable coordinates; "" where a row has a place."""

    reason: np.ndarray  # str[N]
    lon: np.ndarray  # str[N], as the table has it
    lat: np.ndarray  # str[N]

    def at(self, index: np.ndarray) -> "Unplaced":
        """The rows at `index` (positions or a mask)."""
        return Unplaced(self.reason[index], self.lon[index], self.lat[index])


@dataclass(frozen=True)
class Points:
    """Places to predict at: lon[N], lat[N] in degrees, patch_id[N] (-1 where none) and the rows' ids."""

    lon: np.ndarray  # float64[N]
    lat: np.ndarray  # float64[N]
    patch_id: np.ndarray  # int64[N]
    ids: np.ndarray  # int64[N], or str[N]: row ids of a table; of samples their number
    dataset: np.ndarray | None = field(default=None, kw_only=True)  # int64[N]: position in dataset_names
    dataset_names: tuple[str, ...] = field(default=(), kw_only=True)  # "" where a row names no data set
    columns: dict[str, np.ndarray] = field(default_factory=dict, kw_only=True)  # [N] each: of `kind: values`
    without_place: Unplaced | None = field(default=None, kw_only=True)  # None: of rows that all have one

    def __len__(self) -> int:
        return len(self.lon)

    @property
    def unplaced(self) -> np.ndarray:
        """Points whose row has no usable coordinates, bool[N]; their lon and lat are nan."""
        return np.isnan(self.lon) | np.isnan(self.lat)

    def placed(self) -> "Points":
        """The points whose row has usable coordinates."""
        return self.at(~self.unplaced)

    def unplaced_reasons(self) -> dict[str, np.ndarray]:
        """Why points have no usable coordinates, bool[N] for each reason."""
        if self.without_place is None:
            return {"without coordinates in degrees": self.unplaced} if self.unplaced.any() else {}
        reasons = dict.fromkeys(self.without_place.reason[self.unplaced].tolist())
        return {reason: self.without_place.reason == reason for reason in reasons}

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Longitude and latitude of each point as a table of them shows it: as read where it is no place."""
        if self.without_place is None or not self.unplaced.any():
            return self.lon, self.lat
        columns = (self.lon, self.without_place.lon), (self.lat, self.without_place.lat)
        lon, lat = (np.where(self.unplaced, texts, [f"{v:.6g}" for v in values]) for values, texts in columns)
        return lon, lat

    def named(self, i: int) -> str:
        """One point, for a message. `i`: its position."""
        place = f"at lon {self.lon[i]:.5f}, lat {self.lat[i]:.5f}"
        return f"patchID {self.patch_id[i]} {place}" if self.patch_id[i] >= 0 else f"{self.ids[i]} {place}"

    def at(self, index: np.ndarray) -> "Points":
        """The points at `index` (positions or a mask), without species."""
        return Points(
            self.lon[index],
            self.lat[index],
            self.patch_id[index],
            self.ids[index],
            dataset=None if self.dataset is None else self.dataset[index],
            dataset_names=self.dataset_names,
            columns={name: column[index] for name, column in self.columns.items()},
            without_place=None if self.without_place is None else self.without_place.at(index),
        )

    @classmethod
    def joined(cls, parts: Sequence["Points"]) -> "Points":
        """The points of several tables, in order, without species."""
        dataset, dataset_names = _joined_datasets(parts)
        return Points(
            np.concatenate([part.lon for part in parts]),
            np.concatenate([part.lat for part in parts]),
            np.concatenate([part.patch_id for part in parts]),
            np.concatenate([part.ids for part in parts]),
            dataset=dataset,
            dataset_names=dataset_names,
            columns=join_columns([part.columns for part in parts], [len(part) for part in parts]),
        )

    @property
    def datasets(self) -> np.ndarray | None:
        """Name of the data set that each point comes from, str[N]; None where the table names none."""
        return None if self.dataset is None else np.array(self.dataset_names, str)[self.dataset]


@dataclass(frozen=True)
class Samples(Points):
    """Records or surveys, their species in CSR form: i holds classes `species[offsets[i]:offsets[i + 1]]`."""

    offsets: np.ndarray  # int64[N + 1]
    species: np.ndarray  # int64[nnz], classes
    presence_only: bool = False
    weight: np.ndarray | None = None  # float32[N]: of each sample in the loss; None: all one
    records: np.ndarray | None = None  # bool[N]: which are presence-only, in a mixture; None: all or none
    unknown: np.ndarray | None = None  # int64[N]: further species found, which the vocabulary lacks; None: 0

    def presence_only_rows(self) -> np.ndarray:
        """Which samples are presence-only records, bool[N]."""
        return np.full(len(self), self.presence_only) if self.records is None else self.records

    def sizes(self) -> np.ndarray:
        """Species of each sample, int64[N]."""
        return np.diff(self.offsets)

    def richness(self) -> np.ndarray:
        """Species that each sample found, int64[N], with those that the vocabulary lacks."""
        return self.sizes() if self.unknown is None else self.sizes() + self.unknown

    def subset(self, index: np.ndarray) -> "Samples":
        """The samples at `index` (positions or a mask), in that order."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        sizes = self.sizes()[index]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        flat = np.repeat(self.offsets[:-1][index] - offsets[:-1], sizes) + np.arange(offsets[-1])
        return replace(
            self,
            lon=self.lon[index],
            lat=self.lat[index],
            patch_id=self.patch_id[index],
            ids=self.ids[index],
            dataset=None if self.dataset is None else self.dataset[index],
            offsets=offsets,
            species=self.species[flat],
            weight=None if self.weight is None else self.weight[index],
            records=None if self.records is None else self.records[index],
            columns={name: column[index] for name, column in self.columns.items()},
            unknown=None if self.unknown is None else self.unknown[index],
        )

    def merged(self, group: np.ndarray) -> "Samples":
        """One sample for each group[N], at its first member's place, with every record of its species."""
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[order], prepend=group.min(initial=0) - 1))
        records = self.subset(order)
        offsets = records.offsets[np.append(starts, len(order))]
        return replace(self.subset(order[starts]), offsets=offsets, species=records.species)

    def targets(
        self, index: torch.Tensor, num_classes: int, device: torch.device | str | None = None
    ) -> torch.Tensor:
        """Dense labels of a batch: how many records of each species a sample holds (0 or 1 unless merged).

        Args:
            index: int64[B].
            num_classes: K.
            device: where the labels are made; that of `index` if None.

        Returns:
            float32[B, K].
        """
        device, rows = device or index.device, index.cpu().numpy()
        sizes = torch.from_numpy(self.sizes()[rows])
        classes = np.concatenate([self.species[self.offsets[i] : self.offsets[i + 1]] for i in rows])
        targets = torch.zeros(len(rows), num_classes, device=device)
        where = tuple(
            part.to(device, non_blocking=True)  # else a GPU would have to finish its step first
            for part in (torch.repeat_interleave(sizes), torch.from_numpy(classes))
        )
        return targets.index_put_(where, torch.ones((), device=device), accumulate=True)

    @classmethod
    def concatenate(cls, parts: Sequence["Samples"]) -> "Samples":
        """All samples of several tables, in order. `parts`: the tables."""
        starts = np.cumsum([0] + [len(part.species) for part in parts])
        offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
        dataset, dataset_names = _joined_datasets(parts)
        weights = [part.weight for part in parts if part.weight is not None]
        return cls(
            lon=np.concatenate([part.lon for part in parts]),
            lat=np.concatenate([part.lat for part in parts]),
            patch_id=np.concatenate([part.patch_id for part in parts]),
            ids=np.concatenate([part.ids for part in parts]),
            dataset=dataset,
            dataset_names=dataset_names,
            offsets=np.concatenate([*offsets, starts[-1:]]),
            species=np.concatenate([part.species for part in parts]),
            presence_only=all(part.presence_only for part in parts),
            records=np.concatenate([part.presence_only_rows() for part in parts]),
            weight=np.concatenate(weights) if len(weights) == len(parts) else None,
            columns=join_columns([part.columns for part in parts], [len(part) for part in parts]),
        )


def _joined_datasets(parts: Sequence[Points]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Positions, int64[N], and names of the data sets of several tables; a table without any has ""."""
    if all(part.dataset is None for part in parts):
        return None, ()
    each = [part.dataset_names if part.dataset is not None else ("",) for part in parts]
    names = tuple(dict.fromkeys(name for part in each for name in part))
    codes = []
    for part, own in zip(parts, each, strict=True):
        place = np.zeros(len(part), int) if part.dataset is None else part.dataset
        codes.append(np.array([names.index(name) for name in own], int)[place])
    return np.concatenate(codes), names
