"""The species of one or two tables: spellings of one name are joined, names that are near are listed."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd

from glczoo.data.occurrences import name_key, tidy_name
from glczoo.data.places import plain
from glczoo.regions.guessed_table import GuessedTable

__all__ = ["Vocabulary", "make_vocabulary", "named_twice", "near_names"]


@dataclass
class Vocabulary:
    """The species table to write, and what was joined or deserves a look."""

    text: str | None  # CSV speciesId,name; None where ids are all there is
    size: int
    guesses: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


def make_vocabulary(tables: Sequence[GuessedTable]) -> Vocabulary:
    """The species of one or two tables.

    Tables that hold names alone look them up there; species without an id get ids after all others, in the
    order of their names. Names that differ by blanks or letter case are one.
    """
    doubts: list[str] = []
    with_ids, by_name = [t for t in tables if t.ids is not None], [t for t in tables if t.ids is None]
    columns = dict.fromkeys(str(t.keys["species"]) for t in with_ids)
    if len({plain(column) for column in columns}) > 1:
        doubts.append(f"{' and '.join(columns)} are taken as numbers of one list of species: are they?")
    known = _names_of_ids(with_ids)
    spellings = Counter(name for t in by_name if t.names is not None for name in t.names)
    best = _best_spellings(spellings)
    have = {name_key(name) for name in known.values()}
    new = sorted(name for key, name in best.items() if key not in have)
    if with_ids and new:
        shown = ", ".join(new[:3]) + (", …" if len(new) > 3 else "")
        doubts.append(f"{len(new)} species in {by_name[0].path.name} alone, by name: {shown}")
    start = max(known, default=0) + 1
    known |= dict(zip(range(start, start + len(new)), new, strict=True))
    for table in by_name:
        if table.keys.get("layout") != "wide":
            table.keys["species_by"] = "name"
            table.reasons["species_by"] = "looked up in the species table"
    doubts += _in_common(tables, known)
    names: list[str] = [name for name in known.values() if name]
    doubts += _doubtful_names(names)
    joined = [_joined_text(spellings, best)] if len(spellings) > len(best) else []
    if not names:
        return Vocabulary(None, len(known), joined, doubts)
    text = pd.DataFrame({"speciesId": list(known), "name": list(known.values())}).to_csv(index=False)
    return Vocabulary(text, len(known), joined, doubts)


def _names_of_ids(tables: Sequence[GuessedTable]) -> dict[int, str]:
    """Id → the most frequent name that any row gives it, "" where none does."""
    if not tables:
        return {}
    pairs = pd.concat([pd.DataFrame({"id": t.ids, "name": t.names}) for t in tables])
    spellings = pairs.fillna({"name": ""}).value_counts().reset_index()
    spellings["empty"] = spellings["name"] == ""
    spellings = spellings.sort_values(["id", "empty", "count", "name"], ascending=[True, True, False, True])
    first = spellings.drop_duplicates("id")
    return dict(zip(first["id"].tolist(), first["name"].tolist(), strict=True))


def _best_spellings(spellings: Counter[str]) -> dict[str, str]:
    """Key → the spelling to keep: a capital first and small letters then, and the most frequent."""
    best: dict[str, str] = {}
    order = sorted(spellings, key=lambda name: (not re.match(r"[A-Z][a-z]", name), -spellings[name], name))
    for name in order:
        best.setdefault(name_key(name), tidy_name(name))
    return best


def _joined_text(spellings: Counter[str], best: dict[str, str]) -> str:
    others = [name for name in spellings if name != best[name_key(name)]]
    shown = ", ".join(f"{name!r} = {best[name_key(name)]}" for name in sorted(others)[:3])
    more = f" and {len(others) - 3} more" if len(others) > 3 else ""
    return f"{len(spellings)} spellings are {len(best)} species, blanks and letter case aside: {shown}{more}"


def _in_common(tables: Sequence[GuessedTable], known: dict[int, str]) -> list[str]:
    if len(tables) < 2:
        return []
    keys = {name_key(name): number for number, name in known.items()}
    sets = []
    for table in tables:
        if table.ids is not None:
            sets.append(set(table.ids))
        else:
            own = () if table.names is None else {name_key(name) for name in table.names}
            sets.append({keys[key] for key in own if key in keys})
    if sets[0] & sets[1]:
        return []
    return ["the tables have no species in common: are their names or numbers of one list?"]


def _doubtful_names(names: Sequence[str]) -> list[str]:
    doubts = []
    if pairs := near_names(names):
        doubts.append(f"{len(pairs)} pair(s) of names differ by one letter: {_pairs(pairs)}; are they one?")
    if pairs := named_twice(names):
        doubts.append(
            f"{len(pairs)} name(s) stand there with and without author or subspecies: {_pairs(pairs)}; they "
            "are species of their own"
        )
    return doubts


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    shown = ", ".join(f"{one} / {other}" for one, other in pairs[:3])
    return shown + (" …" if len(pairs) > 3 else "")


def near_names(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of different names that one letter more, less or other tells apart, blanks and marks aside.

    Names that share what is left when one letter is taken away: no pair is compared with all others.
    """
    letters: dict[str, str] = {}
    left: dict[str, list[str]] = {}
    pairs: dict[tuple[str, str], None] = {}
    for name in sorted(set(names)):
        own = re.sub(r"[\W_]+", "", name_key(name))
        if len(own) < 6:  # codes and numbers differ by a letter as a rule
            continue
        for short in {own, *(own[:i] + own[i + 1 :] for i in range(len(own)))}:
            for other in left.get(short, ()):
                if abs(len(letters[other]) - len(own)) <= 1 and not _begins(name, other):
                    pairs[(other, name)] = None
            left.setdefault(short, []).append(name)
        letters[name] = own
    return sorted(pairs)


def _begins(name: str, other: str) -> bool:
    """Whether a name is the other and words more: see `named_twice`."""
    return name_key(name).startswith(name_key(other) + " ")


def named_twice(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of a binomial and a longer name that begins with it: with an author, or a subspecies.

    `names`: of the vocabulary.
    """
    keys = {name_key(name): name for name in names}
    pairs = []
    for key, name in keys.items():
        words = key.split()
        if len(words) > 2 and (short := " ".join(words[:2])) in keys:
            pairs.append((keys[short], name))
    return sorted(pairs)
