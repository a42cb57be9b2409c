"""Where a model may be trusted: the area of applicability (Meyer & Pebesma 2021), of values at points.

Shapes: values[N, R] of R bands at N places, NaN where a band has no data.

Meyer & Pebesma, "Predicting into unknown space? Estimating the area of applicability of spatial prediction
models", Methods in Ecology and Evolution 12, 2021, doi:10.1111/2041-210X.13650. What they weigh by importance
counts alike here: a network's branches have no importance that is known beforehand.
"""

import numpy as np
import torch
from torch import Tensor

from glczoo.errors import GlczooError

__all__ = ["Applicability"]

_MOST = 20_000  # training environments that distances are measured to: seconds, and a few MB
_ROWS = 1024  # places at a time


class Applicability:
    """How unlike any training survey a place is, and from where on it is too unlike.

    The dissimilarity index of a place is the Euclidean distance to the nearest training survey over the mean
    distance of all pairs of training surveys, in bands standardised by the training surveys' mean and
    standard deviation. The threshold is the upper whisker (the largest value up to Q3 + 1.5 (Q3 - Q1)) of the
    training surveys' own index, each measured to the nearest of another fold.
    """

    def __init__(
        self, values: np.ndarray, fold: np.ndarray | None = None, device: torch.device | str = "cpu"
    ) -> None:
        """Measure the training surveys among themselves.

        Surveys with the same values (and fold) count once: a cell that was surveyed often is no reference for
        itself. Those without a value in some band are left out. Of more than 20,000 a seeded random draw is
        taken.

        Args:
            values: float[N, R] at the training surveys.
            fold: int64[N] of a cross-validation whose folds lie apart; None: every survey is its own fold.
            device: where distances are computed.

        Raises:
            GlczooError: fewer than two different surveys, or folds, have all values.
        """
        complete = ~np.isnan(values).any(axis=1)
        of = np.zeros(len(values), np.int64) if fold is None else fold
        distinct = np.unique(np.column_stack([of, values.astype(np.float64)])[complete], axis=0)
        if len(distinct) > _MOST:
            distinct = distinct[np.random.default_rng(0).permutation(len(distinct))[:_MOST]]
        folds, reference = distinct[:, 0], distinct[:, 1:]
        if fold is None:
            folds = np.arange(len(reference))
        if len(np.unique(folds)) < 2:
            raise GlczooError(
                f"{complete.sum()} of {len(values)} training surveys have a value of every raster band, in "
                f"{len(np.unique(folds))} fold(s): an area of applicability needs two that differ"
            )
        self._mean, std = reference.mean(axis=0), reference.std(axis=0)
        self._std = np.where(std > 0, std, np.inf)  # a band that does not vary tells nothing apart
        self._device, self._scale = device, 1.0
        self._reference = self._standard(reference)
        own, total = np.empty(len(reference)), 0.0
        for start in range(0, len(reference), _ROWS):
            rows = slice(start, start + _ROWS)
            apart = self._distances(self._reference[rows])
            total += float(apart.sum(dtype=torch.float64))
            same = torch.from_numpy(folds[rows, None] == folds).to(apart.device)
            own[rows] = apart.masked_fill_(same, torch.inf).amin(1).cpu().numpy()
        self._scale = total / (len(reference) * (len(reference) - 1))
        own /= self._scale
        low, high = np.quantile(own, [0.25, 0.75])
        self.threshold = float(own[own <= high + 1.5 * (high - low)].max())

    def dissimilarity(self, values: np.ndarray) -> np.ndarray:
        """Index of every place, float32[N]; NaN where a band has no value: nothing is known about it."""
        index = np.full(len(values), np.nan, np.float32)
        complete = np.flatnonzero(~np.isnan(values).any(axis=1))
        for start in range(0, len(complete), _ROWS):
            rows = complete[start : start + _ROWS]
            nearest = self._distances(self._standard(values[rows])).amin(1)
            index[rows] = nearest.cpu().numpy() / self._scale
        return index

    def _standard(self, values: np.ndarray) -> Tensor:
        standard = (values.astype(np.float64) - self._mean) / self._std
        return torch.from_numpy(standard.astype(np.float32)).to(self._device)

    def _distances(self, here: Tensor) -> Tensor:
        """float32[n, references]; exact differences: by products a place would not be near itself."""
        return torch.cdist(here, self._reference, compute_mode="donot_use_mm_for_euclid_dist")
