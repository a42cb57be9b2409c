"""The least that a model must beat: everywhere the species that most training surveys found.

GeoPlant (Picek et al. 2024, NeurIPS Datasets and Benchmarks) predicts the 25 commonest of each district; here
it is those of all training surveys.
"""

import torch

from glczoo.data.occurrences import Samples
from glczoo.decoding import Decoding, Rule
from glczoo.evaluation.evaluate import Row, rows_of
from glczoo.runs.run import Run

__all__ = ["commonest_rows"]


def commonest_rows(run: Run, samples: Samples, name: str, number: int = 25) -> list[Row]:
    """How good the commonest species of a run's training surveys are on some surveys.

    Args:
        run: whose split says which surveys train.
        samples: to be predicted.
        name: of the rows.
        number: how many species.

    Returns:
        By the `number` commonest, and by expected F1 of the shares of the surveys that found each species.
    """
    training = run.split("pa").train
    counts = torch.bincount(torch.from_numpy(training.species), minlength=len(run.species))
    share = (counts / max(len(training), 1)).expand(len(samples), -1)
    target = samples.targets(torch.arange(len(samples)), len(run.species))
    rules = [Decoding(Rule.TOP_K, number), Decoding(Rule.EXPECTED_F1)]
    return rows_of(name, share, target, rules, None, torch.from_numpy(samples.richness()))
