"""One reader of files of tables: what a file is, is seen in its bytes, whatever its name."""

import gzip
import json
import sqlite3
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glczoo.data.table_files import open_table
from glczoo.errors import GlczooError

ROWS = [("a", "Abies alba", 5.5, 44.5), ("b", "Poa annua", 5.6, 44.25)]
COLUMNS = ["id", "species", "lon", "lat"]


def write(path: Path, text: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def text_of(separator: str = ",") -> str:
    lines = [COLUMNS, *[list(map(str, row)) for row in ROWS]]
    return "".join(separator.join(line) + "\n" for line in lines)


def assert_is_the_table(path: Path, **options: str) -> None:
    table = open_table(path, **options).read(COLUMNS)
    assert table["species"].tolist() == ["Abies alba", "Poa annua"]
    assert table["lon"].astype(float).tolist() == [5.5, 5.6] and table["id"].tolist() == ["a", "b"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " , ".strip() + " "])
def test_separators_are_seen(tmp_path: Path, separator: str) -> None:
    assert_is_the_table(write(tmp_path / "t.csv", text_of(separator)))


def test_a_line_that_names_the_separator_is_no_header(tmp_path: Path) -> None:
    assert_is_the_table(write(tmp_path / "t.csv", "sep=;\r\n" + text_of(";").replace("\n", "\r\n")))


def test_blanks_separate_what_r_writes(tmp_path: Path) -> None:
    text = '"id" "species" "lon" "lat"\n"1" "a" "Abies alba" 5.5 44.5\n"2" "b" "Poa annua" 5.6 44.25\n'
    assert_is_the_table(write(tmp_path / "t.txt", text))


def test_names_of_rows_that_r_writes_are_no_column(tmp_path: Path) -> None:
    text = '"id","species","lon","lat"\n"1","a","Abies alba",5.5,44.5\n"2","b","Poa annua",5.6,44.25\n'
    assert_is_the_table(write(tmp_path / "t.csv", text))


def test_names_of_rows_are_no_column_where_the_last_one_is_empty(tmp_path: Path) -> None:
    rows = ['"1","a","Abies alba",5.5,44.5,""', '"2","b","Poa annua",5.6,44.25,""']
    text = "\n".join(['"id","species","lon","lat","note"', *rows]) + "\n"
    assert_is_the_table(write(tmp_path / "t.csv", text))


@pytest.mark.parametrize("of_header", [True, False])
def test_a_separator_behind_the_last_field_shifts_nothing(tmp_path: Path, of_header: bool) -> None:
    head, *rows = text_of(";").splitlines()
    lines = [head + ";" * of_header, *(row + ";" for row in rows)]
    assert_is_the_table(write(tmp_path / "t.csv", "\n".join(lines) + "\n"))


def test_comments_above_the_header_are_passed_over(tmp_path: Path) -> None:
    assert_is_the_table(write(tmp_path / "t.csv", "# exported 2020-01-01\n\n" + text_of()))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "latin-1"])
def test_encodings_are_seen(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "t.csv", text_of().replace("Poa annua", "Chêne"), encoding)
    assert open_table(path).read(["species"])["species"].tolist() == ["Abies alba", "Chêne"]


def test_another_encoding_than_utf_8_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", text_of().replace("Poa", "Chêne"), "latin-1")
    assert open_table(path).notes == ("not UTF-8: read as Windows-1252, look at its accents",)


