"""The one door to the Hugging Face Hub: names, downloads, uploads in one commit, errors people can act on.

A model lies in a repository `ORG/NAME`. Wherever a run is asked for, `hf-hub:ORG/NAME[@REVISION]` names one
on the Hub; `hf-hub:NAME` means `<organisation>/NAME`, the organisation being `glczoo` or `GLCZOO_HUB_ORG`.
Nothing downloaded is ever executed: weights are safetensors, all else is JSON, YAML, CSV and text.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from glczoo.errors import GlczooError
from glczoo.files import sha256, whole

__all__ = [
    "PREFIX",
    "SUMS",
    "DamagedError",
    "HubError",
    "check_sums",
    "organisation",
    "pull",
    "split_id",
    "unexpected",
    "upload",
    "write_sums",
]

PREFIX = "hf-hub:"
SUMS = "SHA256SUMS"

# What a published folder may hold, and all that is ever downloaded: no pickle, no code.
_FILES = (
    "model.safetensors", "golden.safetensors", "config.json", "metrics.json", "species.csv", "region.yaml",
    "recipe.yaml", "recipes/*.yaml", "README.md", SUMS,
)  # fmt: skip


class HubError(GlczooError):
    """The Hub could not give or take a model; the message says what was tried and what to do."""


class DamagedError(GlczooError):
    """A file is not what was published, or does not belong to the others beside it."""


def organisation() -> str:
    """Whose models are meant where only a name is given: GLCZOO_HUB_ORG, else glczoo."""
    return os.environ.get("GLCZOO_HUB_ORG") or "glczoo"


def split_id(model: str) -> tuple[str, str | None]:
    """`[hf-hub:][ORG/]NAME[@REVISION]` as (ORG/NAME, REVISION or None)."""
    name, _, revision = model.removeprefix(PREFIX).partition("@")
    return name if "/" in name else f"{organisation()}/{name}", revision or None


def pull(
    repo_id: str,
    revision: str | None = None,
    *,
    files: Sequence[str] = _FILES,
    cache_dir: str | Path | None = None,
) -> Path:
    """Download a published model, or find it in the cache, and check every file's SHA-256.

    Args:
        repo_id: `ORG/NAME`, `NAME`, with `@REVISION` or not, with `hf-hub:` or not.
        revision: branch, tag or commit; stands above the one in `repo_id`.
        files: patterns of the files that are wanted; everything a published folder may hold by default.
        cache_dir: folder of the downloads, the Hub client's own if None.

    Returns:
        The folder, read-only by custom: it is the client's cache.

    Raises:
        HubError: no such repository or revision, private, no network, or offline and not in the cache.
        DamagedError: a file is not the published one, or is missing.
    """
    repo, pinned = split_id(repo_id)
    revision = revision or pinned
    with _explained(f"{repo}, revision {revision or 'main'}", _ways_to_a_model(repo)):
        folder = Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision, cache_dir=cache_dir, allow_patterns=[*files, SUMS]
            )
        )
    check_sums(folder, files)
    return folder


def upload(
    folder: Path,
    repo_id: str,
    *,
    message: str,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
) -> str:
    """Bring a published folder to the Hub in one commit, and return its address.

    The weights travel first and the commit names them: until it is made the branch is as it was, and if it
    fails the same call again is safe (what arrived is not sent twice; without changes no commit is made).
    Files of an earlier model that this one lacks are deleted, files of other kinds are left.

    Args:
        folder: made by `hub.save`.
        repo_id: `ORG/NAME`, or `NAME` for the organisation's; created if it is not there.
        message: first line of the commit.
        private: only who may read the repository; the account's default for a new one if None.
        revision: branch, created if it is not there; main if None.
        create_pr: propose the commit as a pull request instead.
        tag: name for the commit, for example v1.

    Raises:
        HubError: the Hub refused, could not be reached, or has this tag already.
    """
    repo, pinned = split_id(repo_id)
    revision = revision or pinned
    api = HfApi()
    here = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    here = {name for name in here if _wanted(name, _FILES)}
    with _explained(f"pushing to {repo}", _WAYS_TO_PUSH):
        api.create_repo(repo, private=private, exist_ok=True)
        if revision:
            api.create_branch(repo, branch=revision, exist_ok=True)
        info = api.model_info(repo, revision=revision)
        if tag and tag in {ref.name for ref in api.list_repo_refs(repo).tags}:
            raise HubError(
                f"{repo} has a tag {tag} already, and a tag stays where it is: choose another, or delete "
                "it on the Hub first. Nothing was pushed."
            )
        there = {file.rfilename for file in info.siblings or ()}
        stale = sorted(name for name in there - here if _wanted(name, _FILES))
        commit = api.create_commit(
            repo,
            [
                *(CommitOperationAdd(name, folder / name) for name in sorted(here)),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=message,
            revision=revision,
            create_pr=create_pr,
            parent_commit=info.sha,  # somebody else's commit in between is refused, not overwritten
        )
        if tag:
            api.create_tag(repo, tag=tag, revision=commit.oid)
    return commit.pr_url or str(commit.commit_url)


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS as `sha256sum --check` reads it. The README is left out: people edit it."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names if name not in (SUMS, "README.md")]
    with whole(folder / SUMS) as partial:
        partial.write_text("".join(lines), "utf-8")


def check_sums(folder: Path, files: Sequence[str] = _FILES) -> None:
    """Compare files with SHA256SUMS.

    Args:
        folder: of a published model.
        files: patterns of the names to compare.

    Raises:
        DamagedError: there is no SHA256SUMS, or a file is missing, altered or truncated.
    """
    try:
        lines = [line.split("  ", 1) for line in (folder / SUMS).read_text("utf-8").splitlines()]
        sums = {name: digest for digest, name in lines}
    except FileNotFoundError:
        raise DamagedError(f"{folder} holds no {SUMS}: it was not published with glczoo") from None
    except (ValueError, UnicodeDecodeError):
        raise DamagedError(f"{folder / SUMS} is damaged; {_AGAIN}") from None
    for name, digest in sums.items():
        if not _wanted(name, files):
            continue
        if not (folder / name).is_file():
            raise DamagedError(f"{folder / name} is missing, {SUMS} lists it; {_AGAIN}")
        if sha256(folder / name) != digest:
            raise DamagedError(f"{folder / name} is not the published file (SHA-256 differs); {_AGAIN}")


def unexpected(folder: Path) -> list[str]:
    """Files that are no part of a published model: a pickle, code, anything else that is not hidden."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return [name for name in names if not name.startswith(".") and not _wanted(name, _FILES)]


