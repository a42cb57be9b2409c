"""Words and numbers for presence and absence: understood, or named; never guessed."""

import numpy as np
import pandas as pd
import pytest

from glczoo.data.presence import COUNT, COUNT_OR_BLANK, labels_of, presences


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ("presence", "absence"), ("Present", "Absent"), ("detected", "not detected"), ("présence", "absence"),
        ("présent", "absent"), ("oui", "non"), ("ja", "nein"), ("+", "-"), ("+", "−"), ("TRUE", "FALSE"),
        ("T", "F"), ("yes", "no"), ("Y", "N"), ("P", "A"), ("1", "0"), (1, 0), (True, False),
        ("sí", "no"), ("si", "no"), ("sim", "não"), ("vorhanden", "nicht vorhanden"), ("seen", "not seen"),
        ("nachgewiesen", "nicht nachgewiesen"), ("aanwezig", "afwezig"), ("tak", "nie"), ("да", "нет"),
        ("observed", "unobserved"), ("détecté", "non détecté"), ("présente", "absente"), ("sì", "no"),
    ],
)  # fmt: skip
def test_words_of_many_languages(yes: object, no: object) -> None:
    labels = labels_of(pd.Series([yes, no, yes]))
    assert (labels.yes, labels.no, labels.unknown) == ([str(yes)], [str(no)], [])
    assert labels.informative and not labels.counts


@pytest.mark.parametrize("yes", ["x", "X", "1", "✓", "+", "present"])
def test_a_blank_says_no_where_others_say_yes(yes: str) -> None:
    column = pd.Series([yes, None, yes, None])
    assert labels_of(column).informative and labels_of(column).blank == 2
    assert presences(column, [yes], (), "t.csv", "presence").tolist() == [True, False, True, False]


def test_numbers_above_0_are_presences() -> None:
    column = pd.Series([0, 3, 1, 0, 5])
    assert labels_of(column).counts
    assert presences(column, COUNT, (), "t.csv", "presence").tolist() == [False, True, True, False, True]


@pytest.mark.parametrize(
    ("value", "present"),
    [
        ("<1", True),
        ("0,5", True),
        (">100", True),
        ("12 %", True),
        ("0.0", False),
        ("r", True),
        ("2a", True),
        ("10-20", True),
        ("100+", True),
        ("ca. 5", True),
    ],
)
def test_cover_as_it_is_noted(value: str, present: bool) -> None:
    assert presences(pd.Series([value]), COUNT, (), "t.csv", "presence").tolist() == [present]


@pytest.mark.parametrize(("rule", "present"), [(COUNT, False), (COUNT_OR_BLANK, True)])
def test_a_blank_count_is_what_the_rule_says(rule: str, present: bool) -> None:
    assert presences(pd.Series([np.nan, 2.0]), rule, (), "t.csv", "p").tolist() == [present, True]


@pytest.mark.parametrize("rule", [COUNT, ["present"]])
def test_a_value_that_is_not_understood_stops_with_all_of_them(rule: object) -> None:
    column = pd.Series(["present", "perhaps", "absent", "dubious", "perhaps"], name="status")
    with pytest.raises(ValueError, match=r"t.csv: status holds 'perhaps', 'dubious' in 3 rows: is"):
        presences(column, rule, (), "t.csv", "tables.pa.presence.status")


def test_a_number_that_a_list_leaves_out_is_no_absence() -> None:
    with pytest.raises(ValueError, match=r"observed holds '2', '5' in 2 rows"):
        presences(pd.Series([1, 2, 5, 0], name="observed"), [1], (), "t.csv", "tables.pa.presence.observed")


def test_a_person_says_what_is_absence() -> None:
    column = pd.Series(["present", "perhaps", ""])
    assert presences(column, ["present"], ["perhaps"], "t.csv", "p").tolist() == [True, False, False]


def test_a_negative_number_is_not_understood() -> None:
    assert labels_of(pd.Series([-999, 1, 0])).unknown == ["-999"]


@pytest.mark.parametrize(
    "value", ["not seen", "non-détecté", "nicht beobachtet", "unrecorded", "no presence"]
)
def test_a_negation_of_a_word_for_presence_says_no(value: str) -> None:
    assert labels_of(pd.Series(["seen", value])).no == [value]


def test_na_as_r_writes_it_is_a_blank() -> None:
    assert labels_of(pd.Series(["1", "NA", "0"])).blank == 1
