"""Text in CSV files that people open in a spreadsheet: a cell that begins like a formula stays text.

A species or a data set may be called `=HYPERLINK(…)` in a table that somebody published, and a spreadsheet
would compute it. As OWASP advises ("CSV Injection"), such a cell gets an apostrophe in front.
"""

import re
from collections.abc import Iterable

import numpy as np

__all__ = ["as_text", "texts"]

_FORMULA = re.compile(r"\s*[=+\-@\t\r]")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


def as_text(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula; numbers stay as they are."""
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def texts(column: Iterable[str]) -> np.ndarray:
    """The same of a column, str[N]."""
    return np.array([as_text(cell) for cell in column], str)
