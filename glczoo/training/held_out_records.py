"""How well scores rank records that were held out, and which mean of scores ranks them best.

No survey is needed, and none is looked at: a species' held-out sites are compared with the other sites of its
*target group*, the places where somebody recorded any species of its kind. Where people go cancels out
(Phillips et al. 2009, doi:10.1890/07-2153.1).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glczoo.data.occurrences import Points
from glczoo.data.sphere import nearest_km
from glczoo.errors import GlczooError
from glczoo.metrics import ranking

__all__ = [
    "Blocks",
    "held_out_auc",
    "select_members",
    "spatial_folds",
    "species_auc",
    "target_groups",
]

_CLUSTERS = (20, 40, 80, 160, 320, 640)
_USUAL = 80  # clusters where nobody says which places will be predicted


@dataclass(frozen=True)
class Blocks:
    """Folds of sites by blocks of neighbours."""

    fold: Tensor  # int64[N]
    number: int  # of blocks


def spatial_folds(sites: Points, plane: np.ndarray, places: Points | None, folds: int, seed: int) -> Blocks:
    """Deal sites to folds in blocks that put held-out sites as far away as the places to predict are.

    Blocks are k-means clusters; the number is the one that brings the median distance from a held-out site to
    the nearest site that trains closest to the median distance from a place to the nearest site
    (Linnenbrink et al. 2024, doi:10.5194/gmd-17-5897-2024).

    Args:
        sites: of the records.
        plane: east and north of the sites in km, float64[N, 2].
        places: a sample of those that will be predicted; None: 80 blocks, or as many as half the sites allow.
        folds: how many.
        seed: of the clusters' start.

    Raises:
        GlczooError: scikit-learn is not installed, or there are fewer sites than 40.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise GlczooError("spatial blocks need scikit-learn: pip install 'glczoo[study]'") from None
    numbers = [number for number in _CLUSTERS if 2 * number <= len(sites)]
    if not numbers:
        raise GlczooError(
            f"{len(sites)} places with records are too few to hold some out: there must be at least "
            f"{2 * _CLUSTERS[0]}"
        )
    if places is None:
        numbers = [min(_USUAL, numbers[-1])]
    else:
        goal = np.median(nearest_km(places, sites))
    best, best_gap = None, np.inf
    for number in numbers:
        cluster = KMeans(number, n_init=1, random_state=seed).fit_predict(plane)
        fold = _deal(cluster, folds)
        gap = 0.0
        if places is not None:
            apart = [nearest_km(sites.at(fold == each), sites.at(fold != each)) for each in range(folds)]
            gap = abs(np.log((np.median(np.concatenate(apart)) + 1e-9) / (goal + 1e-9)))
        if gap < best_gap:
            best, best_gap = Blocks(torch.from_numpy(fold), number), gap
    assert best is not None
    return best


def _deal(cluster: np.ndarray, folds: int) -> np.ndarray:
    """Fold of every site: clusters, the largest first, each to the fold with fewest sites."""
    sizes = np.bincount(cluster)
    fold_of, load = np.zeros(len(sizes), np.int64), np.zeros(folds, np.int64)
    for number in np.argsort(-sizes, kind="stable"):
        fold_of[number] = load.argmin()
        load[fold_of[number]] += sizes[number]
    return fold_of[cluster]


def species_auc(
    scores: Tensor, presence: Tensor, group: Tensor, fold: Tensor, folds: Sequence[int]
) -> Tensor:
    """AUC of every species' held-out sites against the others of its target group, float64[K].

    Within each fold, since models of different folds answer on different scales; the mean over folds counts
    their sites with the species. nan where no fold has both.

    Args:
        scores: of the sites, when they were held out, [N, K].
        presence: 1 where a species was recorded, [N, K].
        group: sites of a species' target group, bool[N, K].
        fold: of every site, int64[N].
        folds: those that count.
    """
    total, weight = torch.zeros(2, scores.shape[1], dtype=torch.float64)
    for columns in target_groups(group):
        inside = group[:, columns[0]]
        for number in folds:
            rows = inside & (fold == number)
            target = presence[rows][:, columns]
            auc = ranking(scores[rows][:, columns], target, min_presences=1).auc
            sites = target.sum(0).double() * ~auc.isnan()
            total[columns] += auc.nan_to_num() * sites
            weight[columns] += sites
    return total / weight


def held_out_auc(
    scores: Tensor, presence: Tensor, group: Tensor, fold: Tensor, folds: Sequence[int]
) -> float:
    """The mean of `species_auc` over the species that have one.

    `presence`: which records are of which species; `group`: the species' target group; `fold`: of each place;
    `folds`: those that are held out.
    """
    return float(species_auc(scores, presence, group, fold, folds).nanmean())


def target_groups(group: Tensor) -> list[Tensor]:
    """Columns of the species that share their target group."""
    _, member = group.unique(dim=1, return_inverse=True)
    return [(member == number).nonzero()[:, 0] for number in range(int(member.max()) + 1)]


def select_members(
    ranks: Mapping[str, Tensor], auc: Callable[[Tensor], float], start: int = 3, rounds: int = 12
) -> tuple[dict[str, float], dict[str, float], float]:
    """Which weighted mean of ranks is best: greedy selection with replacement (Caruana et al. 2004).

    It starts from the best candidates, adds again and again the one of the ten best that helps most, and
    keeps the best mean on the way.

    Args:
        ranks: of every candidate, [N, K].
        auc: how good ranks, or a sum of them, are; more is better.
        start: candidates to start from.
        rounds: candidates in the longest mean, repeats counted.

    Returns:
        Weights of the chosen (one in sum), the measure of every candidate alone, and of the chosen mean:
        optimistic, since it was chosen by it.
    """
    alone = {name: auc(each) for name, each in ranks.items()}
    order = sorted(alone, key=alone.__getitem__, reverse=True)
    bag = order[:start]
    total = torch.stack([ranks[name] for name in bag]).sum(0)
    best, chosen = auc(total), list(bag)
    while len(bag) < rounds:
        measured = {name: auc(total + ranks[name]) for name in order[:10]}
        name = max(measured, key=measured.__getitem__)
        bag.append(name)
        total = total + ranks[name]
        if measured[name] > best + 1e-5:
            best, chosen = measured[name], list(bag)
    return {name: chosen.count(name) / len(chosen) for name in order if name in chosen}, alone, best
