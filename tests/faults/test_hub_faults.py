"""A Hub that fails in every way that was thought of: pulls and pushes survive, or say what happened.

Whatever comes, nothing is half there, no token reaches another host, and the same call works later.
"""

import shutil
from pathlib import Path

import pytest

from glczoo import hub_client
from glczoo.errors import GlczooError
from glczoo.hub.publish import push, save, verify
from glczoo.hub_client import pull, upload
from glczoo.published_files import SUMS, write_sums

EVER = 99
API = r"/api/models/me/tiny(/revision/main)?$"
SMALL = r"/resolve/.*/config\.json"
LARGE = r"/resolve/.*/model\.safetensors"
CDN = r"^/cdn/"
NO_TOKEN = "the token is missing, wrong, or may not do this"
BUSY, BROKEN = "too many requests from here; wait some minutes", "it has a fault of its own; try again later"
CUT_OFF = f"({BROKEN}|broke off)"  # an upload may notice the closed connection before the answer


@pytest.fixture(scope="module")
def saved(trained_run, tmp_path_factory) -> Path:
    run = trained_run("step1", model="test_bioresnet_glc23")
    return save(run, tmp_path_factory.mktemp("saved") / "tiny", repo_id="me/tiny", licence="cc-by-4.0")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Nobody waits between attempts, and not long for an answer."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(hub_client, "_AGAIN", 0.0)
    monkeypatch.setattr(hub_client, "_SILENCE", 0.8)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.8)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_ETAG_TIMEOUT", 0.8)


@pytest.fixture
def there(hub, saved, monkeypatch):
    """The Hub, with the model on it, and a cold cache."""
    monkeypatch.setenv("HF_TOKEN", "write")
    push(saved, "me/tiny")
    hub.log.clear()
    hub.leaks.clear()
    return hub


def refused(call, words: str) -> None:
    """A short error of ours that says what happened."""
    with pytest.raises(GlczooError, match=words) as caught:
        call()
    assert len(str(caught.value)) < 1500 and caught.value.__cause__ is None


SURVIVED = [
    *[("GET", API, code, 1) for code in (408, 429, 500, 502, 503, 504)],
    *[
        ("GET", API, name, 1)
        for name in ("broken json", "web page", "nothing", "null", "hang up", "no answer")
    ],
    *[("HEAD", SMALL, code, 1) for code in (429, 500, 502, 503)],
    *[("HEAD", SMALL, name, 1) for name in ("hang up", "no answer")],
    *[("GET", SMALL, fault, 1) for fault in (429, 500, 502, "hang up", "truncated", "changed", "short")],
    *[("GET", CDN, fault, 1) for fault in (429, 500, 503, "hang up", "truncated", "changed", "no answer")],
    ("GET", CDN, "truncated", 3),
]


@pytest.mark.parametrize(("method", "path", "fault", "times"), SURVIVED)
def test_a_pull_survives(there, method, path, fault, times):
    there.fault(method, path, fault, times)
    assert verify("me/tiny").difference == 0
    assert there.faults[0][3] == 0 and not there.leaks


REFUSED = [
    ("GET", API, 401, f"refused with 401: {NO_TOKEN}"),
    ("GET", API, 403, f"refused with 403: {NO_TOKEN}"),
    ("GET", API, 404, "answered 404: there is no such thing"),
    ("GET", API, 429, BUSY),
    *[("GET", API, code, f"answered {code}: {BROKEN}") for code in (500, 502, 503)],
    *[("GET", API, name, "answered with what is no JSON") for name in ("broken json", "web page", "nothing")],
    *[
        ("GET", API, name, "answered with what is no description of a model")
        for name in ("other json", "null")
    ],
    ("GET", API, "hang up", "cannot be reached"),
    ("GET", API, "no answer", "does not answer"),
    ("GET", API, "circle", "leads in circles"),
    ("GET", API, "elsewhere", "answered 404|leads in circles"),
    ("HEAD", SMALL, 403, f"refused with 403: {NO_TOKEN}"),
    ("HEAD", SMALL, 404, "answered 404|lacks a file"),
    ("HEAD", SMALL, 429, BUSY),
    ("HEAD", SMALL, 500, f"answered 500: {BROKEN}"),
    ("HEAD", SMALL, "hang up", "cannot be reached"),
    ("GET", SMALL, 403, f"refused with 403: {NO_TOKEN}"),
    ("GET", SMALL, 500, f"answered 500: {BROKEN}"),
    ("GET", SMALL, "changed", "downloaded twice: what lies in me/tiny is not what its SHA256SUMS lists"),
    ("GET", SMALL, "short", "downloaded twice|was cut off"),
    ("GET", CDN, 403, f"refused with 403: {NO_TOKEN}"),
    ("GET", CDN, 404, "answered 404"),
    ("GET", CDN, 500, f"answered 500: {BROKEN}"),
    ("GET", CDN, "changed", "downloaded twice"),
    ("GET", CDN, "short", "downloaded twice|was cut off"),
    ("GET", CDN, "truncated", "was cut off|cannot be reached"),
    ("GET", CDN, "hang up", "cannot be reached|was cut off"),
    ("GET|HEAD", LARGE, "elsewhere", "does not seem to be served by a Hugging Face Hub"),
    ("GET|HEAD", LARGE, "circle", "leads in circles"),
]


