"""Verbs that use a trained model: evaluate and report, predict, map, and the web page."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from glczoo.cli.verbs import (
    PATH,
    Several,
    Verb,
    batch_size_option,
    first_process,
    json_option,
    part_option,
    region_option,
    runs_argument,
    truth_option,
    will_write,
    write_json,
)

if TYPE_CHECKING:
    from glczoo.data.region import Region
    from glczoo.evaluation.odmap import Entry

__all__ = ["app", "evaluate", "map_", "predict", "report"]

EVALUATED = (
    "model", "rule", "f1", "f1_macro", "auc", "auc_species", "size", "size_bias", "size_error"
)  # fmt: skip

Part = Literal["train", "validation", "test"]

k_option = click.option(
    "--k", type=click.IntRange(min=1), help="Predict this many species; by default the run's own rule."
)


@click.command("evaluate", cls=Verb)
@runs_argument
@region_option
@batch_size_option
@part_option
@truth_option("score the region's test table")
@k_option
@json_option
def evaluate(
    runs: tuple[str, ...],
    region: Path | None,
    batch_size: int,
    part: Part | None,
    truth: Path | None,
    k: int | None,
    json_file: Path | None,
) -> None:
    """F1, AUC and set size of each run and of their ensemble.

    RUN is the folder of a finished run, or hf-hub:ORG/NAME. Where the region has no surveys, runs are judged
    by the presence-only records that were held out.
    """
    from glczoo.evaluation.evaluate import evaluate as evaluate_runs
    from glczoo.evaluation.evaluate import markdown
    from glczoo.evaluation.records import evaluate_records

    will_write(json_file, runs=runs, region=region)
    where = _loaded(region)
    if truth is None and _without_surveys(runs, where):
        judged = evaluate_records(list(runs), region=where, batch_size=batch_size)
        if first_process():
            print(judged.text())
            write_json(json_file, judged.to_json())
        return
    result = evaluate_runs(list(runs), part=part, region=where, truth=truth, k=k, batch_size=batch_size)
    if first_process():
        print(
            f"{result.region}, {result.part}: {len(result.samples)} surveys, "
            f"{result.samples.richness().mean():.2f} species each\n"
        )
        if result.samples.unknown is not None:
            missed = result.samples.unknown.sum()
            print(f"{missed} of them are of species that the models do not know: they count as missed\n")
        print(markdown([row.to_json() for row in result.rows], {key: key for key in EVALUATED}))
        write_json(json_file, result.to_json())


@click.command("predict", cls=Verb)
@runs_argument
@region_option
@batch_size_option
@click.option("--points", type=PATH, help="Table with lon and lat (and patchID for JPEG bands).")
@click.option("--crs", help="Of the points, such as EPSG:2154; by default degrees.")
@click.option("--encoding", help="Of the points' text; by default UTF-8, else Windows-1252.")
@click.option("--submission", is_flag=True, help="The Kaggle file for the region's test table.")
@click.option("--test", metavar="NAME", help="Of a submission: one of the region's `tests`.")
@k_option
@click.option(
    "--top",
    type=click.IntRange(min=0),
    default=0,
    help="Also list this many of the most probable, in the set or not.",
)
@click.option("--out", type=PATH, required=True, help="CSV to write, or .parquet for points.")
def predict(
    runs: tuple[str, ...],
    region: Path | None,
    batch_size: int,
    points: Path | None,
    crs: str | None,
    encoding: str | None,
    submission: bool,
    test: str | None,
    k: int | None,
    top: int,
    out: Path,
) -> None:
    """Species at points, by a run or the ensemble of several.

    RUN is the folder of a finished run, or hf-hub:ORG/NAME. One of --points and --submission is needed.
    """
    from glczoo.data.tables import read_points
    from glczoo.data.truth import read_test_points, test_table
    from glczoo.decoding import Decoding, Rule
    from glczoo.prediction.points import predict_points, shown_probabilities, write_submission
    from glczoo.runs.run import Run

    if submission == (points is not None):
        raise click.UsageError("give either --points CSV or --submission")
    if test and not submission:
        raise click.UsageError("--test names the test table of a --submission")
    will_write(out, runs=runs, region=region)
    model = Run.load(list(runs))
    place = _loaded(region) or model.region
    if points is not None:
        table = read_points(place, points, crs=crs, encoding=encoding)
        result = predict_points(model, table, out, place, k=k, top=top, batch_size=batch_size)
        if first_process():
            print(f"{out}: {result.points} points, {result.set_size:.1f} species each ({result.decoding})")
            if model.answers_ranks:
                print("suitability: a rank among the places of the records, no probability of presence")
            for reason, count in result.left_out.items():
                print(f"left out: {count} of {len(table)} points {reason}; see {result.left_out_file}")
        return
    described, table = test_table(place, test), read_test_points(place, test)
    probabilities = shown_probabilities(model, table, place, batch_size).nan_to_num(0)
    decoding = Decoding(Rule.TOP_K, k) if k is not None else model.decoding
    mask = decoding(probabilities, table.datasets)
    if first_process():
        write_submission(out, table, mask, model.species, (described.id, described.predicted))
        each = float(mask.sum(1).double().mean())
        print(f"{out}: {len(table)} points, {each:.1f} species each ({decoding})")


@click.command("map", cls=Verb)
@runs_argument
@region_option
@batch_size_option
@click.option(
    "--against", type=PATH, metavar="REGION",
    help="Map what changes from this region.yaml to --region, such as from today's climate to another.",
)  # fmt: skip
@click.option("--bbox", type=float, nargs=4, metavar="W S E N", help="In units of --crs. Default: all.")
@click.option("--polygon", type=PATH, metavar="GEOJSON", help="Only cells whose centre is inside.")
@click.option("--points", type=PATH, metavar="TABLE", help="Only cells that hold a point (JPEG bands).")
@click.option("--points-crs", help="Of the points, such as EPSG:2154; by default degrees.")
@click.option("--encoding", help="Of the points' text; by default UTF-8, else Windows-1252.")
@click.option(
    "--resolution", type=float, help="Side of a cell in units of --crs. Default: the finest raster's cells."
)
@click.option("--crs", help="Of the map. Default: the finest raster's, or EPSG:4326 with a resolution.")
@click.option("--species", cls=Several, metavar="ID|NAME", help="A layer for each.")
@click.option("--out", type=PATH, required=True, help="Folder to write; an unfinished map goes on.")
@click.option(
    "--no-applicability", is_flag=True,
    help="Do not compare with the training samples (which the region's tables must hold).",
)  # fmt: skip
@click.option(
    "--unmasked", is_flag=True,
    help="Keep predictions outside of the area of applicability.",
)  # fmt: skip
@click.option(
    "--clamp", is_flag=True,
    help="Hold every band within the range of the training samples, and keep what lies outside of it.",
)  # fmt: skip
def map_(
    runs: tuple[str, ...],
    region: Path | None,
    batch_size: int,
    against: Path | None,
    bbox: tuple[float, float, float, float] | None,
    polygon: Path | None,
    points: Path | None,
    points_crs: str | None,
    encoding: str | None,
    resolution: float | None,
    crs: str | None,
    species: tuple[str, ...],
    out: Path,
    no_applicability: bool,
    unmasked: bool,
    clamp: bool,
) -> None:
    """Species, richness and where the model can be trusted: GeoTIFF and PNG.

    RUN is the folder of a finished run, or hf-hub:ORG/NAME.
    """
    from glczoo.prediction.map import make_map

    will_write(out, folder=True, runs=runs, region=region)
    result = make_map(
        list(runs), out, resolution=resolution, bbox=bbox, polygon=polygon, points=points,
        points_crs=points_crs, encoding=encoding, crs=crs,
        species=list(species), region=_loaded(region), against=_loaded(against),
        applicability=not no_applicability, masked=not unmasked, clamp=clamp, batch_size=batch_size,
    )  # fmt: skip
    if first_process():
        print(
            f"{result.file}: {result.height} x {result.width} cells, {result.cells} with data; "
            f"{result.places} places computed for {result.computed} cells in {result.seconds:.1f} s"
        )
        for reason, count in result.left_out.items():
            print(f"left out: {count} of the points {reason}")
        if result.applicable is not None:
            print(
                f"{100 * result.applicable:.1f} % of them lie in the area of applicability (dissimilarity "
                f"up to {result.threshold:.3g})"
            )


@click.command("report", cls=Verb)
@click.argument("model", metavar="RUN")
@click.option("--out", type=PATH, default=Path("report.html"), help="Page to write.")
@region_option
@part_option
@truth_option("report on the region's test table")
@click.option(
    "--species", default="", metavar="ID|NAME,…",
    help="Response curves of these; by default of the four with most records.",
)  # fmt: skip
@click.option(
    "--sample", type=click.IntRange(min=0), default=1000,
    help="Samples for importance and response curves, the slow part; 0: without.",
)  # fmt: skip
@click.option("--odmap", type=PATH, metavar="CSV", help="Also write the ODMAP protocol (Zurell et al. 2020).")
@batch_size_option
@click.pass_obj
def report(
    words: list[str],
    model: str,
    out: Path,
    region: Path | None,
    part: Part | None,
    truth: Path | None,
    species: str,
    sample: int,
    odmap: Path | None,
    batch_size: int,
) -> None:
    """One HTML page about a run: scores, curves, errors, and the bands that it uses.

    RUN is the folder of a finished run, or hf-hub:ORG/NAME. Where the region has no surveys, the page is
    about the presence-only records that were held out; of a fit that has seen every survey, about its scores
    out of fold.
    """
    from glczoo.evaluation.odmap import odmap as protocol
    from glczoo.evaluation.records_report import report_records
    from glczoo.evaluation.report import report as write_report
    from glczoo.fit.report import report_fit, seen_whole
    from glczoo.runs.run import Run

    will_write(out, odmap, runs=[model], region=region)
    named = [name.strip() for name in species.split(",")] if species else []
    command, where = shlex.join(["glczoo", *words]), _loaded(region)
    if truth is None and _without_surveys([model], where):
        about = report_records(
            model, out, region=where, species=named, sample=sample, batch_size=batch_size, command=command
        )
        if first_process():
            print(f"{out}: {about.score.places} places of records, AUC {about.score.auc or float('nan'):.3f}")
        if odmap:
            run = Run.find(model).on(where)
            _write_protocol(odmap, protocol(run, about.score, about.responses))
        return
    if truth is None and part is None and (board := seen_whole(Run.find(model).on(where))):
        if odmap:
            raise click.UsageError(f"--odmap needs held-out surveys, {model} was fitted on all of them")
        report_fit(model, out, region=where, species=named, sample=sample, command=command)
        if first_process():
            print(f"{out}: {board.samples} surveys of {board.folds} folds, F1 {board.together.f1:.3f}")
        return
    page = write_report(
        model,
        out,
        part=part,
        truth=truth,
        species=named,
        sample=sample,
        region=where,
        batch_size=batch_size,
        command=command,
    )
    if first_process():
        best = page.results.rules[0]
        print(f"{out}: {page.results.surveys} {page.where}, F1 {best.f1:.3f} ({best.rule})")
    if odmap:
        _write_protocol(odmap, page.odmap)


def _write_protocol(path: Path, entries: "list[Entry]") -> None:
    """Write the ODMAP protocol, and list what only the authors can fill in."""
    from glczoo.evaluation.odmap import unanswered, write_odmap

    if first_process():
        write_odmap(path, entries)
        left = unanswered(entries)
        print(f"{path}: {len(entries) - len(left)} elements filled in; yours are {'; '.join(left)}")


@click.command("app", cls=Verb)
@runs_argument
@region_option
@batch_size_option
@click.option("--host", default="127.0.0.1", help="127.0.0.1: this machine alone; 0.0.0.0: for others too.")
@click.option("--port", type=click.IntRange(1, 65535), help="By default the first free one from 7860 on.")
def app(runs: tuple[str, ...], region: Path | None, batch_size: int, host: str, port: int | None) -> None:
    """A web page: click on a map to see the species of a place, and what the model saw there.

    RUN is the folder of a finished run, or hf-hub:ORG/NAME.
    """
    from glczoo.prediction.app import serve

    serve(list(runs), _loaded(region), host=host, port=port, batch_size=batch_size)


def _without_surveys(runs: Sequence[str], region: "Region | None") -> bool:
    """Whether the runs can be judged by presence-only records alone."""
    from glczoo.runs.run import Run

    return "pa" not in (region or Run.find(runs[0]).region).tables


def _loaded(region: Path | None) -> "Region | None":
    from glczoo.data.region import Region

    return Region.load(region) if region else None
