"""Branches for numbers of a place: what they see, and the timm contract of a network that has some."""

from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf
from timm.optim import create_optimizer_v2
from torch import Tensor

from glczoo.models import FusResNet, init_from_imagenet
from glczoo.models.values_branch import ValuesBranch

BRANCHES = {"climate": 4, "tabular": 5}


def make(**kwargs) -> FusResNet:
    settings = {"num_classes": 7, "branches": BRANCHES, "layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}
    return timm.create_model("fusresnet18_glc24", **settings | kwargs).eval()


def batch(num: int = 2, size: int = 64, channels: int = 9) -> Tensor:
    return torch.randn(num, channels, size, size)


def test_a_branch_of_values_sees_the_middle_alone():
    model, x = make(), batch()
    elsewhere = x.clone()
    elsewhere[:, 4:, :32] += 1
    elsewhere[:, 4:, 33:] += 1
    with torch.no_grad():
        assert torch.equal(model(elsewhere), model(x))
        elsewhere[:, 4:, 32, 32] += 1
        assert not torch.equal(model(elsewhere), model(x))


def test_pictures_are_seen_as_by_a_plain_resnet():
    model, x = make(), batch()
    with torch.no_grad():
        pooled = model.forward_head(model.forward_features(x), pre_logits=True)
        climate = model.branches["climate"](x[:, :4]).mean((2, 3))
        values = model.branches["tabular"](x[:, 4:]).flatten(1)
    torch.testing.assert_close(pooled, torch.cat([climate, values], 1))


@pytest.mark.parametrize("branches", [BRANCHES, {"tabular": 5}, {"climate": 4}])
def test_gradients_reach_every_parameter(branches: dict[str, int]):
    model = make(branches=branches, zero_init_last=False).train()
    model(batch(4, channels=sum(branches.values()))).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_saved_and_loaded_logits_are_equal(tmp_path: Path):
    model, x = make(), batch()
    save_for_hf(model, tmp_path, safe_serialization=True, model_args={"branches": BRANCHES})
    settings = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, **settings).eval()
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_maps_of_every_stage_and_fewer_stages():
    model, x = make(), batch()
    with torch.no_grad():
        last, maps = model.forward_intermediates(x)
        assert torch.equal(last, model.forward_features(x))
        assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
        assert [64 // m.shape[-1] for m in maps] == [info["reduction"] for info in model.feature_info]
        some = model.forward_intermediates(x, indices=[1, 3], stop_early=True, intermediates_only=True)
        assert torch.equal(some[0], maps[1]) and torch.equal(some[1], maps[3])
        assert model.prune_intermediate_layers([2]) == [2]
        assert torch.equal(model.forward_features(x), maps[2])


def test_layer_groups_are_those_of_the_other_branches():
    model = make()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=1.0, weight_decay=0.0, layer_decay=0.5)
    scale = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    got: dict[str, set[float]] = {}
    for key, p in model.named_parameters():
        got.setdefault(key.split(".")[2] if key.startswith("branches.") else "fc", set()).add(scale[id(p)])
    depths = dict(conv1=5, bn1=5, layer1=4, layer2=3, layer3=2, layer4=1, fc=0)
    assert got == {layer: {0.5**depth} for layer, depth in depths.items()}


def test_checkpointing_compile_export_and_bfloat16():
    model, x = make(), batch(4, 32)
    grads = []
    for enable in (False, True):
        model.train().set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
    model.eval().set_grad_checkpointing(False)
    program = torch.export.export(model, (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x[:3]), model(x[:3]))
    assert make(dtype=torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


def test_imagenet_weights_fill_pictures_and_leave_values(tmp_path: Path):
    from safetensors.torch import save_file

    source = timm.create_model("resnet18", num_classes=0)
    save_file(source.state_dict(), tmp_path / "resnet18.safetensors")
    model = timm.create_model("fusresnet18_glc24", branches=BRANCHES, num_classes=7)
    before = {key: value.clone() for key, value in model.branches["tabular"].state_dict().items()}
    init_from_imagenet(model, "resnet18", weights=tmp_path / "resnet18.safetensors")
    assert isinstance(model.branches["tabular"], ValuesBranch)
    after = model.branches["tabular"].state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    filled = model.branches["climate"].layer1[0].conv1.weight
    assert torch.equal(filled, source.layer1[0].conv1.weight)
