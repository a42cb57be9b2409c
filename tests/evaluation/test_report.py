"""The report is one whole page, its numbers are evaluate's, and of bands it says what a model does."""

import base64
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn

from glczoo.cli import main
from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.data.patch_source import PatchSource
from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.data.splits import block_bounds, spatial_blocks
from glczoo.decoding import Decoding
from glczoo.evaluation.evaluate import evaluate
from glczoo.evaluation.explain import errors_by_block, permutation_importance, response_curves
from glczoo.evaluation.report import report
from glczoo.hub.publish import push, save
from glczoo.metrics import sample_f1
from glczoo.recipe import read_recipe, read_run_recipe
from glczoo.runs.run import Run
from glczoo.runs.trained import TrainedModel

RECIPES = Path(__file__).parents[2] / "recipes"
SECTIONS = [
    "results", "paper", "training", "probabilities", "species", "map", "importance", "responses", "made",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(trained_run):
    """The three steps of a small model."""
    model = dict(model="test_resnet", modalities=["soil", "footprint"], epochs=2)
    last = trained_run("step1", "step2", "step3", **model)
    return [last.parent / f"step{number}" for number in (1, 2, 3)]


@pytest.fixture
def no_pictures(monkeypatch):
    """Most of a small page's time, and no matter of its text."""
    for module in ("report", "sections"):
        monkeypatch.setattr(f"glczoo.evaluation.{module}.svg_uri", lambda figure: "data:,")


class Page(HTMLParser):
    """What a page would load, its sections, its tables and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.sections: list[str] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.cell = False
        self.html = path.read_text()
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.tags.add(tag)
        self.loads += [told[key] or "" for key in ("src", "href", "srcset", "data") if key in told]
        if tag == "h2":
            self.sections.append(told["id"] or "")
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
            self.cell = True

    def handle_endtag(self, tag: str) -> None:
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.cell:
            self.cells[-1][-1] += data

    def row(self, first: str) -> list[str]:
        return next(row for row in self.cells if row[0] == first)


def test_the_page_holds_everything_and_loads_nothing(runs, tmp_path, capsys):
    out = tmp_path / "report.html"
    main(["report", str(runs[2]), "--out", str(out), "--species", "3, 20", "--sample", "30"])
    printed = capsys.readouterr().out
    page = Page(out)
    assert page.sections == SECTIONS
    assert page.tags.isdisjoint({"script", "link", "iframe", "object", "a", "svg"})
    assert all(src.startswith("data:image/svg+xml;base64,") for src in page.loads)
    assert "url(" not in page.html and "@import" not in page.html and "://" not in page.html
    assert "default-src 'none'" in page.html
    assert len(page.loads) == 5 + 2 + 2  # the pictures, two of importance, a response for each modality
    for src in page.loads:
        picture = base64.b64decode(src.partition(",")[2])
        assert ElementTree.fromstring(picture).tag.endswith("svg")
        assert b'href="http' not in picture

    # The numbers are those of `evaluate`, step by step.
    found = [evaluate([run], part="validation") for run in runs]
    lead = f"{found[2].own.f1:.3f}"
    assert f"F1 {lead} (top 5)" in printed and f"mean F1 of {lead} [" in " ".join(page.text.split())
    for number, each in enumerate(found, 1):
        told = page.row(f"step{number}")
        assert told[1] == ("PO" if number == 2 else "PA") and told[4] == ("1", "1+2", "1+2+3")[number - 1]
        assert told[5].startswith(f"{each.own.f1:.3f}") and told[6] == f"{each.expected.f1:.3f}"
        assert (
            told[7] == f"{each.own.summary['auc']:.3f}" and told[9] == ("0.200", "0.073", "0.254")[number - 1]
        )
    gain = found[0].own.f1 - found[1].own.f1
    claims = [page.row(claim) for claim in ("1 better than 1+2", "1+2+3 better than 1")]
    assert claims[0][1] == "+0.127" and claims[0][2].startswith(f"{gain:+.3f} [")
    assert {claim[3] for claim in claims} <= {"yes", "no", "cannot be told apart"}
    assert "glczoo report" in page.text and "--species '3, 20'" in page.text
    assert "96 train, 24 validate, 0 test" in page.text


def test_the_recipes_on_the_page_make_the_run_again(runs, world, tmp_path, no_pictures):
    facts = report(runs[2], tmp_path / "r.html", sample=0)
    for run, step in zip(runs, facts.made.steps, strict=True):
        (tmp_path / step.file).write_text(step.recipe)
        assert step.command == f"python -m glczoo.train {step.file} region=REGION/region.yaml"
        again = read_recipe(tmp_path / step.file, [f"region={world}/region.yaml"])
        assert again.model_copy(update={"region": "", "runs": ""}) == read_run_recipe(run)[0].model_copy(
            update={"region": "", "runs": ""}
        )
    assert Page(tmp_path / "r.html").sections == SECTIONS
    assert "Left out" in (tmp_path / "r.html").read_text() and facts.importance is None


def test_a_published_model_has_no_curves_and_a_lonely_run_no_history(
    runs, world, tmp_path, hub, monkeypatch, no_pictures
):
    monkeypatch.setenv("HF_TOKEN", "write")
    push(save(runs[0], tmp_path / "saved"), "me/tiny")
    with pytest.raises(FileNotFoundError, match="not found under .*; GLCZOO_DATA names the folder"):
        report("hf-hub:me/tiny", tmp_path / "hub.html", sample=0)
    assert not list(tmp_path.glob("*.html*"))
    monkeypatch.setenv("GLCZOO_DATA", str(world))
    facts = report("hf-hub:me/tiny", tmp_path / "hub.html", sample=0)
    assert facts.pictures["training"] is None
    page = Page(tmp_path / "hub.html")
    assert "there are no curves to draw" in page.text and "hf-hub:me/tiny" in page.text
    own = evaluate([runs[0]], part="validation").own.f1
    assert page.row("step1")[5] == f"{own:.3f} (top 5)"

    lonely = Path(shutil.copytree(runs[2], tmp_path / "elsewhere" / "step3"))
    facts = report(lonely, tmp_path / "lonely.html", sample=0)
    assert "elsewhere/step1" not in facts.missing and "elsewhere/step2, which is not" in facts.missing
    assert facts.missing in Page(tmp_path / "lonely.html").text


def test_the_table_of_the_study_stands_beside(runs, tmp_path, no_pictures):
    run = tmp_path / "study" / "seed0" / "virtual" / "model" / "s1"
    shutil.copytree(runs[0], run)
    numbers = dict.fromkeys(("f1", "f1_expected", "auc", "size", "f1_sd", "f1_expected_sd", "auc_sd"), 0.125)
    table = {
        "name": "mine",
        "part": "test",
        "surveys": 7,
        "seeds": [0, 1],
        "rows": [{"row": "1+2", **numbers}],
    }
    (tmp_path / "study" / "table.json").write_text(json.dumps(table))
    report(run, tmp_path / "r.html", sample=0)
    row = Page(tmp_path / "r.html").row("1+2")
    assert row[1] == "0.125 ± 0.125" and row[-1] == "0.073"
    (tmp_path / "study" / "seed0").rename(tmp_path / "study" / "other")  # a table of somebody else
    report(tmp_path / "study/other/virtual/model/s1", tmp_path / "r.html", sample=0)
    assert "The study" not in (tmp_path / "r.html").read_text()


def test_names_are_text_and_not_html(runs, tmp_path, no_pictures):
    run = Path(shutil.copytree(runs[0], tmp_path / "run"))
    species = SpeciesIndex.load(run / "species.csv")
    names = tuple(f"<script>alert({i})</script> & co" for i in species.ids)
    SpeciesIndex(species.ids, names).save(run / "species.csv")
    report(run, tmp_path / "r.html", sample=0)
    page = Page(tmp_path / "r.html")
    assert "script" not in page.tags and "<script>alert(" in page.text


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (dict(run="nowhere"), "there is no folder nowhere"),
        (
            dict(species=["33"]),
            "--species 33: the model predicts no such speciesId or name; of its 24 species",
        ),
        (dict(species=["Rosa"]), "--species Rosa: .* the first: 1, 2, 3"),
        (dict(out="report.pdf"), "ends in .html, given .*report.pdf"),
        (dict(out="no/such/folder/report.html"), "the folder .*no/such/folder does not exist"),
        (dict(out="taken.html"), "taken.html cannot be written: a folder has that name"),
        (dict(part="test"), "no test surveys in the split"),
    ],
)
def test_bad_input_is_told_and_nothing_is_written(runs, tmp_path, told, message):
    (tmp_path / "taken.html").mkdir()
    arguments = {"run": runs[0], "out": "report.html"} | told
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        report(arguments.pop("run"), tmp_path / arguments.pop("out"), **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.html"]


def test_near_names_are_listed():
    species = SpeciesIndex(np.array([4, 7, 9]), ("Abies alba", "Acer campestre", "Acer platanoides"))
    assert species.find(["9", "abies ALBA", "7", "9"]).tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match="of its 3 species, near: 7 Acer campestre"):
        species.find(["Acer campester"])


# What is measured, against a model whose answer is known.


class OneBand(nn.Module):
    """Logits (w z, -w z) of the mean z of one channel over the patch."""

    def __init__(self, channel: int, weight: float) -> None:
        super().__init__()
        self.channel, self.weight = channel, weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.weight * x[:, self.channel].mean((1, 2)).double()
        return torch.stack([z, -z], 1).float()


@pytest.fixture
def known(runs, world):
    """The model, its region, surveys that hold species 0 where it says so and 1 elsewhere, z of each."""
    region = Region.load(world)
    recipe, _ = read_run_recipe(runs[0])
    points = Run(runs[0]).samples("train")
    source = PatchSource(region, None, 16)
    like = source.statistics(points)
    channel, weight = 3, 1.5
    trained = TrainedModel(
        model=OneBand(channel, weight), species=SpeciesIndex(np.array([1, 2])), name="known",
        modalities=list(source.modalities), bands=source.bands, patch_size=16, mean=like.mean, std=like.std,
        activation="sigmoid", decoding=Decoding("top_k", 1), tuned={},
    )  # fmt: skip
    x = PatchBuilder(source, points, like.mean, like.std)(torch.arange(len(points)))
    z = x[:, channel].mean((1, 2))
    surveys = Samples(
        points.lon, points.lat, points.patch_id, points.ids, np.arange(len(points) + 1),
        (z <= 0).long().numpy(),
    )  # fmt: skip
    return trained, region, surveys, x, z, channel, weight


def test_response_curves_of_a_model_of_one_band(known):
    trained, region, surveys, x, _, channel, weight = known
    found = response_curves(trained, region, surveys, [1, 0], batch_size=50)
    seen = x[:, :, 8, 8].double().numpy() * np.array(trained.std) + np.array(trained.mean)
    np.testing.assert_allclose(found.median, np.median(seen, axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.values[:, 0], np.quantile(seen, 0.01, axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.values[:, -1], np.quantile(seen, 0.99, axis=0), rtol=1e-4)
    z = (found.values[channel] - trained.mean[channel]) / trained.std[channel]
    first = 1 / (1 + np.exp(-weight * z))
    np.testing.assert_allclose(found.answers[channel], np.stack([1 - first, first], 1), atol=1e-5)
    assert np.ptp(found.answers[channel, :, 1]) > 0.2
    others = np.delete(found.answers, channel, axis=0)
    assert (np.ptp(others, axis=(0, 1)) == 0).all()  # the same whatever the others are
    assert found.bands == trained.bands and found.levels == {}


def test_importance_of_a_model_of_one_band(known):
    trained, region, surveys, _, z, channel, _ = known
    number = len(trained.bands)
    groups = [*([i] for i in range(number)), list(range(19)), list(range(19, number))]
    found = permutation_importance(trained, region, surveys, groups, batch_size=32)
    assert found.f1 == 1 and found.lost.shape == (number + 2,)
    read = np.array([channel in group for group in groups])
    assert (found.lost[~read] == 0).all() and (found.low[~read] == 0).all() and (found.high[~read] == 0).all()
    # Slowly: nobody keeps their own, and the answer is that of the partner.
    order = np.random.default_rng(0).permutation(len(surveys))
    partner = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    assert all(i != j for i, j in partner.items())
    answered = torch.stack([z > 0, z <= 0], 1)[[partner[i] for i in range(len(surveys))]]
    lost = 1 - sample_f1(answered, surveys.targets(torch.arange(len(surveys)), 2)).mean()
    assert lost > 0.2
    np.testing.assert_allclose(found.lost[read], float(lost), atol=1e-6)
    assert (found.low[read] < found.lost[read]).all() and (found.lost[read] < found.high[read]).all()
    with pytest.raises(ValueError, match="exchanges bands between surveys; there is 1"):
        permutation_importance(trained, region, surveys.subset(np.arange(1)))


def test_errors_by_block_are_the_means_inside_its_bounds():
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(-180, 180, 300), rng.uniform(-85, 85, 300)
    points = Samples(lon, lat, np.full(300, -1), np.arange(300), np.zeros(301, int), np.zeros(0, int))
    f1 = torch.from_numpy(rng.random(300))
    found = errors_by_block(points, f1, 900.0)
    assert found.number.sum() == 300 and 30 < len(found.f1) < 300
    bounds = block_bounds(points, 900.0)[spatial_blocks(points, 900.0)]
    west, south, east, north = bounds.T
    assert ((lon >= west - 1e-9) & (lon <= east + 1e-9) & (lat >= south - 1e-9) & (lat <= north + 1e-9)).all()
    assert ((east - west) * 111.195 * np.cos(np.radians((south + north) / 2)) < 1.6 * 900).all()
    inside = (lon >= found.bounds[4, 0]) & (lon < found.bounds[4, 2])
    inside &= (lat >= found.bounds[4, 1]) & (lat < found.bounds[4, 3])
    assert found.f1[4] == pytest.approx(float(f1[inside].mean())) and found.number[4] == inside.sum()
