"""The area of applicability is what the paper says, computed the slow way."""

import numpy as np
import pytest

from glczoo.prediction import applicability
from glczoo.prediction.applicability import Applicability


def slowly(training: np.ndarray, fold: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, float]:
    """Meyer & Pebesma (2021), equations of section 2.1 and the whisker of 2.2, one pair at a time."""
    mean, std = training.mean(axis=0), training.std(axis=0)
    training, places = (training - mean) / std, (places - mean) / std

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(((a - b) ** 2).sum()))

    pairs = [distance(a, b) for i, a in enumerate(training) for j, b in enumerate(training) if i != j]
    scale = float(np.mean(pairs))
    own = np.array(
        [
            min(distance(a, b) for b, g in zip(training, fold, strict=True) if g != f) / scale
            for a, f in zip(training, fold, strict=True)
        ]
    )
    low, high = np.quantile(own, [0.25, 0.75])
    return (
        np.array([min(distance(p, b) for b in training) / scale for p in places]),
        max(own[own <= high + 1.5 * (high - low)]),
    )


@pytest.mark.parametrize("folds", [None, 3])
def test_index_and_threshold_are_the_papers(folds, monkeypatch):
    monkeypatch.setattr(applicability, "_ROWS", 7)  # several blocks of rows
    rng = np.random.default_rng(0)
    training = rng.normal(size=(40, 3)) * (1, 10, 100) + 5
    places = rng.normal(size=(15, 3)) * (2, 20, 200)
    fold = np.arange(40) if folds is None else np.arange(40) % folds
    near = Applicability(training, None if folds is None else fold)
    index, threshold = slowly(training, fold, places)
    assert near.threshold == pytest.approx(threshold, rel=1e-5)
    assert near.dissimilarity(places) == pytest.approx(index, rel=1e-5)


def test_a_survey_is_no_reference_for_its_own_cell():
    rng = np.random.default_rng(1)
    training = rng.normal(size=(30, 2))
    once, often = Applicability(training), Applicability(np.repeat(training, 5, axis=0))
    assert often.threshold == pytest.approx(once.threshold) and once.threshold > 0
    assert once.dissimilarity(training).max() == 0
    assert once.dissimilarity(np.array([[9.0, 9.0]]))[0] > once.threshold


def test_bands_without_value_or_variance():
    rng = np.random.default_rng(2)
    training = np.column_stack([rng.normal(size=(30, 2)), np.full(30, 7.0)])
    without = Applicability(np.vstack([training, [[np.nan, 1, 7]]]))
    assert without.threshold == pytest.approx(Applicability(training).threshold)
    found = without.dissimilarity(np.array([[np.nan, 0, 7], [0, 0, 7], [0, 0, 99]]))
    assert np.isnan(found[0]) and found[1] == found[2]  # what never varied tells nothing apart
    with pytest.raises(ValueError, match="0 of 4 training surveys have a value of every raster band"):
        Applicability(np.full((4, 2), np.nan))
    with pytest.raises(ValueError, match=r"in 1 fold\(s\)"):
        Applicability(training, np.zeros(30, int))


def test_of_many_surveys_a_draw_is_taken(monkeypatch):
    monkeypatch.setattr(applicability, "_MOST", 20)
    training = np.random.default_rng(3).normal(size=(400, 2))
    near = Applicability(training)
    assert (near.dissimilarity(training) == 0).sum() == 20
    assert near.threshold == Applicability(training).threshold  # the same draw every time
