"""The leaderboard as text, as a file, and what it says about the simplest candidate."""

from dataclasses import replace
from pathlib import Path

import pytest

from glczoo.fit.leaderboard import FILE, Gain, Leaderboard, Line

BOARD = Leaderboard(
    lines=[Line("linear", 0.7, 0.612, 0.83, 0.131, 8.0), Line("forest", 0.0, 0.6, 0.8, 0.14, 2.5)],
    together=Line("ensemble", 1.0, 0.62, 0.84, 0.13, 10.5),
    over_best=Gain("linear", (0.001, 0.0005, 0.0015), (0.008, 0.001, 0.015)),
    over_simplest=Gain("forest", (0.01, 0.005, 0.015), (0.02, 0.01, 0.03)),
    samples=811,
    blocks=60,
    folds=4,
    rule="expected F1",
    left_out={"network": "no time is left"},
)


def test_a_leaderboard_is_read_as_it_was_saved(tmp_path: Path):
    BOARD.save(tmp_path)
    assert Leaderboard.load(tmp_path) == BOARD


def test_a_run_without_one_has_none(tmp_path: Path):
    assert Leaderboard.load(tmp_path) is None


def test_a_damaged_one_is_named(tmp_path: Path):
    (tmp_path / FILE).write_text('{"lines": []}')
    with pytest.raises(ValueError, match=r"leaderboard\.json is damaged"):
        Leaderboard.load(tmp_path)


def test_its_table_has_a_row_for_each_candidate_and_one_for_the_ensemble():
    table = [line for line in BOARD.text().splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in table[2:]] == ["linear", "forest", "ensemble"]
    assert [cell.strip() for cell in table[2].split("|")[2:-1]] == ["0.70", "0.612", "0.830", "0.1310", "8"]
    assert table[3].split("|")[2].strip() == "–"


def test_it_names_what_was_left_out_and_why():
    assert BOARD.text().endswith("Left out: network (no time is left)")


CHANCE = ((0.01, -0.001, 0.02), (0.0, -0.01, 0.01))


def test_it_says_what_is_gained_over_the_best_candidate_and_over_the_simplest():
    assert BOARD.verdict() == (
        'The ensemble beats the best single candidate, "linear": log loss lower by 0.0010 [0.0005, 0.0015], '
        "F1 higher by 0.008 [0.001, 0.015].\n"
        'And it beats the simplest, "forest": log loss lower by 0.0100 [0.0050, 0.0150], F1 higher by 0.020 '
        "[0.010, 0.030].\n"
        "In brackets: 95 % by resampling 60 blocks."
    )


def test_it_says_when_a_single_candidate_is_as_good():
    chance = replace(BOARD, over_best=Gain("linear", *CHANCE))
    assert chance.verdict().startswith(
        'The ensemble does not beat, beyond chance, the best single candidate, "linear": log loss'
    )


def test_it_says_when_the_gain_over_the_simplest_may_be_chance():
    chance = replace(BOARD, over_simplest=Gain("forest", *CHANCE))
    assert 'Nothing beats the simplest, "forest", beyond chance: log loss' in chance.verdict()


def test_it_says_when_the_simplest_has_all_the_weight():
    alone = replace(BOARD, lines=[replace(BOARD.lines[1], weight=1.0)])
    assert alone.verdict() == 'Nothing beats the simplest candidate, "forest": it has all the weight.'


def test_it_says_when_another_has_all_the_weight():
    alone = replace(BOARD, lines=[replace(BOARD.lines[0], weight=1.0), BOARD.lines[1]])
    assert alone.verdict().startswith(
        '"linear" has all the weight: no mean with others has a lower log loss.\nIt beats the simplest, '
    )
