"""Verbs of the Hub: save a run as a folder to publish, push, pull and verify it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from glczoo.cli.verbs import PATH, Verb, licence_option, will_write

if TYPE_CHECKING:
    from glczoo.data.region import Region

__all__ = ["export", "pull", "push", "save", "verify"]


def _warn_of_sensitive(runs: Sequence[str | Path]) -> None:
    """Say what weights tell of sensitive species, before they are given away."""
    from glczoo.runs.run import Run

    guarded = [Run.find(run).species for run in runs]
    number = sum(len(classes) for species in guarded for _, classes in species.sensitive_groups())
    if number:
        line = f"{number} sensitive species: glczoo shows them no finer than region.yaml says, but"
        print(f"glczoo: {line} other software can ask these weights for any place", file=sys.stderr)


@click.command("save", cls=Verb)
@click.argument("run", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder to write; must not exist.")
@click.option(
    "--name", metavar="ORG/NAME", help="Name that the card loads; by default GLCZOO_HUB_ORG/ARCHITECTURE."
)
@licence_option
def save(run: Path, out: Path, name: str | None, licence: str) -> None:
    """A run as a folder to publish: weights, card, metrics, golden tensors.

    RUN is the folder of a finished run or of an ensemble.
    """
    from glczoo.data.region import Region
    from glczoo.hub.publish import save as save_run

    will_write(out, folder=True, runs=[run])
    _warn_of_sensitive([run])
    folder = save_run(run, out, repo_id=name, licence=licence)
    _tell_what_stays_here(Region.load(folder))
    target = name or "ORG/NAME"
    card = folder / "README.md"
    print(f"{folder}: read {card}, add what it does not know, then: glczoo push {folder} {target}")


def _tell_what_stays_here(region: "Region") -> None:
    """Rasters that were made of other data are not published: who uses the model must make them anew."""
    for modality in region.modalities:
        if modality.made_by:
            records = ", of the same records" if "densities" in modality.made_by else ""
            print(
                f"not published: the rasters of modality {modality.name}. Who uses the model makes them anew"
                f"{records}: {modality.made_by}"
            )


@click.command("export", cls=Verb)
@click.argument("run")
@click.option("--out", type=PATH, required=True, help="File to write, such as model.pt2 or model.onnx.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["torch", "onnx"]),
    help="torch.export, or ONNX; by default what the file's name says.",
)
def export(run: str, out: Path, kind: Literal["torch", "onnx"] | None) -> None:
    """A model as one file that predicts without glczoo: normalisation, network and activation.

    RUN is the folder of a finished run, or hf-hub:ORG/NAME.
    """
    from glczoo.runs.portable import export_portable, format_of

    kind = format_of(out, kind)
    will_write(out, runs=[run])
    _warn_of_sensitive([run])
    difference = export_portable(run, out, kind)
    print(f"{out}: predicts what {run} predicts, to {difference:.1g}")


@click.command("push", cls=Verb)
@click.argument("runs", nargs=-1, required=True, metavar="RUN…")
@click.argument("name", metavar="ORG/NAME")
@click.option("--private", is_flag=True, help="Only those who may read the repository see it.")
@click.option("--revision", help="Branch; by default main.")
@click.option("--create-pr", is_flag=True, help="Propose a pull request instead of a commit.")
@click.option("--tag", help="Name for the commit, for example v1.")
@licence_option
def push(
    runs: tuple[str, ...],
    name: str,
    private: bool,
    revision: str | None,
    create_pr: bool,
    tag: str | None,
    licence: str,
) -> None:
    """Publish a run, several as their ensemble, or a saved folder on the Hub.

    RUN is a finished run, or a folder made by glczoo save; ORG/NAME is a repository on the Hub, created if it
    is not there.
    """
    from glczoo.hub.publish import push as push_runs
    from glczoo.runs.run import Run

    _warn_of_sensitive(runs)
    address = push_runs(
        list(runs), name, private=private or None, revision=revision, create_pr=create_pr, tag=tag,
        licence=licence,
    )  # fmt: skip
    _tell_what_stays_here(Run.find(runs[0]).region)
    print(f"{address}\nload it: timm.create_model({'hf-hub:' + name!r}, pretrained=True)")


@click.command("pull", cls=Verb)
@click.argument("name", metavar="ORG/NAME[@REVISION]")
def pull(name: str) -> None:
    """Download a model from the Hub and check it; prints its folder."""
    from glczoo.hub_client import pull as download

    print(download(name))


@click.command("verify", cls=Verb)
@click.argument("model", metavar="ORG/NAME|FOLDER")
def verify(model: str) -> None:
    """Check a published model's files and replay its golden tensors."""
    from glczoo.hub.publish import verify as check

    result = check(model)
    print(
        f"{result.folder}: whole. {result.architecture}, {len(result.bands)} bands, "
        f"{result.species} species; golden logits differ by {result.difference:.2g} at most"
    )
