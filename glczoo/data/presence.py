"""Words and numbers that say whether a species was found, in the languages that people keep tables in.

Nothing is guessed of a value that is not understood: the values are named, and the reading stops.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from glczoo.errors import GlczooError

__all__ = [
    "COUNT",
    "COUNT_OR_BLANK",
    "MANY",
    "Labels",
    "Rule",
    "labels_of",
    "matrix_presences",
    "presences",
    "word",
]

COUNT: Literal["above 0"] = "above 0"
"""The rule for columns of counts."""
COUNT_OR_BLANK: Literal["above 0 or blank"] = "above 0 or blank"
"""The same where a blank means that nobody counted."""
Rule = Literal["above 0", "above 0 or blank"] | list[str | int]
"""When a cell says present: a count above 0, or one of these values."""

_YES = {
    # English; x, v and + as people tick
    *"1 true t yes y x v + present presence pres p detected detection detect seen heard observed".split(),
    *"observation found recorded occurring occurs occupied positive pos".split(),
    # French, German
    *"oui o vrai presente presences detecte detectee observe observee vu vue trouve trouvee".split(),
    *"ja j wahr vorhanden anwesend prasent prasenz gefunden nachgewiesen nachweis beobachtet gesehen".split(),
    # Spanish, Italian, Portuguese
    *"si s verdadero presencia detectado detectada observado observada visto vista vero presenza".split(),
    *"rilevato rilevata osservato osservata sim presenca encontrado verdadeiro".split(),
    # Dutch, Swedish, Norwegian, Danish
    *"waar aanwezig waargenomen gezien aangetroffen sant narvarande forekommer sedd tilstede funnet".split(),
    # Polish, Czech, Finnish, Hungarian, Turkish, Russian, Chinese
    *"fundet tak obecny obecna obecne ano pritomen pritomna kylla loydetty igen jelen evet var".split(),
    *"да есть 有 是 ✓ ✔ √ ☑ confirmed confirme bestatigt confirmado confermato".split(),
}
_NO = {
    *"0 false f no n - . ø absent absence abs a none nil zero negative neg nondetected".split(),
    *"notdetected nondetection non faux absente absences nein falsch fehlt fehlend abwesend".split(),
    *"falso ausente ausencia assente assenza nao nee afwezig onwaar nej nei franvarande saknas".split(),
    *"fravaerende nie nieobecny nieobecna brak ne nepritomen ei nem hianyzik hayir yok".split(),
    *"нет 无 否 ✗ ✘ ☐".split(),
}
_NOT = {
    *"not non no un without nicht kein keine pas ne sans niet geen ikke inte".split(),
    *"ej ei nao sin senza bez не".split(),
}
_BLANK = {"", "na", "n/a", "nan", "null", "#n/a"}  # R and spreadsheets write them where there is nothing
_COVER = {"r", "+", "2m", "2a", "2b"}  # Braun-Blanquet's (1964) codes beside 1 to 5: found, if hardly
# A count or cover as people note it: 3, <1, 12 %, 0,5, c. 20, 10-20, 100+.
_NUMBER = re.compile(
    r"(?:[<>≤≥~≈±]|ca?\.?)?\s*(?:\d+\s*(?:[-–]|to)\s*)?(-?\d+(?:[.,]\d+)?(?:e[+-]?\d+)?)\s*[%+]?",
    re.IGNORECASE,
)
MANY = 20
"""Distinct values that are not understood: the column holds something else."""


@dataclass(frozen=True)
class Labels:
    """How the values of a column were understood, each as the table spells it."""

    yes: list[str]
    no: list[str]
    unknown: list[str]
    blank: int  # rows
    counts: bool  # numbers other than 0 and 1 are among them

    @property
    def informative(self) -> bool:
        """Whether some rows say yes and some do not."""
        return bool(self.yes) and bool(self.no or self.blank)


def word(value: object) -> str:
    """A value as the file had it, in small letters: pandas makes 1.0 of 1 beside empty cells.

    It is "" where the cell is blank or holds R's NA.
    """
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return f"{value:.0f}"
    text = str(value).strip().lower()
    return "" if text in _BLANK else text


def labels_of(column: pd.Series) -> Labels:
    """Tell the values of a column apart that say yes, no, or what is not understood, the frequent first."""
    blank, many = 0, False
    yes: dict[str, str] = {}
    no: dict[str, str] = {}
    unknown: dict[str, str] = {}
    for value, rows in column.value_counts(dropna=False).items():
        text = word(value)
        if text == "":
            blank += int(rows)
            continue
        number = _number(text)
        many |= number is not None and number not in (0, 1)
        found = _says(text)
        kind = {None: unknown, True: yes, False: no}[found]
        kind.setdefault(text, text if isinstance(value, float) else str(value))
    return Labels([*yes.values()], [*no.values()], [*unknown.values()], blank, many)


def presences(
    column: pd.Series, rule: Rule, absence: Sequence[str | int], where: str, key: str
) -> np.ndarray:
    """Rows where the species was found, bool[n].

    Args:
        column: of the table.
        rule: numbers above 0, or a list of the values that say so; a blank says no unless the list has "".
        absence: values that say that it was not found, beside the words that are understood.
        where: the table, for a message.
        key: of region.yaml that holds the rule, for a message.

    Raises:
        GlczooError: a value is neither among them nor understood; the message names all of them.
    """
    codes, distinct = pd.factorize(column, use_na_sentinel=False)
    words = [word(value) for value in distinct]
    said_no = {word(value) for value in absence}
    listed = set() if isinstance(rule, str) else {word(value) for value in rule}
    found = np.zeros(len(words), bool)
    unknown = []
    for i, value in enumerate(words):
        if value in listed:
            found[i] = True
        elif value == "":
            found[i] = rule == COUNT_OR_BLANK
        elif value in said_no:
            continue
        elif isinstance(rule, str):
            answer = _says(value)
            found[i] = bool(answer)
            unknown += [i] if answer is None else []
        elif _says(value) is not False:
            unknown.append(i)
    if unknown:
        rows = int(np.isin(codes, unknown).sum())
        shown = ", ".join(repr(str(distinct[i])) for i in unknown[:10])
        shown += " …" if len(unknown) > 10 else ""
        raise GlczooError(
            f"{where}: {column.name} holds {shown} in {rows} rows: is the species there or not? In "
            f"region.yaml list what says yes under {key} ('{COUNT}' for counts), and what says no under "
            f"{key.replace('presence', 'absence')}"
        )
    return found[codes]


def matrix_presences(
    table: pd.DataFrame, absence: Mapping[str, Sequence[str | int]], where: str, key: str
) -> np.ndarray:
    """Presences of a wide table, bool[n, species]: numbers above 0 or words, a blank says no.

    `absence`: further words that say no, by column; `key`: of region.yaml, for a message.
    """
    columns = [presences(table[c], COUNT, absence.get(c, ()), where, f"{key}.{c}") for c in table.columns]
    return np.stack(columns, axis=1) if columns else np.zeros((len(table), 0), bool)


def _number(value: str) -> float | None:
    match = _NUMBER.fullmatch(value)
    return float(match[1].replace(",", ".")) if match else None


def _says(value: str) -> bool | None:
    """Whether a value says yes; None if it is not understood."""
    number = _number(value)
    if number is not None:
        return None if number < 0 else number > 0
    plain = _plain(value)
    if plain in _YES or plain in _COVER:
        return True
    negation, _, rest = plain.partition("_")
    if plain in _NO or (negation in _NOT and rest in _YES) or plain.removeprefix("un") in _YES:
        return False
    return None


def _plain(value: str) -> str:
    """Without accents, with one underscore between words; a dash of any length is a hyphen."""
    if re.fullmatch(r"[-‐‑‒–—−]+", value):
        return "-"
    letters = "".join(c for c in unicodedata.normalize("NFKD", value) if not unicodedata.combining(c))
    return re.sub(r"[\s_/-]+", "_", letters.casefold()).strip("_!?.,;:()[]'\"") or value
