"""Tables in texts: their encoding, separator, quotation marks, and rows that are longer than the header."""

import codecs
import csv
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import pandas as pd

from glczoo.data.table_files.archives import DAMAGED
from glczoo.data.table_files.darwin_core import TableDescription
from glczoo.data.table_files.limits import LONGEST_LINE
from glczoo.errors import GlczooError

__all__ = ["SEPARATORS", "TextTable", "open_text_table"]

SEPARATORS = "\t;,|"
"""Between the columns of a text, the likeliest first."""
_SNIFFED = 200  # lines that decide on separator and shape


@dataclass(frozen=True)
class TextTable:
    """The columns of a text and the way to read some of them, see `table_files.TableFile`."""

    names: tuple[str, ...]
    separator: str
    read_at: Callable[[list[int]], pd.DataFrame]
    notes: tuple[str, ...]
    line_ends: int | None  # of the whole text, where they are counted


@dataclass(frozen=True)
class _Shape:
    """How the lines of a text become columns."""

    names: tuple[str, ...]
    separator: str
    first_row: int  # lines before the first row
    num_fields: int  # of a row: more than names where rows have a name of their own, or end in a separator
    offset: int  # fields before the first named one
    quoted: bool  # quotation marks hold fields together; else they mean themselves
    quote: str = '"'
    defaults: Mapping[str, str] = field(default_factory=dict)  # name → value of its empty cells


def open_text_table(
    path: Path,
    open_bytes: Callable[[], IO[bytes]],
    separator: str | None,
    encoding: str | None,
    member: str = "",
    described: TableDescription | None = None,
) -> TextTable:
    """Look at a text and name its columns.

    Args:
        path: of the file, for messages.
        open_bytes: opens the text's bytes.
        separator: between the columns; seen in the text if None.
        encoding: of the text; UTF-8, UTF-16 by its mark, else Windows-1252 if None.
        member: of a zip archive, for messages.
        described: how a Darwin Core Archive describes it, which then holds.

    Raises:
        GlczooError: it is no text, or no table.
    """
    where = f"{path}: {member}" if member else str(path)
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError:
        raise GlczooError(f"{where}: no encoding is called {encoding!r}; try utf-8 or cp1252") from None
    try:
        known, has_quotes, line_ends = _encoding(open_bytes, where)
    except DAMAGED as error:
        raise GlczooError(f"{where} is damaged: {error}") from None
    if encoding is None and known == "":
        raise GlczooError(f"{where} is no text: it holds bytes that stand for no letters")
    chosen = encoding or known

    def open_text() -> io.TextIOWrapper:
        return io.TextIOWrapper(open_bytes(), encoding=chosen, newline="")

    try:
        with closing(open_text()) as file:
            lines = [line for _ in range(_SNIFFED) if (line := file.readline(LONGEST_LINE))]
        shape = _shape_of(described, lines) if described else _shape(where, lines, separator)
        if has_quotes and not shape.quoted and not described:
            shape = _with_quotes(shape, open_text)
    except UnicodeError as error:
        raise GlczooError(f"{where} is not {chosen} text ({error}); name its encoding") from None
    except csv.Error as error:
        raise GlczooError(f"{where} cannot be read as a table: {error}") from None
    notes: tuple[str, ...] = ()
    if encoding is None and known not in ("utf-8-sig", "utf-16"):
        notes = (f"not UTF-8: read as {'Windows-1252' if known == 'cp1252' else known}, look at its accents",)
    if member:
        notes = (f"read {member} in the zip archive", *notes)

    def read_at(positions: list[int]) -> pd.DataFrame:
        return _parse(where, open_text, shape, positions)

    return TextTable(shape.names, shape.separator, read_at, notes, line_ends)


