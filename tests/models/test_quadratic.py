"""The quadratic model: which features it sees, and the timm contract."""

from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor

from glczoo.models import Quadratic
from glczoo.recipe import read_recipe
from glczoo.runs.combine import combine
from glczoo.runs.run import load_model
from glczoo.train import train

RECIPES = Path(__file__).parents[2] / "recipes"


def make(**keywords) -> Quadratic:
    return timm.create_model("quadratic_glc23", **{"num_classes": 5, "in_chans": 3, **keywords}).eval()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_features_are_values_squares_and_products(x):
    model = make()
    model.norm.eps = 0.0  # running statistics 0 and 1: the features as they are
    z = x[:, :, 4, 4]
    expected = [*z.T, *(z[:, i] * z[:, j] for i in range(3) for j in range(i, 3))]
    torch.testing.assert_close(model.forward_features(x), torch.stack(expected, 1))
    assert model.num_features == 9 and make(in_chans=33).num_features == 594


def test_windows_are_centred_means_and_end_at_the_patch(x):
    model = make(windows=(1, 3, 99))
    model.norm.eps = 0.0
    z = torch.cat([x[:, :, 4, 4], x[:, :, 3:6, 3:6].mean((2, 3)), x.mean((2, 3))], 1)
    torch.testing.assert_close(model.forward_features(x)[:, :9], z)


def test_a_window_without_a_centre_is_refused():
    with pytest.raises(ValueError, match=r"positive odd numbers of cells, got \[2\]"):
        make(windows=[2])


def test_far_values_are_held(x):
    model = make()
    model.norm.eps = 0.0
    assert model.forward_features(x * 1e6).abs().max() == 16


def test_at_first_all_species_are_as_likely(x):
    assert torch.equal(make()(x), torch.zeros(2, 5))


def test_it_is_loaded_as_it_was_saved(x, tmp_path):
    model = make()
    torch.nn.init.normal_(model.fc.weight)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(x), model(x)) and again.pretrained_cfg["input_size"][0] == 3


def test_its_head_can_be_replaced(x):
    model = make()
    model.reset_classifier(4)
    assert model(x).shape == (2, 4) and model.get_classifier(name_only=True) == "fc"
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, 9)


def test_it_is_exported_for_batches_of_any_size(x):
    model = make()
    torch.nn.init.normal_(model.fc.weight)
    batch = {0: torch.export.Dim("batch", min=2, max=64)}
    exported = torch.export.export(model, (x,), dynamic_shapes=(batch,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_it_trains_on_every_band_and_joins_an_ensemble(world, tmp_path):
    runs = []
    for model in ("quadratic_glc23", "test_fusresnet_glc23"):
        keys = [
            f"region={world}",
            f"runs={tmp_path}",
            f"model={model}",
            "init=random",
            "epochs=2",
            "batch_size=32",
            "patch_size=32",
            "optimizer.lr=3e-3",
        ]
        runs.append(train(read_recipe(RECIPES / "step1.yaml", keys)))
    both = load_model(combine(runs, tmp_path / "both"))
    assert len(both.model.members) == 2 and len(both.bands) == 33
    assert load_model(runs[0]).model.fc.weight.abs().max() > 0
