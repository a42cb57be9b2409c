"""How good predicted sets and probabilities are: pure functions of tensors.

predicted[N, K] bool: the predicted sets · target[N, K]: 1 where a species was observed · scores[N, K].
N surveys, K species. A number that is undefined for a species is nan, and means leave it out.

All are exact. ROC-AUC, PR-AUC, TSS and the Boyce index compare all surveys of a species with each other, so
they need the whole matrix; they go through it a few columns at a time.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from glczoo.errors import GlczooError

__all__ = [
    "Ranking",
    "Reliability",
    "SpeciesScores",
    "bootstrap",
    "boyce",
    "frequency_parts",
    "macro_auc",
    "macro_f1",
    "means_by",
    "ranking",
    "reliability",
    "sample_f1",
    "sample_recall",
    "set_summary",
    "size_error",
    "species_scores",
    "summary",
]

_COLUMNS = 256  # species ranked at a time: 22,404 surveys of them are 23 MB of scores
_ROWS = 1024  # surveys binned at a time


def sample_f1(predicted: Tensor, target: Tensor, found: Tensor | None = None) -> Tensor:
    """F1 of every survey (Ung et al. 2023, eq. 3), float[N]; its mean is the competition's "micro F1".

    TP / (TP + (FP + FN) / 2), which scikit-learn calls `average="samples"`. An empty prediction for an
    empty survey counts as right (1).

    Args:
        predicted: the sets, bool[N, K].
        target: 1 where a species was found, [N, K].
        found: how many species each survey found, int64[N], where these are more than the K hold; None: they
            are not.
    """
    target = target.bool()
    hits = (predicted & target).sum(1)
    both = predicted.sum(1) + (target.sum(1) if found is None else found)
    return torch.where(both > 0, 2 * hits / both.clamp_min(1), 1.0)


def sample_recall(predicted: Tensor, target: Tensor, found: Tensor | None = None) -> Tensor:
    """Share of each survey's species that its set holds, float[N]; 1 for a survey without species.

    `found`: as in `sample_f1`.
    """
    target = target.bool()
    found = target.sum(1) if found is None else found
    return torch.where(found > 0, (predicted & target).sum(1) / found.clamp_min(1), 1.0)


def macro_f1(predicted: Tensor, target: Tensor) -> float:
    """Mean over species of the F1 over surveys; species neither observed nor predicted are left out.

    Raises:
        GlczooError: no species is observed or predicted at all.
    """
    target = target.bool()
    hits = (predicted & target).sum(0)
    both = predicted.sum(0) + target.sum(0)
    if not (both > 0).any():
        raise GlczooError("macro F1 is undefined: no species is observed or predicted in any survey")
    return float((2 * hits / both)[both > 0].mean())


def macro_auc(scores: Tensor, target: Tensor, min_presences: int = 5) -> tuple[float, int]:
    """Mean over species of the area under the ROC curve, and the number of species it is over.

    Only species with at least `min_presences` presences and one absence: the AUC of fewer is noise. Ties
    count one half (mid-ranks, Mann and Whitney 1947). (nan, 0) where no species qualifies.
    """
    auc = ranking(scores, target, min_presences).auc
    return float(auc.nanmean()), int((~auc.isnan()).sum())


@dataclass(frozen=True)
class Ranking:
    """How well the scores of every species rank its presences above its absences, float64[K] each."""

    auc: Tensor  # area under the ROC curve, ties one half (Mann and Whitney 1947)
    pr_auc: Tensor  # average precision
    tss: Tensor  # true skill statistic at its best threshold


def ranking(scores: Tensor, target: Tensor, min_presences: int = 5) -> Ranking:
    """How well the scores of every species rank its presences above its absences.

    At a threshold t, surveys with score ≥ t count as predicted; the thresholds are the distinct scores.

    - PR-AUC is the average precision, Σ (recall gained at t) × (precision at t), which scikit-learn calls
      `average_precision_score`; nothing is interpolated (Davis and Goadrich 2006 say why).
    - TSS is sensitivity + specificity - 1 (Allouche, Tsoar and Kadmon 2006, doi:10.1111/j.1365-2664.2006.
      01214.x) at its best threshold, at least 0. That threshold is chosen on the very surveys that TSS is
      measured on, so the number is optimistic.

    Returns:
        nan for species with fewer than `min_presences` presences or without an absence.

    Raises:
        GlczooError: a score is nan.
    """
    num = len(target)
    auc, pr_auc, tss = scores.new_full([3, scores.shape[1]], torch.nan, dtype=torch.float64)
    number = torch.count_nonzero(target, 0)
    kept = ((number >= max(1, min_presences)) & (number < num)).nonzero()[:, 0]
    place = torch.arange(1, num + 1, device=scores.device)
    for columns in kept.split(_COLUMNS):
        ordered, index = scores[:, columns].t().contiguous().sort(dim=1, descending=True)
        if ordered.isnan().any():
            raise GlczooError("scores hold nan: they cannot be ranked; did the model diverge?")
        present = target[:, columns].t().bool().gather(1, index)
        # Surveys of one score come in together: how many score as high or higher, and how many higher.
        edge = ordered[:, 1:] != ordered[:, :-1]
        last, first = (torch.nn.functional.pad(edge, side, value=True) for side in ((0, 1), (1, 0)))
        upto = torch.where(last, place, num).flip(1).cummin(1).values.flip(1)
        above = torch.where(first, place - 1, 0).cummax(1).values
        hits = torch.nn.functional.pad(present.cumsum(1), (1, 0))
        hits_upto, hits_above = hits.gather(1, upto), hits.gather(1, above)
        presences = number[columns, None].double()
        absences = num - presences
        half_won = (hits_upto + hits_above) / 2 * ~present
        auc[columns] = (half_won / (presences * absences)).sum(1)
        pr_auc[columns] = (present * hits_upto / (upto * presences)).sum(1)
        skill = hits_upto / presences - (upto - hits_upto) / absences
        tss[columns] = skill.amax(1).clamp_min(0)
    return Ranking(auc, pr_auc, tss)


def boyce(presence: Tensor, background: Tensor, windows: int = 101, width: float = 0.1) -> float:
    """Continuous Boyce index (Hirzel et al. 2006) of one species, in [-1, 1]; nan where it is undefined.

    Windows of `width` × the range of the background scores, both ends included, at `windows` evenly spaced
    places from the lowest to the highest score. In each, P is the share of the presences and E the share of
    the background; the index is Spearman's rank correlation (mid-ranks) between the window's place and P / E.
    Windows without background are left out. Runs of equal P / E all count (packages that drop them give
    another number).

    Args:
        presence: scores where the species was observed, float[n].
        background: scores of all places that were available, the presences among them, float[m].
        windows: how many.
        width: share of the range that a window covers.
    """
    background, presence = background.double().sort().values, presence.double().sort().values
    if not len(presence) or not len(background) or background[0] == background[-1]:
        return torch.nan
    span = background[-1] - background[0]
    low = background[0] + (1 - width) * span * torch.linspace(0, 1, windows, dtype=torch.float64).to(span)
    high = torch.cat([low[:-1] + width * span, background[-1:]])  # no rounding shuts out the highest score
    seen, available = (
        torch.searchsorted(x, high, side="right") - torch.searchsorted(x, low) for x in (presence, background)
    )
    seen, available = seen[available > 0], available[available > 0]
    # P / E in whole numbers: equal ratios are ties, whatever a division would round them to.
    mine, other = seen[:, None] * available, seen * available[:, None]
    rank = (mine > other).sum(1) + ((mine == other).sum(1) + 1) / 2
    place = torch.arange(len(rank), dtype=torch.float64, device=rank.device)
    rank, place = rank.double() - rank.double().mean(), place - place.mean()
    return float((rank * place).sum() / (rank.square().sum() * place.square().sum()).sqrt())


def size_error(predicted: Tensor, target: Tensor, found: Tensor | None = None) -> Tensor:
    """Predicted minus observed species of every survey: positive means too many. int64[N].

    `found`: as in `sample_f1`.
    """
    return predicted.sum(1) - (target.bool().sum(1) if found is None else found)


def summary(predicted: Tensor, scores: Tensor, target: Tensor) -> dict[str, float]:
    """All of the above for one table row: f1, f1_macro, auc, auc_species, size, size_bias, size_error."""
    auc, species = macro_auc(scores, target)
    return {**set_summary(predicted, target), "auc": auc, "auc_species": species}


def set_summary(predicted: Tensor, target: Tensor, found: Tensor | None = None) -> dict[str, float]:
    """What `summary` holds of the predicted sets alone, without the scores behind them.

    `found`: as in `sample_f1`.
    """
    error = size_error(predicted, target, found).double()
    return {
        "f1": float(sample_f1(predicted, target, found).mean()),
        "f1_macro": macro_f1(predicted, target),
        "size": float(predicted.sum(1).double().mean()),
        "size_bias": float(error.mean()),
        "size_error": float(error.abs().mean()),
    }


@dataclass(frozen=True)
class SpeciesScores:
    """How well each species is predicted, [K] each; nan where a number is undefined."""

    presences: Tensor  # int64: surveys that observed it
    predicted: Tensor  # int64: surveys it is predicted for
    f1: Tensor  # over the surveys; nan: neither observed nor predicted
    auc: Tensor  # see `ranking`; nan, as the next three, below `min_presences`
    pr_auc: Tensor
    tss: Tensor
    boyce: Tensor  # continuous Boyce index, all surveys being the background

    def means(self) -> dict[str, float]:
        """The mean over species of f1, auc, pr_auc, tss and boyce, each over those that have one."""
        scores = {
            "f1": self.f1,
            "auc": self.auc,
            "pr_auc": self.pr_auc,
            "tss": self.tss,
            "boyce": self.boyce,
        }
        return {name: float(values.nanmean()) for name, values in scores.items()}


def species_scores(
    predicted: Tensor, scores: Tensor, target: Tensor, min_presences: int = 5
) -> SpeciesScores:
    """F1, AUC, PR-AUC, TSS and the continuous Boyce index of every species.

    Args:
        predicted: the predicted sets, bool[N, K].
        scores: probabilities, or anything that rises with them, [N, K].
        target: 1 where a species was observed, [N, K].
        min_presences: what compares scores is noise for species observed in fewer surveys: nan.

    Raises:
        GlczooError: a score is nan.
    """
    target = target.bool()
    presences, number = target.sum(0), predicted.sum(0)
    ranks = ranking(scores, target, min_presences)
    index = torch.full([target.shape[1]], torch.nan, dtype=torch.float64)
    for species in (presences >= max(1, min_presences)).nonzero()[:, 0].tolist():
        index[species] = boyce(scores[target[:, species], species], scores[:, species])
    return SpeciesScores(
        presences=presences,
        predicted=number,
        f1=2 * (predicted & target).sum(0).double() / (presences + number),
        auc=ranks.auc,
        pr_auc=ranks.pr_auc,
        tss=ranks.tss,
        boyce=index.to(scores.device),
    )


def frequency_parts(presences: Tensor, parts: int = 10) -> Tensor:
    """Which part of the species, from the rarest (0) to the commonest, each belongs to: int64[K].

    Parts (deciles) hold equally many species, up to one; species without presences belong to none (-1).
    `presences[K]` are best those of the training samples: how much a model could learn from.

    `parts`: how many.
    """
    part = torch.full_like(presences, -1, dtype=torch.int64)
    order = presences.argsort(stable=True)
    order = order[presences[order] > 0]
    part[order] = torch.arange(len(order), device=part.device) * parts // max(1, len(order))
    return part


def means_by(values: Mapping[str, Tensor], groups: Tensor) -> list[dict[str, float]]:
    """Means within groups: of surveys by source, of species by frequency; a row for each group that occurs.

    Args:
        values: names and numbers [N], nan where undefined.
        groups: group of each, int64[N]; negative: none.

    Returns:
        Rows of group, number (how many in the group) and the mean of every value, nan where all are.
    """
    rows = []
    for group in groups[groups >= 0].unique().tolist():
        inside = groups == group
        means = {name: float(value[inside].double().nanmean()) for name, value in values.items()}
        rows.append({"group": group, "number": int(inside.sum()), **means})
    return rows


def bootstrap(
    values: Tensor | Callable[[Tensor], float],
    groups: Tensor | None = None,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a mean, or of any number of the surveys, from resamples (Efron 1979).

    For a paired comparison of two models, give the differences of their values.

    Args:
        values: one number a survey, [N], whose mean is meant; or a function that takes the positions of
            the drawn surveys, int64[M] on the CPU, and returns a number.
        groups: block of every survey, [N]: whole blocks are drawn, because neighbours are no independent
            evidence. None: every survey for itself. A function needs them: `torch.arange(N)` if so.
        n: number of resamples.
        seed: of the draws; the same for values and functions.
        level: share of the resamples inside the interval.

    Raises:
        GlczooError: there is nothing to draw from, or a function came without groups.
    """
    if groups is None:
        if not isinstance(values, Tensor):
            raise GlczooError("bootstrap of a function needs groups; torch.arange(N) draws single surveys")
        groups = torch.arange(len(values))
    if not len(groups):
        raise GlczooError("bootstrap needs at least one survey, there are none")
    _, member = groups.cpu().unique(return_inverse=True)
    sizes = member.bincount()
    members = member.argsort(stable=True).split(sizes.tolist())
    if isinstance(values, Tensor):
        sums = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, member, values.cpu().double())
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.empty(n, dtype=torch.float64)
    for i in range(n):
        pick = torch.randint(len(sizes), (len(sizes),), generator=generator)
        if isinstance(values, Tensor):
            drawn[i] = sums[pick].sum() / sizes[pick].sum()
        else:
            drawn[i] = values(torch.cat([members[j] for j in pick.tolist()]))
    low, high = drawn.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64))
    return float(low), float(high)


