"""The region and the model that travel with glczoo: whole, as good as their card says, found, remade."""

import csv
import json
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
import timm
import torch
from safetensors.torch import load_file

import glczoo
from glczoo.cli import main
from glczoo.data.region import Region
from glczoo.errors import GlczooError
from glczoo.evaluation.evaluate import evaluate
from glczoo.hub.publish import verify
from glczoo.make_sample import make_sample
from glczoo.packaged import sample
from glczoo.recipe import read_recipe
from glczoo.regions import sample_region
from glczoo.regions.check import check_region
from glczoo.runs.run import Run
from glczoo.train import train

MODEL, REGION = sample("model"), sample("region")
PLACE = 5.4, 46.6


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder without anything in it, and no Hub to be asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    return tmp_path


@pytest.fixture(scope="module")
def judged():
    return evaluate(["sample"], part="test")


def test_it_is_whole_and_computes_what_it_computed_where_it_was_made(elsewhere):
    found = verify("sample")
    golden = load_file(MODEL / "golden.safetensors")
    assert (found.folder, len(found.bands), found.species) == (MODEL, 33, 120)
    assert found.difference <= 1e-3 * float(golden["logits"].abs().max())


def test_a_damaged_file_is_noticed(elsewhere):
    shutil.copytree(MODEL, "sample")
    text = Path("sample/species.csv").read_text("utf-8")
    Path("sample/species.csv").write_text(text.replace("a", "e", 1), "utf-8")
    with pytest.raises(GlczooError, match=r"species.csv is not the published file"):
        verify("sample")


def test_its_f1_is_the_one_of_its_card_and_of_its_metrics(judged):
    f1 = judged.rows[0].f1
    (test,) = [part for part in Run.find("sample").published["results"] if part["part"] == "test"]
    assert f1 == pytest.approx(test["rules"][0]["f1"], abs=1e-4)
    card = (MODEL / "README.md").read_text("utf-8")
    assert f"| **steps 1 + 2 + 3: this model** | {f1:.3f} |" in card
    assert f"### test: {len(judged.samples)} surveys" in card


def test_each_step_of_the_card_is_better_and_none_is_better_than_the_truth():
    card = (MODEL / "README.md").read_text("utf-8")
    table = re.findall(r"^\| (.*?) \| (0\.\d{3}) \|$", card.split("## Use")[0], re.M)
    f1 = {what: float(number) for what, number in table}
    commonest, step1, _, step3, truth = f1.values()
    assert len(f1) == 5 and "commonest" in table[0][0] and "true" in table[4][0]
    assert commonest + 0.1 < step1 < step3 < truth


def test_probabilities_follow_the_truth(judged):
    places = np.stack([judged.samples.lon, judged.samples.lat], axis=1)
    truth = sample_region.true_probabilities(places)
    model = Run.find("sample").model.probabilities(judged.samples).numpy()
    assert np.corrcoef(truth.ravel(), model.ravel())[0, 1] > 0.7
    assert abs(truth.mean() - model.mean()) < 0.02


def test_timm_gives_the_same_model(elsewhere, monkeypatch):
    golden = load_file(MODEL / "golden.safetensors")
    plain = timm.create_model("test_fusresnet_glc23", pretrained=True).eval()
    monkeypatch.setenv("GLCZOO_HUB_ORG", "somebody")  # another's is meant where no tag says which
    tagged = timm.create_model("test_fusresnet_glc23.sample", pretrained=True).eval()
    for model in (plain, tagged):
        with torch.inference_mode():
            torch.testing.assert_close(model(golden["x"]), golden["logits"], rtol=1e-3, atol=1e-3)
    assert plain.pretrained_cfg["label_names"] == [str(i) for i in Run.find("sample").species.ids]
    with pytest.raises(GlczooError, match="tried somebody/test_fusresnet_glc23"):
        timm.create_model("test_fusresnet_glc23", pretrained=True)


def test_timm_lists_it_and_takes_another_head(elsewhere):
    assert "test_fusresnet_glc23.sample" in timm.list_pretrained("*glc23*")
    model = timm.create_model("test_fusresnet_glc23", pretrained=True, num_classes=7)
    own = load_file(MODEL / "model.safetensors")
    assert model.fc.weight.shape[0] == 7
    assert torch.equal(model.branches.soil.conv1[0].weight, own["branches.soil.conv1.0.weight"])


def test_a_paper_s_name_still_asks_the_hub(elsewhere):
    with pytest.raises(GlczooError, match=r"no pretrained weights for fusresnet50_glc23: tried glczoo/"):
        timm.create_model("fusresnet50_glc23", pretrained=True)


def test_python_answers_with_names(elsewhere):
    model = glczoo.load("sample")
    table = model.predict(*PLACE, top=5)
    assert repr(model) == "<sample: 120 species, 33 bands>"
    assert table["species"].str.match(r"[A-Z][a-z]+ [a-z]+$").all() and len(table) >= 5
    assert table["probability"].iloc[0] > 0.5


