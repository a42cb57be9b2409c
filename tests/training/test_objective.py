"""Losses in a run, and what a run settles: what is needed is made, weighed, remembered, resumed exactly."""

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.data.region import Region
from glczoo.data.tables import read_species
from glczoo.decoding import best_threshold
from glczoo.hub import card
from glczoo.losses import LOSSES, NEEDS, bce
from glczoo.models.published import read_config
from glczoo.recipe import Recipe, override, read_recipe
from glczoo.recipe.sections import Loss
from glczoo.runs.run import Run, load_model
from glczoo.train import train
from glczoo.training import initial_model as start
from glczoo.training import label_memory as estimates
from glczoo.training.checkpoints import EpochOrder, Record
from glczoo.training.initial_model import split_table, starting_samples
from glczoo.training.objective import Objective
from glczoo.training.prepare import make_optimizer
from glczoo.training.tuning import _fold

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe(world: Path, runs: Path, *overrides: str) -> Recipe:
    """Step 1 on a tiny model, a few batches."""
    small = ["model=test_fusresnet_glc23", "init=random", "patch_size=8", "batch_size=16", "epochs=3"]
    shared = [f"region={world}", f"runs={runs}", "data.pa_fraction=0.5", "checkpoint_every=1", "log_every=1"]
    return read_recipe(RECIPES / "step1.yaml", [*small, *shared, *overrides])


def objective(told: Recipe, processes: int = 1) -> tuple[Objective, Samples]:
    """The objective of a recipe, and the surveys it knows."""
    region = Region.load(told.region)
    parts = starting_samples(told, region)
    made = Objective(told, region, parts.vocabulary, parts.training, torch.device("cpu"), processes)
    return made, parts.training


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_loss_trains(world, tmp_path, name):
    settings = ", warmup: 1" if name == "em_apl" else ""
    run = train(recipe(world, tmp_path, f"loss={{name: {name}{settings}}}", f"name={name}", "epochs=2"))
    weights = load_file(run / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())
    assert load_model(run).activation == ("softmax" if name == "ce" else "sigmoid")


def test_the_card_has_words_for_every_loss():
    assert set(card._LOSSES) == set(LOSSES)
    assert card._loss(Loss(name="wan")) == "weighted assume-negative BCE"
    assert (
        card._loss(Loss.model_validate({"name": "epr", "k": 2.5}))
        == "expected positive regularisation (k 2.5)"
    )


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("pseudo={teacher: step3}", r"needs data.tables with po.* got \['pa'\], False and bce"),
        ("pseudo={teacher: step3} data.tables=[pa,po] loss=an_ls", "got .* False and an_ls"),
        (
            "pseudo={teacher: t, low: 0.6, high: 0.05} data.tables=[po]",
            "low must be below high, got 0.6",
        ),
        ("po_loss=an_ls", "data.weights and po_loss set PO apart"),
        ("po_loss=ce data.tables=[po,pa]", "bce and ce cannot share a model"),
        ("loss=plc po_loss=sinr_full data.tables=[po,pa]", "plc and sinr_full cannot share a batch"),
        ("po_loss={name: wan, alpha: 1} data.tables=[po,pa]", r"the loss wan has no setting \['alpha'\]"),
        ("pseudo={teacher: t} po_loss=wan data.tables=[po,pa]", "False and bce, wan for PO"),
        ("loss={name: epr, kk: 3}", r"the loss epr has no setting \['kk'\]; it has \['eps', 'k'\]"),
        ("loss={name: role, estimates: 3}", r"no setting \['estimates'\]"),
        ("loss={name: em, alpha: much}", "must be numbers, got {'alpha': 'much'}"),
        ("data.weights={po: 0.1}", r"need data.tables: \[po, pa\], got \['pa'\]"),
        ("data.weights={po: 0}", "weights must be above 0"),
        ("calibration=vector data.validation={pa: 0} keep=last", "fitted on PA validation surveys"),
        ("top_k=auto data.validation={pa: 0} keep=last", "is tuned on PA validation surveys"),
        ("decoding=expected_f9", "expected_f9"),
        (
            "decoding={rule: threshold, by_source: true}",
            "needs rule: top_k and value: auto, got threshold",
        ),
        ("decoding={rule: top_k, value: 3, by_source: true}", "got top_k and 3"),
        ("decoding={rule: top_k, value: 2.5}", "takes a whole number of species, got 2.5"),
    ],
)
def test_a_recipe_that_cannot_be_served_is_refused_when_it_is_read(world, tmp_path, told, message):
    with pytest.raises(ValueError, match=message):
        recipe(world, tmp_path, *re.split(r" (?=[\w.]+=)", told))


