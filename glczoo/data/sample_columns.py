"""Columns of samples that bands of `kind: values` ask for: keys of tables, and the values themselves.

Shapes: keys int64[n] or str[n] · numbers float64[n], NaN where a cell is blank.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glczoo.data.places import blank, numbers
from glczoo.errors import GlczooError

__all__ = [
    "NO_KEY",
    "column_numbers",
    "find_keys",
    "join_columns",
    "join_keys",
    "packed",
    "sample_columns",
    "sample_keys",
    "survey_columns",
    "unpacked",
]

NO_KEY = np.iinfo(np.int64).min
"""Of a sample whose row names none; texts have an empty one."""


def sample_keys(column: pd.Series) -> np.ndarray:
    """Keys of the rows: int64[n] where all of them are whole numbers, else str[n]; see `NO_KEY`.

    `column`: as it is in the table.
    """
    empty = blank(column)
    if pd.api.types.is_integer_dtype(column.dtype) and not empty.any():
        return column.to_numpy(np.int64)
    values, _ = numbers(column)
    known = values[~empty]
    if np.isfinite(known).all() and (known == np.round(known)).all():
        return np.where(empty, NO_KEY, values).astype(np.int64)
    return column.astype(str).str.strip().where(~empty, "").to_numpy(str)


def find_keys(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where keys stand among ascending ones, int64[N]; -1 where they do not. `wanted`: those to find."""
    if keys.dtype.kind == "U" and wanted.dtype.kind != "U":
        wanted = np.where(wanted == NO_KEY, "", wanted.astype(str))
    elif keys.dtype.kind != "U" and wanted.dtype.kind == "U":
        wanted = sample_keys(pd.Series(np.where(np.char.isdecimal(wanted), wanted, ""), dtype=object))
    if not len(keys):
        return np.full(len(wanted), -1)
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


def column_numbers(column: pd.Series, path: Path) -> np.ndarray:
    """float64[n] of a column, NaN where a cell is blank.

    Raises:
        GlczooError: a cell holds something else.
    """
    values, _ = numbers(column)
    wrong = np.isnan(values) & ~blank(column)
    if wrong.any():
        raise GlczooError(
            f"{path}: {wrong.sum()} values of {column.name} are no numbers, the first is "
            f"{str(column[wrong].iloc[0])[:40]!r} at line {column.index[wrong][0]}"
        )
    return np.where(np.isfinite(values), values, np.nan)


def join_keys(keys: Sequence[np.ndarray]) -> np.ndarray:
    """Keys of several tables; as texts where some are."""
    if any(part.dtype.kind == "U" for part in keys):
        texts = [part if part.dtype.kind == "U" else part.astype(str) for part in keys]
        return np.where((joined := np.concatenate(texts)) == str(NO_KEY), "", joined)
    return np.concatenate(keys)


def sample_columns(
    frame: pd.DataFrame, keys: Sequence[str], values: Sequence[str], path: Path
) -> dict[str, np.ndarray]:
    """Columns of the samples' own table that bands ask for, those that it has.

    Args:
        frame: its rows.
        keys: columns by which tables of values are read.
        values: columns that are bands themselves.
        path: of the table, for messages.

    Raises:
        GlczooError: a value is no number.
    """
    columns = {name: sample_keys(frame[name]) for name in keys if name in frame}
    return columns | {name: column_numbers(frame[name], path) for name in values if name in frame}


def survey_columns(
    frame: pd.DataFrame,
    keys: Sequence[str],
    values: Sequence[str],
    path: Path,
    number: np.ndarray,
    first: np.ndarray,
) -> dict[str, np.ndarray]:
    """As `sample_columns`, of surveys: `number` int64[n] of each row's survey, `first` row of each survey.

    Raises:
        GlczooError: a value is no number, or the rows of one survey differ.
    """
    columns = sample_columns(frame, keys, values, path)
    for name, column in columns.items():
        own = column[first][number]
        differ = (own != column) & ~((own != own) & (column != column))
        if differ.any():
            raise GlczooError(
                f"{path}: the rows of {len(np.unique(number[differ]))} surveys have more than one {name}, "
                f"the first at line {frame.index[differ][0]}"
            )
    return {name: column[first] for name, column in columns.items()}


def packed(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays whose names are names of files, for the cache."""
    named = {f"column_{number}": column for number, column in enumerate(columns.values())}
    return named | {"columns": np.array([*columns], str)}


def unpacked(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The arrays of the cache, the packed columns in a dict of their own."""
    names = arrays["columns"].tolist()
    columns = {name: arrays[f"column_{number}"] for number, name in enumerate(names)}
    others = {name: array for name, array in arrays.items() if not name.startswith("column")}
    return others | {"columns": columns}


def join_columns(parts: Sequence[Mapping[str, np.ndarray]], sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Columns of several tables, one after another; a table without one has nothing there.

    Args:
        parts: each table's columns.
        sizes: each table's number of rows.
    """
    joined = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        numeric = all(part[name].dtype.kind == "f" for part in parts if name in part)
        nothing = np.nan if numeric else NO_KEY
        columns = [
            part[name] if name in part else np.full(size, nothing)
            for part, size in zip(parts, sizes, strict=True)
        ]
        joined[name] = np.concatenate(columns) if numeric else join_keys(columns)
    return joined
