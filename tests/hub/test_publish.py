"""Publishing and downloading, with the real client against a stand-in of the Hub, and what is not trusted."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from glczoo.cli import main
from glczoo.data.occurrences import SpeciesIndex
from glczoo.evaluation.evaluate import evaluate
from glczoo.hub.card import render, zoo_cards
from glczoo.hub.publish import push, save, verify, write_golden
from glczoo.hub_client import DamagedError, HubError, pull
from glczoo.published_files import write_sums
from glczoo.recipe import read_recipe
from glczoo.runs.combine import combine
from glczoo.runs.export import export_model
from glczoo.runs.run import Run, load_model
from glczoo.train import train

RECIPES = Path(__file__).parents[2] / "recipes"
POINTS = "Presence_Absence_surveys/Presences_Absences_train.csv"
PUBLISHED = {
    "model.safetensors", "golden.safetensors", "config.json", "metrics.json", "species.csv", "region.yaml",
    "recipe.yaml", "recipes/1-step1.yaml", "recipes/2-step3.yaml", "README.md", "SHA256SUMS",
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(trained_run) -> Path:
    """Two steps of two tiny models; the second step is what is published."""
    for model in ("test_fusresnet_glc23", "test_bioresnet_glc23"):
        run = trained_run("step1", "step3", model=model, patch_size=32, top_k="auto")
    return run.parents[1]


@pytest.fixture(scope="module")
def run(runs) -> Path:
    return runs / "test_fusresnet_glc23/step3"


@pytest.fixture(scope="module")
def saved(run, tmp_path_factory) -> Path:
    return save(run, tmp_path_factory.mktemp("saved") / "tiny", repo_id="me/tiny", licence="cc-by-4.0")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


@pytest.fixture
def logged_in(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "write")
    return hub


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def requests(hub) -> list[str]:
    """What the client asked since the last call: method, path without the repository, status."""
    told = [f"{r['method']} {r['path'].split('?')[0]} {r['status']}" for r in hub.log]
    hub.log.clear()
    return told


def same_weights(model: torch.nn.Module, folder: Path) -> bool:
    return all(
        torch.equal(model.state_dict()[k], v) for k, v in load_file(folder / "model.safetensors").items()
    )


# What a published folder holds.


def test_a_saved_folder_holds_everything_and_no_folder_of_this_machine(saved, run, world):
    assert names(saved) == PUBLISHED
    assert json.loads((saved / "config.json").read_text())["label_names"][0].isdigit()
    metrics = json.loads((saved / "metrics.json").read_text())
    assert [step["recipe"]["name"] for step in metrics["training"]] == ["step1", "step3"]
    here = {str(world), str(run.parent.parent)}
    text = "".join((saved / name).read_text() for name in names(saved) if not name.endswith(".safetensors"))
    assert not any(place in text for place in here)
    recipe = read_recipe(saved / "recipes/2-step3.yaml")  # resolves: the region lies in the folder above
    assert Path(recipe.region).resolve() == saved / "region.yaml" and recipe.epochs == 1


def test_results_are_those_of_evaluate(saved, run):
    (part,) = json.loads((saved / "metrics.json").read_text())["results"]
    rows = evaluate([run], part="validation").rows
    assert [rule["f1"] for rule in part["rules"]] == pytest.approx([row.f1 for row in rows])
    assert (
        part["auc"] == pytest.approx(rows[0].summary["auc"])
        and part["auc_low"] < part["auc"] < part["auc_high"]
    )
    assert sum(source["surveys"] for source in part["sources"]) == part["surveys"] == 24
    assert part["rules"][0]["f1_low"] < part["rules"][0]["f1"] < part["rules"][0]["f1_high"]


def test_save_and_verify_refuse_what_is_there_or_missing(saved, run, tmp_path):
    with pytest.raises(FileExistsError, match="is there already"):
        save(run, saved)
    lonely = Path(shutil.copytree(run, tmp_path / "elsewhere/step3"))
    with pytest.raises(FileNotFoundError, match="elsewhere/step1, which is not there any more"):
        save(lonely, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match="no finished run"):
        save(tmp_path, tmp_path / "out")


def test_a_run_without_held_out_surveys_has_no_card(run, world, tmp_path):
    recipe = read_recipe(
        RECIPES / "step1.yaml",
        [f"region={world}", f"runs={tmp_path}", "model=test_bioresnet_glc23", "init=random", "epochs=1",
         "batch_size=64", "patch_size=32", "keep=last", "data.validation={pa: 0}"],
    )  # fmt: skip
    with pytest.raises(ValueError, match="no held-out surveys"):
        save(train(recipe), tmp_path / "out")
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*"))


# Trust.


def edit(folder: Path, change) -> None:
    """Change config.json as somebody would who also mends the checksums."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    write_sums(folder)


