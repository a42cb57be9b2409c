"""Runs and published models as anybody may send them: every file that is read, damaged or made up."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from mutations import (
    changed_bytes,
    changed_json,
    changed_text,
    changed_yaml,
    fuzzed,
    refused_or_read,
    share,
    written,
)

from glczoo.data.shards import Pack
from glczoo.evaluation.study import read_study
from glczoo.fit.leaderboard import Gain, Leaderboard, Line, leaderboard_text
from glczoo.fit.settings import read_settings
from glczoo.hub.metadata import Published
from glczoo.hub.publish import save, verify
from glczoo.models.published import build, read_config
from glczoo.published_files import CARD, SUMS, check_sums, listed_files, write_sums
from glczoo.runs.run import Run
from glczoo.training.fit_records import RecordsLeaderboard
from glczoo.training.presence_only import Candidate

STUDIES = Path(__file__).parents[2] / "recipes/studies"


@pytest.fixture(scope="module")
def run(trained_run) -> Path:
    return trained_run("step1", model="test_bioresnet_glc23")


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory) -> Path:
    return save(run, tmp_path_factory.mktemp("saved") / "tiny", repo_id="me/tiny", licence="cc-by-4.0")


@pytest.fixture(scope="module")
def folder(saved, tmp_path_factory) -> Path:
    """A copy whose files are damaged one at a time."""
    return Path(shutil.copytree(saved, tmp_path_factory.mktemp("fuzzed") / "tiny"))


@pytest.fixture(scope="module")
def own(run, tmp_path_factory) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(run, tmp_path_factory.mktemp("fuzzed") / "step1"))


def text_of(data: st.DataObject, path: Path) -> str:
    """A file of the whole folder, changed."""
    text = path.read_text("utf-8")
    by_values = changed_json(text) if path.suffix == ".json" else changed_yaml(text)
    return data.draw(by_values | changed_text(text))


def damaged(data: st.DataObject, saved: Path, folder: Path, name: str) -> Path:
    """The folder with one file changed, its checksums mended: only the reader itself can notice."""
    if name.endswith(".safetensors"):
        written(folder / name, data.draw(changed_bytes((saved / name).read_bytes())))
    else:
        written(folder / name, text_of(data, saved / name))
    return folder


@pytest.fixture(autouse=True)
def _whole_again(saved, folder, run, own):
    yield
    for whole, copy in ((saved, folder), (run, own)):
        shutil.copytree(whole, copy, dirs_exist_ok=True)


@fuzzed
@given(data=st.data())
def test_fuzzed_configs(data, saved, folder):
    damaged(data, saved, folder, "config.json")

    def model() -> None:
        config = read_config(folder)
        build(folder, config)

    refused_or_read(model)
    refused_or_read(lambda: Run.find(folder).model)


@fuzzed
@given(data=st.data())
def test_fuzzed_weights(data, saved, folder):
    damaged(data, saved, folder, "model.safetensors")
    refused_or_read(lambda: Run.find(folder).model)


@fuzzed
@given(data=st.data())
def test_fuzzed_golden_batches(data, saved, folder):
    damaged(data, saved, folder, "golden.safetensors")
    write_sums(folder)
    refused_or_read(lambda: verify(folder))


@fuzzed
@given(data=st.data())
def test_fuzzed_published_regions(data, saved, folder):
    damaged(data, saved, folder, "region.yaml")
    refused_or_read(lambda: Run.find(folder).region)


@fuzzed
@given(data=st.data())
def test_fuzzed_histories(data, saved, folder):
    damaged(data, saved, folder, "metrics.json")

    def read() -> None:
        run = Run.find(folder)
        Published(run.lineage, {}, []).to_json()

    refused_or_read(read)


@fuzzed
@given(data=st.data())
def test_fuzzed_recipes_of_runs(data, saved, folder, run, own):
    for whole, copy in ((saved, folder), (run, own)):
        damaged(data, whole, copy, "recipe.yaml")

        def read(copy: Path = copy) -> None:
            found = Run.find(copy)
            assert found.recipe and found.processes

        refused_or_read(read)


@fuzzed
@given(data=st.data())
def test_fuzzed_metrics_of_runs(data, run, own):
    text = (run / "metrics.jsonl").read_text("utf-8")
    line = data.draw(st.sampled_from(text.splitlines()))
    new = data.draw(changed_json(line) | changed_text(line))
    written(
        own / "metrics.jsonl", data.draw(st.sampled_from([text.replace(line, new), text[: -len(new)], ""]))
    )
    refused_or_read(lambda: Run.find(own).metrics)
    refused_or_read(lambda: [step.to_json() for step in Run.find(own).lineage])


@fuzzed
@given(data=st.data())
def test_fuzzed_checksums(data, saved, folder):
    written(folder / SUMS, data.draw(changed_text((saved / SUMS).read_text("utf-8"))))
    refused_or_read(lambda: check_sums(folder))
    refused_or_read(lambda: listed_files(folder))


LINE = Line("forest", 0.5, 0.2, 0.7, 0.1, 3.0)
GAIN = Gain("forest", (0.1, 0.0, 0.2), (0.0, 0.0, 0.1))
BOARDS = [
    Leaderboard([LINE], LINE, GAIN, GAIN, 9, 3, 2, "top 5").to_json(),
    RecordsLeaderboard([Candidate("linear", 1.0, 0.5, 1.0)], 0.5, {"3": 0.5}, 1, 1, 1.0).to_json(),
]


@fuzzed
@given(data=st.data())
def test_fuzzed_leaderboards(data, tmp_path):
    text = json.dumps(data.draw(st.sampled_from(BOARDS)))
    written(tmp_path / "leaderboard.json", data.draw(changed_json(text) | changed_text(text)))
    refused_or_read(lambda: leaderboard_text(tmp_path))


PACK = {"format": 2, "colour": True, "whole": True, "shards": {"00": {"size": 3, "patches": 1}}}


@fuzzed
@given(text=changed_json(json.dumps(PACK)) | changed_text(json.dumps(PACK)))
def test_fuzzed_packs(text, tmp_path):
    written(tmp_path / "pack.json", text)
    refused_or_read(lambda: Pack.read(tmp_path))


@fuzzed
@given(data=st.data())
def test_fuzzed_studies(data, tmp_path):
    path = data.draw(st.sampled_from(sorted(STUDIES.glob("[!n]*.yaml"))))
    written(tmp_path / "study.yaml", text_of(data, path))
    refused_or_read(lambda: read_study(tmp_path / "study.yaml"))


@fuzzed
@given(key=st.sampled_from(["folds", "windows", "forest.trees", "data.split", "seed"]), value=st.text())
def test_fuzzed_settings_of_a_fit(key, value, run):
    region = Run.find(run).region
    refused_or_read(lambda: read_settings(region, [f"{key}={value}"]))


@share(0.25)
@given(text=st.text(max_size=60) | st.sampled_from(["---\nevil: 1\n---", "\n---\n", "<script>", "a: b # c"]))
def test_fuzzed_names_stay_names_in_the_front_matter_of_a_card(text, run, own):
    config = json.loads((run / "config.json").read_text("utf-8"))
    config["glczoo"].update(data=text, data_licence=text)
    config["glczoo"]["bands"][0].update(unit=text, source=text)
    written(own / "config.json", json.dumps(config))
    target = own.parent / "card"

    def published() -> None:
        card = ModelCard(save(own, target, licence=text or "x").joinpath(CARD).read_text("utf-8"))
        assert card.data.library_name == "timm" and "evil" not in card.data.to_dict()
        assert "<script" not in card.content

    refused_or_read(published)
    shutil.rmtree(target, ignore_errors=True)
