"""Points of geographic files as tables: GeoJSON (RFC 7946) and GeoPackage (OGC 12-128r18), in degrees.

Both are read without a library of their own: GeoJSON is JSON, and a GeoPackage is an SQLite file whose
geometries are well-known binary behind a short header.
"""

import json
import re
import sqlite3
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from glczoo.data.rasters import project
from glczoo.errors import GlczooError

__all__ = ["read_geojson", "read_geopackage"]

_POINT, _MULTIPOINT = 1, 4
_LONGEST = 10_000_000  # bytes of a cell of a GeoPackage
_ENVELOPES = (0, 32, 48, 48, 64)  # bytes, by the code in the flags of a GeoPackage's geometry


def read_geojson(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The properties of a collection of points, with lon and lat, and notes.

    Raises:
        GlczooError: it is no such collection.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise GlczooError(f"{path} looks like JSON and cannot be read: {error}") from None
    features = content.get("features") if isinstance(content, dict) else None
    if not isinstance(features, list):
        raise GlczooError(f"{path} is JSON without `features`: GeoJSON of points is read; or save it as CSV")
    try:
        rows = [_properties(feature.get("properties") or {}) for feature in features]
        places = [
            _coordinates(feature.get("geometry"), f"{path}: feature {i}")
            for i, feature in enumerate(features, 1)
        ]
        crs = str(((content.get("crs") or {}).get("properties") or {}).get("name", ""))
    except (AttributeError, TypeError, IndexError) as error:
        raise GlczooError(f"{path} is no GeoJSON as RFC 7946 has it: {error}") from None
    code = re.search(r"EPSG:+(\d+)$", crs)
    x, y = ([place[axis] for place in places] for axis in (0, 1))
    return _placed(pd.DataFrame(rows), x, y, f"EPSG:{code[1]}" if code else "EPSG:4326", "GeoJSON")


def _properties(properties: dict[str, Any]) -> dict[str, Any]:
    """The cells of a row: lists and mappings are none, and stand as their text."""
    return {
        name: json.dumps(value) if isinstance(value, dict | list) else value
        for name, value in properties.items()
    }


def _coordinates(geometry: Any, where: str) -> tuple[float, float]:
    """x, y of a point of GeoJSON; nan where a feature has none."""
    if not geometry:
        return np.nan, np.nan
    kind, place = geometry.get("type"), geometry.get("coordinates")
    if kind == "MultiPoint" and len(place) == 1:
        kind, place = "Point", place[0]
    if kind != "Point":
        raise GlczooError(
            f"{where} is a {kind}; a table of places needs points: take the centres of its shapes"
        )
    numbers = [v if isinstance(v, int | float) else np.nan for v in place or (np.nan, np.nan)]
    return float(numbers[0]), float(numbers[1])


def read_geopackage(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The first layer of points of a GeoPackage with lon and lat, and notes.

    Raises:
        GlczooError: it is an SQLite file and no GeoPackage, or has no layer of points.
    """
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    try:
        _refuse_views(connection, path, "gpkg_geometry_columns", "gpkg_spatial_ref_sys")
        layers = connection.execute(
            "SELECT g.table_name, g.column_name, s.organization, s.organization_coordsys_id "
            "FROM gpkg_geometry_columns g LEFT JOIN gpkg_spatial_ref_sys s ON g.srs_id = s.srs_id"
        ).fetchall()
        for layer, column, organisation, code in layers:
            _refuse_views(connection, path, layer)
            quoted = str(layer).replace('"', '""').replace("\0", "")
            table = pd.read_sql_query(f'SELECT * FROM "{quoted}"', connection)
            places = [_point(blob) for blob in table.pop(column)]
            if not any(places):
                continue
            x, y = ([place[axis] if place else np.nan for place in places] for axis in (0, 1))
            crs = f"{organisation or 'EPSG'}:{code or 4326}".upper()
            kind = f"layer {layer} of a GeoPackage"
            kind += f", the first of {len(layers)}" if len(layers) > 1 else ""
            return _placed(table, x, y, crs, kind)
    except (sqlite3.Error, pd.errors.DatabaseError, KeyError) as error:
        raise GlczooError(f"{path} is an SQLite file that cannot be read as a GeoPackage: {error}") from None
    finally:
        connection.close()
    raise GlczooError(f"{path} is a GeoPackage without a layer of points: save the centres of its shapes")


def _refuse_views(connection: sqlite3.Connection, path: Path, *names: object) -> None:
    """Read stored tables alone: a view is a program of whoever made the file, which need not end."""
    for name in names:
        query = "SELECT type FROM sqlite_master WHERE lower(name) = lower(?)"
        if any(kind != "table" for (kind,) in connection.execute(query, (str(name),))):
            raise GlczooError(f"{path}: {name} is a view and no table: save its rows as a layer")


def _point(blob: Any) -> tuple[float, float] | None:
    """x, y of a GeoPackage's geometry; None where it is no point."""
    if not isinstance(blob, bytes) or blob[:2] != b"GP" or len(blob) < 8:
        return None
    start = 8 + _ENVELOPES[min(blob[3] >> 1 & 7, 4)]
    try:
        order = "<" if blob[start] == 1 else ">"
        (kind,) = struct.unpack_from(order + "I", blob, start + 1)
        kind = kind % 1000 if kind < 0x10000000 else kind & 0xFF
        if kind == _MULTIPOINT and struct.unpack_from(order + "I", blob, start + 5) == (1,):
            start, kind = start + 9, _POINT
        if kind != _POINT:
            return None
        x, y = struct.unpack_from(order + "dd", blob, start + 5)
    except (IndexError, struct.error):
        return None
    return x, y


def _placed(
    table: pd.DataFrame, x: list[float], y: list[float], crs: str, kind: str
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    lon, lat = np.array(x, float), np.array(y, float)
    notes = [f"{kind}: lon and lat are its points"]
    if crs not in ("EPSG:4326", "OGC:CRS84", "NONE:4326"):
        there = np.isfinite(lon) & np.isfinite(lat)
        lon[there], lat[there] = project(crs, "EPSG:4326", lon[there], lat[there])
        notes.append(f"projected from {crs}")
    taken = [name for name in table.columns if str(name).lower() in ("lon", "lat")]
    table = table.drop(columns=taken).assign(lon=lon, lat=lat)
    return table, ("; ".join(notes),)
