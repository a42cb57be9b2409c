"""Tables of samples, species and places as anybody may send them, in every format that is read."""

import bz2
import gzip
import io
import json
import lzma
import sqlite3
import struct
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from mutations import (
    changed_bytes,
    changed_cells,
    changed_json,
    changed_text,
    fuzzed,
    refused_or_read,
    written,
)

from glczoo.data.occurrences import SpeciesIndex
from glczoo.data.region import Region
from glczoo.data.table_files import open_table
from glczoo.data.tables import read_and_report, read_folds, read_points, read_samples, read_species
from glczoo.prediction.grids import bounds_of, read_polygon

ROWS = [  # patch, day, lon, lat, species, dataset, status
    (75, 160, 5.01, 44.95, 11, "trees", "present"),
    (75, 160, 5.01, 44.95, 12, "trees", "present"),
    (75, 201, 5.01, 44.95, 12, "trees", "absent"),
    (123, 160, 5.1, 44.9, 15, "plots", "present"),
    (45, 150, 5.19, 44.87, 20, "", "yes"),
]
HEADER = ("patchID", "dayOfYear", "lon", "lat", "speciesId", "datasetName", "status")
FRAME = pd.DataFrame(ROWS, columns=HEADER)
CSV = FRAME.to_csv(sep=";", index=False)
WIDE = (
    "patchID,lon,lat,Acer campestre,Abies alba\n75,5.01,44.95,1,0\n123,5.1,44.9,no,yes\n45,5.19,44.87,,12\n"
)
SPECIES = (
    "speciesId;name;km\n11;Acer campestre;0\n12;Abies alba;10\n15;Quercus robur;\n20;Fagus sylvatica;0\n"
)
META = """<archive xmlns="http://rs.tdwg.org/dwc/text/"><core encoding="UTF-8" fieldsTerminatedBy=","
rowType="http://rs.tdwg.org/dwc/terms/Event"><files><location>event.txt</location></files>
<id index="0"/></core>
<extension encoding="UTF-8" rowType="http://rs.tdwg.org/dwc/terms/Occurrence"><files>
<location>occurrence.txt</location></files><coreid index="0"/></extension></archive>"""
EVENTS = "eventID,decimalLongitude,decimalLatitude\na,5.01,44.95\nb,5.1,44.9\n"
OCCURRENCES = "eventID,speciesId,occurrenceStatus\na,11,present\na,12,absent\nb,15,present\n"
FEATURES = [
    {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [row[2], row[3]]},
        "properties": dict(zip(HEADER, row, strict=True)),
    }
    for row in ROWS
]
GEOJSON = json.dumps({"type": "FeatureCollection", "features": FEATURES})
RING = [[5.0, 44.8], [5.2, 44.8], [5.2, 45.0], [5.0, 44.8]]
POLYGON = json.dumps(
    {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [RING]}}
)
POINTS = "id,lon,lat,patchID\n1,5.01,44.95,75\n2,5.1,44.9,\n3,,,\n"
FOLDS = "patchID;fold;rank\n75;0;0.5\n123;1;0.1\n45;2;0.9\n"


