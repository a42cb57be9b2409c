"""Tables in texts: their encoding, separator, quotation marks, and rows that are longer than the header."""

import codecs
import csv
import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pandas as pd

from glczoo.data.archives import DAMAGED
from glczoo.errors import GlczooError

__all__ = ["SEPARATORS", "TextTable", "open_text_table"]

SEPARATORS = "\t;,|"
"""Between the columns of a text, the likeliest first."""
_SNIFFED = 200  # lines that decide on separator and shape
_LONGEST = 2**22  # letters of such a line: a hundred thousand names of species
_UNPACKED = 2**30  # bytes of a text that a compressed file may hold, or more if it does not pack it
_PACKED = 200  # times smaller than this: presence–absence matrices, nearly all zeros, pack a hundredfold


@dataclass(frozen=True)
class TextTable:
    """The columns of a text and the way to read some of them, see `table_files.TableFile`."""

    names: tuple[str, ...]
    separator: str
    read_at: Callable[[list[int]], pd.DataFrame]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Shape:
    """How the lines of a text become columns."""

    names: tuple[str, ...]
    separator: str
    first_row: int  # lines before the first row
    num_fields: int  # of a row: more than names where rows have a name of their own, or end in a separator
    offset: int  # fields before the first named one
    quoted: bool  # quotation marks hold fields together; else they mean themselves


def open_text_table(
    path: Path,
    open_bytes: Callable[[], IO[bytes]],
    separator: str | None,
    encoding: str | None,
    member: str = "",
) -> TextTable:
    """Look at a text and name its columns.

    Args:
        path: of the file, for messages.
        open_bytes: opens the text's bytes.
        separator: between the columns; seen in the text if None.
        encoding: of the text; UTF-8, UTF-16 by its mark, else Windows-1252 if None.
        member: of a zip archive, for messages.

    Raises:
        GlczooError: it is no text, or no table.
    """
    where = f"{path}: {member}" if member else str(path)
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError:
        raise GlczooError(f"{where}: no encoding is called {encoding!r}; try utf-8 or cp1252") from None
    try:
        known, has_quotes = _encoding(open_bytes, max(_UNPACKED, _PACKED * path.stat().st_size), where)
    except DAMAGED as error:
        raise GlczooError(f"{where} is damaged: {error}") from None
    if encoding is None and known == "":
        raise GlczooError(f"{where} is no text: it holds bytes that stand for no letters")
    chosen = encoding or known

    def open_text() -> io.TextIOWrapper:
        return io.TextIOWrapper(open_bytes(), encoding=chosen, newline="")

    try:
        with closing(open_text()) as file:
            lines = _first_lines(file, where)
        shape = _shape(where, lines, separator)
        if has_quotes and not shape.quoted:
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

    return TextTable(shape.names, shape.separator, read_at, notes)


def _first_lines(file: IO[str], where: str) -> list[str]:
    """The lines that decide, not one of them without end."""
    lines: list[str] = []
    while len(lines) < _SNIFFED and (line := file.readline(_LONGEST)):
        if len(line) == _LONGEST:
            raise GlczooError(f"{where}: line {len(lines) + 1} has more than {_LONGEST:,} letters: no table")
        lines.append(line)
    return lines


def _encoding(open_bytes: Callable[[], IO[bytes]], most: int, where: str) -> tuple[str, bool]:
    """The encoding of a text, "" if it is none, and whether there is a quotation mark in it.

    Raises:
        GlczooError: it unpacks to more than `most` bytes.
    """
    with open_bytes() as stream:
        head = stream.read(4096)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16", True
    if head.count(0) > len(head) // 4:  # of ASCII letters every other byte is 0
        return ("utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"), True
    if 0 in head:
        return "", False
    quotes = False
    for name in ("utf-8", "cp1252"):
        decoder, read = codecs.getincrementaldecoder(name)(), 0
        with open_bytes() as stream:
            try:
                while chunk := stream.read(1 << 22):
                    read += len(chunk)
                    if read > most:
                        raise GlczooError(
                            f"{where} unpacks to more than {most:,} bytes, far more than tables do; if it is "
                            "one, unpack it and name the table"
                        )
                    quotes |= b'"' in chunk
                    decoder.decode(chunk)
                decoder.decode(b"", final=True)
                return ("utf-8-sig" if name == "utf-8" else name), quotes
            except UnicodeDecodeError:
                continue
    return "latin-1", True


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


def _is_comment(lines: list[str], at: int) -> bool:
    """Whether a line that begins with # is no header: it has other separators than the line below."""
    line, below = lines[at], next((other for other in lines[at + 1 :] if other.strip()), "")
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
                return _Shape(**{**vars(shape), "quoted": True})
    return shape


def _parse(
    where: str, open_text: Callable[[], io.TextIOWrapper], shape: _Shape, positions: Sequence[int]
) -> pd.DataFrame:
    at = [position + shape.offset for position in positions]
    separator = r"\s+" if shape.separator == " " else shape.separator
    try:
        with closing(open_text()) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # fields behind the last named one
            for _ in range(shape.first_row):
                file.readline()
            table = pd.read_csv(
                file,
                sep=separator,
                header=None,
                names=range(shape.num_fields),
                usecols=at,
                index_col=False,
                quoting=csv.QUOTE_MINIMAL if shape.quoted else csv.QUOTE_NONE,
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
        return pd.DataFrame({name: pd.Series(dtype=object) for name in at})
    except (pd.errors.ParserError, ValueError) as error:
        raise GlczooError(f"{where} cannot be read as a table: {error}") from None
    table.index = pd.RangeIndex(shape.first_row + 1, shape.first_row + 1 + len(table))
    return table[at]


def _clean(name: str) -> str:
    return " ".join(name.replace("\ufeff", "").split())
