"""The one door to the Hugging Face Hub: names, downloads, uploads in one commit, errors people can act on.

A model lies in a repository `ORG/NAME`. Wherever a run is named, `hf-hub:ORG/NAME[@REVISION]` names one on
the Hub; `hf-hub:NAME` means `<organisation>/NAME`, the organisation being `glczoo` or `GLCZOO_HUB_ORG`.
Nothing downloaded is ever executed: see `published_files`.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

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
from glczoo.published_files import PUBLISHED_FILES, SUMS, DamagedError, damaged_files, is_listed, listed_files

__all__ = [
    "PREFIX",
    "DamagedError",
    "HubError",
    "organisation",
    "pull",
    "split_id",
    "upload",
]

PREFIX = "hf-hub:"
"""What a name of a model on the Hub begins with."""

_AGAIN = 1.0  # seconds before a request that failed is sent once more
_Result = TypeVar("_Result")


class HubError(GlczooError):
    """The Hub could not give or take a model; the message says what was tried and what to do."""


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
    files: Sequence[str] = tuple(PUBLISHED_FILES),
    cache_dir: str | Path | None = None,
) -> Path:
    """Download a published model, or find it in the cache, and check every file's SHA-256.

    A file that arrived damaged is deleted from the cache and downloaded once more, and a request that failed
    is sent once more.

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

    def download() -> Path:
        with _explained(f"{repo}, revision {revision or 'main'}", _ways_to_a_model(repo)):
            return Path(
                _twice(
                    lambda: huggingface_hub.snapshot_download(
                        repo, revision=revision, cache_dir=cache_dir, allow_patterns=[*files, SUMS]
                    )
                )
            )

    folder = download()
    damaged = damaged_files(folder, files)
    if damaged:
        for name in damaged:
            _forget(folder / name)
        folder = download()
        damaged = damaged_files(folder, files)
    if damaged:
        raise DamagedError(
            f"{folder}: {'; '.join(damaged.values())}. It was downloaded twice: what lies in {repo} is not "
            f"what its {SUMS} lists; ask who published it, or name another revision"
        )
    return folder


def _forget(path: Path) -> None:
    """Delete a file of the client's cache, and the blob behind it."""
    blob = path.resolve()
    path.unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


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

    The files that SHA256SUMS lists and the card are sent, nothing else. The weights travel first and the
    commit names them: until it is made the branch is as it was, and if it fails the same call again is safe
    (what arrived is not sent twice; without changes no commit is made). Files of an earlier model that this
    one does not have are deleted, files of other kinds are left.

    Args:
        folder: made by `hub.save`.
        repo_id: `ORG/NAME`, or `NAME` for the organisation's; created if it is not there.
        message: first line of the commit.
        private: only who may read the repository; the account's default for a new one if None.
        revision: branch, created if it is not there; main if None.
        create_pr: propose the commit as a pull request instead.
        tag: name for the commit, for example v1.

    Raises:
        HubError: the Hub refused, could not be reached, or has this tag already; the message says what
            stands on the Hub.
        DamagedError: the folder holds something else than its SHA256SUMS lists, or a link.
    """
    repo, pinned = split_id(repo_id)
    revision = revision or pinned
    api = HfApi()
    here = listed_files(folder)
    with _explained(f"pushing to {repo}", _WAYS_TO_PUSH):
        _twice(lambda: api.create_repo(repo, private=private, exist_ok=True))
        if revision:
            _twice(lambda: api.create_branch(repo, branch=revision, exist_ok=True))
        info = _twice(lambda: api.model_info(repo, revision=revision))
        if tag and tag in {ref.name for ref in _twice(lambda: api.list_repo_refs(repo)).tags}:
            raise HubError(
                f"{repo} has a tag {tag} already, and a tag stays where it is: choose another, or delete "
                "it on the Hub first. Nothing was pushed."
            )
        there = {file.rfilename for file in info.siblings or ()}
        stale = sorted(name for name in there - here if is_listed(name))
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *(CommitOperationAdd(name, folder / name) for name in sorted(here)),
            *(CommitOperationDelete(name) for name in stale),
        ]
        try:
            commit = api.create_commit(
                repo,
                operations,
                commit_message=message,
                revision=revision,
                create_pr=create_pr,
                parent_commit=info.sha,  # somebody else's commit in between is refused, not overwritten
            )
        except Exception as error:
            if create_pr or not _is_committed(api, repo, revision, info.sha, message):
                raise
            raise HubError(
                f"{repo}: the commit was made, but the Hub's answer to it was lost ({_reason(error)})."
                + (f" Tag it: hf repo tag create {repo} {tag}" if tag else "")
            ) from None
    address = commit.pr_url or str(commit.commit_url)
    if tag:
        ways = f"The commit stands at {address}, only the tag is missing: hf repo tag create {repo} {tag}"
        with _explained(f"to tag {repo} {tag}", ways):
            _twice(lambda: api.create_tag(repo, tag=tag, revision=commit.oid))
    return address


def _is_committed(api: HfApi, repo: str, revision: str | None, before: str | None, message: str) -> bool:
    """Whether the branch has our commit, of which no answer came."""
    try:
        newest = api.list_repo_commits(repo, revision=revision)[0]
    except Exception:  # what failed before may fail again: nothing is known
        return False
    return newest.commit_id != before and newest.title == message


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


def _twice(request: Callable[[], _Result]) -> _Result:
    """Send a request, and once more where the server or the way to it failed; a refusal stands."""
    try:
        return request()
    except Exception as error:  # each layer has kinds of its own, and they change with the client's version
        if not _may_pass(error):
            raise
        time.sleep(_AGAIN)
        return request()


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a moment later."""
    refused = (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError, HFValidationError)
    if isinstance(error, LocalEntryNotFoundError):
        cause = error.__cause__
        return (
            not huggingface_hub.constants.HF_HUB_OFFLINE and isinstance(cause, Exception) and _may_pass(cause)
        )
    if isinstance(error, (*refused, EntryNotFoundError)):
        return False
    if isinstance(error, HfHubHTTPError):
        status = _status(error)
        return status is None or status == 429 or status >= 500
    return not isinstance(error, TypeError | HubError)


def _status(error: HfHubHTTPError) -> int | None:
    return error.response.status_code if error.response is not None else None


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
        if isinstance(error.__cause__, HfHubHTTPError):  # it was reached, and answered
            return f"{_reason(error.__cause__)}, and it is not (wholly) in the cache"
        return "the Hub cannot be reached, and it is not (wholly) in the cache"
    if isinstance(error, EntryNotFoundError):
        return "the repository lacks a file that a published model has"
    if isinstance(error, HFValidationError):
        return f"this is no name of a repository ({error})"
    if isinstance(error, HfHubHTTPError):
        status = _status(error)
        if status in (401, 403):
            return f"the Hub refused with {status}: the token is missing, wrong, or may not do this"
        if status == 404:
            return "the Hub answered 404: there is no such thing"
        if status == 429:
            return "the Hub answered 429: too many requests from here; wait some minutes"
        if status is not None and status >= 500:
            return f"the Hub answered {status}: it has a fault of its own; try again later"
        if status == 412:
            return "somebody else pushed meanwhile"
    return (
        f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else 'no reason given'}"
    )
