"""Zip archives of tables: GBIF's downloads, Darwin Core Archives, or one table that somebody zipped.

A Darwin Core Archive (https://dwc.tdwg.org/text) holds tables and `meta.xml`, which says what their columns
are. Where its core are sampling events, the occurrences stand in a table beside, and take place and date from
their event. GBIF adds how to cite the data: `citations.txt` and `metadata.xml`.
"""

import lzma
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING
from xml.etree import ElementTree

import pandas as pd

if TYPE_CHECKING:
    from glczoo.data.table_files import TableFile
from glczoo.errors import GlczooError

__all__ = ["DAMAGED", "Archive", "open_archive"]

_TABLES = (".csv", ".txt", ".tsv", ".tab")
_OTHERS = {"citations.txt", "rights.txt", "multimedia.txt", "verbatim.txt", "readme.txt", "license.txt"}
DAMAGED = (  # what a truncated or altered archive, or a compressed file, raises while it is read
    *(OSError, EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error),
    lzma.LZMAError,
)
"""What a truncated or altered archive, or a compressed file, raises while it is read."""
_LARGEST = 20_000_000  # bytes of a description that is read at once
_LARGEST_WORKBOOK = 300_000_000  # bytes of XML; openpyxl takes fifty times that of memory


@dataclass(frozen=True)
class Archive:
    """A zip archive, and which of its members is the table."""

    path: Path
    members: tuple[str, ...]
    occurrences: str = ""  # the member to read
    events: str = ""  # the core that it extends, where that has the places
    link: tuple[str, str] = ("", "")  # columns of the occurrences and of the events that belong together
    encoding: str | None = None  # that meta.xml names
    citation: str = ""
    doi: str = ""
    workbook: bool = False  # an Excel file is a zip archive too
    notes: tuple[str, ...] = field(default=())

    def open(self, name: str) -> IO[bytes]:
        """A member's bytes."""
        return zipfile.ZipFile(self.path).open(name)

    def joined(self, member: "Callable[[str], TableFile]") -> "TableFile":
        """The table of occurrences, with the columns of its events where the places stand there.

        `member` opens a file of the archive by its name.
        """
        table = member(self.occurrences)
        if not self.events:
            return table
        core = member(self.events)
        own = {name.lower() for name in table.names}
        added = [name for name in core.names if name.lower() not in own]
        names = (*table.names, *added)
        link = [table.find(self.link[0]), core.find(self.link[1])]
        if None in link:
            raise GlczooError(
                f"{self.path}: its meta.xml links {self.occurrences} to {self.events} by columns that are "
                "not there: unpack it, and name the table inside"
            )

        def read_at(positions: list[int]) -> pd.DataFrame:
            own_positions = [i for i in positions if i < len(table.names)]
            rows = table.read_at([table.names.index(str(link[0])), *own_positions])
            key, rows = rows.iloc[:, 0].astype(str), rows.iloc[:, 1:]
            wanted = [core.names.index(names[i]) for i in positions if i >= len(table.names)]
            events = core.read_at([core.names.index(str(link[1])), *wanted])
            events.index = pd.Index(events.iloc[:, 0].astype(str))
            events = events.iloc[:, 1:].loc[~events.index.duplicated()].reindex(key)
            events.index = rows.index
            columns = iter(range(events.shape[1])), iter(range(rows.shape[1]))
            parts = [
                rows.iloc[:, next(columns[1])] if i < len(table.names) else events.iloc[:, next(columns[0])]
                for i in positions
            ]
            return pd.concat(parts, axis=1)

        note = f"places and dates of {self.occurrences} from the events in {self.events}"
        return type(table)(table.path, names, table.separator, read_at, (*table.notes, note))


