"""The timm contract over every registered model; the heavy checks on the tiny ones."""

from pathlib import Path

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

import glczoo
from glczoo.models import FusResNet

ALL = timm.list_models(module="fusresnet")
TINY = [name for name in ALL if name.startswith("test_")]
PAPER = {"bioresnet50_glc23": 44_128_119, "fusresnet34_glc23": 79_359_223, "fusresnet50_glc23": 132_289_015}
GLC24 = {"fusresnet18_glc24": 57_310_711}
LIKE = {"fusresnet18_glc24": (11255, 64)}  # species and side of a patch; the others have 10039 and 128
CUSTOM = {"climate": 8, "soil": 5}
tiny = pytest.mark.parametrize("name", TINY)


def make(name: str = "test_fusresnet_glc23", **kwargs) -> FusResNet:
    return timm.create_model(name, **{"num_classes": 7, **kwargs}).eval()


def batch(model: nn.Module, size: int = 64, num: int = 2) -> Tensor:
    return torch.randn(num, model.in_chans, size, size)


def states(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    return {k for k in a.keys() | b.keys() if k not in a or k not in b or not torch.equal(a[k], b[k])}


def test_six_models_are_registered():
    assert len(ALL) == 6 and len(TINY) == 2 and {*PAPER, *GLC24, *TINY} == set(ALL)
    assert {name for name in ALL if timm.models.is_model_pretrained(name)} == {*PAPER, *GLC24}
    assert glczoo.__version__ == "0.1.0"


@pytest.mark.parametrize("name", ALL)
def test_cfg_describes_the_model(name: str):
    with torch.device("meta"):
        model = timm.create_model(name)
        logits = model.eval()(torch.empty(2, *model.default_cfg["input_size"]))
    cfg, (species, side) = model.default_cfg, LIKE.get(name, (10039, 128))
    assert logits.shape == (2, species)
    assert name in TINY or sum(p.numel() for p in model.parameters()) == (PAPER | GLC24)[name]
    assert cfg is model.pretrained_cfg and cfg["first_conv"] is None
    assert isinstance(model.get_submodule(cfg["classifier"]), nn.Linear)
    assert cfg["classifier"] == model.get_classifier(name_only=True) and model.get_classifier() is model.fc
    config = resolve_data_config({}, model=model)
    assert config["input_size"] == (model.in_chans, side, side)
    assert config["mean"] == (0.0,) * model.in_chans and config["std"] == (1.0,) * model.in_chans
    assert (config["crop_pct"], config["interpolation"]) == (1.0, "bilinear")


@pytest.mark.parametrize("name", ALL)
def test_forward_is_finite(name: str):
    model = make(name)
    x = batch(model, num=1)
    with torch.no_grad():
        features, logits = model.forward_features(x), model(x)
    assert features.shape == (1, model.num_features, 2, 2)
    assert logits.shape == (1, 7) and logits.isfinite().all()
    assert torch.equal(model.forward_head(features), logits)
    assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)


