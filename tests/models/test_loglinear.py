"""The log-linear model of suitability, and scores as ranks."""

import numpy as np
import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor

from glczoo.models import LogLinear
from glczoo.models.ranks import interpolate, mid_ranks, place_scores, reference_scores


@pytest.fixture
def sites() -> Tensor:
    """Three numeric channels, a level, and coordinates."""
    z = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    z[:, 3] = (z[:, 3] > 0).float()
    return z


def make(sites: Tensor, **keywords) -> LogLinear:
    model = timm.create_model("loglinear_glc23", num_classes=5, in_chans=6, levels=[3], **keywords).eval()
    model.describe(sites, seed=2)
    torch.nn.init.normal_(model.fc.weight, generator=torch.Generator().manual_seed(3))
    return model


def patches(z: Tensor) -> Tensor:
    return z[:, :, None, None]


FULL = {"hinges": True, "kernel": True, "surfaces": 2}


def test_features_are_standardised_over_the_sites(sites):
    plain = make(sites, hinges=True).forward_features(patches(sites))
    torch.testing.assert_close(plain.mean(0), torch.zeros(plain.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(plain.std(0, unbiased=False), torch.ones(plain.shape[1]), atol=1e-4, rtol=0)


def test_levels_have_no_squares_and_no_hinges(sites):
    numeric = 5  # of six channels, all numeric but the level where no surface takes the coordinates
    assert make(sites).num_features == 2 * numeric + 1
    assert make(sites, hinges=True).num_features == (2 + 12) * numeric + 1


def test_the_kernel_falls_with_distance(sites):
    features = make(sites, surfaces=1).forward_features(patches(sites))[:, -150:]
    kernel = features @ features.T / 25  # amplitude 5
    near = torch.cdist(sites[:, -2:], sites[:, -2:])
    assert kernel.diagonal().mean() == pytest.approx(1, abs=0.1)
    assert kernel[near > 2].mean() < 0.4 < kernel[near < 0.3].mean()


def test_values_beyond_the_sites_are_held(sites):
    model = make(sites, hinges=True, kernel=True)
    far = torch.cat([sites.amax(0, keepdim=True)] * 2)
    far[1, :3] *= 100
    edge, beyond = model(patches(far))
    torch.testing.assert_close(edge, beyond, rtol=1e-5, atol=1e-5)


def test_its_weights_hold_all_of_it(sites, tmp_path):
    model = make(sites, **FULL)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(patches(sites)), model(patches(sites)))


def test_it_is_exported_for_batches_of_any_size(sites):
    model, x = make(sites, **FULL), patches(sites[:3])
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    exported = torch.export.export(model, (x,), dynamic_shapes=(batch,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_a_level_must_be_a_covariate():
    with pytest.raises(ValueError, match=r"some of the 4 covariates .* got \[4\]"):
        timm.create_model("loglinear_glc23", in_chans=6, surfaces=1, levels=[4])


def test_interpolation_is_numpys():
    generator = np.random.default_rng(0)
    knots, x, values = (
        np.sort(generator.normal(size=(9, 2)), 0),
        generator.normal(size=(50, 2)) * 2,
        np.arange(9.0),
    )
    knots[3] = knots[4]
    ours = interpolate(*map(torch.from_numpy, (x, knots, values)))
    for k in range(2):
        np.testing.assert_allclose(ours[:, k], np.interp(x[:, k], knots[:, k], values))


def test_equal_scores_share_the_middle_of_their_ranks():
    ranks = mid_ranks(torch.tensor([[3.0], [1.0], [1.0], [2.0]]))
    assert ranks[:, 0].tolist() == [0.875, 0.25, 0.25, 0.625]


def test_ranks_keep_the_order_also_beyond_the_reference():
    scores = torch.linspace(-3, 3, 601)[:, None]
    group = scores.abs() < 1
    ranks = place_scores(scores, reference_scores(scores, group))
    assert (ranks.diff(dim=0) > 0).all() and ranks.min() > 0 and ranks.max() < 1
    assert ranks[300].item() == pytest.approx(0.5, abs=0.01)


def test_an_ensemble_of_ranks_is_the_weighted_mean_of_its_members_ranks(sites, tmp_path):
    members = [["loglinear_glc23", {}, [0, 4]], ["loglinear_glc23", {"surfaces": 1}, [0, 6]]]
    keywords = {"num_classes": 5, "in_chans": 6, "average": "ranks", "weights": [0.25, 0.75]}
    model = timm.create_model("ensemble_glc23", members=members, **keywords).eval()
    expected = torch.zeros(200, 5)
    for number, (member, weight) in enumerate(zip(model.members, model.weights, strict=True)):
        member.describe(sites[:, : member.in_chans])
        torch.nn.init.normal_(member.fc.weight)
        scores = member(patches(sites[:, : member.in_chans])).detach()
        model.reference[number] = reference_scores(scores, torch.ones(200, 5, dtype=torch.bool))
        expected += weight * place_scores(scores, model.reference[number])
    torch.testing.assert_close(model(patches(sites)).sigmoid(), expected)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(patches(sites)), model(patches(sites)))
