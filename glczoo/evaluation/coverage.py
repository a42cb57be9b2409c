"""Does a promise hold? The recall of predicted sets, overall, by block of space and by data set.

Sets by the rule `recall` (`glczoo.decoding.recall_threshold`) promise a mean recall on surveys like the
tuning samples. Held-out blocks show how far that carries.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glczoo.data.occurrences import Samples
from glczoo.data.splits import spatial_blocks
from glczoo.errors import GlczooError
from glczoo.metrics import bootstrap, means_by, sample_recall

__all__ = ["CAVEAT", "Coverage", "Group", "coverage"]

CAVEAT = (
    "The promise is of the mean over surveys like the tuning samples, not of each survey or block, and it "
    "does not hold far from the data."
)
"""What a promise of recall does not cover."""


@dataclass(frozen=True)
class Group:
    """Surveys of one data set: how many, their mean recall, and how many species are predicted for each."""

    name: str
    surveys: int
    recall: float
    size: float


@dataclass(frozen=True)
class Coverage:
    """Recall of predicted sets beside what was promised.

    The interval is 95 % of a bootstrap over blocks: neighbours are no independent evidence.
    """

    promised: float | None  # None: the rule promises none
    surveys: int
    recall: float
    low: float
    high: float
    size: float  # species in a set, mean
    blocks_below: int | None  # blocks whose mean recall is below the promise
    lowest_block: float
    block_recall: np.ndarray  # float64[blocks], as `spatial_blocks` numbers them
    block_number: np.ndarray  # int64[blocks]: surveys in each
    datasets: list[Group]
    caveat: str = CAVEAT

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        arrays = {"block_recall": self.block_recall.tolist(), "block_number": self.block_number.tolist()}
        return asdict(self) | arrays


def coverage(
    predicted: Tensor, target: Tensor, samples: Samples, size_km: float, promised: float | None = None
) -> Coverage:
    """The recall of predicted sets on surveys, overall, by block and by data set.

    Args:
        predicted: the predicted sets, bool[N, K].
        target: 1 where a species was observed, [N, K].
        samples: the surveys, N.
        size_km: side of the blocks.
        promised: the recall that the rule promises, if it does.

    Raises:
        GlczooError: there are no surveys.
    """
    if not len(target):
        raise GlczooError("coverage needs at least one survey, there are none")
    recall = sample_recall(predicted, target, torch.from_numpy(samples.richness()))
    values = {"recall": recall.double(), "size": predicted.sum(1).double()}
    blocks = torch.from_numpy(spatial_blocks(samples, size_km))
    rows = means_by(values, blocks)
    block_recall = np.array([row["recall"] for row in rows])
    low, high = bootstrap(values["recall"], blocks)
    datasets = []
    if samples.dataset is not None:
        datasets = means_by(values, torch.from_numpy(samples.dataset))
    return Coverage(
        promised=promised,
        surveys=len(target),
        recall=float(values["recall"].mean()),
        low=low,
        high=high,
        size=float(values["size"].mean()),
        blocks_below=None if promised is None else int((block_recall < promised).sum()),
        lowest_block=float(block_recall.min()),
        block_recall=block_recall,
        block_number=np.array([int(row["number"]) for row in rows], np.int64),
        datasets=[
            Group(
                samples.dataset_names[int(row["group"])] or "not named",
                int(row["number"]),
                row["recall"],
                row["size"],
            )
            for row in datasets
        ],
    )
