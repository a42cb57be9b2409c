"""Which surveys train, which choose, and which only judge."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from glczoo.data.occurrences import Surveys, read_folds
from glczoo.data.region import Region

__all__ = ["Split", "split_surveys"]


@dataclass(frozen=True)
class Split:
    """Surveys that train, that choose (checkpoint, set size), and that nothing may be chosen by."""

    train: Surveys
    validation: Surveys
    test: Surveys


def split_surveys(
    region: Region,
    surveys: Surveys,
    *,
    kind: Literal["random", "file"],
    validation: float,
    fraction: float = 1.0,
    seed: int = 0,
) -> Split:
    """Split surveys (paper, Table 1: PA 80 / 20, PO 98 / 2).

    Args:
        region: gives the table of a split from file.
        surveys: what to split.
        kind: `random`, seeded, without test surveys (the competition's are elsewhere), or `file`: the folds
            that the region holds out are the test surveys and the others are split at random.
        validation: share of the used surveys that validate.
        fraction: share of the surveys outside the test folds to use. Nested: less is a subset of more (train
            and validation together).
        seed: of the random split, and of `fraction` where the file has no rank.

    Raises:
        ValueError: the region describes no split, or a survey is not in the split's table.
    """
    number = len(surveys)
    order, rank = np.random.default_rng(seed).random((2, number))
    test = np.zeros(number, bool)
    if kind == "file":
        fold, fixed_rank = read_folds(region, surveys)
        assert region.split is not None
        test = np.isin(fold, region.split.test)
        rank = rank if fixed_rank is None else fixed_rank
    used = np.flatnonzero(~test & (rank < fraction))
    used = used[np.argsort(order[used], kind="stable")]
    cut = round(validation * len(used))
    return Split(
        train=surveys.subset(np.sort(used[cut:])),
        validation=surveys.subset(np.sort(used[:cut])),
        test=surveys.subset(test),
    )