@pytest.mark.parametrize(("method", "path", "fault", "words"), REFUSED)
def test_a_pull_that_cannot_succeed_says_why_and_succeeds_later(there, method, path, fault, words):
    there.fault(method, path, fault, EVER)
    refused(lambda: pull("me/tiny"), words)
    there.faults.clear()
    assert verify("me/tiny").difference == 0 and not there.leaks


def other(there, name: str, content: bytes | None) -> None:
    """Put another file on the Hub, or take one away: the repository is somebody else's."""
    repo = there.store.repos["me/tiny"]
    files = repo["commits"][repo["heads"]["main"]]["files"]
    if content is None:
        del files[name]
        return
    sha = there.store.put_bytes(content)
    files[name] = dict(size=len(content), oid=sha[:40], sha256=sha, lfs=False)


STRANGE = {
    "no checksums": (SUMS, None, "holds no SHA256SUMS: it was not published with glczoo"),
    "damaged checksums": (SUMS, b"\xff\xfe", "SHA256SUMS is damaged"),
    "checksums of other files": (SUMS, b"0" * 64 + b"  ../../etc/passwd\n", "SHA256SUMS lists"),
    "no weights": ("model.safetensors", None, "model.safetensors is missing"),
    "other weights": ("model.safetensors", b"other", "model.safetensors is not the published file"),
    "no configuration": ("config.json", None, "config.json is missing"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_repository_that_is_no_published_model_is_refused(there, name):
    file, content, words = STRANGE[name]
    other(there, file, content)
    refused(lambda: pull("me/tiny"), words)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "recipes/a/b.yaml", "x.py", "region.yaml/x"])
def test_what_is_no_part_of_a_published_model_is_not_fetched(there, name):
    other(there, name, b"evil")
    folder = pull("me/tiny")
    assert not list(folder.parent.rglob("*evil*")) and not (folder / name).exists()
    assert not any(b"evil" in path.read_bytes() for path in folder.parents[1].rglob("*") if path.is_file())


def test_an_address_of_another_hub_does_not_get_the_token(there, saved):
    there.fault("GET|HEAD|POST", "/me/tiny", "elsewhere", EVER)
    for call in (lambda: pull("me/tiny"), lambda: push(saved, "me/tiny")):
        with pytest.raises(GlczooError):
            call()
    assert not there.leaks


# Pushes.

CREATE, INFO, REFS = "/api/repos/create", "/api/models/me/tiny$", "/refs$"
PREUPLOAD, BATCH, PUT, VERIFY, COMMIT = (
    "/preupload/",
    "/objects/batch",
    "/lfs/put/",
    "/info/lfs/verify",
    "/commit/",
)
AS_IT_WAS = "branch is as it was"

PUSH_SURVIVED = [
    *[("POST", CREATE, code, 1) for code in (401, 403)],  # may write here, and not make another
    *[("POST", CREATE, fault, 1) for fault in (429, 500, 502, "hang up", "lost answer", "no answer")],
    *[("GET", INFO, fault, 1) for fault in (429, 500, 502, "hang up", "broken json", "null", "no answer")],
    *[("GET", REFS, fault, 1) for fault in (500, "hang up", "broken json")],
    *[("POST", PREUPLOAD, fault, 1) for fault in (429, 500, "hang up", "broken json")],
    *[("POST", BATCH, fault, 1) for fault in (429, 500, 503, "hang up")],
    *[("PUT", PUT, fault, 1) for fault in (500, 503, "hang up", "lost answer")],
    *[("POST", COMMIT, fault, 1) for fault in (429, 500, 502, "hang up", "web page", "lost answer")],
    *[("POST", "/tag/", fault, 1) for fault in (500, 502, "hang up", "lost answer")],
]


@pytest.fixture
def new(folder) -> Path:
    """Another model than the one on the Hub."""
    with open(folder / "metrics.json", "a") as file:
        file.write("\n")
    write_sums(folder)
    return folder


@pytest.mark.parametrize(("method", "path", "fault", "times"), PUSH_SURVIVED)
def test_a_push_survives(there, new, method, path, fault, times):
    before = there.files("me/tiny")
    forget_blobs(there)
    there.fault(method, path, fault, times)
    push(new, "me/tiny", tag="v1")
    assert there.faults[0][3] == 0 and not there.leaks
    assert there.files("me/tiny", "v1") == there.files("me/tiny") != before
    assert verify("me/tiny@v1").difference == 0


def forget_blobs(there) -> None:
    """Let the Hub not have the weights yet, so that they are sent."""
    repo = there.store.repos["me/tiny"]
    for file in list(repo["commits"][repo["heads"]["main"]]["files"].values()):
        if file["lfs"]:
            Path(there.store.blob_path(file["sha256"])).unlink(missing_ok=True)