def test_an_encoding_that_is_named_is_used(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", text_of().replace("Poa annua", "Дуб"), "cp1251")
    table = open_table(path, encoding="cp1251")
    assert table.read(["species"])["species"].tolist() == ["Abies alba", "Дуб"] and table.notes == ()
    with pytest.raises(ValueError, match="no encoding is called 'kp1251'"):
        open_table(path, encoding="kp1251")


def test_quoted_fields_hold_separators_and_line_ends(tmp_path: Path) -> None:
    rows = ['a\t"by the\n\tmill"\tAbies alba\t5.5\t44.5', "b\tx\tPoa annua\t5.6\t44.25"]
    text = "\n".join(["id\tplace\tspecies\tlon\tlat", *rows]) + "\n"
    path = write(tmp_path / "t.tsv", text)
    assert_is_the_table(path)
    assert open_table(path).read(["place"])["place"].tolist() == ["by the\n\tmill", "x"]


def test_a_lone_quotation_mark_swallows_no_rows(tmp_path: Path) -> None:
    text = (
        'id\tplace\tspecies\tlon\tlat\na\t"by the mill\tAbies alba\t5.5\t44.5\nb\tx\tPoa annua\t5.6\t44.25\n'
    )
    assert_is_the_table(write(tmp_path / "t.tsv", text))


def test_quotation_marks_around_whole_fields_are_taken_off(tmp_path: Path) -> None:
    text = (
        '"id"\t"species"\t"lon"\t"lat"\n"a"\t"Abies alba"\t"5.5"\t"44.5"\n"b"\t"Poa annua"\t"5.6"\t"44.25"\n'
    )
    assert_is_the_table(write(tmp_path / "t.tsv", text))


def test_rows_are_labelled_by_their_line(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "# one\n" + text_of())
    assert open_table(path).read(["id"]).index.tolist() == [3, 4]


def test_a_text_na_is_a_text_and_an_empty_cell_is_missing(tmp_path: Path) -> None:
    table = open_table(write(tmp_path / "t.csv", "a,b\nNA,\n ,x\n")).read(["a", "b"])
    assert table["a"].isna().tolist() == [False, True] and table["b"].isna().tolist() == [True, False]


def test_columns_that_differ_by_case_are_both_named(tmp_path: Path) -> None:
    table = open_table(write(tmp_path / "t.csv", "Lon,LON,lat\n1,2,3\n"))
    assert table.read(["LON"])["LON"].tolist() == [2]
    with pytest.raises(ValueError, match="the columns Lon and LON differ by letter case alone"):
        table.read(["lon"])


def test_a_name_of_other_case_is_found(tmp_path: Path) -> None:
    assert open_table(write(tmp_path / "t.csv", text_of())).read(["SPECIES"]).columns.tolist() == ["SPECIES"]


# --- archives -------------------------------------------------------------------------------------------


def zipped(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "."), text)
    return path


def test_a_compressed_text_is_read(tmp_path: Path) -> None:
    assert_is_the_table(write(tmp_path / "t.csv.gz", gzip.compress(text_of().encode())))


def test_the_one_table_of_a_zip_archive_is_read(tmp_path: Path) -> None:
    path = zipped(tmp_path / "t.zip", readme__md="hello", data__csv=text_of("\t"))
    assert_is_the_table(path)
    assert open_table(path).notes == ("read data.csv in the zip archive",)


def test_of_several_tables_of_a_zip_archive_all_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"zip archive with several tables \(a.csv, b.csv\): unpack it"):
        open_table(zipped(tmp_path / "t.zip", a__csv=text_of(), b__csv=text_of()))


def test_a_download_of_gbif_is_read_with_its_citation(tmp_path: Path) -> None:
    cite = "GBIF.org (1 May 2020) GBIF Occurrence Download https://doi.org/10.15468/dl.abc123\n"
    path = zipped(
        tmp_path / "0.zip", occurrence__txt=text_of("\t"), verbatim__txt="x\ty\n", multimedia__txt="a\tb\n",
        citations__txt="Please cite as follows:\n" + cite, meta__xml="<archive/>",
    )  # fmt: skip
    assert_is_the_table(path)
    table = open_table(path)
    assert table.doi == "10.15468/dl.abc123" and table.citation == cite.strip()


META = """<archive xmlns="http://rs.tdwg.org/dwc/text/">
<core rowType="http://rs.tdwg.org/dwc/terms/Event" fieldsTerminatedBy="\\t"><files>
<location>event.txt</location></files><id index="0"/></core>
<extension rowType="http://rs.tdwg.org/dwc/terms/Occurrence" fieldsTerminatedBy="\\t"><files>
<location>occurrence.txt</location></files><coreid index="1"/></extension></archive>"""


