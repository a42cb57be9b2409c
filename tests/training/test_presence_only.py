"""Presence-only records alone: what is fitted, what is held out, and what chooses."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import ExtraTreesRegressor
from torch import Tensor

from glczoo.data.occurrences import Points
from glczoo.data.sphere import east_north, nearest_km
from glczoo.training import presence_only
from glczoo.training.fit_forest import grow_suitability
from glczoo.training.fit_loglinear import fit_loglinear
from glczoo.training.held_out_records import select_members, spatial_folds, species_auc
from glczoo.training.presence_only import Sites, fit_suitability


def points(number: int, seed: int = 0) -> Points:
    generator = np.random.default_rng(seed)
    lon, lat = generator.uniform(6, 9, number), generator.uniform(45, 47, number)
    return Points(lon, lat, np.full(number, -1), np.arange(number))


def records(number: int = 240) -> Sites:
    """Records of three species: the first likes high values of the first covariate, the second low ones."""
    generator = np.random.default_rng(1)
    where = points(number)
    covariates = generator.normal(size=(number, 3)).astype(np.float32)
    noise = covariates[:, 0] + generator.normal(size=number)
    species = np.select([noise > 0.7, noise < -0.7], [0, 1], 2)
    return Sites.of(where, species, 3, covariates, middle=(7.5, 46.0))


@pytest.fixture(scope="module")
def few_candidates():
    patch = pytest.MonkeyPatch()
    linear = {"quadratic": {}, "quadratic, surface": {"surfaces": 1}}
    patch.setattr(presence_only, "_LINEAR", linear)
    patch.setattr(presence_only, "_TREES", {"trees": False})
    yield
    patch.undo()


@pytest.fixture(scope="module")
def fitted(few_candidates):
    return fit_suitability(records(), points(50, seed=2), seed=0)


def test_records_of_one_place_are_one_site():
    where = points(3).at(np.array([0, 1, 1, 2]))
    values = np.arange(4.0, dtype=np.float32)[:, None]
    sites = Sites.of(where, np.array([0, 0, 1, 1]), 2, values)
    assert len(sites.points) == 3 and sites.presence.sum().item() == 4
    assert sorted(sites.presence.sum(1).tolist()) == [1, 1, 2]


def test_the_background_of_a_species_is_its_target_group():
    where = points(3)
    sites = Sites.of(where, np.array([0, 1, 2]), 3, np.zeros((3, 1), np.float32), groups=np.array([0, 0, 1]))
    both = sites.presence[:, :2].any(1)
    assert torch.equal(sites.group[:, 0], both) and torch.equal(sites.group[:, 1], both)
    assert torch.equal(sites.group[:, 2], ~both)


def test_the_plane_is_true_to_distances():
    where = points(60)
    plane = east_north(where, (7.5, 46.0))
    nearest = nearest_km(where.at(np.arange(30)), where.at(np.arange(30, 60)))
    flat = np.linalg.norm(plane[:30, None] - plane[None, 30:], axis=2).min(1)
    np.testing.assert_allclose(flat, nearest, rtol=0.02)


def test_weights_are_at_the_minimum():
    sites = records()
    features = torch.randn(len(sites.points), 4, generator=torch.Generator().manual_seed(0))
    group = sites.group.clone()
    group[:, 1] = sites.presence.any(1) & (torch.arange(len(group)) % 2 == 0)
    presence = sites.presence * group
    weights = fit_loglinear(features, presence, group, ridge=3.0)
    number = presence.sum(0)
    expected = (features @ weights.T + torch.where(group, 0.0, -torch.inf)).softmax(0) * number
    gradient = features.T @ (expected - presence) + 3.0 * weights.T
    assert gradient.abs().max() < 0.1  # of sums over some 80 sites


def test_trees_of_two_groups_answer_as_scikit_learns():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(150, 3)).astype(np.float32)
    presence = (generator.random((150, 3)) < 0.3).astype(np.float32)
    presence[:80, 2], presence[80:, :2] = 0, 0  # the groups were recorded at different places
    model = grow_suitability(values, presence, [np.array([0, 1]), np.array([2])], trees=7, seed=4)
    settings = dict(min_samples_leaf=5, max_features=0.4, bootstrap=True, random_state=4)
    for species in ([0, 1], [2]):
        rows = presence[:, species].any(1)
        target = presence[rows][:, species]
        scale = np.sqrt(target.mean(0))
        twin = ExtraTreesRegressor(7, **settings).fit(values[rows], np.squeeze(target / scale))
        share = twin.predict(values).reshape(150, -1) * scale
        ours = model.forward_features(torch.from_numpy(values)[:, :, None, None])[:, species]
        np.testing.assert_allclose(ours, share, rtol=1e-4, atol=1e-6)


def pairs_won(scores: Tensor, present: Tensor) -> float:
    ahead = scores[present][:, None] - scores[~present][None]
    return float(((ahead > 0).double() + (ahead == 0).double() / 2).mean())


def test_held_out_auc_compares_within_fold_and_group():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(80, 2, generator=generator)
    presence = (torch.rand(80, 2, generator=generator) < 0.4).float()
    group = torch.ones(80, 2, dtype=torch.bool)
    group[:30, 1] = False
    presence[:30, 1] = 0
    fold = torch.arange(80) % 3
    measured = species_auc(scores, presence, group, fold, [0, 2])
    for k in range(2):
        rows = [(fold == number) & group[:, k] for number in (0, 2)]
        won = [pairs_won(scores[r, k], presence[r, k] > 0) for r in rows]
        sites = [float(presence[r, k].sum()) for r in rows]
        assert measured[k].item() == pytest.approx(np.average(won, weights=sites))


def test_the_mean_that_ranks_best_is_chosen():
    truth = torch.linspace(0, 1, 100)[:, None]
    noise = torch.randn(100, 1, generator=torch.Generator().manual_seed(0)) * 0.3
    ranks = {"half": truth + noise, "other half": truth - noise, "worse": noise}
    weights, alone, best = select_members(
        ranks, lambda each: -float((each / each.std() - truth / truth.std()).std()), start=1
    )
    assert weights == {"half": 0.5, "other half": 0.5} and best > max(alone.values())


def test_blocks_are_as_far_from_each_other_as_the_places_are_from_the_sites():
    sites = points(400)
    plane = east_north(sites, (7.5, 46.0))
    far = Points(sites.lon + 4, sites.lat, sites.patch_id, sites.ids)
    near, apart = (spatial_folds(sites, plane, places, 4, 0) for places in (sites, far))
    assert near.number > apart.number == 20
    assert apart.fold.bincount().tolist() == pytest.approx([100] * 4, abs=20)


def test_too_few_sites_are_refused():
    sites = points(30)
    with pytest.raises(ValueError, match="30 places with records are too few .* at least 40"):
        spatial_folds(sites, east_north(sites, (7.5, 46.0)), None, 4, 0)


def test_the_leaderboard_names_every_candidate_and_weights_sum_to_one(fitted):
    assert len(fitted.candidates) == 2 * 3 + 1
    assert sum(candidate.weight for candidate in fitted.candidates) == pytest.approx(1)
    aucs = [candidate.auc for candidate in fitted.candidates]
    assert aucs == sorted(aucs, reverse=True) and fitted.auc >= aucs[0]


def test_what_species_like_is_learnt(fitted):
    assert fitted.species_auc[:2].min() > 0.75
    x = torch.zeros(2, 5, 1, 1)
    x[:, 0, 0, 0] = torch.tensor([-2.0, 2.0])
    low, high = fitted.model(x).sigmoid()
    assert high[0] > 0.8 > 0.2 > low[0] and low[1] > 0.8 > 0.2 > high[1]


def test_without_coordinates_no_candidate_uses_them(few_candidates):
    sites = records()
    sites = Sites(sites.points, sites.plane, sites.values[:, :3], sites.presence, sites.group, False)
    fitted = fit_suitability(sites)
    assert fitted.model.in_chans == 3 and len(fitted.candidates) == 4
