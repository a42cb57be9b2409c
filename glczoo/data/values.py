"""Bands of `kind: values`: numbers that belong to a sample, from a table by its key or from its own row.

Shapes: values[N, V] of V bands at N samples, NaN where there is no row or a cell is blank. A model that sees
patches sees a plane of one value.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from glczoo.data.occurrences import Points
from glczoo.data.rasters import few
from glczoo.data.region import Band, Modality, Region
from glczoo.data.sample_columns import find_keys
from glczoo.data.units import Line, between
from glczoo.data.value_tables import read_values
from glczoo.errors import MissingError

__all__ = ["SampleRows", "Values", "open_values"]

_ROWS = 1 << 16  # at a time: bounds the memory


@dataclass(frozen=True)
class SampleRows:
    """Rows of a table of values, one for each of N samples."""

    stored: np.ndarray  # float[n, V]
    row: np.ndarray  # int64[N], -1 where there is none
    nodata: np.ndarray  # float[V], NaN where no value means no data
    line: np.ndarray  # float64[2, V]: factor and offset

    def __len__(self) -> int:
        return len(self.row)

    def at(self, index: np.ndarray | slice) -> np.ndarray:
        """values[B, V] of the samples at `index`, float32."""
        row = self.row[index]
        values = np.full((len(row), len(self.nodata)), np.nan)
        known = row >= 0
        values[known] = self.stored[row[known]]
        values[values == self.nodata] = np.nan
        return (values * self.line[0] + self.line[1]).astype(np.float32)


@dataclass(frozen=True)
class Values:
    """The bands of one modality of values."""

    modality: str
    bands: tuple[str, ...]
    columns: tuple[str, ...]
    files: tuple[str, ...]  # names of the tables; none: the samples' own
    key: str
    keys: np.ndarray  # of the tables' rows, ascending
    stored: np.ndarray  # float32[n, V]
    nodata: np.ndarray
    line: np.ndarray

    def rows(self, points: Points) -> SampleRows:
        """Where the points' values stand."""
        number = len(points)
        if self.files:
            wanted = points.columns.get(self.key)
            row = np.full(number, -1) if wanted is None else find_keys(self.keys, wanted)
            return SampleRows(self.stored, row, self.nodata, self.line)
        own = [points.columns.get(name, np.full(number, np.nan)) for name in self.columns]
        stored = np.array(own, np.float64).reshape(len(own), number).T
        return SampleRows(stored, np.arange(number), self.nodata, self.line)

    def at(self, points: Points) -> np.ndarray:
        """values[N, V] of the points, float32."""
        return self.rows(points).at(slice(None))

    def gaps(self, points: Points) -> np.ndarray:
        """Points without any of the values, bool[N]: no row names them, or all its cells are blank."""
        rows = self.rows(points)
        parts = [np.isnan(rows.at(part)).all(axis=1) for part in _parts(len(rows))]
        return np.concatenate([np.zeros(0, bool), *parts])

    def places(self, points: Points) -> np.ndarray:
        """Numbers of the points, int64[N], equal where they have the same values."""
        rows = self.rows(points)
        if self.files:
            return rows.row
        known = np.nan_to_num(rows.at(slice(None)), nan=np.inf)
        return np.unique(known, axis=0, return_inverse=True)[1].reshape(-1)

    def moments(self, points: Points) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean[V] and standard deviation[V] over the points, and the share[V] of them without a value."""
        rows = self.rows(points)
        number, total, squares = np.zeros((3, len(self.bands)))
        for part in _parts(len(rows)):
            values = rows.at(part).astype(np.float64)
            number += (~np.isnan(values)).sum(0)
            total += np.nansum(values, 0)
        mean = total / np.maximum(number, 1)
        for part in _parts(len(rows)):
            squares += np.nansum((rows.at(part).astype(np.float64) - mean) ** 2, 0)
        std = np.sqrt(squares / np.maximum(number, 1))
        return mean, std, 1 - number / max(len(rows), 1)

    def everywhere(self) -> SampleRows:
        """All rows of the tables; none where the values stand in the samples' own."""
        return SampleRows(self.stored, np.arange(len(self.stored)), self.nodata, self.line)

    @property
    def without_row(self) -> str:
        """What is said of samples without any of the values."""
        if self.files:
            return f"without a row in {few(self.files)} ({self.key})"
        return f"without a value in their own row ({few(self.columns)})"

    @property
    def needed(self) -> str:
        """What a point must bring, for a message."""
        if self.files:
            return f"a {self.key} that {few(self.files)} has"
        return f"the columns {few(self.columns)}"


def _parts(number: int) -> list[slice]:
    return [slice(start, start + _ROWS) for start in range(0, number, _ROWS)]


def open_values(
    region: Region, modalities: Sequence[Modality], units: Mapping[str, str] | None = None
) -> list[Values]:
    """Open the bands of values of some modalities.

    Args:
        region: says where the tables are.
        modalities: of any kind.
        units: that bands are wanted in, where they convert.

    Raises:
        MissingError: none of a modality's tables is there.
        GlczooError: a table cannot be read.
    """
    opened = []
    for modality in modalities:
        if modality.kind != "values":
            continue
        columns = tuple(band.column or band.name for band in modality.bands)
        paths = []
        for file in modality.file:
            try:
                paths.append(region.find_file(modality, file))
            except FileNotFoundError as error:
                missing = error
        if modality.file and not paths:
            raise MissingError(f"{missing}: the values of modality {modality.name} stand there")
        keys, stored = np.empty(0, np.int64), np.empty((0, len(columns)), np.float32)
        if paths:
            keys, stored = read_values(paths, modality.key or "", columns)
        lines = [_line_of(band, (units or {}).get(band.name)) for band in modality.bands]
        opened.append(
            Values(
                modality=modality.name,
                bands=tuple(band.name for band in modality.bands),
                columns=columns,
                files=tuple(path.name for path in paths),
                key=modality.key or "",
                keys=keys,
                stored=stored,
                nodata=np.array([np.nan if b.nodata is None else b.nodata for b in modality.bands]),
                line=np.array([[line.factor for line in lines], [line.offset for line in lines]]),
            )
        )
    return opened


def _line_of(band: Band, unit: str | None) -> Line:
    """What makes the values of a band from its column: scale and offset, then another unit."""
    line = Line(1.0 if band.scale is None else band.scale, band.offset or 0.0)
    converted = between(band.unit, unit, band.name) if unit is not None else None
    return line if converted is None else converted.after(line)