PUSH_REFUSED = [
    ("POST", CREATE, 429, BUSY),
    ("POST", CREATE, 500, BROKEN),
    ("POST", CREATE, "hang up", "cannot be reached"),
    ("POST", CREATE, "no answer", "does not answer"),
    ("GET", INFO, 404, "answered 404"),
    ("GET", INFO, "broken json", "what is no JSON"),
    ("POST", PREUPLOAD, 403, f"refused with 403: {NO_TOKEN}"),
    ("POST", PREUPLOAD, "web page", "what is no JSON"),
    ("POST", BATCH, 403, f"refused with 403: {NO_TOKEN}"),
    ("POST", BATCH, "broken json", "what is no JSON"),
    ("PUT", PUT, 403, f"(refused with 403: {NO_TOKEN}|broke off)"),
    ("PUT", PUT, 500, CUT_OFF),
    ("PUT", PUT, "hang up", "cannot be reached"),
    ("POST", VERIFY, 404, "answered 404"),
    ("POST", COMMIT, 400, "answered 400"),
    ("POST", COMMIT, 401, f"refused with 401: {NO_TOKEN}"),
    ("POST", COMMIT, 403, f"refused with 403: {NO_TOKEN}"),
    ("POST", COMMIT, 409, "somebody else pushed meanwhile"),
    ("POST", COMMIT, 412, "somebody else pushed meanwhile"),
    ("POST", COMMIT, 413, "answered 413"),
    ("POST", COMMIT, 429, BUSY),
    ("POST", COMMIT, 500, BROKEN),
    ("POST", COMMIT, "hang up", "cannot be reached"),
    ("POST", COMMIT, "web page", "what is no JSON"),
    ("POST", COMMIT, "elsewhere", ""),
]


@pytest.mark.parametrize(("method", "path", "fault", "words"), PUSH_REFUSED)
def test_a_push_that_cannot_succeed_leaves_the_branch_and_succeeds_later(
    there, new, method, path, fault, words
):
    before = there.files("me/tiny")
    if method == "PUT" or path in (BATCH, VERIFY):
        forget_blobs(there)
    there.fault(method, path, fault, EVER)
    refused(lambda: push(new, "me/tiny"), f"(?s){words}.*{AS_IT_WAS}")
    assert there.files("me/tiny") == before and not there.leaks
    there.faults.clear()
    push(new, "me/tiny")
    assert there.files("me/tiny") != before and verify("me/tiny").difference == 0


def test_a_commit_whose_answer_was_lost_is_found_and_tagged(there, new):
    before = there.files("me/tiny")
    there.fault("POST", COMMIT, "lost answer", EVER)
    address = push(new, "me/tiny", tag="v1")
    repo = there.store.repos["me/tiny"]
    assert address == f"{there.url}/me/tiny/commit/{repo['heads']['main']}"
    assert there.files("me/tiny", "v1") == there.files("me/tiny") != before


def test_a_commit_of_which_nothing_is_known_is_not_told_as_unmade(there, new):
    there.fault("POST", COMMIT, "lost answer", EVER)
    lost = there.take_fault

    def broken_afterwards(method: str, path: str):
        made = len(there.store.repos["me/tiny"]["commits"]) > 2
        return (500, None) if made and method == "GET" else lost(method, path)

    there.take_fault = broken_afterwards
    try:
        refused(lambda: push(new, "me/tiny"), "no answer to the commit came .* cannot be found out")
    finally:
        del there.take_fault
    there.faults.clear()
    number = len(there.store.repos["me/tiny"]["commits"])
    push(new, "me/tiny", tag="v1")
    assert len(there.store.repos["me/tiny"]["commits"]) == number


@pytest.mark.parametrize("fault", [401, 403, 404, 429, 500, "hang up"])
def test_a_tag_that_fails_for_ever_says_that_only_the_tag_is_missing(there, new, fault):
    there.fault("POST", "/tag/", fault, EVER)
    refused(lambda: push(new, "me/tiny", tag="v1"), "commit stands at .*only the tag is missing")
    assert verify("me/tiny").difference == 0 and "v1" not in there.store.repos["me/tiny"]["tags"]


def test_two_pushes_of_the_same_make_one_commit(there, new):
    push(new, "me/tiny")
    head = there.store.repos["me/tiny"]["heads"]["main"]
    push(new, "me/tiny")
    assert there.store.repos["me/tiny"]["heads"]["main"] == head


@pytest.mark.parametrize("name", ["notes.txt", "recipes/9-more.yaml", "model.bin"])
def test_a_file_that_is_not_listed_is_not_sent(there, new, name):
    before = there.files("me/tiny")
    (new / name).write_text("mine")
    refused(lambda: push(new, "me/tiny"), "which SHA256SUMS does not list")
    refused(lambda: upload(new, "me/tiny", message="x"), "which SHA256SUMS does not list")
    assert there.files("me/tiny") == before


def test_a_folder_without_checksums_is_not_sent(there, new):
    (new / SUMS).unlink()
    refused(lambda: upload(new, "me/tiny", message="x"), "holds no SHA256SUMS")
