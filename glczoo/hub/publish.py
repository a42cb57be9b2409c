"""From runs to what others load: a folder to publish, the Hub and back.

A published folder: model.safetensors · config.json · species.csv · region.yaml (the bands' files and tables:
whoever has the data can use it) · recipe.yaml (the last step) and recipes/ (all of them) · metrics.json ·
golden.safetensors (an input and its logits) · README.md (the card) · SHA256SUMS.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import timm
import torch
from safetensors.torch import load_file, save_file

from glczoo.errors import ExistsError, MissingError
from glczoo.evaluation.held_out import held_out_scores
from glczoo.evaluation.records import evaluate_records
from glczoo.evaluation.sections import versions
from glczoo.files import lock, whole
from glczoo.fit.leaderboard import FILE as LEADERBOARD
from glczoo.fit.leaderboard import leaderboard_text
from glczoo.hub.card import card_text
from glczoo.hub.metadata import Published
from glczoo.hub_client import PREFIX, organisation, pull, upload
from glczoo.models.published import tensor_header
from glczoo.packaged import locate_model
from glczoo.published_files import SUMS, DamagedError, check_sums, listed_files, write_sums
from glczoo.recipe import write_recipe
from glczoo.runs.combine import combine
from glczoo.runs.lineage import portable, write_recipes
from glczoo.runs.run import Run
from glczoo.runs.trained import TrainedModel

__all__ = ["Verified", "pull", "push", "save", "verify", "write_golden"]

_GOLDEN = 16  # patches of a golden input at most
_TOLERANCE = 1e-3  # of the largest golden logit: other processors sum in another order


def save(
    run: str | Path | Run,
    folder: Path,
    *,
    repo_id: str | None = None,
    licence: str = "not stated",
    batch_size: int = 256,
) -> Path:
    """Write a run, or an ensemble, as a folder to publish. Its held-out surveys are evaluated for the card.

    Args:
        run: finished run; the runs it started from must be there too, for the card tells every step.
        folder: to write; must not exist. Written beside and renamed: it is whole or not there.
        repo_id: `ORG/NAME` that the card's snippet loads; the organisation's if None.
        licence: of the weights, for example cc-by-4.0.
        batch_size: points in a batch of the evaluation.

    Raises:
        ExistsError: there is something at `folder`.
        MissingError: the run, one that it started from, or the region's data are missing.
        GlczooError: no surveys are held out, the card would state what is no number, or another process
            writes there.
    """
    folder = Path(folder)
    with lock(folder):
        if folder.exists():
            raise ExistsError(f"{folder} is there already; name another folder or delete it first")
        return _save(Run.find(run), folder, repo_id, licence, batch_size)


def _save(run: Run, folder: Path, repo_id: str | None, licence: str, batch_size: int) -> Path:
    """Write a run to a folder that is not there, where no other process works."""
    steps, region = run.lineage, run.region
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole(folder) as partial:
        partial.mkdir()
        for name in ("model.safetensors", "config.json", "species.csv"):
            shutil.copyfile(run.folder / name, partial / name)
        (partial / "region.yaml").write_text(region.published_text(), "utf-8")
        write_recipes(partial, steps, run.config.glczoo.region)
        write_recipe(partial / "recipe.yaml", portable(run.recipe, "region.yaml").model_dump(mode="json"))
        leaderboard = leaderboard_text(run.folder)
        if leaderboard:
            shutil.copyfile(run.folder / LEADERBOARD, partial / LEADERBOARD)
        by_records = "pa" not in region.tables
        if by_records and not leaderboard:
            leaderboard = evaluate_records([run], batch_size=batch_size).text()
        held_out = [] if leaderboard and not _holds_out(run) else held_out_scores(run, batch_size=batch_size)
        published = Published(steps, versions(), held_out)
        text = json.dumps(published.to_json(), indent=1, allow_nan=False)
        (partial / "metrics.json").write_text(text + "\n", "utf-8")
        write_golden(partial, run.model)
        name = repo_id or f"{organisation()}/{run.config.architecture}"
        (partial / "README.md").write_text(
            card_text(run.config, published, name, licence, run.citations(), leaderboard, by_records), "utf-8"
        )
        write_sums(partial)
    return folder


def _holds_out(run: Run) -> bool:
    """Whether there are surveys that a run was not trained on: of a fit all surveys may train."""
    return "pa" in run.region.tables and any(len(run.samples(part)) for part in ("validation", "test"))


def push(
    runs: str | Path | Sequence[str | Path],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    licence: str = "not stated",
) -> str:
    """Publish a folder made by `save`, a run, or several runs as their ensemble; return the commit's address.

    The folder is verified before anything is sent, and sent in one commit (see `hub_client.upload`).

    Args:
        runs: what to publish.
        repo_id: `ORG/NAME`, created if it is not there.
        private: only who may read the repository; the account's default for a new one if None.
        revision: branch, created if it is not there; main if None.
        create_pr: propose a pull request instead of a commit.
        tag: name for the commit, for example v1.
        licence: of the weights, where a run is saved first.

    Raises:
        HubError: the Hub refused or cannot be reached; the branch is as it was.
        DamagedError: the folder is not what was saved.
        MissingError, GlczooError: see `save` and `combine`.
    """
    names = [runs] if isinstance(runs, str | Path) else list(runs)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(names[0])
        if len(names) > 1:
            folder = combine(names, Path(scratch) / "ensemble")
        if not (folder / SUMS).exists():
            folder = save(folder, Path(scratch) / "published", repo_id=repo_id, licence=licence)
        checked = verify(folder)
        message = f"{checked.architecture}: {checked.species} species, {len(checked.bands)} bands"
        return upload(
            folder, repo_id, message=message, private=private, revision=revision, create_pr=create_pr, tag=tag
        )


@dataclass(frozen=True)
class Verified:
    """A published model that is whole."""

    folder: Path
    architecture: str
    bands: list[str]
    species: int
    difference: float  # the largest between golden logits and those computed here


def verify(model: str | Path) -> Verified:
    """Check that a published model is whole and computes here what it computed where it was saved.

    SHA-256 of every file; types, shapes and counts; bands, their order and statistics, and the vocabulary
    against those stored with the golden input; and the golden logits, recomputed.

    Args:
        model: folder made by `save`, `ORG/NAME[@REVISION]` on the Hub, or `sample`.

    Raises:
        HubError: it cannot be had from the Hub.
        DamagedError: something is not what was saved; the message says which.
    """
    model = locate_model(model)
    local = not str(model).startswith(PREFIX) and (Path(model).is_dir() or _is_path(str(model)))
    if local and not Path(model).is_dir():
        raise MissingError(f"there is no folder {model}; a model on the Hub is named ORG/NAME")
    folder = Path(model) if local else pull(str(model))
    if local:
        listed_files(folder)
        check_sums(folder)
    run = Run.find(folder)
    trained, golden = run.model, folder / "golden.safetensors"
    try:
        with safetensors.safe_open(golden, "pt") as file:
            identity = file.metadata() or {}
        _refuse_other_golden(golden, trained)
        tensors = load_file(golden)
        x, expected = tensors["x"], tensors["logits"]
    except (OSError, safetensors.SafetensorError) as error:
        raise DamagedError(f"{golden} cannot be read: {error}") from None
    for what, here in _identity(trained).items():
        if identity.get(what) != here:
            raise DamagedError(
                f"{folder}: the {what} of config.json are not those that the model was saved with"
            )
    with torch.inference_mode():
        difference = float((trained.model(x) - expected).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise DamagedError(
            f"{folder}: the golden logits differ by {difference:.3g}; this torch {torch.__version__} and "
            f"timm {timm.__version__} do not compute what the model's author saw"
        )
    return Verified(folder, run.config.architecture, trained.bands, len(trained.species), difference)


def _is_path(name: str) -> bool:
    """Whether a name can be a folder's only: repositories are named NAME or ORG/NAME."""
    return name.count("/") > 1 or name.startswith(("/", ".", "~")) or "\\" in name