def open_archive(path: Path) -> Archive:
    """Look into a zip archive.

    Raises:
        GlczooError: it holds no table, or several.
        zipfile.BadZipFile: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        files = [info for info in archive.infolist() if not info.is_dir()]
        names = tuple(
            info.filename
            for info in files
            if not info.filename.startswith("__MACOSX") and not Path(info.filename).name.startswith(".")
        )
        if "xl/workbook.xml" in names or "[Content_Types].xml" in names:
            if (size := sum(info.file_size for info in files)) > _LARGEST_WORKBOOK:
                raise GlczooError(
                    f"{path} is an Excel workbook of {size:,} bytes when unpacked, {_LARGEST_WORKBOOK:,} are "
                    "read: save the sheet as CSV"
                )
            return Archive(path, names, workbook=True)
        if any(info.flag_bits & 1 for info in files):
            raise GlczooError(f"{path} is locked by a password: unpack it and name the table inside")
        base = {Path(name).name.lower(): name for name in names}
        citation, doi = _citation(archive, base)
        described = _described(archive, base)
        if described is not None:
            occurrences, events, link, encoding = described
            return Archive(path, names, occurrences, events, link, encoding, citation, doi)
        if "occurrence.txt" in base:
            return Archive(path, names, base["occurrence.txt"], citation=citation, doi=doi)
    tables = [n for n in names if n.lower().endswith(_TABLES) and Path(n).name.lower() not in _OTHERS]
    if len(tables) != 1:
        held = ", ".join(tables or names[:5]) or "nothing"
        what = "several tables" if len(tables) > 1 else "no table"
        raise GlczooError(f"{path} is a zip archive with {what} ({held}): unpack it and name the one to read")
    return Archive(path, names, tables[0], citation=citation, doi=doi)


def _text(archive: zipfile.ZipFile, name: str | None) -> str:
    if name is None or archive.getinfo(name).file_size > _LARGEST:
        return ""
    return archive.read(name).decode("utf-8", errors="replace")


def _described(
    archive: zipfile.ZipFile, base: dict[str, str]
) -> tuple[str, str, tuple[str, str], str | None] | None:
    """Occurrences, events, how they are linked and the encoding by meta.xml; None where it says nothing."""
    try:
        root = ElementTree.fromstring(_text(archive, base.get("meta.xml")) or "<none/>")
    except ElementTree.ParseError:
        return None
    found: dict[str, tuple[str, ElementTree.Element]] = {}
    for element in root:
        kind = element.get("rowType", "").rsplit("/", 1)[-1].lower()
        location = next((e.text or "" for e in element.iter() if e.tag.endswith("location")), "").strip()
        if location.lower() in base:
            found.setdefault(kind, (base[location.lower()], element))
    if "occurrence" not in found:
        return None
    occurrences, element = found["occurrence"]
    encoding = element.get("encoding") or None
    if element.tag.endswith("core") or "event" not in found:
        return occurrences, "", ("", ""), encoding
    events, core = found["event"]
    link = _column_at(archive, occurrences, element), _column_at(archive, events, core)
    return occurrences, events, link, encoding


def _column_at(archive: zipfile.ZipFile, member: str, element: ElementTree.Element) -> str:
    """The name of the column that meta.xml says links a table with the other."""
    index = next((e.get("index", "") for e in element if e.tag.endswith(("id", "coreid"))), "")
    separator = element.get("fieldsTerminatedBy", "").replace("\\t", "\t") or ","
    with archive.open(member) as stream:
        header = stream.readline(_LARGEST).decode("utf-8-sig", errors="replace").rstrip("\r\n")
    names = [name.strip().strip('"') for name in header.split(separator)]
    return names[min(int(index) if index.isdecimal() else 0, len(names) - 1)]


def _citation(archive: zipfile.ZipFile, base: dict[str, str]) -> tuple[str, str]:
    """How to cite the download, and its DOI: GBIF's where the archive names it."""
    names = "citations.txt", "metadata.xml", "eml.xml", "rights.txt"
    texts = [_text(archive, base.get(name)) for name in names]
    dois = [doi for text in texts for doi in re.findall(r"10\.\d{4,9}/[^\s\"'<>&,;]+", text)]
    dois = [doi.rstrip(".)") for doi in dois]
    download = next((doi for doi in dois if doi.lower().startswith("10.15468/dl.")), dois[0] if dois else "")
    lines = [line.strip() for line in texts[0].splitlines() if line.strip()]
    whole = next((line for line in lines if download and download in line), "")
    if not whole and (match := re.search(r"<citation[^>]*>([^<]+)</citation>", texts[1] + texts[2])):
        whole = " ".join(match[1].split())
    if not whole and download.startswith("10.15468/dl."):
        whole = f"GBIF Occurrence Download https://doi.org/{download}"
    return whole or " ".join(lines[:1]), download
