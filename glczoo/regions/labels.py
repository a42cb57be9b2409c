"""Which rows of a stranger's table are presences: by words, by counts, or by a column for each species.

What is not understood stops with the words that were found; what is guessed is kept as a reason.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from glczoo.data.places import plain
from glczoo.data.presence import COUNT, COUNT_OR_BLANK, MANY, Labels, Rule, labels_of, presences
from glczoo.errors import GlczooError
from glczoo.regions.guessed_table import GuessedTable

__all__ = [
    "COUNTS",
    "COUNTS_LIKE",
    "STATUS",
    "STATUS_LIKE",
    "all_presences",
    "guess_presence",
    "species_like",
]

STATUS = [
    *("occurrencestatus", "presence", "present", "presenceabsence", "presabs", "pa", "detected", "observed"),
    *(
        "detection",
        "occurrence",
        "occ",
        "pres",
        "seen",
        "found",
        "status",
        "presenza",
        "presencia",
        "presenca",
        "vorkommen",
    ),
    *("aanwezig", "vorhanden", "anwesend", "prasenz", "présence", "présent", "nachweis"),
]
"""Names of columns that say whether a species was found, plain letters only."""
COUNTS = [
    *("individualcount", "organismquantity", "abundance", "count", "counts", "cover", "coverage", "number"),
    *("individuals", "quantity", "percentcover", "coverpercent", "density", "biomass", "abundanz", "anzahl"),
    *("abondance", "effectif", "nombre", "abundancia", "cobertura", "deckung", "n"),
]
"""Names of columns that say how much of it, plain letters only."""

# Parts of other names of such columns: taken where a PA table has none of the above.
STATUS_LIKE = re.compile(
    r"pres|absen|detect|occurr|observed|seen|found|vorkomm|nachweis|aanwez|^response$|^target$|^label$|^pb$"
)
"""Parts of names of columns that may say whether a species was found."""
COUNTS_LIKE = re.compile(
    r"abund|count|individ|quantit|anzahl|abond|effectif|cobert|deckung|freq|braun|^bb|^nb|^cover|biomass"
)
"""Parts of names of columns that may say how much of it."""
_OF_RECORDS = {"individualcount", "organismquantity"}  # Darwin Core: a blank means not counted
# Columns of whole numbers that are no species.
_COVARIATES = re.compile(
    r"(id|nr|no|num|number|code|index|row|obs|observer|year|month|day|time|hour|date|week|season|elev\w*|alt\w*"
    r"|height|depth|slope|aspect|area|size|effort|duration|distance|temp\w*|prec\w*|rain\w*|ph|bio\d+|fold|block"
    r"|group|zone|region|country|habitat\w*|forest|land\w*|richness|total|sum|weight|accuracy|precision|x|y|z)"
)
_BINOMIAL = re.compile(r"[A-Z][a-zé]+[ ._×-]+[a-zï-]{2,}.*")


def guess_presence(
    guess: GuessedTable, table: pd.DataFrame, status: str | None, count: str | None, words: str | None
) -> np.ndarray:
    """Which rows are presences, bool[n]; writes the key `presence` and its reason.

    Args:
        guess: of the table.
        table: its rows.
        status: column that says whether the species was found.
        count: column of counts or cover.
        words: that a person named as presences in `status`, separated by commas.

    Raises:
        GlczooError: a word is not understood; the message names all of them.
    """
    everything = np.ones(len(table), bool)
    if status and words:
        rule: Rule = [*words.split(",")]
        others = sorted(set(_values(table[status])) - {w.strip().lower() for w in words.split(",")})
        guess.keys |= {"presence": {status: rule}} | ({"absence": {status: others}} if others else {})
        return presences(table[status], rule, others, str(guess.path), "presence")
    if status:
        labels = labels_of(table[status])
        if len(labels.unknown) > MANY:
            guess.doubt(f"{status} holds {labels.unknown[:3]} …: it is taken for no column of presence")
        elif labels.unknown:
            raise GlczooError(_not_understood(guess, status, labels))
        elif not labels.yes and labels.no:
            raise GlczooError(
                f"{guess.path}: every row says {' or '.join(labels.no)} in {status}: no presence"
            )
        elif labels.informative:
            return _ruled(guess, table, status, labels, _status_rule(guess, status, labels))
        elif guess.kind == "pa" and len(labels.yes) == 2 and set(labels.yes) == {"1", "2"}:
            raise GlczooError(
                f"{guess.path}: {status} holds 1 and 2: are these counts, or codes of which one says "
                f"that the species was not found? --columns presence={status}:1 (or :2; all others say no), "
                "or presence=none if every row is a presence"
            )
    if count:
        labels = _without_letters(labels_of(table[count]))
        absences = bool(labels.no) or (bool(labels.blank) and guess.kind == "pa")
        if absences and labels.unknown and len(labels.unknown) <= MANY:
            raise GlczooError(_not_understood(guess, count, labels))
        of_records = plain(count) in _OF_RECORDS or guess.kind == "po"
        if labels.yes and not labels.unknown and (labels.no or (labels.blank and not of_records)):
            rule = COUNT_OR_BLANK if of_records and labels.blank else COUNT
            return _ruled(guess, table, count, labels, rule)
    return everything


def _without_letters(labels: Labels) -> Labels:
    """Labels of a column of counts: its letters are classes of abundance, such as R for rare, or unknown."""
    letters = [v for v in (*labels.yes, *labels.no) if len(v) == 1 and v.isalpha() and v.lower() not in "rx"]
    yes, no = ([v for v in values if v not in letters] for values in (labels.yes, labels.no))
    return Labels(yes, no, [*labels.unknown, *letters], labels.blank, labels.counts)


def _status_rule(guess: GuessedTable, status: str, labels: Labels) -> Rule:
    if labels.counts:
        return COUNT
    rule: list[str | int] = [int(value) if value.isdigit() else value for value in labels.yes]
    if labels.blank and guess.kind == "po" and plain(status) == "occurrencestatus":
        rule.append("")  # Darwin Core: present unless it says otherwise
    return rule


def _ruled(guess: GuessedTable, table: pd.DataFrame, column: str, labels: Labels, rule: Rule) -> np.ndarray:
    present = presences(table[column], rule, (), str(guess.path), "presence")
    if present.all():
        return present
    guess.keys["presence"] = {column: rule}
    said = [*labels.no[:5], *(["blank"] if labels.blank and not _blank_is_presence(rule) else [])]
    guess.reasons["presence"] = (
        f"guessed: {present.sum()} presences, {(~present).sum()} absences ({' or '.join(said)})"
    )
    if labels.blank and labels.no and not _blank_is_presence(rule):
        guess.doubt(f"{labels.blank} rows with a blank {column} count as absences, as those that say so")
    return present


def _blank_is_presence(rule: Rule) -> bool:
    return rule == COUNT_OR_BLANK or (isinstance(rule, list) and "" in rule)


def _values(column: pd.Series) -> list[str]:
    labels = labels_of(column)
    return [*labels.yes, *labels.no, *labels.unknown]


def _not_understood(guess: GuessedTable, column: str, labels: Labels) -> str:
    shown = ", ".join(map(repr, labels.unknown))
    known = ", ".join([*labels.yes, *labels.no])
    return (
        f"{guess.path}: {column} holds {shown}" + (f" beside {known}" if known else "") + ": was the species "
        f"found there or not? Name the words that say so, all others say no: --columns "
        f"presence={column}:{','.join(labels.yes or labels.unknown[:1])}; or presence=none if it says "
        "nothing of the kind"
    )


def species_like(table: pd.DataFrame, skip: Iterable[str], where: str) -> tuple[list[str], list[str]]:
    """Columns of a wide table that look like species, and those that do not.

    A species' column holds 0 and 1, yes and no, or counts with zeros or blanks among them.

    `skip`: columns that are something else.

    Raises:
        GlczooError: a column that is named like a species holds words that are not understood.
    """
    skipped = set(skip)
    species: list[str] = []
    others: list[str] = []
    for name in table.columns:
        if name in skipped or not name:
            continue
        labels = labels_of(table[name])
        if _BINOMIAL.fullmatch(name) and 0 < len(labels.unknown) <= MANY and (labels.yes or labels.no):
            raise GlczooError(
                f"{where}: {name} holds {', '.join(map(repr, labels.unknown))} beside "
                f"{', '.join([*labels.yes, *labels.no])}: was the species found there or not? Write 0 "
                "and 1, or words that say so"
            )
        (species if _is_species(name, table[name]) else others).append(name)
    return species, others


def _is_species(name: str, column: pd.Series) -> bool:
    labels = labels_of(column)
    values = len(labels.yes) + len(labels.no)
    if labels.unknown or values == 0:
        return False
    if _BINOMIAL.fullmatch(name) and (labels.informative or not labels.counts):
        return True
    if not labels.informative:
        return False
    if _COVARIATES.fullmatch(plain(name)):
        return False
    zeros = 1 - presences(column, COUNT, (), name, "presence").mean()
    whole = all(re.fullmatch(r"\d+|[^\d]+", value) for value in (*labels.yes, *labels.no))
    return not labels.counts or (whole and zeros >= 0.05 and values < max(3, len(column)))


def all_presences(table: pd.DataFrame, columns: Sequence[str], where: str) -> np.ndarray:
    """Presences in the species' columns of a wide table, bool[n, species]."""
    return np.stack([presences(table[c], COUNT, (), where, f"absence.{c}") for c in columns], axis=1)