def zipped(members: dict[str, str]) -> bytes:
    """A zip archive that is the same whenever it is made."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in members.items():
            info = zipfile.ZipInfo(name)
            archive.writestr(info, text.encode("utf-8", "surrogatepass"), zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def workbook() -> dict[str, str]:
    stream = io.BytesIO()
    FRAME.to_excel(stream, index=False)
    with zipfile.ZipFile(stream) as archive:
        members = {name: archive.read(name).decode() for name in archive.namelist()}
    del members["docProps/core.xml"]  # the time
    return members


def parquet() -> bytes:
    stream = io.BytesIO()
    FRAME.to_parquet(stream)
    return stream.getvalue()


def geopackage(folder: Path) -> bytes:
    path = folder / "seed.gpkg"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE gpkg_spatial_ref_sys (srs_id, organization, organization_coordsys_id)"
        )
        connection.execute("INSERT INTO gpkg_spatial_ref_sys VALUES (4326, 'EPSG', 4326)")
        connection.execute("CREATE TABLE gpkg_geometry_columns (table_name, column_name, srs_id)")
        connection.execute("INSERT INTO gpkg_geometry_columns VALUES ('plots', 'geom', 4326)")
        connection.execute("CREATE TABLE plots (geom BLOB, patchID, dayOfYear, speciesId, status)")
        for patch, day, lon, lat, species, _, status in ROWS:
            blob = b"GP\0\1" + struct.pack("<i", 4326) + struct.pack("<BIdd", 1, 1, lon, lat)
            connection.execute(
                "INSERT INTO plots VALUES (?, ?, ?, ?, ?)", (blob, patch, day, species, status)
            )
    connection.close()
    return path.read_bytes()


ARCHIVE = {"meta.xml": META, "event.txt": EVENTS, "occurrence.txt": OCCURRENCES}
WORKBOOK = workbook()

DESCRIBED = {
    "name": "fuzzed",
    "bounds": [4.5, 44.5, 5.5, 45.5],
    "modalities": [{"name": "m", "folder": ".", "bands": [{"name": "b", "file": "b.tif"}]}],
    "tables": {
        "po": {"file": "table", "presence": {"status": ["present", "yes"]}},
        "pa": {"file": "table", "presence": {"status": ["present", "yes"]}, "incomplete": "drop"},
    },
    "species": {"file": "species.csv", "id": "speciesId", "name": "name", "sensitive": "km"},
    "split": {"file": "folds.csv", "patch": "patchID", "fold": "fold", "rank": "rank"},
}


def region(folder: Path, **changes: object) -> Region:
    """A region of these tables; those that nobody has written there are as they should be."""
    for name, text in {"species.csv": SPECIES, "folds.csv": FOLDS, "table": CSV}.items():
        if not (folder / name).exists():
            written(folder / name, text)
    written(folder / "region.yaml", yaml.safe_dump(DESCRIBED | changes))
    return Region.load(folder)


def read_everything(path: Path) -> None:
    """All that is done with a table of samples, each way for itself."""
    own = region(path.parent)

    def columns() -> None:
        table = open_table(path)
        table.read([*HEADER, *table.names[:3], "NAME"])

    def samples() -> None:
        vocabulary = read_species(own)
        for kind in ("po", "pa"):
            refused_or_read(lambda kind=kind: read_samples(own, kind, vocabulary))
            refused_or_read(lambda kind=kind: read_and_report(own, kind, vocabulary))

    def ids() -> None:
        read_species(own.model_copy(update={"species": None}))

    for read in (columns, samples, ids, lambda: read_points(None, path), lambda: read_points(own, path)):
        refused_or_read(read)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@fuzzed
@given(text=changed_text(CSV) | changed_cells(CSV, ";") | changed_cells(CSV.replace(";", "\t"), "\t"))
def test_fuzzed_csv(text, folder):
    read_everything(written(folder / "table", text))


@fuzzed
@given(content=changed_bytes(CSV.encode()) | changed_bytes(CSV.encode("utf-16")) | st.binary(max_size=200))
def test_fuzzed_bytes_of_csv(content, folder):
    read_everything(written(folder / "table", content))


@fuzzed
@given(data=st.data())
def test_fuzzed_compressed_tables(data, folder):
    compress = data.draw(st.sampled_from([gzip.compress, bz2.compress, lzma.compress]))
    if data.draw(st.booleans()):
        content = compress(data.draw(changed_bytes(CSV.encode())))
    else:
        content = data.draw(changed_bytes(compress(CSV.encode())))
    read_everything(written(folder / "table", content))


@fuzzed
@given(data=st.data())
def test_fuzzed_archives_and_workbooks(data, folder):
    members = data.draw(st.sampled_from([ARCHIVE, {"table.csv": CSV}, WORKBOOK]))
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(members)))
        content = zipped(members | {name: data.draw(changed_text(members[name]))})
    else:
        content = data.draw(changed_bytes(zipped(members)))
    read_everything(written(folder / "table", content))


@fuzzed
@given(content=changed_bytes(parquet(), head=100))
def test_fuzzed_parquet(content, folder):
    read_everything(written(folder / "table", content))


@fuzzed
@given(text=changed_json(GEOJSON) | changed_text(GEOJSON))
def test_fuzzed_geojson(text, folder):
    read_everything(written(folder / "table", text))


@fuzzed
@given(data=st.data())
def test_fuzzed_geopackages(data, folder, tmp_path_factory):
    if not (seed := folder / "seed").exists():
        written(seed, geopackage(folder))
    read_everything(written(folder / "table", data.draw(changed_bytes(seed.read_bytes(), head=100))))


@fuzzed
@given(text=changed_cells(WIDE, ",") | changed_text(WIDE))
def test_fuzzed_wide_tables(text, folder):
    written(folder / "wide", text)
    table = {"file": "wide", "layout": "wide", "survey": ["patchID"], "incomplete": "drop"}
    own = region(folder, tables={"pa": table})
    refused_or_read(lambda: read_samples(own, "pa", read_species(own)))
    refused_or_read(lambda: read_and_report(own, "pa", read_species(own)))


@fuzzed
@given(text=changed_cells(SPECIES, ";") | changed_text(SPECIES))
def test_fuzzed_species_tables(text, folder):
    written(folder / "species.csv", text)
    own = region(
        folder, tables={"pa": DESCRIBED["tables"]["pa"] | {"species_by": "name", "species": "status"}}
    )
    refused_or_read(lambda: read_species(own))
    refused_or_read(lambda: read_samples(own, "pa", read_species(own)))


VOCABULARY = "class;speciesId;name;sensitiveKm\n0;11;Acer campestre;0.0\n1;12;Abies alba;10.0\n2;15;;0.0\n"


@fuzzed
@given(
    content=(changed_cells(VOCABULARY, ";") | changed_text(VOCABULARY)) | changed_bytes(VOCABULARY.encode())
)
def test_fuzzed_vocabularies(content, folder):
    refused_or_read(lambda: SpeciesIndex.load(written(folder / "species.csv", content)))


@fuzzed
@given(text=changed_cells(FOLDS, ";") | changed_text(FOLDS))
def test_fuzzed_splits(text, folder):
    own = region(folder)
    samples = read_samples(own, "pa", read_species(own))
    written(folder / "folds.csv", text)
    refused_or_read(lambda: read_folds(own, samples))


@fuzzed
@given(text=changed_cells(POINTS, ",") | changed_text(POINTS))
def test_fuzzed_points(text, folder):
    path = written(folder / "points.csv", text)
    refused_or_read(lambda: read_points(None, path))
    refused_or_read(lambda: read_points(None, path, crs="EPSG:2154"))


@fuzzed
@given(text=changed_json(POLYGON) | changed_text(POLYGON))
def test_fuzzed_polygons(text, folder):
    path = written(folder / "area.geojson", text)
    refused_or_read(lambda: bounds_of(read_polygon(path), None, 0.01))