def weights(folder: Path, change) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")
    write_sums(folder)


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])


def flip(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def swap_bands(config) -> None:
    bands = config["glczoo"]["bands"]
    bands[0], bands[1] = bands[1], bands[0]


def long_vocabulary(folder: Path) -> None:
    path = folder / "species.csv"
    path.write_text(path.read_text() + "24;999999;one more\n")
    edit(folder, lambda config: config["label_names"].append("999999"))


DAMAGE = {
    "cut short": (cut, "model.safetensors is not the published file"),
    "one bit": (flip, "model.safetensors is not the published file"),
    "missing": (lambda f: (f / "species.csv").unlink(), "species.csv is missing"),
    "no sums": (lambda f: (f / "SHA256SUMS").unlink(), "was not published with glczoo"),
    "a pickle": (lambda f: (f / "pytorch_model.bin").write_bytes(b"x"), r"holds \['pytorch_model.bin'\]"),
    "code": (lambda f: (f / "model.py").write_text("print(1)"), r"holds \['model.py'\]"),
    "cut short, sums mended": (lambda f: (cut(f), write_sums(f)), "the weights cannot be loaded"),
    "bands swapped": (lambda f: edit(f, swap_bands), "the bands of config.json are not those"),
    "a vocabulary too long": (long_vocabulary, "25 label_names for 24 classes"),
    "a vocabulary of others": (
        lambda f: edit(f, lambda c: c["label_names"].reverse()), "species.csv and the label_names"
    ),
    "half precision": (
        lambda f: weights(f, lambda s: s.update({"fc.weight": s["fc.weight"].half()})),
        r"fc.weight is torch.float16\[24, \d+\], not torch.float32",
    ),
    "another shape": (
        lambda f: weights(f, lambda s: s.update({"fc.weight": s["fc.weight"][:-1].clone()})), "fc.weight is"
    ),
    "a tensor too few": (lambda f: weights(f, lambda s: s.pop("fc.bias")), "fc.bias is missing"),
    "a tensor too many": (lambda f: weights(f, lambda s: s.update(x=torch.ones(1))), "x is unknown"),
    "other weights": (lambda f: weights(f, lambda s: s["fc.bias"].add_(1)), "the golden logits differ by 1"),
    "another file's format": (
        lambda f: ((f / "model.safetensors").write_bytes(b"\x80\x04pickle" * 50), write_sums(f)),
        "the weights cannot be loaded",
    ),
    "no JSON": (lambda f: ((f / "config.json").write_text("{"), write_sums(f)), "config.json is damaged"),
    "no key": (lambda f: edit(f, lambda c: c.pop("pretrained_cfg")), "pretrained_cfg: it is missing"),
    "an unknown architecture": (
        lambda f: edit(f, lambda c: c.update(architecture="hf-hub:evil/model")), "'hf-hub:evil/model' is reg"
    ),
    "an argument that loads": (
        lambda f: edit(f, lambda c: c.update(model_args={"checkpoint_path": "/tmp/x.pth"})),
        r"\['checkpoint_path'\] is refused",
    ),
    "a cfg that loads": (
        lambda f: edit(f, lambda c: c["pretrained_cfg"].update(url="http://127.0.0.1/x.pth")),
        r"pretrained_cfg.\['url'\] is refused",
    ),
    "custom code": (
        lambda f: edit(f, lambda c: c["pretrained_cfg"].update(custom_load=True)), r"\['custom_load'\] is ref"
    ),
    "a member that loads": (
        lambda f: edit(f, lambda c: c.update(architecture="ensemble_glc23", model_args={"members": [
            ["test_fusresnet_glc23", {"pretrained": True}, [0, 33]]]})), r"\['pretrained'\] is refused",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_what_is_not_as_it_was_saved_is_named(damage, folder):
    change, message = DAMAGE[damage]
    change(folder)
    with pytest.raises(DamagedError, match=message):
        verify(folder)


# Push, pull, pretrained names.


def test_push_then_load_cold_warm_and_by_commit(logged_in, saved, run, monkeypatch):
    address = push(saved, "me/tiny")
    sent = requests(logged_in)
    assert address.startswith(f"{logged_in.url}/me/tiny/commit/")
    assert set(logged_in.files("me/tiny")) == PUBLISHED | {".gitattributes"}
    assert sum("/commit/" in request for request in sent) == 1 and "/commit/" in sent[-1]

    monkeypatch.delenv("HF_TOKEN")
    cold = timm.create_model("hf-hub:me/tiny", pretrained=True)
    assert same_weights(cold, run) and len(cold.pretrained_cfg["label_names"]) == 24
    assert [request.split("/")[0] for request in requests(logged_in)] == ["HEAD ", "GET ", "HEAD ", "GET "]
    assert not logged_in.leaks

    folder = pull("me/tiny")
    assert names(folder) == PUBLISHED and requests(logged_in)
    pull("hf-hub:me/tiny")
    assert requests(logged_in) == ["GET /api/models/me/tiny/revision/main 200"]
    pull(f"me/tiny@{folder.name}")  # a commit cannot change: nothing to ask
    assert requests(logged_in) == []
    found = verify("me/tiny")
    assert found.species == 24 and found.bands[:2] == ["bio1", "bio2"] and found.difference == 0
    assert load_model("hf-hub:me/tiny").name == "me/tiny"


def test_plain_names_come_from_an_organisation(logged_in, saved, runs, run, monkeypatch, tmp_path):
    monkeypatch.setenv("GLCZOO_HUB_ORG", "glczoo")  # else the packaged sample is meant by this name
    push(saved, "glczoo/test_fusresnet_glc23")
    name = "test_fusresnet_glc23"
    model = timm.create_model(name, pretrained=True)
    assert same_weights(model, run)
    told = json.loads((run / "config.json").read_text())["pretrained_cfg"]
    assert list(model.pretrained_cfg["mean"]) == told["mean"] and model.num_classes == 24
    tuned = timm.create_model(name, pretrained=True, num_classes=4)
    assert tuned.fc.weight.shape[0] == 4
    assert torch.equal(tuned.branches.soil.conv1[0].weight, model.branches.soil.conv1[0].weight)
    with pytest.raises(RuntimeError, match="The checkpoint does not fit test_fusresnet_glc23"):
        timm.create_model(name, pretrained=True, branches={"bioclim": 19})

    monkeypatch.setenv("GLCZOO_HUB_ORG", "me")
    both = combine([run, runs / "test_bioresnet_glc23/step3"], tmp_path / "both")
    push(save(both, tmp_path / "published"), "ensemble_glc23", tag="v1")
    ensemble = timm.create_model("ensemble_glc23", pretrained=True)  # other members than the zoo's
    assert len(ensemble.members) == 2 and same_weights(ensemble, both)
    overlay = {"hf_hub_id": "me/ensemble_glc23@v1", "mean": [1.0] * 33}
    other = timm.create_model("ensemble_glc23", pretrained=True, pretrained_cfg_overlay=overlay)
    assert other.pretrained_cfg["mean"][0] == 1.0
    with pytest.raises(DamagedError, match="me/ensemble_glc23 holds a ensemble_glc23, not a test_bioresnet"):
        timm.create_model(
            "test_bioresnet_glc23", pretrained=True,
            pretrained_cfg_overlay={"hf_hub_id": "me/ensemble_glc23"},
        )  # fmt: skip


WAYS_OUT = ("train it with the recipes", "GLCZOO_HUB_ORG=ORG", "a folder on this machine")


def refused(call, *told: str) -> None:
    """A HubError that names everything `told`, and no error of the client behind it."""
    with pytest.raises(HubError) as caught:
        call()
    assert all(words in str(caught.value) for words in told), str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_what_cannot_be_had_says_what_was_tried_and_the_ways_out(hub, saved, monkeypatch, tmp_path):
    monkeypatch.setenv("GLCZOO_HUB_ORG", "glczoo")  # else the packaged sample is meant by this name

    def create():
        timm.create_model("test_fusresnet_glc23", pretrained=True)

    refused(create, "test_fusresnet_glc23: tried glczoo/test_fusresnet_glc23, revision main", hub.url,
            "no such repository, or it is private", *WAYS_OUT)  # fmt: skip
    refused(lambda: pull("a b/c"), "no name of a repository")
    refused(lambda: push(saved, "me/tiny"), "refused with 401", "branch is as it was", "hf auth login")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    refused(lambda: pull("me/tiny"), "refused with 401")
    monkeypatch.setenv("HF_TOKEN", "write")
    push(saved, "glczoo/test_fusresnet_glc23")
    refused(lambda: pull("test_fusresnet_glc23@v9"), "revision v9", "no such branch, tag or commit")

    create()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.log.clear()
    create()  # from the cache
    assert hub.log == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    refused(create, "HF_HUB_OFFLINE is set", *WAYS_OUT)


def test_without_a_network_the_cache_serves_and_a_miss_is_told(logged_in, saved, monkeypatch, tmp_path):
    push(saved, "me/tiny")
    before = pull("me/tiny")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    assert pull("me/tiny") == before
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    refused(lambda: pull("me/tiny"), "http://127.0.0.1:9", "the Hub cannot be reached", *WAYS_OUT)


def test_private_repositories_and_tokens(logged_in, saved, monkeypatch, tmp_path):
    push(saved, "me/secret", private=True)
    assert pull("me/secret").is_dir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "somebody-elses"))
    monkeypatch.delenv("HF_TOKEN")
    refused(lambda: pull("me/secret"), "private")
    monkeypatch.setenv("HF_TOKEN", "stranger")
    refused(lambda: pull("me/secret"), "private")
    refused(lambda: push(saved, "me/secret"), "pushing to me/secret", "branch is as it was")
    monkeypatch.setenv("HF_TOKEN", "read")
    before = logged_in.files("me/secret")
    refused(lambda: push(saved, "me/secret"), "refused with 403")
    assert logged_in.files("me/secret") == before and pull("me/secret").is_dir()


@pytest.mark.parametrize("request_", [("PUT", "/lfs/put/"), ("POST", "/preupload/"), ("POST", "/commit/")])
def test_a_push_that_fails_half_way_leaves_the_branch_and_can_be_repeated(logged_in, saved, folder, request_):
    push(saved, "me/tiny")
    before = logged_in.files("me/tiny")
    weights(folder, lambda state: state["fc.bias"].add_(1e-6))
    logged_in.fault(*request_, status=403)
    refused(lambda: push(folder, "me/tiny"), "refused with 403", "branch is as it was")
    assert logged_in.files("me/tiny") == before
    push(folder, "me/tiny")
    after = logged_in.files("me/tiny")
    assert after["model.safetensors"] != before["model.safetensors"] and after.keys() == before.keys()


def test_a_hiccup_of_the_server_is_survived(logged_in, folder):
    weights(folder, lambda state: state["fc.bias"].add_(2e-6))  # or the weights are there already
    logged_in.fault("PUT", "/lfs/put/", status=500)
    push(folder, "me/tiny")
    assert any("/lfs/put/" in r and r.endswith("500") for r in requests(logged_in))
    assert set(logged_in.files("me/tiny")) == PUBLISHED | {".gitattributes"}


def test_pushing_the_same_again_makes_no_commit_and_removes_nothing_of_others(logged_in, saved, folder):
    push(folder, "me/tiny")
    repo = logged_in.store.repos["me/tiny"]
    head = repo["heads"]["main"]
    push(folder, "me/tiny")
    assert repo["heads"]["main"] == head
    files = repo["commits"][head]["files"]
    files["notes.txt"] = files["recipes/9-old.yaml"] = files["recipe.yaml"]
    edit(folder, lambda config: config["glczoo"].update(data="more"))
    push(folder, "me/tiny")
    now = set(logged_in.files("me/tiny"))
    assert "notes.txt" in now and "recipes/9-old.yaml" not in now


def test_somebody_elses_commit_is_not_overwritten(logged_in, saved):
    push(saved, "me/tiny")
    logged_in.fault("POST", "/commit/", status=412)
    (saved / "README.md").write_text((saved / "README.md").read_text() + "\n")
    refused(lambda: push(saved, "me/tiny"), "somebody else pushed meanwhile")


def test_branches_tags_and_pull_requests(logged_in, saved, folder):
    push(saved, "me/tiny", tag="v1")
    edit(folder, lambda config: config["glczoo"].update(data="second"))
    push(folder, "me/tiny", revision="dev")
    config = {at: json.loads((pull(f"me/tiny@{at}") / "config.json").read_text()) for at in ("v1", "dev")}
    assert config["v1"]["glczoo"]["data"] != config["dev"]["glczoo"]["data"] == "second"
    assert (pull("me/tiny") / "config.json").read_bytes() == (saved / "config.json").read_bytes()
    before = dict(logged_in.store.repos["me/tiny"]["heads"])
    refused(lambda: push(folder, "me/tiny", tag="v1"), "has a tag v1 already", "Nothing was pushed")
    assert logged_in.store.repos["me/tiny"]["heads"] == before
    address = push(folder, "me/tiny", create_pr=True)
    assert address.endswith("/me/tiny/discussions/1")
    assert logged_in.store.repos["me/tiny"]["heads"]["main"] == before["main"]
    assert pull("me/tiny", revision="refs/pr/1").is_dir()


def test_a_file_altered_on_the_hub_or_in_the_cache_is_found(logged_in, saved):
    push(saved, "me/tiny")
    sha = logged_in.files("me/tiny")["model.safetensors"]
    blob = Path(logged_in.store.blob_path(sha))
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DamagedError, match="model.safetensors is not the published file"):
        pull("me/tiny")
    blob.write_bytes(whole)


