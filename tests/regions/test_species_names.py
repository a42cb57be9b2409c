"""Spellings of one name are joined and told; names that are near are listed and never joined."""

from pathlib import Path

import pandas as pd
import pytest

from glczoo.regions.guessed_table import GuessedTable
from glczoo.regions.species_names import Vocabulary, make_vocabulary, named_twice, near_names


def vocabulary(names: list[str], ids: list[int] | None = None) -> Vocabulary:
    table = GuessedTable(Path("t.csv"), "po", {"species": "species"}, names=pd.Series(names))
    table.ids = None if ids is None else pd.Series(ids)
    return make_vocabulary([table])


def names_of(found: Vocabulary) -> list[str]:
    return [line.split(",")[1] for line in (found.text or "").splitlines()[1:]]


def test_blanks_and_letter_case_make_no_species() -> None:
    spelt = ["Poa annua", "POA ANNUA", "Poa\u00a0annua", "poa  annua ", "\u200bPoa annua", "Abies alba"]
    found = vocabulary(spelt)
    assert names_of(found) == ["Abies alba", "Poa annua"] and found.size == 2
    assert found.guesses[0].startswith("6 spellings are 2 species, blanks and letter case aside")


def test_the_spelling_of_a_name_is_kept_where_there_is_one() -> None:
    assert names_of(vocabulary(["POA ANNUA", "POA ANNUA", "Poa annua"])) == ["Poa annua"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Quercus robur", "Quercus robus"),
        ("Quercus robur", "Quercus roburr"),
        ("Quercus robur", "Quercus_robur"),
        ("Abies alba", "Abies-alba"),
    ],
)
def test_near_names_are_listed_and_not_joined(one: str, other: str) -> None:
    found = vocabulary([one, other])
    assert found.size == 2 and any("differ by one letter" in doubt for doubt in found.doubts)


def test_other_names_are_not_near() -> None:
    assert near_names(["Quercus robur", "Quercus rubra", "Carex alba", "Abies alba", "sp1", "sp2"]) == []


def test_names_with_authors_are_listed_and_not_joined() -> None:
    assert named_twice(["Poa annua L.", "Poa annua", "Poa alpina L."]) == [("Poa annua", "Poa annua L.")]
    assert vocabulary(["Poa annua L.", "Poa annua"]).size == 2


def test_ids_keep_their_most_frequent_name() -> None:
    found = vocabulary(["Poa", "Poa annua", "Poa annua", ""], [7, 7, 7, 9])
    assert found.text == "speciesId,name\n7,Poa annua\n9,\n"
