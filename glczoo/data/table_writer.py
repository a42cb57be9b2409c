"""Tables that glczoo writes: CSV, or Parquet by its name."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from glczoo.errors import GlczooError
from glczoo.files import whole

__all__ = ["table_writer", "write_csv"]


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
