"""Suitability of many species from presence-only records alone.

The background of a species is its *target group*: the places where any species of its kind was recorded
(Phillips et al. 2009, doi:10.1890/07-2153.1). Candidates are log-linear models on features of six kinds with
three ridges each, and extremely randomised trees with and without coordinates. Which of them count, and how
much, is chosen by records that were held out in spatial blocks, never by surveys; the chosen are fitted again
to all records, and the mean of their ranks is the model.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from glczoo.data.occurrences import Points
from glczoo.data.sphere import east_north
from glczoo.files import whole
from glczoo.models.ensemble import Ensemble
from glczoo.models.loglinear import LogLinear
from glczoo.models.ranks import mid_ranks, reference_scores
from glczoo.training.fit_forest import bounded, grow_suitability
from glczoo.training.fit_loglinear import fit_loglinear
from glczoo.training.held_out_records import (
    Blocks,
    held_out_auc,
    select_members,
    spatial_folds,
    species_auc,
    target_groups,
)

__all__ = ["Candidate", "Sites", "Suitability", "fit_suitability"]

_LINEAR: dict[str, dict[str, Any]] = {
    "quadratic": {},
    "hinges": {"hinges": True},
    "hinges, kernel": {"hinges": True, "kernel": True},
    "quadratic, surface": {"surfaces": 1},
    "hinges, surface": {"hinges": True, "surfaces": 1},
    "hinges, kernel, surfaces": {"hinges": True, "kernel": True, "surfaces": 2},
}
_RIDGES = (1000.0, 300.0, 100.0)  # the strongest first: each fit starts from the one before
_LEAF = 5  # sites in a leaf of a tree at least
_TREES = {"trees": False, "trees, coordinates": True}
_FOLDS = 4
_MANY = 5000  # sites beyond which two of the folds are enough to choose by


@dataclass(frozen=True)
class Sites:
    """The places of the records, each once.

    Its values are normalised covariates, without data 0, followed by the place east and north, in units of
    `length`, where coordinates may be used.
    """

    points: Points
    plane: np.ndarray  # float64[N, 2]: km east and north
    values: Tensor  # float32[N, C], or [N, C + 2] with coordinates
    presence: Tensor  # float32[N, K]: 1 where a species was recorded
    group: Tensor  # bool[N, K]: sites of a species' target group
    coordinates: bool
    levels: tuple[int, ...] = ()  # channels that are 0 or 1

    @classmethod
    def of(
        cls,
        records: Points,
        species: np.ndarray,
        number: int,
        covariates: np.ndarray,
        *,
        middle: tuple[float, float] | None = None,
        groups: np.ndarray | None = None,
        levels: tuple[int, ...] = (),
    ) -> "Sites":
        """The places of records.

        Args:
            records: where.
            species: which, int64[N] in 0..number - 1.
            number: of species K.
            covariates: normalised values at the records, float32[N, C].
            middle: lon, lat of the plane's origin, where coordinates may be used; None: they may not.
            groups: number of every species' target group, int64[K]; None: all species are one.
            levels: channels that are 0 or 1.
        """
        places = np.stack([records.lon, records.lat], axis=1)
        _, first, inverse = np.unique(places, axis=0, return_index=True, return_inverse=True)
        points = records.at(first)
        plane = east_north(points, middle or (float(records.lon.mean()), float(records.lat.mean())))
        values = covariates[first]
        presence = torch.zeros(len(first), number)
        presence[torch.from_numpy(inverse.reshape(-1)), torch.from_numpy(species)] = 1
        member = torch.zeros(number, dtype=torch.int64) if groups is None else torch.from_numpy(groups)
        visited = torch.stack([presence[:, member == each].any(1) for each in member.unique()], 1)
        group = visited[:, member.unique(return_inverse=True)[1]]
        kept = torch.from_numpy(values.astype(np.float32))
        sites = cls(points, plane, kept, presence, group, middle is not None, levels)
        if middle is None:
            return sites
        coordinates = torch.from_numpy((plane / sites.length).astype(np.float32))
        return replace(sites, values=torch.cat([kept, coordinates], 1))

    @property
    def length(self) -> float:
        """The unit of coordinates among the values, in km: their standard deviation, one for both axes."""
        return float(np.sqrt(self.plane.var(0).mean()))

    @property
    def covariates(self) -> int:
        """Number of channels without the coordinates."""
        return self.values.shape[1] - 2 * self.coordinates

    def seen(self, coordinates: bool) -> Tensor:
        """The values that a candidate sees, with the coordinates or without: float32[N, C]."""
        return self.values if coordinates else self.values[:, : self.covariates]

    def subset(self, rows: Tensor) -> "Sites":
        """Those of a mask, bool[N]. `rows`: that mask."""
        kept = rows.numpy()
        return Sites(
            self.points.at(kept), self.plane[kept], self.values[rows], self.presence[rows], self.group[rows],
            self.coordinates, self.levels,
        )  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A line of the leaderboard."""

    name: str
    weight: float  # in the mean of ranks
    auc: float  # of held-out records against the target group, mean over species
    seconds: float  # of its fits to the folds; those of one kind share them