def _encoding(open_bytes: Callable[[], IO[bytes]], where: str) -> tuple[str, bool, int | None]:
    """The encoding of a text, "" if it is none, whether a quotation mark is in it, and how many line ends.

    Raises:
        GlczooError: a line of it is longer than any row of a table.
    """
    with open_bytes() as stream:
        head = stream.read(4096)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16", True, None
    if head.count(0) > len(head) // 4:  # of ASCII letters every other byte is 0
        return ("utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"), True, None
    if 0 in head:
        return "", False, None
    quotes = False
    for name in ("utf-8", "cp1252"):
        decoder = codecs.getincrementaldecoder(name)()
        length, line_ends = 0, 0
        with open_bytes() as stream:
            try:
                while chunk := stream.read(1 << 22):
                    quotes |= b'"' in chunk
                    ends = chunk.count(b"\n") or chunk.count(b"\r")
                    line_ends += ends
                    length = 0 if ends else length + len(chunk)
                    if length > LONGEST_LINE:
                        raise GlczooError(
                            f"{where}: a line has more than {LONGEST_LINE:,} bytes: it is no table"
                        )
                    decoder.decode(chunk)
                decoder.decode(b"", final=True)
                return ("utf-8-sig" if name == "utf-8" else name), quotes, line_ends
            except UnicodeDecodeError:
                continue
    return "latin-1", True, None


def _shape(where: str, lines: list[str], separator: str | None) -> _Shape:
    skipped = 0
    if lines and lines[0].lower().startswith("sep=") and len(lines[0].strip()) <= 5:  # Excel's own mark
        separator = separator or lines[0][4:5]
        skipped = 1
    while skipped + 1 < len(lines) and (not lines[skipped].strip() or _is_comment(lines, skipped)):
        skipped += 1
    lines = lines[skipped:]
    if not lines or not lines[0].strip():
        raise GlczooError(f"{where}: its first line names no columns")
    other = _separator(lines)
    separator = separator or other
    if separator is None or (separator not in lines[0] and separator.strip()):
        hint = "" if separator is None else f" between {separator!r}"
        hint += f", but between {other!r} (`separator`)" if other else ""
        raise GlczooError(f"{where}: its first line names no columns{hint}: {lines[0][:80].strip()!r}")
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    names = [_clean(name) for name in next(reader)]
    first_row = reader.line_num
    rows = [row for row in reader if row]
    rows = rows[:-1] if len(rows) > 1 else rows  # the last one may be cut off
    if names[-1] == "" and len(names) > 1 and all(len(row) < len(names) or not row[-1] for row in rows):
        names = names[:-1]  # the header ends in a separator too
    offset = extra = 0
    longer = [row for row in rows if len(row) == len(names) + 1]
    if longer and len(longer) > len(rows) / 2:
        extra = 1
        r_names = all(line.startswith('"') for line in lines[:2]) and longer[0][0] == "1"
        offset = 1 if r_names or any(row[-1].strip() for row in longer) else 0
    wanted = len(names) + extra - 1
    plain = all(line.count(separator) == wanted for line in lines[first_row:-1] if line.strip())
    quoted = '"' in "".join(lines) and not (plain and separator != " ")
    return _Shape(tuple(names), separator, skipped + first_row, len(names) + extra, offset, quoted)


def _shape_of(described: TableDescription, lines: list[str]) -> _Shape:
    """The shape of a text that `meta.xml` describes; its terms are the names, else what a header says."""
    reader = csv.reader(
        lines,
        delimiter=described.separator,
        quotechar=described.quote or '"',
        quoting=csv.QUOTE_MINIMAL if described.quote else csv.QUOTE_NONE,
    )
    rows = [[_clean(cell) for cell in row] for row in reader]
    header_lines = described.header_lines
    terms = {name.lower() for name in described.names if name}
    first = {cell.lower() for cell in rows[0]} if rows else set()
    if header_lines == 0 and len(terms & first) >= len(terms) / 2:  # a header that meta.xml forgets
        header_lines = 1
    width = max([len(described.names), *map(len, rows)])
    header = rows[header_lines - 1] if 0 < header_lines <= len(rows) else []
    names = [(described.names[i : i + 1] or ("",))[0] or (header[i : i + 1] or [""])[0] for i in range(width)]
    added = [name for name in described.defaults if name not in names]
    return _Shape(
        (*names, *added),
        described.separator,
        header_lines,
        width,
        0,
        bool(described.quote),
        described.quote or '"',
        described.defaults,
    )


def _is_comment(lines: list[str], at: int) -> bool:
    """Whether a line that begins with # is no header: it has other separators than the first row below."""
    line = lines[at]
    below = next((other for other in lines[at + 1 :] if other.strip() and not other.startswith("#")), "")
    return line.startswith("#") and any(line.count(s) != below.count(s) for s in SEPARATORS)