def test_the_verbs_take_a_model_on_the_hub(logged_in, saved, run, world, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GLCZOO_DATA", str(world))  # the published region.yaml has no root
    main(["push", str(saved), "me/tiny", "--private", "--tag", "v1"])
    main(["verify", "me/tiny@v1"])
    main(["pull", "me/tiny"])
    told = capsys.readouterr().out
    assert "load it: timm.create_model('hf-hub:me/tiny', pretrained=True)" in told
    assert "whole. test_fusresnet_glc23, 33 bands, 24 species; golden logits differ by 0" in told
    answers = []
    for number, model in enumerate(("hf-hub:me/tiny", str(run))):
        out = tmp_path / f"{number}.csv"
        main(["predict", model, "--points", str(world / POINTS), "--out", str(out)])
        answers.append(out.read_text())
    assert answers[0] == answers[1] and answers[0].count("\n") > 40
    main(["evaluate", "hf-hub:me/tiny", "--part", "validation"])
    assert "me/tiny" in capsys.readouterr().out


def test_several_runs_are_pushed_as_their_ensemble(logged_in, runs, tmp_path, monkeypatch):
    members = [runs / f"test_{kind}resnet_glc23/step3" for kind in ("fus", "bio")]
    push(members, "me/both", licence="mit")
    folder = pull("me/both")
    assert {name for name in names(folder) if name.startswith("recipes/")} == {
        f"recipes/{number}" for number in ("1-step1.yaml", "2-step3.yaml", "3-step1.yaml", "4-step3.yaml")
    }
    card = (folder / "README.md").read_text()
    assert "| member 2 | `test_bioresnet_glc23` on channels 0 to 18 |" in card and "license: mit" in card


def test_a_model_of_500_mb(logged_in, saved, run, tmp_path):
    """fusresnet50_glc23 with 10,039 species goes there and back whole."""
    model = timm.create_model("fusresnet50_glc23").eval()
    big = Path(shutil.copytree(run, tmp_path / "runs/step3"))
    shutil.copytree(run.parent / "step1", tmp_path / "runs/step1")
    section = Run(run).config.glczoo.model_copy(update={"patch_size": 64})
    ids = SpeciesIndex(torch.arange(3, 3 + 10039).numpy())
    export_model(big, model, ids, [0.0] * 33, [1.0] * 33, section)
    folder = tmp_path / "big"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "species.csv"):
        shutil.move(big / name, folder / name)
    for name in ("metrics.json", "recipe.yaml", "region.yaml", "README.md"):
        shutil.copyfile(saved / name, folder / name)
    write_golden(folder, load_model(folder))
    write_sums(folder)
    assert (folder / "model.safetensors").stat().st_size > 500e6
    push(folder, "me/big")
    expected = load_file(folder / "golden.safetensors")["logits"]
    shutil.rmtree(folder)
    found = verify("me/big")
    assert found.species == 10039 and found.difference < 1e-3 and expected.shape == (2, 10039)


