"""Tables of values: numbers in columns, a row for each sample, found by the sample's key.

Shapes: keys int64[n] or str[n], ascending · values float32[n, V], NaN where a cell is blank.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glczoo.data.cache import kept_arrays
from glczoo.data.places import blank, numbers
from glczoo.data.sample_columns import NO_KEY, column_numbers, join_keys, sample_keys
from glczoo.data.table_files import open_table
from glczoo.data.table_rows import require
from glczoo.errors import GlczooError

__all__ = ["numeric_columns", "read_values"]


def numeric_columns(path: Path, key: str) -> list[str]:
    """Columns of a table that hold numbers and blank cells alone, without the key, in their order.

    Raises:
        GlczooError: there is no column of the key's name, or none of numbers.
    """

    def read() -> dict[str, np.ndarray]:
        file = open_table(path)
        frame = file.read(file.names)
        require(file.read([key]), path, [key], file.names)
        numeric = []
        for name in file.names:
            values, _ = numbers(frame[name])
            known = np.isfinite(values)
            if name != file.find(key) and known.any() and (known | blank(frame[name])).all():
                numeric.append(name)
        return {"names": np.array(numeric, str)}

    names: list[str] = kept_arrays([path], ["numeric columns", key], read)["names"].tolist()
    if not names:
        raise GlczooError(f"{path}: no column but {key} holds numbers")
    return names


def read_values(paths: Sequence[Path], key: str, columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Keys, ascending, and values[n, V] of tables that are read as one; large ones are memory-mapped.

    `paths`: of the tables.

    Raises:
        GlczooError: a column is missing, a cell is no number, or one key has two different rows.
    """

    def read() -> dict[str, np.ndarray]:
        parts = [_read_table(path, key, columns) for path in paths]
        keys, values = join_keys([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        known = keys != ("" if keys.dtype.kind == "U" else NO_KEY)
        keys, values = keys[known], values[known]
        order = np.argsort(keys, kind="stable")
        keys, values = keys[order], values[order]
        again = np.flatnonzero(keys[1:] == keys[:-1]) + 1
        same = (values[again] == values[again - 1]) | (np.isnan(values[again]) & np.isnan(values[again - 1]))
        if not same.all():
            wrong = keys[again[~same.all(axis=1)]]
            raise GlczooError(
                f"{', '.join(path.name for path in paths)}: {len(wrong)} rows name a {key} that another row "
                f"has with other values, the first: {wrong[:3].tolist()}"
            )
        return {"keys": np.delete(keys, again), "values": np.delete(values, again, axis=0)}

    arrays = kept_arrays(list(paths), ["values", key, list(columns)], read)
    return arrays["keys"], arrays["values"]


def _read_table(path: Path, key: str, columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    file = open_table(path)
    frame = file.read([key, *columns])
    require(frame, path, [key, *columns], file.names)
    values = np.empty((len(frame), len(columns)), np.float32)
    with np.errstate(over="ignore"):
        for position, name in enumerate(columns):
            values[:, position] = column_numbers(frame[name], path)
    values[np.isinf(values)] = np.nan  # larger than float32 holds: no measured value is
    return sample_keys(frame[key]), values