def test_occurrences_take_their_places_from_the_events_of_a_darwin_core_archive(tmp_path: Path) -> None:
    events = "eventID\tlon\tlat\ne1\t5.5\t44.5\ne2\t5.6\t44.25\n"
    occurrences = "id\teventID\tspecies\na\te1\tAbies alba\nb\te2\tPoa annua\n"
    path = zipped(tmp_path / "d.zip", event__txt=events, occurrence__txt=occurrences, meta__xml=META)
    assert_is_the_table(path)
    assert any("from the events in event.txt" in note for note in open_table(path).notes)


FIELDS = """<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="eml.xml">
<{kind} rowType="http://rs.tdwg.org/dwc/terms/Occurrence" encoding="{encoding}" {attributes}>
<files><location>occ.txt</location></files><id index="0"/>
<field index="0" term="http://rs.tdwg.org/dwc/terms/occurrenceID"/>
<field index="1" term="http://rs.tdwg.org/dwc/terms/species"/>
<field index="3" term="http://rs.tdwg.org/dwc/terms/lat"/>
<field index="2" term="http://rs.tdwg.org/dwc/terms/lon"/>
<field index="4" default="HumanObservation" term="http://rs.tdwg.org/dwc/terms/basisOfRecord"/>
<field default="Herbier d\u00e9mo" term="http://rs.tdwg.org/dwc/terms/datasetName"/>
</{kind}></archive>"""


def headless(path: Path, lines: list[str], attributes: str, encoding: str = "UTF-8") -> Path:
    meta = FIELDS.format(kind="core", attributes=attributes, encoding=encoding)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.xml", meta.encode())
        archive.writestr("occ.txt", "\n".join(lines).encode(encoding))
    return path


@pytest.mark.parametrize(
    ("attributes", "separator", "quote", "header"),
    [
        ('fieldsTerminatedBy="\\t" fieldsEnclosedBy="" ignoreHeaderLines="0"', "\t", "", ()),
        ("", ",", '"', ()),  # what the standard says where an attribute is missing
        ('fieldsTerminatedBy="|" fieldsEnclosedBy="~" ignoreHeaderLines="0"', "|", "~", ()),
        ('fieldsTerminatedBy=";" ignoreHeaderLines="2"', ";", '"', ("made by a machine", "a;b;c;d;e;f")),
        ('fieldsTerminatedBy=","', ",", '"', ("occurrenceID,species,lon,lat,basisOfRecord",)),  # forgotten
    ],
)
def test_a_darwin_core_archive_is_read_by_its_description(
    tmp_path: Path, attributes: str, separator: str, quote: str, header: tuple[str, ...]
) -> None:
    rows = [
        ("a", f"Abies{separator} alba" if quote else "Abies alba", 5.5, 44.5, ""),
        ("b", "Poa", 5.6, 44.25, "X"),
    ]
    lines = [separator.join(f"{quote}{cell}{quote}" for cell in row) for row in rows]
    table = open_table(headless(tmp_path / "d.zip", [*header, *lines], attributes))
    read = table.read(["occurrenceID", "species", "lon", "lat", "basisOfRecord", "datasetName"])
    assert read["occurrenceID"].tolist() == ["a", "b"] and read["species"].tolist() == [rows[0][1], "Poa"]
    assert read["lon"].tolist() == [5.5, 5.6] and read["lat"].tolist() == [44.5, 44.25]
    assert read["basisOfRecord"].tolist() == ["HumanObservation", "X"]
    assert read["datasetName"].tolist() == ["Herbier d\u00e9mo"] * 2


def test_a_darwin_core_archive_may_name_another_encoding(tmp_path: Path) -> None:
    path = headless(tmp_path / "d.zip", ["a,\u00c9pic\u00e9a,5.5,44.5,"], "", "ISO-8859-1")
    assert open_table(path).read(["species"])["species"].tolist() == ["\u00c9pic\u00e9a"]