def test_the_verbs_take_its_name(elsewhere, capsys, monkeypatch):
    served = []
    monkeypatch.setattr("glczoo.prediction.app.serve", lambda runs, *_, **__: served.append(runs))
    monkeypatch.setenv("GLCZOO_DATA", str(elsewhere))  # the user's own data are somewhere else
    Path("points.csv").write_text("lon,lat\n5.4,46.6\n0,0\n", "utf-8")
    main(["predict", "sample", "--points", "points.csv", "--out", "species.csv"])
    main("map sample --bbox 5.3 46.5 5.4 46.6 --resolution 0.02 --out maps".split())
    main(["verify", "sample"])
    main(["app", "sample"])
    main(["region", "check", "sample", "--out", "check.png"])
    with open("species.csv", encoding="utf-8") as file:
        assert {row["id"] for row in csv.DictReader(file)} == {"0"}
    assert list(Path("maps").glob("*.png")) and served == [["sample"]]
    assert f"{MODEL}: whole" in capsys.readouterr().out


def test_what_is_here_under_that_name_wins_if_it_is_a_run_or_a_region(elsewhere):
    Path("sample").mkdir()
    assert Run.find("sample").folder == MODEL and Region.load("sample").root_path == REGION
    Path("sample/recipe.yaml").write_text("name: started", "utf-8")
    Path("sample/region.yaml").write_text("name: mine", "utf-8")
    with pytest.raises(GlczooError, match="sample is no finished run"):
        Run.find("sample")
    with pytest.raises(GlczooError, match=r"sample/region.yaml"):
        Region.load("sample")


def test_its_recipes_train_in_any_folder(elsewhere):
    words = ["epochs=1", "data.pa_fraction=0.05", "model_args={channels: [8, 8, 8, 8], stem_width: 8}"]
    run = Run(train(read_recipe("sample/step1", words)))
    assert run.region.name == "sample" and run.folder == Path("runs/sample/test_fusresnet_glc23/step1")


def test_it_is_fine_tuned_from(elsewhere):
    words = ["init=sample", "model=test_fusresnet_glc23", "region=sample", "finetune.frozen=true"]
    before = load_file(MODEL / "model.safetensors")
    run = train(read_recipe("finetune", [*words, "epochs=1", "data.pa_fraction=0.05"]))
    after = load_file(run / "model.safetensors")
    same = [name for name in before if name in after and torch.equal(before[name], after[name])]
    assert {name for name in before if "branches" in name} <= set(same)


def test_it_takes_less_than_four_megabytes_of_a_wheel():
    files = [path for part in (MODEL, REGION) for path in part.rglob("*") if path.is_file()]
    packed = sum(len(zlib.compress(path.read_bytes())) for path in files)
    assert packed < 4e6
    assert max(path.stat().st_size for path in files) < 2.5e6


def test_its_region_has_nothing_to_complain_of(tmp_path):
    result = check_region(Region.load("sample"), progress=False)
    assert not result.problems, result.problems


def test_the_map_of_the_truth_says_what_the_world_does():
    with rasterio.open(REGION / "truth/probabilities.tif") as file:
        values, names = file.read() / 255, file.descriptions
        rows, cols = [10, 40], [50, 3]
        lon, lat = (np.array(axis) for axis in file.xy(rows, cols))
    truth = sample_region.true_probabilities(np.stack([lon, lat], axis=1))
    assert names == Run.find("sample").species.names
    np.testing.assert_allclose(values[:, rows, cols].T, truth, atol=0.5 / 255 + 0.01)


def test_an_epithet_tells_where_a_species_grows():
    with open(REGION / "truth/niches.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    wet = [float(row["optimum_moisture"]) for row in rows if row["species"].endswith(" palustris")]
    dark = [float(row["optimum_light"]) for row in rows if row["species"].endswith(" umbrosa")]
    assert wet and min(wet) > 0 and dark and max(dark) < 0
    assert len({row["species"] for row in rows}) == len(rows) == 120


@pytest.fixture
def small(monkeypatch):
    for name, value in {"_SPECIES": 12, "_RECORDS": 200, "_SURVEYS": 120, "_SIZE": 40, "_TRUTH": 5}.items():
        monkeypatch.setattr(sample_region, name, value)


def test_the_same_machine_remakes_the_same_bytes(small, tmp_path):
    short = ["epochs=1", "model_args={channels: [8, 8, 8, 8], stem_width: 8, stem_stride: 2}"]
    first, second = (make_sample(tmp_path / name, short) for name in ("first", "second"))
    names = sorted(
        path.relative_to(first)
        for part in ("region", "model")
        for path in (first / part).rglob("*")
        if path.is_file()
    )
    assert len(names) > 40
    different = [str(name) for name in names if (first / name).read_bytes() != (second / name).read_bytes()]
    assert different == []


def test_what_is_there_is_not_overwritten(tmp_path):
    with pytest.raises(GlczooError, match="it is there already"):
        make_sample(tmp_path)
    with pytest.raises(GlczooError, match="it is there already"):
        sample_region.make_sample_region(tmp_path)


def test_its_card_says_what_it_is_and_loads_what_is_there():
    card = (MODEL / "README.md").read_text("utf-8")
    assert "A model of an invented world, to learn with" in card and "hf-hub:" not in card
    config = json.loads((MODEL / "config.json").read_text("utf-8"))
    assert "invented world" in config["glczoo"]["data"]
    snippet = re.search(r"```python\n(.*?)```", card, re.S)
    assert snippet is not None
    exec(compile(snippet.group(1), "card", "exec"), {})


def test_only_what_is_public_shows():
    shown = [name for name in dir(glczoo) if not name.startswith("_")]
    assert shown == ["load", "models"] and set(shown) == set(glczoo.__all__)
