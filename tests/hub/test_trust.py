"""What a folder or a repository of somebody else may do: hold numbers, and nothing else."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from glczoo import hub_client
from glczoo.cli import main
from glczoo.data.occurrences import SpeciesIndex
from glczoo.data.table_files.writing import as_text
from glczoo.hub.card import _code, markdown_text
from glczoo.hub.publish import push, save, verify
from glczoo.hub_client import DamagedError, HubError, pull
from glczoo.published_files import PUBLISHED_FILES, is_listed, write_sums
from glczoo.runs.run import Run
from glczoo.training.fit_records import RecordsLeaderboard
from glczoo.training.presence_only import Candidate

SCRIPT = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def run(trained_run) -> Path:
    return trained_run("step1", model="test_bioresnet_glc23")


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory) -> Path:
    return save(run, tmp_path_factory.mktemp("saved") / "tiny", repo_id="me/tiny", licence="cc-by-4.0")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


@pytest.fixture
def logged_in(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "write")
    monkeypatch.setattr(hub_client, "_AGAIN", 0.0)
    return hub


# What is sent.


def link_a_recipe(folder: Path, secret: Path) -> None:
    (folder / "recipes/7-note.yaml").symlink_to(secret)


def link_a_listed_file(folder: Path, secret: Path) -> None:
    (folder / "species.csv").unlink()
    (folder / "species.csv").symlink_to(secret)


def link_a_folder(folder: Path, secret: Path) -> None:
    shutil.rmtree(folder / "recipes")
    (folder / "recipes").symlink_to(secret.parent)


def make_a_pipe(folder: Path, secret: Path) -> None:
    os.mkfifo(folder / "recipes/7-note.yaml")


def add_a_recipe(folder: Path, secret: Path) -> None:
    shutil.copy(secret, folder / "recipes/7-note.yaml")


def list_a_file_outside(folder: Path, secret: Path) -> None:
    path = folder / "SHA256SUMS"
    path.write_text(path.read_text() + f"{'0' * 64}  recipes/../../secret/note.yaml\n")


SMUGGLED = {
    link_a_recipe: "7-note.yaml is a link: a published folder holds plain files alone",
    link_a_listed_file: "species.csv is a link",
    link_a_folder: "recipes is a link",
    make_a_pipe: "7-note.yaml is a special file",
    add_a_recipe: r"holds \['recipes/7-note.yaml'\], which SHA256SUMS does not list",
    list_a_file_outside: r"SHA256SUMS lists \['recipes/../../secret/note.yaml'\]: no part of a published",
}


@pytest.mark.parametrize("smuggle", SMUGGLED, ids=lambda smuggle: smuggle.__name__)
def test_a_folder_that_would_publish_a_private_file_is_refused(logged_in, folder, tmp_path, smuggle):
    (tmp_path / "secret").mkdir()
    secret = tmp_path / "secret/note.yaml"
    secret.write_text("password: 1234\n")
    smuggle(folder, secret)
    for call in (lambda: push(folder, "me/tiny"), lambda: verify(folder)):
        with pytest.raises(DamagedError, match=SMUGGLED[smuggle]):
            call()
    assert "me/tiny" not in logged_in.store.repos


def test_hidden_files_are_neither_sent_nor_an_error(logged_in, folder):
    (folder / ".notes").write_text("mine")
    push(folder, "me/tiny")
    assert ".notes" not in logged_in.files("me/tiny")


@pytest.mark.parametrize(
    "name",
    ["recipes/../x.yaml", "/recipes/x.yaml", "recipes/a/b.yaml", "recipes//x.yaml", "../config.json", ""],
)
def test_names_that_are_no_part_of_a_published_model(name):
    assert not is_listed(name)


# What is read: every file of the list, by somebody who also mends the checksums.


def edit(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edited(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if name.endswith("json") else yaml.safe_load(path.read_text())
        change(content)
        path.write_text(json.dumps(content) if name.endswith("json") else yaml.safe_dump(content))

    return edited


def vast_golden(folder: Path) -> None:
    shape = load_file(folder / "golden.safetensors")["x"].shape
    tensors = {"x": torch.zeros(500, *shape[1:]), "logits": torch.zeros(500, 24)}
    save_file(tensors, folder / "golden.safetensors")


def endless(folder: Path) -> None:
    arguments = {"branches": {"bioclim": 19}, "layers": [10**9, 1, 1, 1]}
    edit("config.json", lambda c: c["model_args"].update(arguments))(folder)


def no_weights(folder: Path) -> None:
    save_file({"fc.weight": torch.zeros(1)}, folder / "model.safetensors")


def other_step(content: dict) -> None:
    content["training"][0]["recipe"] = {"name": "x"}


def rewritten(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


BOARD = RecordsLeaderboard([Candidate(SCRIPT, 1.0, 0.5, 1.0)], 0.5, {}, 1, 1, 1.0).to_json()
ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "model.safetensors": (no_weights, "do not fit the architecture"),
    "golden.safetensors": (vast_golden, "it holds no input of this model and its logits"),
    "config.json": (endless, "cannot be built: it has more than"),
    "metrics.json": (edit("metrics.json", other_step), "training step cannot be read"),
    "leaderboard.json": (rewritten("leaderboard.json", json.dumps(BOARD)), "script.* is no name"),
    "species.csv": (rewritten("species.csv", "class;speciesId\n0;1\n"), "vocabulary cannot be read"),
    "region.yaml": (
        edit("region.yaml", lambda c: c["modalities"][0].update(folder="/etc")),
        "inside of the data folder only",
    ),
    "recipe.yaml": (edit("recipe.yaml", lambda c: c.update(runs=3)), "runs"),
    "recipes/*.yaml": (rewritten("recipes/1-step1.yaml", "&a [*a"), ""),
    "README.md": (rewritten("README.md", SCRIPT), ""),
    "SHA256SUMS": (rewritten("SHA256SUMS", "no sums"), "SHA256SUMS is damaged"),
}


def test_every_file_of_the_list_is_attacked():
    assert ATTACKS.keys() == PUBLISHED_FILES.keys()


@pytest.mark.parametrize("name", PUBLISHED_FILES)
def test_a_changed_file_is_refused_or_does_nothing(folder, world, name, monkeypatch):
    change, message = ATTACKS[name]
    change(folder)
    if name != "SHA256SUMS":
        write_sums(folder)
    monkeypatch.setenv("GLCZOO_DATA", str(world))

    def use() -> None:
        verify(folder)
        run = Run.find(folder)
        assert run.region.name == "virtual" and run.recipe.name == "step1"
        assert RecordsLeaderboard.load(folder) is None
        assert [step.recipe.name for step in run.lineage] == ["step1"] and run.before is None

    if not message:
        use()
        return
    with pytest.raises(ValueError, match=message):
        use()


@pytest.mark.parametrize("init", ["hf-hub:evil/model", "/etc", "../other"])
def test_what_a_published_recipe_starts_from_is_not_looked_for(folder, hub, init):
    shutil.rmtree(folder / "recipes")
    edit("recipe.yaml", lambda c: c.update(init=init))(folder)
    write_sums(folder)
    run = Run.find(folder)
    assert run.before is None and len(run.lineage) == 1 and hub.log == []


def test_a_published_folder_without_region_does_not_open_the_recipes(folder):
    (folder / "region.yaml").unlink()
    write_sums(folder)
    with pytest.raises(DamagedError, match="holds no region.yaml"):
        _ = Run.find(folder).region


# Text stays text.


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (SCRIPT, "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("[here](http://x) ![y](z)", r"\[here\](http://x) \!\[y\](z)"),
        ("*bold* _it_ a_b `code` | cell", r"\*bold\* \_it\_ a_b \`code\` \| cell"),
        ("# title\n---\n- item", r"\# title --- - item"),
        ("0.1 kg m-2, Σ (2020)", "0.1 kg m-2, Σ (2020)"),
    ],
)
def test_markdown_of_names_is_escaped(text, shown):
    assert markdown_text(text) == shown


def test_a_name_in_backticks_stays_there():
    assert _code("a`b|c\nd") == "`a'b/c d`"


def test_a_card_holds_no_html_of_names_and_descriptions(run, world, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "step1"))
    region = Path(shutil.copytree(world, tmp_path / "region", symlinks=True))
    evil = f"{SCRIPT}\n---\nevil: true\n# Title [x](y)"
    config = json.loads((copy / "config.json").read_text())
    config["glczoo"].update(data=evil, data_licence=evil)
    config["glczoo"]["bands"][0].update(unit=f"|{SCRIPT}", source=evil)
    (copy / "config.json").write_text(json.dumps(config))
    recipe = (copy / "recipe.yaml").read_text().replace(str(world), str(region))
    (copy / "recipe.yaml").write_text(recipe)
    text = (save(copy, tmp_path / "saved", licence=evil) / "README.md").read_text()
    card = ModelCard(text)
    assert "<script" not in text and "\n# Title" not in card.text and "[x](y)" not in card.text
    assert "evil" not in card.data.to_dict() and card.data.library_name == "timm"


@pytest.mark.parametrize("cell", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "  =1"])
def test_a_formula_in_a_spreadsheet_is_text(cell):
    assert as_text(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["-3", "+4.5e-3", "Rosa canina", "a=b", "", "12"])
def test_what_is_no_formula_stays(cell):
    assert as_text(cell) == cell


def test_a_predicted_table_computes_nothing(run, world, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    ids = SpeciesIndex.load(copy / "species.csv").ids
    SpeciesIndex(ids, tuple(f'=HYPERLINK("{i}")' for i in ids)).save(copy / "species.csv")
    (tmp_path / "points.csv").write_text("lon,lat\n5.2,46.8\n")
    main(["predict", str(copy), "--points", str(tmp_path / "points.csv"), "--out", str(tmp_path / "s.csv")])
    with open(tmp_path / "s.csv") as file:
        assert all(row["species"].startswith("'=HYPERLINK(") for row in csv.DictReader(file))


# A Hub that fails.


def test_a_damaged_download_is_deleted_and_fetched_again(logged_in, saved):
    push(saved, "me/tiny")
    blob = (pull("me/tiny") / "model.safetensors").resolve()
    blob.write_bytes(b"damaged" + blob.read_bytes()[7:])
    logged_in.log.clear()
    assert verify("me/tiny").difference == 0
    assert any("model.safetensors" in request["path"] for request in logged_in.log)


def test_what_is_damaged_on_the_hub_itself_is_fetched_twice_and_refused(logged_in, saved):
    push(saved, "me/tiny")
    blob = Path(logged_in.store.blob_path(logged_in.files("me/tiny")["species.csv"]))
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + b"7")
    try:
        with pytest.raises(DamagedError, match="downloaded twice: what lies in me/tiny is not what its"):
            pull("me/tiny")
    finally:
        blob.write_bytes(whole)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
@pytest.mark.parametrize("path", ["/api/models/me/tiny", "/resolve/.*model.safetensors"])
def test_a_single_failure_of_a_download_is_survived(logged_in, saved, path, status):
    push(saved, "me/tiny")
    logged_in.fault("GET" if "api" in path else "HEAD", path, status=status)
    assert pull("me/tiny").is_dir()


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/repos/create"), ("GET", "/api/models/me/tiny$"), ("GET", "/refs"), ("POST", "/tag/")],
)
def test_a_single_failure_of_a_push_is_survived(logged_in, saved, method, path):
    logged_in.fault(method, path, status=502)
    push(saved, "me/tiny", tag="v1")
    assert pull("me/tiny@v1").is_dir()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "refused with 403: the token is missing, wrong, or may not do this"),
        (429, "answered 429: too many requests from here"),
        (500, "answered 500: it has a fault of its own"),
    ],
)
def test_what_the_hub_answered_is_told_and_not_that_it_cannot_be_reached(logged_in, saved, status, words):
    push(saved, "me/tiny")
    logged_in.fault("GET", "/api/models/me/tiny", status=status, times=9)
    with pytest.raises(HubError, match=words) as caught:
        pull("me/tiny")
    assert "cannot be reached" not in str(caught.value)


def test_a_tag_that_fails_does_not_say_that_nothing_was_pushed(logged_in, saved):
    logged_in.fault("POST", "/tag/", status=403)
    with pytest.raises(
        HubError, match="The commit stands at .*/me/tiny/commit/.* only the tag is missing"
    ) as caught:
        push(saved, "me/tiny", tag="v1")
    assert "branch is as it was" not in str(caught.value) and pull("me/tiny").is_dir()