def test_headless_occurrences_take_their_places_from_headless_events(tmp_path: Path) -> None:
    terms = "http://rs.tdwg.org/dwc/terms/"
    meta = f"""<archive><core rowType="{terms}Event" fieldsTerminatedBy=";"><files><location>e.csv</location>
</files><id index="1"/><field index="0" term="{terms}lon"/><field index="2" term="{terms}lat"/></core>
<extension rowType="{terms}Occurrence" fieldsTerminatedBy=";"><files><location>o.csv</location></files>
<coreid index="0"/><field index="1" term="{terms}species"/><field index="2" term="{terms}id"/>
</extension></archive>"""
    occurrences = "e1;Abies alba;a\ne2;Poa annua;b\n"
    path = zipped(
        tmp_path / "d.zip", e__csv="5.5;e1;44.5\n5.6;e2;44.25\n", o__csv=occurrences, meta__xml=meta
    )
    assert_is_the_table(path)


def test_a_position_in_meta_xml_that_is_none_is_named(tmp_path: Path) -> None:
    meta = FIELDS.format(kind="core", attributes="", encoding="UTF-8").replace('index="3"', 'index="-3"')
    with pytest.raises(GlczooError, match="meta.xml holds '-3' where the number of a column"):
        open_table(zipped(tmp_path / "d.zip", occ__txt="a,b,1,2\n", meta__xml=meta))


# --- more than a table holds ----------------------------------------------------------------------------

ZEROS = b"0," * 2**20  # a line of 2 MB


def bomb(number: int) -> Iterator[bytes]:
    yield b"a,lon,lat\n"
    for _ in range(number):
        yield ZEROS + b"\n"


def test_a_zip_bomb_is_refused_by_its_own_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("t.csv", "w") as file:
            for block in bomb(150):
                file.write(block)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)  # nothing of it is unpacked
    with pytest.raises(GlczooError, match=r"t.csv is packed in \d+ kB and unpacks to 315 MB or more"):
        open_table(tmp_path / "t.zip")


def test_a_compressed_bomb_stops_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glczoo.data.table_files.limits._FREE", 2**22)
    path = write(tmp_path / "t.csv.gz", gzip.compress(b"".join(bomb(12))))
    with pytest.raises(GlczooError, match="t.csv.gz is packed very small and unpacks to 8.4 MB or more"):
        open_table(path)


def test_a_line_without_end_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glczoo.data.table_files.text.LONGEST_LINE", 2**20)
    with pytest.raises(
        GlczooError, match="a line has more than 1048576 bytes|a line has more than 1,048,576"
    ):
        open_table(write(tmp_path / "t.csv", ZEROS * 5))


def test_a_workbook_of_one_cell_in_the_last_row_and_column(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active["A1"] = "lon"
    book.active.cell(1_048_576, 16_384, 1)
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(GlczooError, match="17,179,869,184 cells of sheet 'Sheet' take at least 859 GB"):
        open_table(tmp_path / "t.xlsx")


def test_parquet_of_more_rows_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    pd.DataFrame({"lon": np.zeros(100_000), "lat": np.zeros(100_000)}).to_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr("glczoo.data.table_files.limits.available_memory", lambda: 10**6)
    table = open_table(tmp_path / "t.parquet")
    assert len(table.read(["lon"])) == 100_000
    with pytest.raises(GlczooError, match="100,000 rows take at least 1.6 MB of memory, and 1.0 MB are left"):
        table.read(["lon", "lat"])


def test_rows_longer_than_the_header_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "species,lon,lat\nAbies alba,5.5,44.5\nAbies alba,5,5,44,5\n")
    with pytest.raises(GlczooError, match=r"1 rows have more fields than the header's 3, .* line\(s\) \[3\]"):
        open_table(path).read(["lon"])


# --- other kinds of files -------------------------------------------------------------------------------


def test_points_of_geojson(tmp_path: Path) -> None:
    features = [
        {"type": "Feature", "properties": {"id": i, "species": s},
         "geometry": {"type": "Point", "coordinates": [x, y]}}
        for i, s, x, y in ROWS
    ]  # fmt: skip
    assert_is_the_table(write(tmp_path / "t.geojson", json.dumps({"features": features})))


def test_shapes_of_geojson_are_no_places(tmp_path: Path) -> None:
    shape = {"features": [{"properties": {}, "geometry": {"type": "Polygon", "coordinates": []}}]}
    with pytest.raises(ValueError, match="feature 1 is a Polygon; a table of places needs points"):
        open_table(write(tmp_path / "t.json", json.dumps(shape)))