def test_what_does_not_fit_says_so_before_anything_is_written(world, tmp_path, monkeypatch):
    monkeypatch.setattr(estimates.LabelEstimates.__init__, "__defaults__", (0, 1000))
    with pytest.raises(ValueError, match=r"remembers every label of every survey: 45 surveys × 24 species"):
        train(recipe(world, tmp_path, "loss=role"))
    with pytest.raises(ValueError, match="after 5 epochs of warm-up, the recipe has 3"):
        train(recipe(world, tmp_path, "loss=em_apl"))
    with pytest.raises(ValueError, match="which 2 processes cannot share"):
        objective(recipe(world, tmp_path, "loss=role"), processes=2)
    assert not list(tmp_path.iterdir())


def test_the_number_of_species_is_that_of_the_training_surveys(world, tmp_path):
    found, training = objective(recipe(world, tmp_path, "loss=epr"))
    logits, index = torch.randn(4, 24), torch.arange(4)
    target = training.targets(index, 24)
    expected = LOSSES["epr"](logits, target, k=training.sizes().mean())
    assert found(logits, index) == pytest.approx(float(expected))
    other, _ = objective(recipe(world, tmp_path, "loss.name=epr", "loss.k=1"))
    assert other(logits, index) == pytest.approx(float(LOSSES["epr"](logits, target, k=1)))


def test_po_and_pa_are_weighed(world, tmp_path):
    mixture = ["data.tables=[po, pa]", "data.weights={po: 0.25, pa: 2}"]
    found, training = objective(recipe(world, tmp_path, *mixture))
    index = torch.tensor([0, 1, len(training) - 1, len(training) - 2, len(training) - 3])
    assert training.datasets[0] != training.datasets[-1]
    logits = torch.randn(5, 24)
    target = training.targets(index, 24)
    rows = torch.stack([bce(logits[i : i + 1], target[i : i + 1]) for i in range(5)])
    expected = (torch.tensor([0.25, 0.25, 2, 2, 2]) * rows).mean()
    torch.testing.assert_close(found(logits, index), expected)
    kept = training.subset(np.array([len(training) - 1, 0]))
    assert kept.weight is not None and kept.weight.tolist() == [2, 0.25]


def test_each_table_has_its_loss_and_weight(world, tmp_path):
    """A mean counts by its table's share of the batch, a sum as it is."""
    mixture = ["data.tables=[po, pa]", "data.weights={po: 0.25, pa: 2}"]
    soft = partial(LOSSES["an_ls"], smoothing=0.2)
    for losses, of_pa, of_po, shares in (
        (["loss=bce", "po_loss={name: an_ls, smoothing: 0.2}"], bce, soft, (0.4, 0.6)),
        (["loss=wan"], LOSSES["wan"], LOSSES["wan"], (0.4, 0.6)),
        (["loss=hill"], LOSSES["hill"], LOSSES["hill"], (1, 1)),
    ):
        found, training = objective(recipe(world, tmp_path, *mixture, *losses))
        index = torch.tensor([0, len(training) - 1, 1, 2, len(training) - 2])
        po = torch.tensor([True, False, True, True, False])
        assert torch.equal(torch.from_numpy(training.presence_only_rows())[index], po)
        logits, target = torch.randn(5, 24), training.targets(index, 24)
        expected = 2 * shares[0] * of_pa(logits[~po], target[~po])
        expected = expected + 0.25 * shares[1] * of_po(logits[po], target[po])
        torch.testing.assert_close(found(logits, index), expected)
        one = found(logits[:1], index[:1])  # of one table alone
        torch.testing.assert_close(one, 0.25 * of_po(logits[:1], target[:1]))
    apart, together = (
        objective(recipe(world, tmp_path, *mixture, *told))[0] for told in (["po_loss=bce"], [])
    )
    torch.testing.assert_close(apart(logits, index), together(logits, index))


