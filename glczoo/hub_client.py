"""The one door to the Hugging Face Hub: names, downloads, uploads in one commit, errors people can act on.

A model lies in a repository `ORG/NAME`. Wherever a run is named, `hf-hub:ORG/NAME[@REVISION]` names one on
the Hub; `hf-hub:NAME` means `<organisation>/NAME`, the organisation being `glczoo` or `GLCZOO_HUB_ORG`.
Nothing downloaded is ever executed: see `published_files`.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
from huggingface_hub.utils import get_session

from glczoo.errors import GlczooError
from glczoo.published_files import PUBLISHED_FILES, SUMS, DamagedError, damaged_files, is_listed, listed_files
from glczoo.yaml_text import shown

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
_SILENCE = 60.0  # seconds without a byte after which a Hub is taken not to answer; the client has no limit
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
                        repo,
                        revision=revision,
                        cache_dir=cache_dir,
                        allow_patterns=[*files, SUMS],
                        ignore_patterns=["*/*/*"],  # to the client `*` is a folder too
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
        commit, address = _commit(
            api,
            folder,
            _Destination(repo, revision, info.sha),
            operations,
            message=message,
            create_pr=create_pr,
        )
    if tag:
        ways = f"The commit stands at {address}, only the tag is missing: hf repo tag create {repo} {tag}"
        with _explained(f"to tag {repo} {tag}", ways):
            _twice(lambda: _tag(api, repo, tag, commit))
    return address


@dataclass(frozen=True)
class _Destination:
    """The branch that a commit is for, as it was before."""

    repo: str
    revision: str | None
    commit: str | None


def _commit(
    api: HfApi,
    folder: Path,
    to: _Destination,
    operations: Sequence[CommitOperationAdd | CommitOperationDelete],
    *,
    message: str,
    create_pr: bool,
) -> tuple[str, str]:
    """Make the commit, and once more where the Hub failed and did not make it; return it and its address.

    Raises:
        HubError: no answer came, and whether the commit was made cannot be found out.
        Exception: whatever the client raises; the branch is as it was.
    """

    def make() -> tuple[str, str]:
        try:
            made = api.create_commit(
                to.repo,
                operations,
                commit_message=message,
                revision=to.revision,
                create_pr=create_pr,
                parent_commit=to.commit,  # somebody else's commit in between is refused, not overwritten
            )
        except Exception as error:
            if create_pr:  # the branch is as it was whether or not the proposal was made
                raise
            if (found := _found(api, folder, to, error)) is None:
                raise
            return found, f"{huggingface_hub.constants.ENDPOINT}/{to.repo}/commit/{found}"
        return str(made.oid), made.pr_url or str(made.commit_url)

    return make() if create_pr else _twice(make)


def _found(api: HfApi, folder: Path, to: _Destination, error: Exception) -> str | None:
    """Our commit, if the branch has it although no answer came; None if the branch is as it was.

    SHA256SUMS tells: what it lists is what was sent.
    """
    content = (folder / SUMS).read_bytes()
    ours = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # as git names it
    try:
        info = _twice(lambda: api.model_info(to.repo, revision=to.revision, files_metadata=True))
    except Exception as again:  # each layer has kinds of its own
        if not _may_pass(error):  # it was refused: that is an answer
            return None
        raise HubError(
            f"{to.repo}: no answer to the commit came ({_reason(error)}), and whether it was made cannot be "
            f"found out ({_reason(again)}). Look at its page, or give the same command again: what is there "
            "is not sent twice"
        ) from None
    blobs = {file.rfilename: file.blob_id for file in info.siblings or ()}
    return str(info.sha) if info.sha != to.commit and blobs.get(SUMS) == ours else None


def _tag(api: HfApi, repo: str, tag: str, commit: str) -> None:
    """Tag a commit; that the tag is there already, on this commit, is no error: an answer was lost."""
    try:
        api.create_tag(repo, tag=tag, revision=commit)
    except HfHubHTTPError as error:
        tags = api.list_repo_refs(repo).tags if _status(error) == 409 else ()
        if not any(ref.name == tag and ref.target_commit == commit for ref in tags):
            raise


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
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):  # see `_reason`
        return _may_pass(error.__cause__)
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
        return status is None or status in (408, 429) or status >= 500
    return not isinstance(error, HubError)


def _status(error: HfHubHTTPError) -> int | None:
    return error.response.status_code if error.response is not None else None


@contextmanager
def _explained(tried: str, ways_out: str) -> Iterator[None]:
    """Turn what the client and the transport beneath it raise into one HubError."""
    session = get_session()
    hooks = getattr(session, "event_hooks", None)  # httpx's: clients before 1.0 had none
    if hooks is not None:
        session.event_hooks = {**hooks, "request": [*hooks.get("request", ()), _be_patient]}
    try:
        yield
    except HubError:
        raise
    except Exception as error:  # each layer has kinds of its own, and they change with the client's version
        endpoint = huggingface_hub.constants.ENDPOINT
        reason = _reason(error).rstrip(". ")
        raise HubError(f"tried {tried} at {endpoint}: {reason}. {ways_out}") from None
    finally:
        if hooks is not None:
            session.event_hooks = hooks


def _be_patient(request: Any) -> None:
    """Bound how long a request waits: the client sets no limit, and a silent Hub would hold us for ever."""
    limits = request.extensions.get("timeout") or {}
    kinds = ("connect", "read", "write", "pool")
    request.extensions["timeout"] = {kind: limits.get(kind) or _SILENCE for kind in kinds}


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
        cause = _reason(error.__cause__) if error.__cause__ else "the Hub cannot be reached"
        return f"{cause}, and it is not (wholly) in the cache"
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
        if status in (409, 412):
            return "somebody else pushed meanwhile"
        return f"the Hub answered {status}: {shown(error.server_message or 'it gives no reason', 300)}"
    kinds = {kind.__name__ for kind in type(error).__mro__}  # of the transport, which is httpx or requests
    for kind, words in _TRANSPORT.items():
        if kind in kinds:
            return f"{words} ({type(error).__name__})"
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return "a file was cut off on its way"
    if isinstance(error, TypeError) and "huggingface_hub" in str(error):
        return "the Hub answered with what is no description of a model"
    return f"{type(error).__name__}: {shown(str(error) or 'no reason given', 300)}"


_TRANSPORT = {  # the first that fits, by names of classes
    "TooManyRedirects": "the Hub leads in circles",
    "TimeoutException": "the Hub does not answer",
    "Timeout": "the Hub does not answer",
    "JSONDecodeError": "the Hub answered with what is no JSON: is there a proxy or a page to log in between?",
    "TransportError": "the Hub cannot be reached, or broke off",
    "RequestException": "the Hub cannot be reached, or broke off",
}
