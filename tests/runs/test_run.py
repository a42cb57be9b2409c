"""A run is read once, found by its name, and asked in one way; config.json is checked key by key."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from glczoo.data import tables
from glczoo.data.region import Region
from glczoo.evaluation.report import report
from glczoo.hub.publish import push
from glczoo.hub_client import DamagedError
from glczoo.models import published
from glczoo.runs import split
from glczoo.runs.run import Run, load_model
from glczoo.runs.trained import TrainedModel

STEPS = ("step1", "step2", "step3")


@pytest.fixture(scope="module")
def run(trained_run) -> Path:
    """The third of three steps."""
    settings = {"modalities": "[soil, footprint]", "epochs": 2}
    return trained_run(*STEPS, model="test_resnet", **settings)


@pytest.fixture
def counted(monkeypatch) -> Counter[str]:
    """How often tables are read and files of weights are loaded."""
    calls: Counter[str] = Counter()
    read_samples, load_file = split.read_samples, published.load_file

    def reading(region, kind, vocabulary):
        calls[kind] += 1
        return read_samples(region, kind, vocabulary)

    def loading(path):
        calls[f"{Path(path).parent.name}/{Path(path).name}"] += 1
        return load_file(path)

    def never(*_):
        raise AssertionError("a table is read beside the run")

    monkeypatch.setattr(split, "read_samples", reading)
    monkeypatch.setattr(published, "load_file", loading)
    monkeypatch.setattr(tables, "read_species", never)
    for module in ("report", "sections"):
        monkeypatch.setattr(f"glczoo.evaluation.{module}.svg_uri", lambda figure: "data:,")
    return calls


def test_a_report_of_three_steps_reads_each_file_once(run, tmp_path, counted):
    report(run, tmp_path / "report.html", sample=10)
    assert counted == {"pa": 1, "po": 1} | {f"{step}/model.safetensors": 1 for step in STEPS}


def test_a_push_of_three_steps_reads_each_file_once(run, hub, monkeypatch, counted):
    monkeypatch.setenv("HF_TOKEN", "write")
    push(run, "me/counted")
    assert counted.pop("pa") == counted.pop("po") == 1
    # The run's own weights, and those of the folder that is sent, which `verify` replays.
    assert counted == {"step3/model.safetensors": 1, "published/model.safetensors": 1}


def test_a_run_is_found_beside_another_or_by_its_folder(run):
    assert Run.find("step1", sibling_of=run).folder == run.parent / "step1"
    assert Run.find(run.parent / "step2").name == "test_resnet/step2"
    assert Run.find("../test_resnet/step1", sibling_of=run).folder == run.parent / "step1"


def test_a_run_that_is_not_there_or_not_finished_is_refused(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no finished run"):
        Run.find(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder .*none: train a run"):
        Run.find(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*step22; did you mean .*step2"):
        Run.find(run.parent / "step22")
    (tmp_path / "half").mkdir()
    with pytest.raises(FileNotFoundError, match=r"half is not finished"):
        Run.find("half", sibling_of=tmp_path / "other")
    with pytest.raises(FileNotFoundError, match=r"none does not exist"):
        Run.find("none", sibling_of=tmp_path / "other")


def test_a_runs_lineage_is_its_steps_in_order(run):
    found = Run(run)
    assert [step.recipe.name for step in found.lineage] == list(STEPS)
    assert found.before is not None and found.before.folder == run.parent / "step2"
    assert all(step.recipe.runs == "runs" and step.recipe.region == "virtual" for step in found.lineage)


def test_another_region_shares_the_weights_and_not_the_samples(run, world):
    here = Run(run)
    other = here.on(Region.load(world))
    assert here.model.model is other.model.model and other.model.region is other.region is not here.region
    assert here.samples("train") is here.samples("train") is not other.samples("train")
    assert here.on(None) is here


@pytest.fixture
def points(run):
    return Run(run).samples("validation")


def test_an_ensemble_of_runs_is_the_weighted_mean(run, points):
    members = [Run(run.parent / step).model for step in ("step1", "step3")]
    first, second = (member.probabilities(points) for member in members)
    equal = TrainedModel.ensemble(members).probabilities(points)
    assert torch.equal(equal, (first + second) / 2)
    weighted = TrainedModel.ensemble(members, [0.25, 0.75])
    torch.testing.assert_close(weighted.probabilities(points), 0.25 * first + 0.75 * second)


def test_one_model_is_its_own_ensemble(run):
    model = Run(run).model
    assert TrainedModel.ensemble([model]) is model and model.each == (model,) and model.widest is model


@pytest.mark.parametrize("weights", [[0.5], [0.7, 0.7], [-0.5, 1.5], [float("nan"), 1.0]])
def test_weights_that_are_no_weights_are_refused(run, weights):
    with pytest.raises(ValueError, match="weights must be 2 numbers, one for each member"):
        TrainedModel.ensemble([Run(run).model] * 2, weights)


def test_patches_predicted_one_by_one_are_the_probabilities(run, points):
    model = load_model(run)
    build = model.builder(points)
    x = build(torch.arange(len(points)))
    torch.testing.assert_close(model.predict_patches(x), model.probabilities(points))


def test_files_stay_open_between_two_calls(run):
    model = load_model(run)
    assert model.open() is model.open() and model.open(Region.load(model.region._folder)) is not None


# config.json of somebody else.


def edited(run: Path, folder: Path, change) -> Path:
    copy = Path(shutil.copytree(run, folder / "run"))
    config = json.loads((copy / "config.json").read_text())
    change(config)
    (copy / "config.json").write_text(json.dumps(config))
    return copy


DAMAGE = {
    "text for a number": (lambda c: c["glczoo"].update(patch_size="16"), "glczoo.patch_size: .*integer"),
    "a number for text": (lambda c: c["glczoo"].update(region=3), "glczoo.region: .*string"),
    "a fraction for a whole number": (lambda c: c["glczoo"].update(epoch=0.5), "glczoo.epoch: .*integer"),
    "an unknown activation": (lambda c: c["glczoo"].update(activation="tanh"), "activation: .*sigmoid"),
    "bands that are text": (lambda c: c["glczoo"].update(bands="bio1"), "glczoo.bands: .*array"),
    "a band without name": (lambda c: c["glczoo"]["bands"][1].pop("name"), "bands.1.name: it is missing"),
    "no decoding": (lambda c: c["glczoo"].pop("decoding"), "glczoo.decoding: it is missing"),
    "a decoding of text": (lambda c: c["glczoo"].update(decoding="top_k"), "glczoo.decoding: .*has a rule"),
    "a decoding of half a species": (
        lambda c: c["glczoo"]["decoding"].update(value=2.5), "glczoo.decoding: .*a whole number of species"
    ),
    "a tuned list": (lambda c: c["glczoo"].update(tuned=[1]), "glczoo.tuned: .*object"),
    "arguments that are no mapping": (lambda c: c.update(model_args=[]), "model_args: .*object"),
    "a mean that is text": (lambda c: c["pretrained_cfg"]["mean"].insert(0, "a"), "pretrained_cfg.mean.0"),
    "two sizes": (lambda c: c["pretrained_cfg"].update(input_size=[10, 16]), "pretrained_cfg.input_size"),
    "names that are numbers": (lambda c: c["label_names"].__setitem__(0, 1), "label_names.0: .*string"),
    "a list": (lambda c: c.clear(), "has no key glczoo"),
    "an argument nobody takes": (lambda c: c["model_args"].update(depth=3), "cannot be built: .*depth"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_a_config_that_is_not_ours_is_refused_by_the_key(run, tmp_path, damage):
    change, message = DAMAGE[damage]
    with pytest.raises(DamagedError, match=f"config.json.*{message}"):
        load_model(edited(run, tmp_path, change))


def test_a_small_file_that_names_a_giant_is_refused_before_it_is_built(run, tmp_path, monkeypatch):
    def giant(config):
        config["architecture"] = "vit_giant_patch14_dinov2"

    def devices(*args, device=None, **kwargs):
        assert torch.empty(0).device.type == "meta", "memory is taken for weights that are not there"
        return create(*args, **kwargs)

    create = published.create
    monkeypatch.setattr(published, "create", devices)
    with pytest.raises(DamagedError, match="the weights do not fit the architecture"):
        load_model(edited(run, tmp_path, giant))


def test_more_members_than_tensors_are_not_built(run, tmp_path):
    def crowd(config):
        config.update(
            architecture="ensemble_glc23", model_args={"members": [["test_resnet", {}, [0, 1]]] * 9999}
        )

    with pytest.raises(DamagedError, match="9999 members, .* has fewer tensors"):
        load_model(edited(run, tmp_path, crowd))


def test_a_header_without_end_is_not_read(run, tmp_path):
    copy = edited(run, tmp_path, lambda config: None)
    (copy / "model.safetensors").write_bytes(np.array([1 << 40], "<u8").tobytes() + b"{")
    with pytest.raises(DamagedError, match="a header of 1099511627776 bytes"):
        load_model(copy)


def test_what_is_written_is_what_is_read(run):
    text = (run / "config.json").read_text()
    assert json.loads(text)["glczoo"] == published.Config.model_validate_json(text).glczoo.to_json()
