"""Zip archives of tables: GBIF's downloads, Darwin Core Archives, or one table that somebody zipped.

A Darwin Core Archive (https://dwc.tdwg.org/text) holds tables and `meta.xml`, which says what their columns
are. Where its core are sampling events, the occurrences stand in a table beside, and take place and date from
their event. GBIF adds how to cite the data: `citations.txt` and `metadata.xml`.
"""

import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pandas as pd

from glczoo.data.table_files.darwin_core import TableDescription, read_meta
from glczoo.data.table_files.limits import counted, refuse_bomb

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


@dataclass(frozen=True)
class Archive:
    """A zip archive, and which of its members is the table."""

    path: Path
    members: tuple[str, ...]
    occurrences: str = ""  # the member to read
    events: str = ""  # the core that it extends, where that has the places
    described: Mapping[str, TableDescription] = field(default_factory=dict)  # members, by meta.xml
    citation: str = ""
    doi: str = ""
    workbook: bool = False  # an Excel file is a zip archive too
    notes: tuple[str, ...] = field(default=())

    def opener(self, name: str) -> Callable[[], IO[bytes]]:
        """What opens a member's bytes.

        Raises:
            GlczooError: it unpacks to more than any table holds.
        """
        with zipfile.ZipFile(self.path) as archive:
            info = archive.getinfo(name)
        refuse_bomb(info, str(self.path))
        where = f"{self.path}: {name}"
        return counted(lambda: zipfile.ZipFile(self.path).open(name), info.compress_size, where)

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
        link = [self.described[member].link for member in (self.occurrences, self.events)]

        def read_at(positions: list[int]) -> pd.DataFrame:
            own_positions = [i for i in positions if i < len(table.names)]
            rows = table.read_at([link[0], *own_positions])
            key, rows = rows.iloc[:, 0].astype(str), rows.iloc[:, 1:]
            wanted = [core.names.index(names[i]) for i in positions if i >= len(table.names)]
            events = core.read_at([link[1], *wanted])
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
            return Archive(path, names, workbook=True)
        if any(info.flag_bits & 1 for info in files):
            raise GlczooError(f"{path} is locked by a password: unpack it and name the table inside")
        base = {Path(name).name.lower(): name for name in names}
        citation, doi = _citation(archive, base)
        described = _described(archive, path, base)
        if described is not None:
            occurrences, events, tables_of_meta = described
            return Archive(path, names, occurrences, events, tables_of_meta, citation, doi)
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
    archive: zipfile.ZipFile, path: Path, base: dict[str, str]
) -> tuple[str, str, dict[str, TableDescription]] | None:
    """Occurrences, events, and how the members are described by meta.xml; None where it says nothing."""
    tables = read_meta(_text(archive, base.get("meta.xml")), str(path))
    found: dict[str, TableDescription] = {}
    for table in tables:
        if Path(table.file).name.lower() in base:
            found.setdefault(table.kind, table)
    if "occurrence" not in found:
        return None
    kept = [found["occurrence"]]
    if not kept[0].is_core and "event" in found:
        kept.append(found["event"])
    members = [base[Path(table.file).name.lower()] for table in kept]
    return members[0], "".join(members[1:]), dict(zip(members, kept, strict=True))


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