def _refuse_other_golden(path: Path, trained: TrainedModel) -> None:
    """Compare the shapes of a golden batch with the model's before it is read."""
    size, channels, species = trained.patch_size, len(trained.bands), len(trained.species)
    header = tensor_header(path)
    number = header["x"][1][0] if "x" in header and header["x"][1] else 0
    wanted = {
        "x": (torch.float32, [number, channels, size, size]),
        "logits": (torch.float32, [number, species]),
    }
    if header != wanted or not 1 <= number <= _GOLDEN:
        raise DamagedError(f"{path} cannot be read: it holds no input of this model and its logits")


def _identity(trained: TrainedModel) -> dict[str, str]:
    """What a golden input is worth nothing without."""
    return {
        "bands": json.dumps(trained.bands),
        "statistics": json.dumps([trained.mean, trained.std]),
        "species": hashlib.sha256(json.dumps(trained.species.ids.tolist()).encode()).hexdigest(),
    }


def write_golden(folder: Path, trained: TrainedModel) -> None:
    """Write golden.safetensors: an input of noise (real patches are somebody's data) and its logits."""
    shape = (2, len(trained.bands), trained.patch_size, trained.patch_size)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    network = trained.to("cpu").model
    with torch.inference_mode():
        logits = network(x)
    path = folder / "golden.safetensors"
    save_file({"x": x, "logits": logits.clone()}, path, metadata=_identity(trained))
    _sort_header(path)


def _sort_header(path: Path) -> None:
    """Order the header of a safetensors file: metadata come in any order, and twice saved is alike."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # as the format asks: numbers begin at a multiple of 8
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[start:])
