"""Tables that glczoo writes: CSV, or Parquet by its name; and texts in them that a spreadsheet leaves alone.

A species or a data set may be called `=HYPERLINK(…)` in a table that somebody published, and a spreadsheet
would compute it. As OWASP advises ("CSV Injection"), a cell that begins like a formula gets an apostrophe in
front.
"""

import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from glczoo.errors import GlczooError
from glczoo.files import whole

__all__ = ["as_text", "table_writer", "texts", "write_csv"]

_FORMULA = re.compile(r"\s*[=+\-@\t\r]")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


def write_csv(path: Path, columns: Mapping[str, Sequence | np.ndarray]) -> None:
    """Write a comma-separated table: all of it, or none."""
    with whole(path) as beside:
        pd.DataFrame(columns).to_csv(beside, index=False, float_format="%.6g")


def table_writer(path: Path) -> Callable[[Mapping[str, Sequence | np.ndarray]], None]:
    """What writes a table to `path`, as its name says: .parquet, else CSV. Ask before the work is done.

    Raises:
        GlczooError: the name ends in .parquet and pyarrow is not installed.
    """
    if path.suffix.lower() != ".parquet":
        return partial(write_csv, path)
    if importlib.util.find_spec("pyarrow") is None:
        raise GlczooError(f"{path}: Parquet needs pyarrow (pip install 'glczoo[parquet]'); or name a .csv")

    def write(columns: Mapping[str, Sequence | np.ndarray]) -> None:
        with whole(path) as beside:
            pd.DataFrame(columns).to_parquet(beside, engine="pyarrow", index=False)

    return write


def as_text(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula; numbers stay as they are."""
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def texts(column: Iterable[str]) -> np.ndarray:
    """The same of a column, str[N]."""
    return np.array([as_text(cell) for cell in column], str)