# Cards.


def test_the_snippet_of_a_card_runs_as_it_stands(logged_in, saved):
    push(saved, "me/tiny")
    card = (saved / "README.md").read_text()
    snippet = card.split("```python\n")[1].split("```")[0]
    assert snippet.startswith("import glczoo")
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    species = SpeciesIndex.load(saved / "species.csv").ids.tolist()
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == load_model(saved).decoding.value and all(int(name) in species for name, _ in lines)


def test_the_card_says_what_the_run_says(saved, run):
    card = ModelCard.load(saved / "README.md")
    assert (card.data.library_name, card.data.license, card.data.datasets) == (
        "timm",
        "cc-by-4.0",
        ["virtual"],
    )
    (part,) = json.loads((saved / "metrics.json").read_text())["results"]
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values == {"f1": round(part["rules"][0]["f1"], 4), "roc_auc": round(part["auc"], 4)}
    assert all("nothing in it is real" in result.dataset_name for result in card.data.eval_results)
    mean = json.loads((run / "config.json").read_text())["pretrained_cfg"]["mean"]
    for words in (
        f"| 0 | bio1 | 0.1 K | {mean[0]:.5g} |", "(EPSG:4326, 0.2667 degrees a side)",
        "1. **step1** on presence–absence surveys of virtual: binary cross-entropy, from random weights",
        "2. **step3**", "| 10 of 10 |", "| Virtual monitoring |", "These weights: cc-by-4.0",
        "not for conservation" , "Sensitive species", "chose the epoch",
    ):  # fmt: skip
        assert words.lower() in card.text.lower(), words


FACTS = {"results": [{"f1": 0.5}], "bands": ["a"], "name": "x"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"results": [{"f1": float("nan")}]}, r"card.results\[0\].f1 is nan"),
        ({"top_k": numpy.int64(3)}, "card.top_k is a int64"),
        ({"name": None}, "None where the template prints it"),
        ({}, "'kind' is undefined"),
    ],
)
def test_a_card_states_only_what_exists(change, message):
    with pytest.raises(ValueError, match=message):
        render(FACTS | {"species": 3} | change, "")


def test_the_cards_of_the_zoo_are_as_rendered():
    cards = zoo_cards()
    folder = RECIPES.parent / "model_cards"
    assert {f"{name}.md" for name in cards} | {"template.md"} == {p.name for p in folder.glob("*.md")}
    for name, text in cards.items():
        assert (folder / f"{name}.md").read_text() == text, "python -m glczoo.hub.card renders them again"
        assert text.lower().count("not yet") >= 2 and ModelCard(text).data.library_name == "timm"