def write_geopackage(path: Path, code: int, places: list[tuple[float, float]]) -> Path:
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE gpkg_geometry_columns (table_name, column_name, srs_id)")
        base.execute("CREATE TABLE gpkg_spatial_ref_sys (srs_id, organization, organization_coordsys_id)")
        base.execute("INSERT INTO gpkg_geometry_columns VALUES ('plots', 'geom', 1)")
        base.execute("INSERT INTO gpkg_spatial_ref_sys VALUES (1, 'EPSG', ?)", (code,))
        base.execute("CREATE TABLE plots (id, species, geom)")
        for (name, species, *_), (x, y) in zip(ROWS, places, strict=True):
            point = b"GP\0\1" + struct.pack("<i", code) + struct.pack("<bIdd", 1, 1, x, y)
            base.execute("INSERT INTO plots VALUES (?, ?, ?)", (name, species, point))
    return path


def test_points_of_a_geopackage(tmp_path: Path) -> None:
    assert_is_the_table(write_geopackage(tmp_path / "t.gpkg", 4326, [row[2:] for row in ROWS]))


def test_a_geopackage_in_metres_becomes_degrees(tmp_path: Path) -> None:
    path = write_geopackage(tmp_path / "t.gpkg", 2154, [(700_000.0, 6_600_000.0), (652_469.0, 6_862_035.0)])
    table = open_table(path).read(["lon", "lat"])
    np.testing.assert_allclose(table, [[3.0, 46.5], [2.3522, 48.8566]], atol=2e-4)


def test_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pd.DataFrame(ROWS, columns=COLUMNS).to_parquet(tmp_path / "t.bin")
    assert_is_the_table(tmp_path / "t.bin")


def test_excel(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    pd.DataFrame(ROWS, columns=COLUMNS).to_excel(tmp_path / "t.xlsx", index=False)
    assert_is_the_table(tmp_path / "t.xlsx")
    assert open_table(tmp_path / "t.xlsx").read(["id"]).index.tolist() == [2, 3]


def test_excel_without_its_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(workbook := tmp_path / "t.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"is an Excel workbook: .* openpyxl .*; or save the sheet as CSV"):
        open_table(workbook)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "Excel workbook of before 2007: save it"),
        (b"\x00\x00\x27\x0a\x00\x00", "a Shapefile: save it as GeoPackage"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"%PDF-1.7", "a PDF document"),
        (gzip.compress(b"RDX3\n", mtime=0), "R data: write.csv"),
        (b'{"a": 1}', "JSON without `features`"),
        (b"\x01\x02\x00\xff" * 50, "is no text"),
        (b"PK\3\4damaged", "a damaged zip archive"),
        (b"SQLite format 3\0", "cannot be read as a GeoPackage"),
    ],
)
def test_what_is_no_table_is_named_for_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_table(write(tmp_path / "t.csv", content))


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder: name the table in it"):
        open_table(tmp_path)


@pytest.mark.parametrize("cut", [0.5, 0.9])
@pytest.mark.parametrize("name", ["t.csv.gz", "t.zip", "t.xlsx", "t.parquet", "t.gpkg", "t.geojson"])
def test_what_is_cut_off_is_named_as_damaged(tmp_path: Path, name: str, cut: float) -> None:
    table, path = pd.DataFrame(ROWS * 200, columns=COLUMNS), tmp_path / name
    if name.endswith("gz"):
        write(path, gzip.compress(table.to_csv(index=False).encode()))
    elif name.endswith("zip"):
        zipped(path, data__csv=table.to_csv(index=False))
    elif name.endswith("xlsx"):
        pytest.importorskip("openpyxl")
        table.to_excel(path, index=False)
    elif name.endswith("parquet"):
        pytest.importorskip("pyarrow")
        table.to_parquet(path)
    elif name.endswith("gpkg"):
        write_geopackage(path, 4326, [row[2:] for row in ROWS])
    else:
        path.write_text(json.dumps({"features": [{"properties": {}, "geometry": None}] * 50}))
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(ValueError, match="damaged|cannot be read|is empty|without a layer"):
        open_table(path).read(COLUMNS)
