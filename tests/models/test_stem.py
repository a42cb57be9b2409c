"""Stems for other channels, and the start from the weights of an RGB ResNet."""

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from glczoo.models import adapt_stem, init_from_imagenet
from glczoo.models.stem import HOWS

SMALL = dict(layers=(1, 1, 1, 1), channels=(8, 8, 8, 8))  # of resnet34 and fusresnet34, with the 7x7 stem
STEMS = {
    "test_resnet": ("test_fusresnet_glc23", {}, "conv1.0"),
    "resnet34": ("fusresnet34_glc23", SMALL, "conv1"),
}


@pytest.fixture
def rgb_weight() -> Tensor:
    return torch.randn(8, 3, 7, 7)


def rgb_file(folder: Path, tag: str, **kwargs) -> tuple[Path, dict[str, Tensor]]:
    """Random weights in timm's format; the norms' statistics are random too, so that a skipped key shows."""
    model = timm.create_model(tag, **kwargs)
    state = {k: torch.rand_like(v) if v.is_floating_point() else v + 5 for k, v in model.state_dict().items()}
    save_file(state, folder / "rgb.safetensors")
    return folder / "rgb.safetensors", state


def make(name: str = "test_fusresnet_glc23", **kwargs) -> nn.Module:
    return timm.create_model(name, num_classes=4, **kwargs)


# adapt_stem


@pytest.mark.parametrize("in_chans", [1, 2, 3, 4, 5, 9, 19])
def test_repeat_is_timms(rgb_weight: Tensor, in_chans: int):
    before = rgb_weight.clone()
    assert torch.equal(adapt_stem(rgb_weight, in_chans), adapt_input_conv(in_chans, rgb_weight.clone()))
    assert torch.equal(rgb_weight, before)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_shape_type_and_source_are_kept(rgb_weight: Tensor, how: str, dtype: torch.dtype):
    weight = rgb_weight.to(dtype)
    before = weight.clone()
    new = adapt_stem(weight, 5, how)
    assert new.shape == (8, 5, 7, 7) and new.dtype == dtype and new.isfinite().all()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("how", ["repeat", "mean"])
@pytest.mark.parametrize("in_chans", [3, 6, 9])
def test_equal_channels_keep_the_response_to_grey(rgb_weight: Tensor, how: str, in_chans: int):
    new = adapt_stem(rgb_weight, in_chans, how)
    torch.testing.assert_close(new.sum(1), rgb_weight.sum(1))


@pytest.mark.parametrize("in_chans", [1, 2, 4, 19])
def test_repeat_norm_keeps_the_norm_of_every_filter(rgb_weight: Tensor, in_chans: int):
    new = adapt_stem(rgb_weight, in_chans, "repeat_norm")
    torch.testing.assert_close(new.flatten(1).norm(dim=1), rgb_weight.flatten(1).norm(dim=1))
    cosine = nn.functional.cosine_similarity(new.flatten(1), adapt_stem(rgb_weight, in_chans).flatten(1))
    torch.testing.assert_close(cosine, torch.ones(8))


def test_repeat_norm_leaves_a_dead_filter_dead(rgb_weight: Tensor):
    rgb_weight[2] = 0
    assert not adapt_stem(rgb_weight, 4, "repeat_norm")[2].any()


@pytest.mark.parametrize("how", ["rgb_mean", "rgb_zero"])
@pytest.mark.parametrize(("rgb", "others"), [(None, [3, 4]), ([4, 2, 0], [1, 3])])
def test_rgb_keeps_the_filters_at_their_positions(rgb_weight: Tensor, how: str, rgb, others):
    new = adapt_stem(rgb_weight, 5, how, rgb)
    assert torch.equal(new[:, rgb or [0, 1, 2]], rgb_weight)
    rest = rgb_weight.mean(1, keepdim=True) if how == "rgb_mean" else torch.zeros(8, 1, 7, 7)
    torch.testing.assert_close(new[:, others], rest.expand(8, 2, 7, 7))


