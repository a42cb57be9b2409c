"""The ensemble is one timm model whose output is the mean of its members' probabilities."""

import pytest
import timm
import torch
from timm.models import save_for_hf

MEMBERS = [["test_bioresnet_glc23", {}, [0, 19]], ["test_fusresnet_glc23", {}, [0, 33]]]


def make(**keywords):
    torch.manual_seed(0)
    return timm.create_model("ensemble_glc23", members=MEMBERS, num_classes=7, **keywords).eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 33, 64, 64, generator=torch.Generator().manual_seed(1))


def member_logits(model, x):
    return [member(x[:, a:b]) for member, (a, b) in zip(model.members, model.ranges, strict=True)]


@torch.no_grad()
def test_the_mean_of_probabilities_comes_back_as_logits(x):
    sigmoid, softmax, mixed, logits = (
        make(),
        make(activations="softmax"),
        make(activations=["sigmoid", "softmax"]),
        make(average="logits"),
    )
    first, second = member_logits(sigmoid, x)
    torch.testing.assert_close(sigmoid(x).sigmoid(), (first.sigmoid() + second.sigmoid()) / 2)
    torch.testing.assert_close(softmax(x).softmax(1), (first.softmax(1) + second.softmax(1)) / 2)
    torch.testing.assert_close(mixed(x).sigmoid(), (first.sigmoid() + second.softmax(1)) / 2)
    torch.testing.assert_close(logits(x), (first + second) / 2)


@torch.no_grad()
def test_certain_members_keep_their_digits(x):
    model = make()
    for member in model.members:
        member.fc.bias.fill_(-200.0)
    assert torch.isfinite(model(x)).all() and (model(x) < -150).all()


def test_round_trip_other_classes_and_reset(tmp_path, x):
    model = make(activations=["sigmoid", "softmax"])
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(model(x), again(x))
    tuned = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=4)
    for key, value in model.state_dict().items():
        if ".fc." not in key:
            assert torch.equal(tuned.state_dict()[key], value), key
    assert tuned(x).shape == (3, 4)
    again.reset_classifier(5)
    assert again(x).shape == (3, 5)
    assert again.get_classifier(name_only=True) == ("members.0.fc", "members.1.fc")


def test_it_trains_exports_and_compiles(x):
    model = make(drop_rate=0.1)
    model.train()
    model.set_grad_checkpointing()
    model(x).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval().set_grad_checkpointing(False)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x))
        batch = {0: torch.export.Dim("batch", min=2, max=64)}
        exported = torch.export.export(model, (x,), dynamic_shapes=(batch,)).module()
        torch.testing.assert_close(exported(x[:2]), model(x[:2]))


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (dict(features_only=True), "features_only of a member"),
        (dict(average="median"), "'logits' or 'ranks', got 'median'"),
        (dict(activations=["sigmoid"]), "for 2 members, got"),
        (dict(in_chans=20), r"channels \[\(0, 33\)\] are not within the input's 20"),
    ],
)
def test_what_cannot_work_is_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        make(**keywords)


def test_a_wrong_number_of_channels_is_named(x):
    with pytest.raises(ValueError, match="x has 20 channels, the ensemble takes 33"):
        make()(x[:, :20])


def test_members_of_smaller_patches_see_the_middle():
    member = ["test_bioresnet_glc23", {"branches": {"a": 2}}, [0, 2]]
    kwargs = {"members": [member, member], "num_classes": 3}
    model = timm.create_model("ensemble_glc23", patch_sizes=[9, 5], **kwargs).eval()
    x = torch.randn(2, 2, 9, 9)
    first, second = model.members
    expected = (first(x).sigmoid() + second(x[:, :, 2:7, 2:7]).sigmoid()) / 2
    torch.testing.assert_close(model(x).sigmoid(), expected)
    with pytest.raises(ValueError, match="x has 8 x 8 cells: their middle is no patch of 9"):
        model(x[:, :, :8, :8])
    with pytest.raises(ValueError, match="a side in cells for each of 2 members"):
        timm.create_model("ensemble_glc23", patch_sizes=[9], **kwargs)