@dataclass(frozen=True)
class Reliability:
    """Predicted and observed frequencies in bins of equal width over [0, 1] (Guo et al. 2017).

    An entry is one species in one survey: most lie in the first bin where species are many and sets small.
    """

    number: Tensor  # float64[bins]: entries
    probability: Tensor  # float64[bins]: their mean, nan where none
    frequency: Tensor  # float64[bins]: share of presences, nan where none

    @property
    def ece(self) -> float:
        """Expected calibration error: mean over entries of |frequency - probability| of their bin."""
        gap = (self.frequency - self.probability).abs().nan_to_num()
        return float((gap * self.number).sum() / self.number.sum())


def reliability(probabilities: Tensor, target: Tensor, bins: int = 15) -> Reliability:
    """The reliability curve of probabilities[N, K]; its `.ece` is the expected calibration error.

    `bins`: of equal width.
    """
    sums = torch.zeros(3, bins, dtype=torch.float64)  # entries, Σ probability, presences
    for p, y in zip(probabilities.split(_ROWS), target.split(_ROWS), strict=True):
        p, y = p.detach().double().flatten(), y.double().flatten()
        index = (p * bins).long().clamp_(0, bins - 1)
        sums += torch.stack([index.bincount(weights, bins).cpu() for weights in (None, p, y)])
    number, probability, presences = sums
    return Reliability(number, probability / number, presences / number)