@dataclass(frozen=True)
class Suitability:
    """A model of presence-only records, and how it was chosen."""

    model: Ensemble
    candidates: list[Candidate]  # the best first
    auc: float  # of the chosen mean: optimistic, since it was chosen by it
    species_auc: Tensor  # of every species by the chosen mean, float64[K]; nan where none was held out
    blocks: Blocks
    left_out: dict[str, str]  # kinds of candidates that were not tried, and why
    seconds: float


def fit_suitability(
    sites: Sites,
    places: Points | None = None,
    seed: int = 0,
    *,
    jobs: int = 1,
    keep: Path | None = None,
    limit: float = float("inf"),
    log: Callable[[str], None] = lambda text: None,
) -> Suitability:
    """Fit every candidate to folds of the sites, choose, and fit the chosen to all.

    Args:
        sites: of the records.
        places: a sample of those that will be predicted, which the size of the blocks follows.
        seed: of folds, random features and trees.
        jobs: threads that grow trees.
        keep: folder for the ranks of each kind of candidate: what lies there is not fitted again.
        limit: seconds after which no further kind is begun; the first always is.
        log: takes a line for every kind of candidate.

    Raises:
        GlczooError: scikit-learn is not installed, or there are too few sites (see `spatial_folds`).
    """
    begun = time.perf_counter()
    blocks = spatial_folds(sites.points, sites.plane, places, _FOLDS, seed)
    folds = range(_FOLDS if len(sites.points) <= _MANY else 2)
    ranks: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for kind in [*_LINEAR, *_TREES]:
        if not sites.coordinates and _uses_coordinates(kind):
            left_out[kind] = "no coordinates"
            continue
        if ranks and time.perf_counter() - begun > limit:
            left_out[kind] = "no time left"
            continue
        fit = partial(_ranks_held_out, kind, sites, blocks.fold, folds, seed, jobs)
        fitted, took = _kept(keep, kind, fit)
        seconds |= dict.fromkeys(fitted, took / len(fitted))
        ranks |= fitted
        log(f"{kind}: {took:.0f} s")

    def auc(scores: Tensor) -> float:
        return held_out_auc(scores, sites.presence, sites.group, blocks.fold, folds)

    weights, alone, best = select_members(ranks, auc)
    board = [
        Candidate(name, weights.get(name, 0.0), alone[name], seconds[name])
        for name in sorted(alone, key=alone.__getitem__, reverse=True)
    ]
    mean = torch.stack([weight * ranks[name] for name, weight in weights.items()]).sum(0)
    each = species_auc(mean, sites.presence, sites.group, blocks.fold, folds)
    model = _fit_chosen(weights, sites, seed, jobs)
    return Suitability(model, board, best, each, blocks, left_out, time.perf_counter() - begun)


def _kept(
    folder: Path | None, kind: str, fit: Callable[[], dict[str, Tensor]]
) -> tuple[dict[str, Tensor], float]:
    """What a kind of candidate was fitted to, from its file where there is one, and the seconds it took."""
    path = folder / f"{kind.replace(', ', '_')}.safetensors" if folder else None
    if path and path.exists():
        with safe_open(path, "pt") as file:
            return load_file(path), float(file.metadata()["seconds"])
    start = time.perf_counter()
    fitted = fit()
    took = time.perf_counter() - start
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as beside:
            save_file(fitted, beside, metadata={"seconds": str(took)})
    return fitted, took


