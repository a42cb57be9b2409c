"""Files of tables as people have them, read in one place: what a file is, is seen in its bytes, not its name.

Text (any separator, encoding and quoting; compressed or the one table of a zip archive), Darwin Core Archives
(see `archives`), GeoJSON and GeoPackage points (see `geo`), and, by libraries of extras, Excel and
Parquet. What else somebody may try is refused by its own name, with the way out.

A column is asked for by its name, letter case ignored; rows are labelled by their line in the file.
"""

import bz2
import gzip
import importlib.util
import lzma
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import pandas as pd

from glczoo.data.table_files.archives import DAMAGED, Archive, open_archive
from glczoo.data.table_files.darwin_core import TableDescription
from glczoo.data.table_files.geo import read_geojson, read_geopackage
from glczoo.data.table_files.limits import counted, refuse_bomb, refuse_more_than_memory
from glczoo.data.table_files.text import open_text_table
from glczoo.errors import GlczooError, MissingError

__all__ = ["TableFile", "open_table"]

_COMPRESSED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
_BELIEVED, _ROWS_A_BYTE = 10_000_000, 1000  # of Parquet, which packs what is equal as one number
_REFUSED = {
    b"\xd0\xcf\x11\xe0": "an Excel workbook of before 2007: save it as .xlsx or CSV",
    b"\x00\x00\x27\x0a": "a Shapefile: save it as GeoPackage (.gpkg) or as CSV with lon and lat",
    b"RDX": "R data: write.csv(table, 'table.csv', row.names = FALSE) makes a table of it",
    b"X\n": "R data: write.csv(table, 'table.csv', row.names = FALSE) makes a table of it",
    b"%PDF": "a PDF document: the table in it must be saved as CSV",
    b"<!DO": "a web page: was the download an error message, or does it need a login?",
    b"<htm": "a web page: was the download an error message, or does it need a login?",
    b"<!do": "a web page: was the download an error message, or does it need a login?",
    b"<HTM": "a web page: was the download an error message, or does it need a login?",
    b"<?xml": "XML: KML, GPX and the like are saved as GeoJSON or CSV, for example with QGIS or ogr2ogr",
    b"{\\rtf": "a text document: save the table in it as CSV",
    b"II*\x00": "a GeoTIFF raster: it is no table",
    b"MM\x00*": "a GeoTIFF raster: it is no table",
    b"\x89HDF": "an HDF5 file: save the table in it as CSV",
    b"7z\xbc\xaf": "a 7-Zip archive: unpack it and name the table inside",
    b"Rar!": "a RAR archive: unpack it and name the table inside",
}

_BYTES_OF_CELL = 50  # of a sheet, at the least: an object of Python
_BYTES_OF_VALUE = 8  # of a column


@dataclass(frozen=True)
class TableFile:
    """An opened table: the names of its columns, and the way to read some of them."""

    path: Path
    names: tuple[str, ...]  # as the file has them, blanks around them taken off
    separator: str  # "" where the file is no text
    read_at: Callable[[list[int]], pd.DataFrame] = field(repr=False)  # columns by position, in that order
    notes: tuple[str, ...] = ()  # what a person should know of how it was read
    citation: str = ""  # that came in the archive
    doi: str = ""
    most_rows: int | None = None  # no more than these, where they can be counted before they are read

    def find(self, name: str) -> str | None:
        """The column of this name: exactly, or else with letter case ignored; None where there is none.

        Raises:
            GlczooError: two columns differ by letter case alone, and neither is spelt like the name.
        """
        alike = [column for column in self.names if column.lower() == name.lower()]
        if name in alike or not alike:
            return name if alike else None
        if len(alike) > 1:
            raise GlczooError(
                f"{self.path}: the columns {' and '.join(alike)} differ by letter case alone; name one of "
                f"them as it is spelt in place of {name}, or rename the other"
            )
        return alike[0]

    def read(self, names: Iterable[str]) -> pd.DataFrame:
        """Those of the named columns that there are, under the names asked for; rows labelled by line.

        Texts are without blanks around them; empty cells are missing, "NA" is a text.

        Raises:
            GlczooError: the file cannot be read as a table, or two columns fit one name.
        """
        columns = {name: column for name in dict.fromkeys(names) if (column := self.find(name)) is not None}
        if not columns:
            return pd.DataFrame()
        position = {name: self.names.index(column) for name, column in columns.items()}
        distinct = sorted(set(position.values()))
        table = self.read_at(distinct)
        parts = {name: table.iloc[:, distinct.index(at)] for name, at in position.items()}
        return pd.DataFrame({name: _tidied(part) for name, part in parts.items()})


