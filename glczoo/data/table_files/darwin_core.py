"""What `meta.xml` of a Darwin Core Archive says of its tables (https://dwc.tdwg.org/text, section 2).

A table may have no header: its columns are then known by their positions in `meta.xml` alone, and a column
may be missing from the file and have one value for all rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree

from glczoo.errors import GlczooError

__all__ = ["TableDescription", "read_meta"]

_ESCAPES = {"\\t": "\t", "\\n": "\n", "\\r": "\r", "&quot;": '"'}
_MOST_COLUMNS = 10_000


@dataclass(frozen=True)
class TableDescription:
    """How the lines of a table become columns."""

    file: str
    kind: str  # last word of its row type, in small letters: occurrence, event …
    is_core: bool
    names: tuple[str, ...]  # terms by position, "" where a column is not described
    link: int  # position of the column that ties an extension to its core
    separator: str
    quote: str  # "" where quotation marks mean themselves
    header_lines: int
    encoding: str | None
    defaults: Mapping[str, str] = field(default_factory=dict)  # term → value of its empty cells


def read_meta(text: str, where: str) -> list[TableDescription]:
    """The tables that a `meta.xml` describes, in its order; none where the text is no XML.

    Args:
        text: of the file.
        where: the archive, for a message.

    Raises:
        GlczooError: a position or a number of lines is no whole number that a table may have.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return []
    elements = [element for element in root if _tag(element) in ("core", "extension")]
    return [table for element in elements if (table := _described(element, where)) is not None]


def _described(element: ElementTree.Element, where: str) -> TableDescription | None:
    file = next((e.text or "" for e in element.iter() if _tag(e) == "location"), "").strip()
    if not file:
        return None
    names: dict[int, str] = {}
    defaults: dict[str, str] = {}
    link = 0
    for child in element:
        index = _number(child.get("index"), where) if child.get("index") else None
        if _tag(child) in ("id", "coreid") and index is not None:
            link = index
        if _tag(child) != "field" or not (term := child.get("term", "").rsplit("/", 1)[-1]):
            continue
        if index is not None:
            names[index] = term
        if default := child.get("default"):
            defaults[term] = default
    width = max([link, *names]) + 1
    return TableDescription(
        file,
        element.get("rowType", "").rsplit("/", 1)[-1].lower(),
        _tag(element) == "core",
        tuple(names.get(i, "") for i in range(width)),
        link,
        _unescaped(element.get("fieldsTerminatedBy", ",")) or ",",
        _unescaped(element.get("fieldsEnclosedBy", '"')),
        _number(element.get("ignoreHeaderLines", "0") or "0", where),
        element.get("encoding") or None,
        defaults,
    )


def _tag(element: ElementTree.Element) -> str:
    """Without its namespace."""
    return element.tag.rsplit("}", 1)[-1]


def _unescaped(text: str) -> str:
    return _ESCAPES.get(text, text)[:1]


def _number(text: str | None, where: str) -> int:
    if text is None or not text.strip().isdecimal() or int(text) >= _MOST_COLUMNS:
        raise GlczooError(
            f"{where}: meta.xml holds {str(text)[:40]!r} where the number of a column or line is"
        )
    return int(text)
