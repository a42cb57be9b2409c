"""Progress: a bar where somebody looks, a line now and then in a log, nothing of what is short or hidden."""

import sys

import pytest

from glczoo import progress
from glczoo.progress import Track


@pytest.fixture
def clock(monkeypatch):
    """A clock whose every reading is four seconds later."""
    readings = iter(range(0, 100_000, 4))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(readings)))


def test_the_items_come_as_they_are():
    assert list(Track(iter("abc"), "letters")) == ["a", "b", "c"]


def test_a_short_loop_leaves_no_line(capsys):
    list(Track(range(1000), "short"))
    assert capsys.readouterr().err == ""


def test_a_log_has_a_line_every_twenty_seconds(clock, capsys):
    track = Track(range(12), "map", unit="blocks")
    for _ in track:
        track.note("loss 0.5")
    assert capsys.readouterr().err.splitlines() == [
        "map: 5 of 12 blocks, 42 %, 0.2 a second, 28 s left, loss 0.5",
        "map: 10 of 12 blocks, 83 %, 0.2 a second, 8 s left, loss 0.5",
    ]


def test_what_was_done_before_is_counted_but_not_as_speed(clock, capsys):
    list(Track(range(5), "epoch 1/1", 105, initial=100, unit="batches"))
    assert capsys.readouterr().err == "epoch 1/1: 105 of 105 batches, 100 %, 0.2 a second, 0 s left\n"


def test_an_item_may_be_many_units_and_the_end_unknown(clock, capsys):
    list(Track(iter(range(5)), "rasters", unit="lines", scale=64))
    assert capsys.readouterr().err == "rasters: 320 lines, 16.0 a second\n"


def test_a_context_counts_updates(clock, capsys):
    with Track(title="importance", total=10) as track:
        for _ in range(10):
            track.update()
    assert capsys.readouterr().err.count("importance: ") == 2


def test_what_is_hidden_shows_nothing(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(Track(range(100), "elsewhere", hidden=True))
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar_and_loses_it(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    track = Track(range(3), "looking", unit="points")
    for _ in track:
        track.note("all well")
    printed = capsys.readouterr().err
    assert "looking:   0%" in printed and "/3 [" in printed and printed.endswith("\r")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5900, "98 min"), (12_000, "3 h 20 min")],
)
def test_durations(seconds, text):
    assert progress._duration(seconds) == text