_AGAIN = "delete this folder and download it again"

_WAYS_TO_PUSH = (
    "The branch is as it was. Log in (`hf auth login`, or HF_TOKEN=…) with a token that may write there, or "
    "push to your own ORG/NAME; then give the same command again."
)


def _ways_to_a_model(repo: str) -> str:
    name = repo.split("/")[-1]
    return (
        "Three ways out: train it with the recipes (`python -m glczoo.train recipes/step1.yaml`, then step2 "
        f"and step3); take another organisation's (GLCZOO_HUB_ORG=ORG, or {PREFIX}ORG/{name}); or name a "
        "folder on this machine (RUN in glczoo, local-dir:RUN in timm)."
    )


def _wanted(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


@contextmanager
def _explained(tried: str, ways_out: str) -> Iterator[None]:
    """Turn what the client and the transport beneath it raise into one HubError."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:  # each layer has kinds of its own, and they change with the client's version
        endpoint = huggingface_hub.constants.ENDPOINT
        raise HubError(f"tried {tried} at {endpoint}: {_reason(error)}. {ways_out}") from None


def _reason(error: BaseException) -> str:
    """One clause for what went wrong."""
    if isinstance(error, RuntimeError) and error.__cause__:  # the client wraps what stopped an upload
        return f"{str(error).strip().rstrip('.')}: {_reason(error.__cause__)}"
    if isinstance(error, GatedRepoError):
        return "the repository asks for its terms to be accepted on its page first"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private and the token given (if any) may not read it"
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such branch, tag or commit"
    if isinstance(error, LocalEntryNotFoundError):
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set and it is not (wholly) in the cache"
        return "the Hub cannot be reached, and it is not (wholly) in the cache"
    if isinstance(error, EntryNotFoundError):
        return "the repository lacks a file that a published model has"
    if isinstance(error, HFValidationError):
        return f"this is no name of a repository ({error})"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            return f"the Hub refused with {status}: the token is missing, wrong, or may not do this"
        if status == 412:
            return "somebody else pushed meanwhile"
    return (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else 'no reason given'}"
    )