@pytest.mark.parametrize("name", ["em_apl", "full_weighted"])
def test_losses_of_records_train_beside_bce(world, tmp_path, name):
    told = f"po_loss={{name: {name}, warmup: 1}}" if name == "em_apl" else f"po_loss={name}"
    mixture = ["data.tables=[po, pa]", "data.validation={pa: 0.2, po: 0.95}", "data.weights={po: 0.1}"]
    run = train(recipe(world, tmp_path, *mixture, told, "epochs=2", "checkpoint_every=99"))
    assert all(value.isfinite().all() for value in load_file(run / "model.safetensors").values())
    assert ", of records " in card._settings(Run(run).lineage[0].recipe)


def test_background_places_follow_the_batch_and_are_other_ones(world, tmp_path):
    found, training = objective(recipe(world, tmp_path, "loss=full_weighted"))
    orders = [EpochOrder(len(training), 16, seed) for seed in (0, 1)]
    batches = found.batches(orders[0].batches(0), orders[1], 0)
    logits = torch.randn(32, 24)
    target = training.targets(batches[0][:16], 24)
    counts = np.bincount(training.species, minlength=24)
    expected = LOSSES["full_weighted"](
        logits[:16], target, background=logits[16:],
        class_weights=torch.tensor(len(training) / counts.clip(1)).float(),
    )  # fmt: skip
    assert found(logits, batches[0]) == pytest.approx(float(expected))
    assert not torch.equal(batches[0][:16], batches[0][16:])
    later = found.batches(orders[0].batches(0, 2), orders[1], 0, 2)
    assert all(torch.equal(a, b) for a, b in zip(later, batches[2:], strict=True))


def test_estimates_learn_at_ten_times_the_rate(world, tmp_path):
    told = recipe(world, tmp_path, "loss=role")
    found, _ = objective(told)
    optimizer = make_optimizer(told, torch.nn.Linear(2, 2), found)
    groups = [
        (group.get("lr_scale", 1), sum(p.numel() for p in group["params"]))
        for group in optimizer.param_groups
    ]
    assert (10.0, 45 * 24) in groups


@pytest.mark.parametrize("loss", ["{name: role}", "{name: em_apl, warmup: 1}", "plc", "pseudo"])
def test_what_a_loss_remembers_is_resumed_exactly(world, tmp_path, monkeypatch, teacher, loss):
    """Stopped at every place where a checkpoint was just written, and gone on with."""

    def asked(runs: Path) -> Recipe:
        if loss == "pseudo":
            return taught(world, runs, teacher, "data.augment=true")
        return recipe(world, runs, f"loss={loss}")

    straight = train(asked(tmp_path / "straight"))
    whole, written, stopped = Record.checkpoint, 0, 0

    def stops(record, progress):
        nonlocal written
        whole(record, progress)
        written += 1
        if written in (2, 5, 7):
            raise KeyboardInterrupt

    monkeypatch.setattr(Record, "checkpoint", stops)
    told = asked(tmp_path / "broken")
    for _ in range(4):
        try:
            broken = train(told)
        except KeyboardInterrupt:
            stopped += 1
    one, two = (load_file(run / "model.safetensors") for run in (straight, broken))
    assert stopped == 3 and all(torch.equal(one[key], two[key]) for key in one)
    change = {"pseudo": "pseudo.high=0.5", "plc": "loss.tau=0.9"}.get(loss, "loss.eps=1e-5")
    changed = asked(tmp_path / "other").model_dump(mode="json")
    forgetful = train(Recipe.model_validate(override(changed, [change])))
    assert any(
        not torch.equal(one[key], value) for key, value in load_file(forgetful / "model.safetensors").items()
    )