def _uses_coordinates(kind: str) -> bool:
    return _TREES[kind] if kind in _TREES else "surfaces" in _LINEAR[kind]


def _ranks_held_out(
    kind: str, sites: Sites, fold: Tensor, folds: range, seed: int, jobs: int
) -> dict[str, Tensor]:
    """Ranks within its fold of every site's score by models that did not see the fold, for each candidate."""
    held: dict[str, Tensor] = {}
    for number in folds:
        out = fold == number
        train, test = sites.subset(~out), sites.subset(out)
        if kind in _TREES:
            model = _grow(kind, train, 100, seed, jobs)
            scores = {kind: _scores(model, test.seen(_uses_coordinates(kind)))}
        else:
            linear = _described(kind, train, seed)
            features, others = (
                _features(linear, part.seen(_uses_coordinates(kind))) for part in (train, test)
            )
            weights: Tensor | None = None
            scores = {}
            for ridge in _RIDGES:
                weights = fit_loglinear(features, train.presence, train.group, ridge, weights)
                scores[f"{kind}; ridge {ridge:g}"] = others @ weights.t()
        for name, score in scores.items():
            held.setdefault(name, torch.zeros_like(sites.presence))[out] = mid_ranks(score)
    return held


def _fit_chosen(weights: dict[str, float], sites: Sites, seed: int, jobs: int) -> Ensemble:
    """The chosen candidates fitted to all sites, as one model."""
    members: list[Any] = []
    for name in weights:
        kind, _, ridge = name.partition("; ridge ")
        if kind in _TREES:
            members.append(("forest_glc23", _grow(kind, sites, 200, seed, jobs)))
            continue
        linear = _described(kind, sites, seed)
        features = _features(linear, sites.seen(_uses_coordinates(kind)))
        fitted = fit_loglinear(features, sites.presence, sites.group, float(ridge))
        linear.fc.weight.data.copy_(fitted)
        members.append(("loglinear_glc23", linear))
    described = [[name, _keywords(model), [0, model.in_chans]] for name, model in members]
    ensemble: Any = timm.create_model(
        "ensemble_glc23",
        members=described,
        in_chans=sites.values.shape[1],
        num_classes=sites.presence.shape[1],
        average="ranks",
        weights=list(weights.values()),
    )
    for number, (_, model) in enumerate(members):
        ensemble.members[number].load_state_dict(model.state_dict())
        scores = _scores(model, sites.values[:, : model.in_chans])
        ensemble.reference[number] = reference_scores(scores, sites.group)
    return ensemble.eval()


def _keywords(model: Any) -> dict[str, Any]:
    """What a member was made with, beside its channels and species."""
    if isinstance(model, LogLinear):
        keywords = {"hinges": model.hinges, "kernel": model.kernel, "surfaces": model.surfaces}
        return keywords | {"levels": model.levels}
    trees, nodes = model.feature.shape
    return {"trees": trees, "nodes": nodes, "depth": model.depth}


def _described(kind: str, sites: Sites, seed: int) -> Any:
    """A log-linear model that knows how its features are made, without weights."""
    seen = sites.seen(_uses_coordinates(kind))
    model: Any = timm.create_model(
        "loglinear_glc23",
        num_classes=sites.presence.shape[1],
        in_chans=seen.shape[1],
        levels=sites.levels,
        **_LINEAR[kind],
    )
    model.describe(seen, seed)
    return model.eval()


def _grow(kind: str, sites: Sites, trees: int, seed: int, jobs: int) -> Any:
    groups = [columns.numpy() for columns in target_groups(sites.group)]
    number, species = sites.presence.shape
    trees, min_leaf = bounded(number, species, trees, _LEAF)
    return grow_suitability(
        sites.seen(_TREES[kind]).numpy(), sites.presence.numpy(), groups, trees, seed, jobs, min_leaf
    )


@torch.no_grad()
def _features(model: Any, values: Tensor) -> Tensor:
    return model.forward_features(values[:, :, None, None])


@torch.no_grad()
def _scores(model: Any, values: Tensor) -> Tensor:
    return torch.cat([model(part[:, :, None, None]) for part in values.split(1024)])