def open_table(path: Path, separator: str | None = None, encoding: str | None = None) -> TableFile:
    """Look at a file and name its columns.

    Args:
        path: of the table.
        separator: between the columns of a text; seen in the file if None.
        encoding: of a text; UTF-8, UTF-16 by its mark, else Windows-1252 if None.

    Raises:
        MissingError: there is no such file.
        GlczooError: it is no table, or of a kind that is not read; the message says what it is.
    """
    if path.is_dir():
        raise GlczooError(f"{path} is a folder: name the table in it")
    if not path.is_file():
        raise MissingError(f"there is no table {path}")
    with open(path, "rb") as file:
        head = file.read(4096)
    if not head:
        raise GlczooError(f"{path} is empty")
    for mark, opener in _COMPRESSED.items():
        if head.startswith(mark):
            return _open_compressed(path, opener, separator, encoding)
    if head.startswith(b"PK"):
        return _open_zip(path, separator, encoding)
    if head.startswith(b"PAR1"):
        return _parquet(path)
    if head.startswith(b"SQLite format 3"):
        return _whole(path, *read_geopackage(path))
    if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith((b"{", b"[")):
        return _whole(path, *read_geojson(path))
    _refuse_known(path, head)
    return _text(path, lambda: open(path, "rb"), separator, encoding)


def _text(
    path: Path,
    open_bytes: Callable[[], IO[bytes]],
    separator: str | None,
    encoding: str | None,
    member: str = "",
    described: TableDescription | None = None,
) -> TableFile:
    text = open_text_table(path, open_bytes, separator, encoding, member, described)
    rows = None if text.line_ends is None else text.line_ends + 1
    return TableFile(path, text.names, text.separator, text.read_at, text.notes, most_rows=rows)


def _refuse_known(path: Path, head: bytes) -> None:
    for mark, kind in _REFUSED.items():
        if head.startswith(mark):
            raise GlczooError(f"{path} is {kind}")


def _open_compressed(
    path: Path, opener: Callable[..., Any], separator: str | None, encoding: str | None
) -> TableFile:
    try:
        with opener(path, "rb") as stream:
            head = stream.read(512)
    except DAMAGED as error:
        raise GlczooError(f"{path} is compressed and damaged: {error}") from None
    if head[257:262] == b"ustar":
        raise GlczooError(f"{path} is a tar archive: unpack it and name the table inside")
    _refuse_known(path, head)
    opened = counted(lambda: opener(path, "rb"), path.stat().st_size, str(path))
    return _text(path, opened, separator, encoding)


def _open_zip(path: Path, separator: str | None, encoding: str | None) -> TableFile:
    def member(name: str) -> TableFile:
        described = archive.described.get(name)
        named = (described.encoding if described else None) or encoding
        return _text(path, archive.opener(name), separator, named, name, described)

    try:
        archive = open_archive(path)
        return _excel(path) if archive.workbook else _cited(archive.joined(member), archive)
    except DAMAGED as error:
        raise GlczooError(f"{path} is a damaged zip archive: {error}; download it again") from None


def _cited(table: TableFile, archive: Archive) -> TableFile:
    return replace(table, citation=archive.citation, doi=archive.doi)


def _whole(path: Path, table: pd.DataFrame, notes: tuple[str, ...]) -> TableFile:
    """A table that was read at once."""
    table.index = pd.RangeIndex(1, len(table) + 1)
    return TableFile(path, tuple(map(str, table.columns)), "", lambda at: table.iloc[:, at], notes)