def test_the_strong_view_of_plc_is_the_same_patch_with_a_square_cut_out(world, tmp_path):
    found, training = objective(recipe(world, tmp_path, "loss=plc"))
    order = EpochOrder(len(training), 16, 0)
    index = found.batches(order.batches(0), order, 0)[0]
    assert torch.equal(index[:16], index[16:])
    x = torch.rand(32, 3, 8, 8) + 1
    seen = found.view(x.clone(), index, 0)
    assert torch.equal(seen[:16], x[:16])
    cut = seen[16:] == 0
    assert torch.equal(seen[16:][~cut], x[16:][~cut])
    assert torch.equal(cut[:, 0], cut[:, 1]) and torch.equal(cut[:, 0], cut[:, 2])
    cells = cut[:, 0].sum((1, 2))
    assert cells.max() == 16 and cells.min() >= 4  # a square of four, cut off at the edges
    assert len({tuple(mask.flatten().tolist()) for mask in cut[:, 0]}) > 5  # its place is drawn
    assert torch.equal(found.view(x.clone(), index, 0), seen)
    assert not torch.equal(found.view(x.clone(), index, 1), seen)
    logits = torch.randn(32, 24)
    expected = LOSSES["plc"](logits[:16], training.targets(index[:16], 24), strong=logits[16:])
    assert found(logits, index) == pytest.approx(float(expected))


@pytest.fixture(scope="module")
def teacher(world, tmp_path_factory):
    """A run of step 1, whose probabilities lie far apart."""
    run = train(recipe(world, tmp_path_factory.mktemp("teacher"), "name=teacher", "keep=last"))
    weights = load_file(run / "model.safetensors")
    name = next(key for key, value in weights.items() if value.shape == (24,) and "bn" not in key)
    weights[name] += torch.linspace(-5, 5, 24)
    save_file(weights, run / "model.safetensors", {"format": "pt"})
    return run


def taught(world, runs, teacher, *overrides: str) -> Recipe:
    mixture = ["data.tables=[pa, po]", "data.validation={pa: 0.2, po: 0.95}"]
    pseudo = f"pseudo={{teacher: {teacher}, low: 0.3, high: 0.7}}"
    return recipe(world, runs, *mixture, pseudo, *overrides)


def test_a_k_by_source_needs_sources(world, tmp_path, monkeypatch):
    def nameless(*given):
        split = split_table(*given)
        return replace(
            split, train=replace(split.train, dataset_names=("",), dataset=split.train.dataset * 0)
        )

    monkeypatch.setattr(start, "split_table", nameless)
    asked = "decoding={rule: top_k, by_source: true, tune_on: train}"
    with pytest.raises(ValueError, match="needs surveys that name their source.* have no datasetName"):
        train(recipe(world, tmp_path, asked))
    assert not list(tmp_path.iterdir())


def test_pseudo_labels_are_the_teachers_where_it_is_sure(world, tmp_path, teacher):
    """PA rows are untouched; what is between low and high has no gradient; the record is always there."""
    found, training = objective(taught(world, tmp_path, teacher, "data.weights={po: 0.5, pa: 2}"))
    po = torch.from_numpy(training.presence_only_rows())
    assert 0 < po.sum() < len(po)
    index = torch.cat([po.nonzero()[:20, 0], (~po).nonzero()[:6, 0]])[torch.randperm(26)]
    po = po[index]
    region = Region.load(world)
    p = load_model(teacher).probabilities(training.subset(index[po].numpy()), region)
    recorded = training.targets(index, 24)
    logits = torch.randn(26, 24, requires_grad=True)
    loss = found(logits, index)
    loss.backward()
    here = recorded[po] > 0
    target, known = recorded.clone(), torch.ones(26, 24)
    target[po] = ((p >= 0.7) | here).float()
    known[po] = ((p >= 0.7) | (p <= 0.3) | here).float()
    ignored = known == 0
    assert ignored.any() and (target[po].sum(1) > 1).any() and ((p <= 0.3) & here).any()
    assert (logits.grad[ignored] == 0).all() and (logits.grad[~ignored] != 0).all()
    assert (logits.grad[po][here] < 0).all()
    plain = logits.detach().requires_grad_()
    row = torch.where(po, 0.5, 2.0)[:, None]
    expected = bce(plain, target, known * row)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logits.grad, plain.grad)
    own = logits.detach().requires_grad_()
    bce(own, recorded, row[:, 0]).backward()
    assert torch.equal(logits.grad[~po], own.grad[~po])