def test_mean_is_the_same_in_every_channel(rgb_weight: Tensor):
    new = adapt_stem(rgb_weight, 19, "mean")
    torch.testing.assert_close(new, (rgb_weight.mean(1, keepdim=True) * 3 / 19).expand_as(new))


def test_random_is_drawn_like_a_new_resnets(rgb_weight: Tensor):
    torch.manual_seed(1)
    new = adapt_stem(rgb_weight, 19, "random")
    torch.manual_seed(1)
    assert torch.equal(new, adapt_stem(torch.zeros_like(rgb_weight), 19, "random"))
    assert new.std().item() == pytest.approx((2 / (8 * 7 * 7)) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (dict(how="median"), f"'median'. The ways are {', '.join(HOWS)}"),
        (dict(in_chans=0), "at least one channel, got (8, 3, 7, 7) and 0"),
        (dict(in_chans=2, how="rgb_mean"), "among 2 channels; got [0, 1, 2]"),
        (dict(how="rgb_zero", rgb=[0, 1]), "among 5 channels; got [0, 1]"),
        (dict(how="rgb_zero", rgb=[0, 1, 1]), "got [0, 1, 1]"),
        (dict(how="rgb_zero", rgb=[0, 1, 5]), "got [0, 1, 5]"),
    ],
)
def test_bad_arguments(rgb_weight: Tensor, kwargs: dict, text: str):
    with pytest.raises(ValueError, match=re.escape(text)):
        adapt_stem(rgb_weight, **{"in_chans": 5, **kwargs})


def test_a_stem_that_is_not_rgb_is_refused():
    with pytest.raises(ValueError, match="RGB weight"):
        adapt_stem(torch.zeros(8, 4, 7, 7), 5)


# init_from_imagenet


@pytest.mark.parametrize("tag", STEMS)
def test_every_branch_is_filled_and_the_head_is_not(tag: str, tmp_path: Path):
    name, small, conv = STEMS[tag]
    path, source = rgb_file(tmp_path, tag, **small)
    model = make(name, **small)
    head = {key: value.clone() for key, value in model.fc.state_dict().items()}
    how = {"bioclim": "repeat_norm", "satellite": "rgb_mean"}
    init_from_imagenet(model, tag, how, rgb={"satellite": [2, 1, 0]}, weights=path)
    assert list(model.branches) == ["bioclim", "soil", "satellite"]
    for branch, (way, rgb) in {
        "bioclim": ("repeat_norm", None),
        "soil": ("repeat", None),
        "satellite": ("rgb_mean", [2, 1, 0]),
    }.items():
        filled = model.branches[branch].state_dict()
        assert filled.keys() == {key for key in source if not key.startswith("fc.")}
        weight = filled.pop(f"{conv}.weight")
        assert torch.equal(weight, adapt_stem(source[f"{conv}.weight"], weight.shape[1], way, rgb))
        assert all(torch.equal(value, source[key]) for key, value in filled.items())
    assert all(torch.equal(value, head[key]) for key, value in model.fc.state_dict().items())


def test_one_branch_of_three_channels_is_the_rgb_network(tmp_path: Path):
    path, source = rgb_file(tmp_path, "test_resnet")
    model = make(branches={"rgb": 3}).eval()
    init_from_imagenet(model, "test_resnet", weights=path)
    rgb = timm.create_model("test_resnet").eval()
    rgb.load_state_dict(source)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.forward_features(x), rgb.forward_features(x))


