"""Tables of places to predict at: a region's test table, or anyone's. Shapes as in `occurrences.py`."""

from pathlib import Path

import numpy as np
import pandas as pd

from glczoo.data.occurrences import Points, Unplaced
from glczoo.data.places import Places, are_metres, blank, coordinate_columns, crs_in_names, numbers
from glczoo.data.region import Region, Table
from glczoo.data.sample_columns import sample_columns
from glczoo.data.table_files import TableFile, open_table
from glczoo.data.table_rows import DATASET, LARGEST_ID, datasets, patch_ids, placed, require, unplaced_text
from glczoo.errors import GlczooError

__all__ = ["read_points", "row_ids"]


def read_points(
    region: Region | None,
    path: Path,
    described: Table | None = None,
    *,
    crs: str | None = None,
    encoding: str | None = None,
) -> Points:
    """Read places to predict at: a region's test table, or anyone's table of places.

    Columns are known by their names (lon, decimalLongitude, x …), or as the region describes its own tables.
    Rows of anyone's table without usable coordinates stay, with nan for lon and lat (`Points.unplaced`), to
    be named where they are left out.

    Args:
        region: whose bounds show that lon and lat are exchanged, and whose tables may be like this one.
        path: of the table.
        described: its description; None for anyone's table.
        crs: of the coordinates of anyone's table; if None they are degrees, or metres in the CRS that the
            columns' names bear or that the region's tables have.
        encoding: of anyone's text; see `open_table`.

    Raises:
        MissingError: there is no such file.
        GlczooError: no columns of coordinates, no row with any, or rows of a described table without.
    """
    if described is None:
        file = open_table(path, None, encoding)
        described = _described(region, file, crs)
    else:
        file = open_table(path, described.separator, described.encoding)
    needed = [described.lon, described.lat]
    keys, values = region.sample_columns() if region is not None else ([], [])
    frame = file.read([*needed, described.id, described.patch, DATASET, *keys, *values])
    require(frame, path, needed, file.names)
    places = placed(frame, described, region, path)
    if places.unplaced.any() and described.incomplete == "error":
        raise GlczooError(unplaced_text(path, frame, places))
    if not len(frame):
        raise GlczooError(f"{path} has a header and no rows")
    if places.unplaced.all():
        hint = "; metres need their CRS: --crs EPSG:2154" if described.crs is None else ""
        raise GlczooError(unplaced_text(path, frame, places, hint))
    dataset, dataset_names = datasets(frame) if DATASET in frame else (None, ())
    return Points(
        places.lon,
        places.lat,
        patch_ids(frame, described, path),
        row_ids(frame, described),
        dataset=dataset,
        dataset_names=dataset_names,
        columns=sample_columns(frame, keys, values, path),
        without_place=_without_place(frame, described, places) if places.unplaced.any() else None,
    )


def _described(region: Region | None, file: TableFile, crs: str | None) -> Table:
    """Anyone's table: by the names of its columns, or like one of the region's own.

    Raises:
        GlczooError: no columns look like coordinates.
    """
    own = list(region.tables.values()) if region is not None else []
    like = next((table for table in own if file.find(table.lon) and file.find(table.lat)), None)
    lon, lat = coordinate_columns(file.names, str(file.path), crs is not None)
    if (lon is None or lat is None) and like is not None:
        lon, lat = like.lon, like.lat
    if lon is None or lat is None:
        raise GlczooError(
            f"{file.path}: no column looks like longitude or latitude; it has {list(file.names)}. Name them "
            "lon and lat, in degrees"
        )
    held = file.read([lon, lat])
    if crs is None and len(held) and are_metres(held[lon], held[lat]):
        systems = {table.crs for table in own if table.crs}
        crs = crs_in_names(lon, lat) or (systems.pop() if len(systems) == 1 else None)
    patch = next((table.patch for table in own if file.find(table.patch) is not None), "patchID")
    return Table(file=[str(file.path)], lon=lon, lat=lat, crs=crs, patch=patch, incomplete="drop")


def _without_place(frame: pd.DataFrame, table: Table, places: Places) -> Unplaced:
    """Why rows have no usable coordinates, and what they hold instead."""
    reason = np.select([*places.reasons.values()], [*places.reasons], default="")
    lon, lat = (np.array([_as_read(cell) for cell in frame[name]], str) for name in (table.lon, table.lat))
    return Unplaced(reason, lon, lat)


def _as_read(cell: object) -> str:
    """A cell as the table has it; pandas makes numbers of a column that holds nothing else."""
    if cell is None or cell is pd.NA or cell != cell:
        return ""
    return f"{cell:.10g}" if isinstance(cell, float) else str(cell)


def row_ids(frame: pd.DataFrame, table: Table) -> np.ndarray:
    """Ids of the rows, int64[n], or str[n] where some are no numbers; counted from 0 without any."""
    if table.id not in frame or blank(frame[table.id]).all():
        return np.arange(len(frame))
    values, _ = numbers(frame[table.id])
    if (np.abs(values) <= LARGEST_ID).all() and (values == np.round(values)).all():
        return values.astype(np.int64)
    return np.array([_as_read(cell) for cell in frame[table.id]], str)