@tiny
def test_gradients_reach_every_parameter(name: str):
    # zero_init_last gates the residual paths at the start, whose gradients are then exactly zero
    model = make(name, zero_init_last=False).train()
    model(batch(model, num=4)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_pool_of_concatenated_maps_is_concatenation_of_pooled_maps():
    model = make()
    x = batch(model)
    parts = zip(model.branches.values(), x.split([19, 9, 5], dim=1), strict=True)
    pooled = torch.cat([branch(part).mean((2, 3)) for branch, part in parts], dim=1)
    torch.testing.assert_close(model.forward_head(model.forward_features(x), pre_logits=True), pooled)
    torch.testing.assert_close(model(x), model.fc(pooled))


@tiny
def test_round_trip_is_exact(name: str, tmp_path: Path):
    model = make(name)
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = make(f"local-dir:{tmp_path}", pretrained=True)
    assert differing(states(loaded), states(model)) == set()  # timm once re-initialised reloaded stems
    x = batch(model)
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("num_classes", [3, 0])
def test_other_num_classes_reinitialises_the_head_only(num_classes: int, tmp_path: Path):
    model = make()
    save_for_hf(model, tmp_path, safe_serialization=True)
    overlay = dict(state_dict=states(model), num_classes=7)
    for loaded in (
        make(f"local-dir:{tmp_path}", pretrained=True, num_classes=num_classes),
        make(pretrained=True, num_classes=num_classes, pretrained_cfg_overlay=overlay),
    ):
        assert differing(states(loaded), states(model)) == {"fc.weight", "fc.bias"}
        assert loaded(batch(model)).shape == (2, num_classes or model.num_features)


@pytest.mark.parametrize("num_classes", [7, 3])
@pytest.mark.parametrize("damage", ["missing", "unexpected", "of another shape"])
@pytest.mark.parametrize("source", ["local-dir", "state_dict"])
def test_a_damaged_checkpoint_is_refused(source: str, damage: str, num_classes: int, tmp_path: Path):
    model = make()
    state = states(model)
    key = "branches.soil.extra" if damage == "unexpected" else "branches.soil.bn1.weight"
    state.pop(key, None)
    if damage != "missing":
        state[key] = torch.zeros(3)
    if source == "local-dir":
        model.state_dict = lambda: state  # what save_for_hf writes
        save_for_hf(model, tmp_path, safe_serialization=True)
        name, kwargs = f"local-dir:{tmp_path}", {}
    else:
        name, kwargs = TINY[1], dict(pretrained_cfg_overlay=dict(state_dict=state, num_classes=7))
    with pytest.raises(RuntimeError, match=f"1 {damage}: {key}"):
        make(name, pretrained=True, num_classes=num_classes, **kwargs)


def test_the_cfg_and_the_head_of_a_checkpoint_must_agree():
    state = states(make())
    with pytest.raises(RuntimeError, match="a head that fits, but pretrained_cfg has num_classes 10039"):
        make(pretrained=True, pretrained_cfg_overlay=dict(state_dict=state))
    headless = {key: value for key, value in state.items() if not key.startswith("fc.")}
    with pytest.raises(RuntimeError, match="2 missing: fc.bias, fc.weight"):
        make(pretrained=True, pretrained_cfg_overlay=dict(state_dict=headless, num_classes=7))


@pytest.mark.parametrize("branches", [CUSTOM, [["climate", 8], ["soil", 5]]])
def test_custom_branches_round_trip(branches, tmp_path: Path):
    model = make(branches=branches)
    assert model.in_chans == 13 and list(model.branches) == ["climate", "soil"]
    assert model.pretrained_cfg["input_size"] == (13, 128, 128)
    assert model.default_cfg["mean"] == (0.0,) * 13 and model.default_cfg["std"] == (1.0,) * 13
    assert len(resolve_data_config({}, model=model)["mean"]) == 13
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = make(f"local-dir:{tmp_path}", pretrained=True)
    x = batch(model)
    assert loaded.branch_chans == CUSTOM
    assert differing(states(loaded), states(model)) == set()
    assert torch.equal(loaded(x), model(x))
    assert make().default_cfg["input_size"] == (33, 128, 128)  # the registry's own is not touched


def test_statistics_and_patch_size_of_a_region_travel_with_the_model(tmp_path: Path):
    mean, std = [float(i) for i in range(13)], [2.0] * 13
    overlay = dict(input_size=(13, 16, 16), mean=mean, std=std)
    model = make(branches=CUSTOM, stem_stride=1, pretrained_cfg_overlay=overlay)
    save_for_hf(model, tmp_path, safe_serialization=True, model_config=dict(label_names=list("abcdefg")))
    loaded = make(f"local-dir:{tmp_path}", pretrained=True)
    config = resolve_data_config({}, model=loaded)
    assert config["input_size"] == (13, 16, 16)
    assert list(config["mean"]) == mean and list(config["std"]) == std
    assert list(loaded.pretrained_cfg["label_names"]) == list("abcdefg")
    x = batch(model, size=16)
    assert torch.equal(loaded(x), model(x))
    with pytest.raises(ValueError, match="12 values of mean were given for 13 channels"):
        make(branches=CUSTOM, pretrained_cfg_overlay=dict(mean=mean[1:]))


BAD_BRANCHES = [{}, {"a.b": 3}, {"type": 3}, {"soil": 0}, {"soil": "9"}, [("a", 1), ("a", 2)]]
CHANNELS = "the branches take 33 channels, in this order: bioclim 19, soil 9, satellite 5"
BAD_KWARGS = [(dict(branches=bad), "branches must map distinct names") for bad in BAD_BRANCHES]
BAD_KWARGS += [(dict(stem_stride=3), "must be 1, 2 or 4"), (dict(in_chans=34), "is 34, but " + CHANNELS)]


@pytest.mark.parametrize(("kwargs", "text"), BAD_KWARGS)
def test_bad_arguments_are_refused(kwargs: dict, text: str):
    with pytest.raises(ValueError, match=text):
        make(**kwargs)


def test_wrong_channels_of_the_input_are_refused():
    with pytest.raises(ValueError, match=f"number of channels of x is 32, but {CHANNELS}"):
        make()(torch.zeros(1, 32, 64, 64))


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
@pytest.mark.parametrize("stem_type", ["", "deep"])
def test_stem_stride(stem_type: str, stem_stride: int):
    model = make(branches=CUSTOM, stem_stride=stem_stride, stem_type=stem_type)
    x = batch(model, size=64)
    last, maps = model.forward_intermediates(x)
    assert last.shape[-1] == 64 // (8 * stem_stride)
    assert [64 // m.shape[-1] for m in maps] == [info["reduction"] for info in model.feature_info]
    plain = make(branches=CUSTOM, stem_type=stem_type)
    assert {k: v.shape for k, v in states(model).items()} == {k: v.shape for k, v in states(plain).items()}


def test_forward_intermediates():
    model = make()
    x = batch(model)
    last, maps = model.forward_intermediates(x)
    assert torch.equal(last, model.forward_features(x)) and torch.equal(last, maps[-1])
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
    some = model.forward_intermediates(x, indices=[1, 3], stop_early=True, intermediates_only=True)
    assert torch.equal(some[0], maps[1]) and torch.equal(some[1], maps[3])


def test_features_only():
    full = make()
    overlay = dict(state_dict=states(full), num_classes=7)
    net = make(features_only=True, out_indices=(1, 3), pretrained=True, pretrained_cfg_overlay=overlay)
    x = batch(net)
    maps = net(x)
    assert [m.shape[1] for m in maps] == net.feature_info.channels()
    assert [64 // m.shape[-1] for m in maps] == net.feature_info.reduction()
    assert torch.equal(maps[1], full.forward_intermediates(x)[1][3])
    assert not [n for n, _ in net.named_parameters() if "layer4" in n or "fc" in n]


def test_reset_classifier():
    model = make()
    x = batch(model)
    model.reset_classifier(4, "catavgmax")
    assert model(x).shape == (2, 4) and model.head_hidden_size == 2 * model.num_features
    model.reset_classifier(5)
    assert model(x).shape == (2, 5) and model.global_pool.pool_type == "catavgmax"
    model.reset_classifier(0, "avg")
    assert model(x).shape == (2, model.num_features) and model.num_classes == 0
    model.reset_classifier(0, "")
    assert torch.equal(model(x), model.forward_features(x))


def test_dropout_acts_in_training_only():
    model = make(drop_rate=0.5)
    maps = torch.ones(2, model.num_features, 1, 1)
    assert model.forward_head(maps, pre_logits=True).eq(1).all()
    assert set(model.train().forward_head(maps, pre_logits=True).unique().tolist()) == {0.0, 2.0}


@tiny
def test_layer_decay_groups_blocks_by_depth(name: str):
    model = make(name)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=1.0, weight_decay=0.0, layer_decay=0.5)
    scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    got: dict[str, set[float]] = {}
    for key, p in model.named_parameters():
        got.setdefault(key.split(".")[2] if key.startswith("branches.") else "fc", set()).add(scale[id(p)])
    depths = dict(conv1=5, bn1=5, layer1=4, layer2=3, layer3=2, layer4=1, fc=0)
    assert got == {layer: {0.5**depth} for layer, depth in depths.items()}
    assert model.group_matcher(coarse=True)["blocks"] != model.group_matcher()["blocks"]


def test_grad_checkpointing_gives_the_same_gradients():
    model = make().train()
    x = batch(model, num=4)
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        assert {m.grad_checkpointing for m in (model, *model.branches.values())} == {enable}
        model.zero_grad()
        model(x).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_compile_without_graph_breaks_and_export_with_dynamic_batch():
    model = make()
    x, more = batch(model, size=32), batch(model, size=32, num=5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")  # inductor would take half a minute
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
        torch.testing.assert_close(program.module()(more), model(more))


def test_bfloat16():
    model = make(dtype=torch.bfloat16)
    logits = model(batch(model).bfloat16())
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model.reset_classifier(3)
    assert model.fc.weight.dtype == torch.bfloat16