def test_weights_come_through_timm_without_a_file(monkeypatch: pytest.MonkeyPatch):
    source = timm.create_model("test_resnet", num_classes=0)
    asked = []

    def create_model(tag: str, **kwargs) -> nn.Module:
        asked.append((tag, kwargs))
        return source

    model = make()
    monkeypatch.setattr(timm, "create_model", create_model)
    init_from_imagenet(model, "test_resnet.r160_in1k")
    assert asked == [("test_resnet.r160_in1k", dict(pretrained=True, num_classes=0))]
    assert torch.equal(model.branches["soil"].layer4[0].conv1.weight, source.layer4[0].conv1.weight)


def test_a_timm_resnet_counts_as_one_branch(tmp_path: Path):
    path, source = rgb_file(tmp_path, "resnet34", **SMALL)
    model = timm.create_model("resnet34", in_chans=13, num_classes=4, **SMALL)
    head = model.fc.weight.clone()
    init_from_imagenet(model, "resnet34", "mean", weights=path)
    assert torch.equal(model.conv1.weight, adapt_stem(source["conv1.weight"], 13, "mean"))
    assert torch.equal(model.layer4[0].bn2.running_var, source["layer4.0.bn2.running_var"])
    assert torch.equal(model.fc.weight, head)


def test_another_kind_of_model_is_refused():
    with pytest.raises(TypeError, match="FusResNet or timm's ResNet, not Conv2d"):
        init_from_imagenet(nn.Conv2d(3, 8, 3), "resnet50")


def test_weights_of_another_network_leave_the_model_as_it_was(tmp_path: Path):
    path, _ = rgb_file(tmp_path, "resnet34", layers=(2, 1, 1, 1), channels=(8, 8, 8, 8))
    model = make("fusresnet34_glc23", **SMALL)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError) as error:
        init_from_imagenet(model, "resnet34", weights=path)
    text = str(error.value)
    assert "is 2+1+1+1 blocks (BasicBlock) with a 7x7 stem, but branch bioclim is 1+1+1+1 blocks" in text
    assert "keys differ, such as layer1.1.bn1.bias" in text
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_missing_key_is_refused(tmp_path: Path):
    path, source = rgb_file(tmp_path, "test_resnet")
    save_file({key: value for key, value in source.items() if key != "bn1.bias"}, path)
    with pytest.raises(RuntimeError, match="1 keys differ, such as bn1.bias"):
        init_from_imagenet(make(), "test_resnet", weights=path)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        (dict(how="median"), "'median'. The ways are repeat,"),
        (dict(how={"soil": "median"}), "'median'. The ways are repeat,"),
        (dict(how="rgb_zero", rgb={"soil": [0, 1, 9]}), "among 9 channels; got [0, 1, 9]"),
        (dict(how={"sol": "mean"}), "No such branch: sol. The branches are bioclim, soil, satellite."),
        (dict(rgb={"sat": [0, 1, 2]}), "No such branch: sat. The branches are bioclim, soil, satellite."),
    ],
)
def test_unknown_ways_and_branches_are_told_before_any_download(kwargs: dict, text: str):
    with pytest.raises(ValueError, match=re.escape(text)):
        init_from_imagenet(make(), "no_such_tag", **kwargs)


@pytest.mark.parametrize("tag", ["resnet34.nowhere_in1k", "resnet200"])
def test_no_weights_names_both_ways_out(tag: str):
    with pytest.raises(RuntimeError, match=r"weights=FILE .*imagenet.weights.* init: random"):
        init_from_imagenet(make(), tag)


def test_no_hub_names_both_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        RuntimeError, match="'test_resnet.r160_in1k' could not be loaded.*init: random"
    ) as error:
        init_from_imagenet(make(), "test_resnet.r160_in1k")
    assert error.value.__cause__ is not None


def test_pickles_are_refused(tmp_path: Path):
    path = tmp_path / "resnet.safetensors"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    with pytest.raises(ValueError, match="Pickles .* are never read.*safetensors.torch.save_file"):
        init_from_imagenet(make(), "test_resnet", weights=path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="absent.safetensors"):
        init_from_imagenet(make(), "test_resnet", weights=tmp_path / "absent.safetensors")
