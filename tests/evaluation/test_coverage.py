"""Recall of predicted sets beside the promise, by block and by data set."""

import json

import numpy as np
import pytest
import torch

from glczoo.data.occurrences import Samples
from glczoo.evaluation.coverage import CAVEAT, Coverage, coverage

# Two blocks of two surveys, 5° apart; each survey has species 0 and 1.
PREDICTED = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]]).bool()
TARGET = torch.tensor([[1.0, 1, 0]] * 4)


def samples(names: tuple[str, ...] = ("A", "")) -> Samples:
    lon, lat = np.array([5.0, 5.01, 10.0, 10.01]), np.full(4, 46.5)
    ids, offsets, species = np.arange(4), 2 * np.arange(5), np.tile([0, 1], 4)
    dataset = np.array([0, 1, 0, 1]) if names else None
    return Samples(lon, lat, ids, ids, offsets, species, dataset=dataset, dataset_names=names)


@pytest.fixture
def result() -> Coverage:
    return coverage(PREDICTED, TARGET, samples(), 50.0, promised=0.9)


def test_recall_is_the_mean_over_surveys(result: Coverage) -> None:
    assert result.recall == (1 + 1 + 0.5 + 0) / 4 and result.size == 7 / 4 and result.surveys == 4


def test_blocks_below_the_promise_are_counted(result: Coverage) -> None:
    assert sorted(result.block_recall.tolist()) == [0.25, 1.0]
    assert (result.blocks_below, result.lowest_block) == (1, 0.25)


def test_the_interval_draws_blocks_whole(result: Coverage) -> None:
    assert (result.low, result.high) == (0.25, 1.0)


def test_each_data_set_has_its_recall(result: Coverage) -> None:
    rows = [(group.name, group.surveys, group.recall, group.size) for group in result.datasets]
    assert rows == [("A", 2, 0.75, 1.5), ("not named", 2, 0.5, 2.0)]


def test_surveys_without_data_sets_have_no_such_rows() -> None:
    assert coverage(PREDICTED, TARGET, samples(()), 50.0).datasets == []


def test_without_a_promise_nothing_is_below_it() -> None:
    assert coverage(PREDICTED, TARGET, samples(), 50.0).blocks_below is None


def test_it_is_json_and_says_where_it_does_not_hold(result: Coverage) -> None:
    kept = json.loads(json.dumps(result.to_json()))
    assert kept["recall"] == 0.625 and kept["datasets"][0]["name"] == "A"
    assert kept["caveat"] == CAVEAT and "does not hold far from the data" in CAVEAT


def test_no_surveys_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least one survey"):
        coverage(PREDICTED[:0], TARGET[:0], samples().subset(np.zeros(4, bool)), 50.0)