def _excel(path: Path) -> TableFile:
    if importlib.util.find_spec("openpyxl") is None:
        raise GlczooError(
            f"{path} is an Excel workbook: reading it needs openpyxl (pip install 'glczoo[excel]'); or save "
            "the sheet as CSV"
        )
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            refuse_bomb(info, str(path))
    try:
        _refuse_huge_sheets(path)
        sheets = pd.read_excel(
            path, sheet_name=None, engine="openpyxl", keep_default_na=False, na_values=[""]
        )
    except GlczooError:
        raise
    except Exception as error:  # whatever openpyxl and its parser of XML meet in a damaged workbook
        raise GlczooError(
            f"{path} is an Excel workbook that cannot be read: {error}; save the sheet as CSV"
        ) from None
    filled = {name: sheet for name, sheet in sheets.items() if len(sheet)}
    if not filled:
        raise GlczooError(f"{path}: no sheet of this Excel workbook has a header and rows")
    name, sheet = next(iter(filled.items()))
    notes = (f"Excel sheet {name!r}, the first of {len(filled)}",) if len(filled) > 1 else ()
    sheet.columns = [str(column).strip() for column in sheet.columns]
    opened = _whole(path, sheet, notes)
    sheet.index = pd.RangeIndex(2, len(sheet) + 2)
    return opened


def _refuse_huge_sheets(path: Path) -> None:
    """Refuse a workbook that says it has more cells than memory holds: one cell in the last row is enough."""
    from openpyxl import load_workbook

    book = load_workbook(path, read_only=True)
    try:
        for sheet in book.worksheets:
            cells = (sheet.max_row or 0) * (sheet.max_column or 0)
            refuse_more_than_memory(
                _BYTES_OF_CELL * cells, f"{path}: {cells:,} cells of sheet {sheet.title!r}"
            )
    finally:
        book.close()


def _parquet(path: Path) -> TableFile:
    if importlib.util.find_spec("pyarrow") is None:
        raise GlczooError(f"{path} is Parquet: reading it needs pyarrow (pip install 'glczoo[parquet]')")
    from pyarrow import ArrowException, parquet

    # What pandas wrote into the file is JSON, which may be damaged as well: a ValueError, or a KeyError.
    damaged = (ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError)
    try:
        described = parquet.read_metadata(path)
        names = described.schema.to_arrow_schema().names
    except damaged as error:
        raise GlczooError(f"{path} cannot be read as Parquet: {error}") from None

    rows, size = described.num_rows, path.stat().st_size
    if rows > max(_BELIEVED, _ROWS_A_BYTE * size):
        raise GlczooError(f"{path} claims {rows:,} rows in {size:,} bytes: it is damaged; save it as CSV")

    def read_at(positions: list[int]) -> pd.DataFrame:
        refuse_more_than_memory(_BYTES_OF_VALUE * rows * len(positions), f"{path}: {rows:,} rows")
        try:
            table = pd.read_parquet(path, columns=[names[i] for i in positions], engine="pyarrow")
        except damaged as error:
            raise GlczooError(f"{path} cannot be read as Parquet: {error}") from None
        table.index = pd.RangeIndex(1, len(table) + 1)
        return table

    return TableFile(path, tuple(names), "", read_at, most_rows=rows)


def _tidied(column: pd.Series) -> pd.Series:
    """Texts without blanks and quotation marks around them; times as texts."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return column.astype(str).replace("NaT", None)
    if not (pd.api.types.is_string_dtype(column.dtype) or column.dtype == object):
        return column
    texts = column.dropna()
    if pd.api.types.infer_dtype(texts) != "string":
        return column
    if texts.str.startswith('"').any():
        texts = texts.str.replace(r'^"(.*)"$', r"\1", regex=True).str.replace('""', '"')
    texts = texts.str.strip()
    return texts.mask(texts == "").reindex(column.index)