def test_a_teacher_is_no_part_of_what_is_learnt(world, tmp_path, teacher):
    found, _ = objective(taught(world, tmp_path, teacher))
    assert not list(found.parameters()) and not found.state_dict()
    before = load_file(teacher / "model.safetensors")
    told = taught(world, tmp_path, teacher, "epochs=1")
    run = train(told)
    after = load_file(teacher / "model.safetensors")
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    assert "labelled by `teacher` (absent at 0.3 or below" in card._settings(Run(run).lineage[-1].recipe)


def test_teachers_that_do_not_fit(world, tmp_path, teacher):
    with pytest.raises(
        FileNotFoundError, match="pseudo.teacher: nobody is the run .* does not exist; make it"
    ):
        train(taught(world, tmp_path, "nobody"))
    for change, message in (
        (lambda told: told["glczoo"].update(activation="softmax"), "ends in a softmax"),
        (lambda told: told["glczoo"]["bands"].reverse(), "the bands of region .* are not those of"),
    ):
        other = tmp_path / "other"
        shutil.copytree(teacher, other)
        told = json.loads((other / "config.json").read_text())
        change(told)
        (other / "config.json").write_text(json.dumps(told))
        with pytest.raises(ValueError, match=message):
            train(taught(world, tmp_path, other))
        shutil.rmtree(other)
    told = taught(world, tmp_path, teacher)
    region = Region.load(world)
    parts = starting_samples(told, region)
    fewer = SpeciesIndex(parts.vocabulary.ids[:-1])
    with pytest.raises(ValueError, match="predicts 24 species, not the 23 of this vocabulary"):
        Objective(told, region, fewer, parts.training, torch.device("cpu"))
    assert not list(tmp_path.iterdir())


def test_needs_and_what_is_served_are_one_list(world):
    assert len(read_species(Region.load(world))) == 24
    assert {need for needs in NEEDS.values() for need in needs} == {
        "k", "estimates", "pseudo", "background", "class_weights", "strong",
    }  # fmt: skip


@pytest.mark.parametrize("how", ["temperature", "vector"])
def test_a_run_is_calibrated_in_its_head(world, tmp_path, how):
    """Whoever loads it gets the scaled logits; decoding is tuned on them, validation presences are met."""
    told = [f"region={world}", "model=test_fusresnet_glc23", "init=random", "patch_size=8", "batch_size=16"]
    told += ["epochs=3", "keep=last", "data.validation={pa: 0.5}", "decoding=threshold"]
    plain, scaled = (
        train(
            read_recipe(RECIPES / "step1.yaml", [*told, f"runs={tmp_path / str(way)}", f"calibration={way}"])
        )
        for way in ("null", how)
    )
    before, after = load_model(plain), load_model(scaled)
    x = torch.randn(5, 33, 8, 8)
    with torch.no_grad():
        old, new = before.model(x), after.model(x)
    slope = (new[1:] - new[0]) / (old[1:] - old[0])
    spread = slope.std(0).max()
    assert spread < 0.05 * slope.abs().mean()  # one line for each species
    kept = read_config(scaled).glczoo.calibration
    assert kept.how == how and read_config(plain).glczoo.calibration is None
    if how == "temperature":
        torch.testing.assert_close(new * kept.mean_temperature, old, rtol=1e-3, atol=1e-4)
    region = Region.load(world)
    surveys = Run(scaled).samples("validation")
    uncalibrated, probabilities = (Run.load([run]).probabilities(surveys, region) for run in (plain, scaled))
    target = surveys.targets(torch.arange(len(surveys)), 24)
    if how == "vector":
        off, still_off = (float(p.sum() - target.sum()) for p in (uncalibrated, probabilities))
        assert abs(still_off) < 0.3 * abs(off)
    assert after.decoding.value == pytest.approx(best_threshold(probabilities, target), rel=1e-3)


def test_only_a_linear_head_is_calibrated():
    head = torch.nn.Sequential(torch.nn.Linear(2, 3))
    model = torch.nn.Module()
    model.get_classifier = lambda: head
    with pytest.raises(ValueError, match="a linear head with a bias, this model's is Sequential"):
        _fold(model, torch.ones(3), torch.zeros(3))