def _separator(lines: list[str]) -> str | None:
    """The separator that the header has and that cuts the rows in as many fields, or one more."""
    best, most = None, (False, 0)
    for candidate in SEPARATORS:
        reader = csv.reader(lines[:50], delimiter=candidate, skipinitialspace=True)
        counts = [len(row) for row in reader if row]
        if counts and counts[0] > 1:
            fit = sum(count in (counts[0], counts[0] + 1) for count in counts[1:])
            score = fit >= 0.9 * (len(counts) - 1), counts[0]
            if score > most:
                best, most = candidate, score
    if best is None:
        words = [len(row) for row in csv.reader(lines[:50], delimiter=" ", skipinitialspace=True) if row]
        if len(words) > 1 and words[0] > 1 and set(words[1:]) <= {words[0], words[0] + 1}:
            return " "
    return best


def _with_quotes(shape: _Shape, open_text: Callable[[], io.TextIOWrapper]) -> _Shape:
    """Whether quotation marks hold fields together somewhere: a line has other separators than the rest."""
    wanted = shape.num_fields - 1
    with closing(open_text()) as file:
        for number, line in enumerate(file):
            if number >= shape.first_row and line.strip() and line.count(shape.separator) != wanted:
                return replace(shape, quoted=True)
    return shape


def _parse(
    where: str, open_text: Callable[[], io.TextIOWrapper], shape: _Shape, positions: Sequence[int]
) -> pd.DataFrame:
    known = [position + shape.offset for position in positions if position < len(shape.names)]
    at = [position for position in known if position < shape.num_fields]
    behind = shape.num_fields  # a field too many: a row that holds something there has shifted
    separator = r"\s+" if shape.separator == " " else shape.separator
    try:
        with closing(open_text()) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # fields behind that one
            for _ in range(shape.first_row):
                file.readline()
            table = pd.read_csv(
                _Headed(file, shape.separator.join(map(str, range(behind + 1))) + "\n"),
                sep=separator,
                header=0,
                names=range(behind + 1),
                usecols=[*at, behind],
                index_col=False,
                quoting=csv.QUOTE_MINIMAL if shape.quoted else csv.QUOTE_NONE,
                quotechar=shape.quote,
                skipinitialspace=True,
                keep_default_na=False,
                na_values=[""],
                low_memory=False,  # a column has one type, however long it is
            )
    except DAMAGED as error:
        raise GlczooError(f"{where} is damaged: {error}") from None
    except UnicodeError as error:
        raise GlczooError(f"{where} cannot be decoded ({error}); name its encoding") from None
    except pd.errors.EmptyDataError:
        return pd.DataFrame({name: pd.Series(dtype=object) for name in known})
    except (pd.errors.ParserError, ValueError) as error:
        raise GlczooError(f"{where} cannot be read as a table: {error}") from None
    table.index = pd.RangeIndex(shape.first_row + 1, shape.first_row + 1 + len(table))
    _refuse_shifted(where, table[behind], shape)
    del table[behind]
    for name, value in shape.defaults.items():
        place = shape.names.index(name) + shape.offset
        if place in known:
            table[place] = table[place].fillna(value) if place in table else value
    return table[known]


class _Headed(io.TextIOBase):
    """A text with a line before it: pandas takes the number of fields from the first line."""

    def __init__(self, file: io.TextIOBase, line: str) -> None:
        self._file = file
        self._line = line

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> str:
        line, self._line = self._line, ""
        return line or self._file.read(size)


def _refuse_shifted(where: str, behind: pd.Series, shape: _Shape) -> None:
    """Refuse rows that hold more than the header names: what stands in which column is not known."""
    held = behind.notna()
    if held.dtype == bool and held.any() and behind.dtype == object:
        held &= behind.astype(str).str.strip() != ""
    if held.any():
        raise GlczooError(
            f"{where}: {held.sum()} rows have more fields than the header's {len(shape.names)}, the first at "
            f"line(s) {behind.index[held][:3].tolist()}: a text with {shape.separator!r} in it without "
            "quotation marks, or numbers with decimal commas between commas? Put those in quotation marks"
        )


def _clean(name: str) -> str:
    return " ".join(name.replace("\ufeff", "").split())
