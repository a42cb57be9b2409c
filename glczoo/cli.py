"""The `glczoo` command: thin, one function for each verb, which imports what it needs when it is called.

Long because every option of every verb is listed here and nowhere else.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glczoo.files import write_text

__all__ = ["main"]

_EVALUATED = (
    "model", "rule", "f1", "f1_macro", "auc", "auc_species", "size", "size_bias", "size_error"
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Run a verb; what a user can mend ends in one line and exit code 1."""
    parser = _parser()
    given, rest = parser.parse_known_args(arguments)
    if hasattr(given, "overrides"):  # argparse takes no positional words after an option
        given.overrides += [word for word in rest if "=" in word and word[0] != "-"]
        rest = [word for word in rest if word not in given.overrides]
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    given.words = sys.argv[1:] if arguments is None else arguments
    try:
        given.run(given)
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        sys.exit(f"glczoo: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "glczoo", description="Which plant species grow at a place: train, evaluate, predict, on any region."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(group: Any, name: str, run: Callable[[argparse.Namespace], None], help: str) -> Any:
        sub = group.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        return sub

    sub = verb(
        verbs, "demo", _demo, "a virtual region, three steps, two models, an ensemble, a map and a report"
    )
    sub.add_argument("--out", type=Path, default=Path("demo"), help="folder to write (default: demo)")
    sub.add_argument("--seed", type=int, default=0, help="another world (default: 0)")

    region = verbs.add_parser(
        "region", help="describe your own data, check a region, its statistics, or make a virtual one"
    )
    regions = region.add_subparsers(required=True, metavar="VERB")
    sub = verb(regions, "init", _init, "describe a folder of rasters and tables: region.yaml and recipes")
    sub.add_argument("folder", type=Path, help="holds the rasters; region.yaml is written there")
    sub.add_argument("--po", type=Path, metavar="CSV", help="presence-only records, e.g. a download of GBIF")
    sub.add_argument("--pa", type=Path, metavar="CSV", help="surveys: a row for each species that one found")
    sub.add_argument("--name", help="of the region (default: the folder's)")
    sub.add_argument(
        "--columns", nargs="+", default=[], metavar="KEY=COLUMN",
        help="what is guessed wrong: lon, lat, species, survey (comma-separated), patch, day",
    )  # fmt: skip
    for name, run, help in (
        ("check", _check, "read every table, raster and patch once: counts, problems, and a page to look at"),
        ("stats", _stats, "mean and standard deviation of every band over the training surveys"),
    ):
        sub = verb(regions, name, run, help)
        sub.add_argument("region", type=Path, help="region.yaml or its folder")
        sub.add_argument("--patch-size", type=int, help="cells along a side (default: the region's)")
        sub.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
        if name == "check":
            sub.add_argument("--buffer", type=float, default=0, help="km that split surveys keep apart")
            sub.add_argument(
                "--out", type=Path, metavar="PNG", help="picture (default: check.png beside region.yaml)"
            )
    sub.add_argument("--table", choices=("pa", "po"), default="pa", help="surveys to use (default: pa)")

    sub = verb(
        regions,
        "densities",
        _densities,
        "presence-only records as rasters: each species' share of those nearby",
    )
    sub.add_argument("region", type=Path, help="region.yaml or its folder")
    sub.add_argument("--out", type=Path, required=True, help="folder for the rasters and their region.yaml")
    sub.add_argument(
        "--cells", type=float, nargs="+", default=[1.5, 5.0, 15.0],
        help="standard deviations of the Gaussians, in cells of the first raster (default: 1.5 5 15)",
    )  # fmt: skip

    sub = verb(
        regions, "make-virtual", _make_virtual, "a virtual region with known truth, in the GLC23 layout"
    )
    sub.add_argument("folder", type=Path, help="a folder that does not exist or is empty")
    for name, default, help in (
        ("species", 200, "species"),
        ("po", 20000, "presence-only records"),
        ("pa", 1000, "presence-absence surveys"),
        ("test", 500, "rows of the test table"),
        ("size", 256, "cells of 30 arc seconds along a side"),
        ("grid", 0, "points along a side of a regular grid with known truth, for maps"),
        ("patch-size", 128, "patch size that region.yaml names"),
        ("seed", 0, "another world"),
    ):
        sub.add_argument(f"--{name}", type=int, default=default, help=f"{help} (default: {default})")

    sub = verb(verbs, "pack", _pack, "a region's trees of JPEG files become a few memory-mapped shards")
    sub.add_argument("region", type=Path, help="region.yaml or its folder")
    sub.add_argument("--out", type=Path, help="folder to write (default: where the region looks)")
    sub.add_argument("--decoded", action="store_true", help="keep pixels: 16 times the space, no decoding")
    sub.add_argument("--verify", action="store_true", help="compare CRC-32 and look for new files")

    sub = verb(verbs, "evaluate", _evaluate, "F1, AUC and set size of each run and of their ensemble")
    _runs(sub)
    sub.add_argument("--part", choices=("train", "validation", "test"), help="default: test, else validation")
    sub.add_argument("--truth", type=Path, help="table Id;speciesId: score the region's test table by it")
    sub.add_argument("--k", type=int, help="answer so many species (default: the run's own rule)")
    sub.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")

    sub = verb(verbs, "predict", _predict, "species at points, by a run or the ensemble of several")
    _runs(sub)
    source = sub.add_mutually_exclusive_group(required=True)
    source.add_argument("--points", type=Path, help="CSV with lon and lat (and patchID for JPEG bands)")
    source.add_argument(
        "--submission", action="store_true", help="the Kaggle file for the region's test table"
    )
    sub.add_argument("--k", type=int, help="answer so many species (default: the run's own rule)")
    sub.add_argument("--top", type=int, default=0, help="also list the most probable, in the set or not")
    sub.add_argument("--out", type=Path, required=True, help="CSV to write, or .parquet for points")

    sub = verb(verbs, "map", _map, "species, richness and where the model can be trusted: GeoTIFF and PNG")
    _runs(sub)
    sub.add_argument("--bbox", type=float, nargs=4, metavar=("W", "S", "E", "N"), help="in units of --crs")
    sub.add_argument("--polygon", type=Path, metavar="GEOJSON", help="only cells whose centre is inside")
    sub.add_argument("--points", type=Path, metavar="CSV", help="only cells that hold a point (JPEG bands)")
    sub.add_argument("--resolution", type=float, required=True, help="side of a cell in units of --crs")
    sub.add_argument("--crs", default="EPSG:4326", help="of the map (default: EPSG:4326, degrees)")
    sub.add_argument("--species", nargs="+", default=[], metavar="ID|NAME", help="a layer for each")
    sub.add_argument("--out", type=Path, required=True, help="folder to write; an unfinished map goes on")
    sub.add_argument(
        "--no-applicability", dest="applicability", action="store_false",
        help="do not compare with the training surveys (which the region's tables must hold)",
    )  # fmt: skip
    sub.add_argument(
        "--unmasked", dest="masked", action="store_false",
        help="keep predictions outside of the area of applicability",
    )  # fmt: skip

    sub = verb(verbs, "report", _report, "one HTML page about a run: scores, curves, errors, what it reads")
    sub.add_argument("model", metavar="RUN", help="folder of a finished run, or hf-hub:ORG/NAME")
    sub.add_argument(
        "--out", type=Path, default=Path("report.html"), help="page to write (default: report.html)"
    )
    sub.add_argument("--region", type=Path, help="region.yaml (default: the run's)")
    sub.add_argument("--part", choices=("train", "validation", "test"), help="default: test, else validation")
    sub.add_argument("--truth", type=Path, help="table Id;speciesId: report on the region's test table by it")
    sub.add_argument(
        "--species", type=lambda text: [name.strip() for name in text.split(",")], default=[],
        metavar="ID|NAME,…", help="response curves of these (default: the four with most records)",
    )  # fmt: skip
    sub.add_argument(
        "--sample", type=int, default=1000,
        help="surveys for importance and response curves, the slow part; 0: without (default: 1000)",
    )  # fmt: skip
    sub.add_argument("--batch-size", type=int, default=256, help="points in a batch (default: 256)")

    sub = verb(verbs, "app", _app, "a page to click: species at a place, and what the model saw there")
    _runs(sub)
    sub.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for others too (default: this machine)")
    sub.add_argument("--port", type=int, help="default: the first free one from 7860 on")

    sub = verb(verbs, "ensemble", _ensemble, "several runs as one model: one folder, one file of weights")
    sub.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    sub.add_argument("--out", type=Path, required=True, help="folder to write")
    sub.add_argument(
        "--average", choices=("probabilities", "logits"), default="probabilities",
        help="what is averaged (default: probabilities)",
    )  # fmt: skip

    sub = verb(
        verbs, "forest", _forest, "fit a random forest on a recipe's surveys, as a run among the others"
    )
    sub.add_argument("recipe", help="a recipe of PA surveys, such as recipes/step1.yaml")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="such as name=forest")
    sub.add_argument("--trees", type=int, default=500, help="how many (default: 500)")
    sub.add_argument("--min-leaf", type=int, default=2, help="surveys in a leaf at least (default: 2)")

    sub = verb(verbs, "save", _save, "a run as a folder to publish: weights, card, metrics, golden tensors")
    sub.add_argument("folder", type=Path, metavar="RUN", help="folder of a finished run or of an ensemble")
    sub.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    sub.add_argument("--name", help="ORG/NAME that the card loads (default: GLCZOO_HUB_ORG/ARCHITECTURE)")
    _licence(sub)

    sub = verb(verbs, "push", _push, "publish a run, several as their ensemble, or a saved folder on the Hub")
    sub.add_argument("runs", nargs="+", metavar="RUN", help="finished run, or a folder made by `glczoo save`")
    sub.add_argument("name", metavar="ORG/NAME", help="repository on the Hub; created if it is not there")
    sub.add_argument("--private", action="store_true", help="only who may read the repository")
    sub.add_argument("--revision", help="branch (default: main)")
    sub.add_argument("--create-pr", action="store_true", help="propose a pull request instead of a commit")
    sub.add_argument("--tag", help="name for the commit, for example v1")
    _licence(sub)

    sub = verb(verbs, "pull", _pull, "download a model from the Hub and check it; prints its folder")
    sub.add_argument("name", metavar="ORG/NAME[@REVISION]")

    sub = verb(verbs, "verify", _verify, "check a published model's files and replay its golden tensors")
    sub.add_argument("model", metavar="ORG/NAME|FOLDER")

    sub = verb(
        verbs, "bench", _bench, "surveys a second of table, patch, batch, step; hours of the paper's steps"
    )
    sub.add_argument(
        "overrides", nargs="*", metavar="RECIPE|key=value", help="default: step 2, largest model"
    )
    sub.add_argument("--region", type=Path, help="region.yaml (default: the recipe's, else a virtual one)")
    sub.add_argument("--device", help="cpu, cuda, … (default: the fastest)")
    sub.add_argument("--seconds", type=float, default=10, help="of each measurement (default: 10)")
    sub.add_argument("--size", type=int, default=256, help="side of the virtual region (default: 256 cells)")
    sub.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")

    sub = verb(verbs, "study", _study, "a grid of runs and seeds, one table of means and spreads; resumable")
    sub.add_argument("study", type=Path, help="such as recipes/studies/swiss_trees.yaml")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="for every recipe of the study")
    sub.add_argument("--truth", type=Path, help="table Id;speciesId: evaluate on the region's test table")
    sub.add_argument("--jobs", type=int, default=1, help="processes that train runs (default: 1)")

    sub = verb(
        verbs, "crossval", _crossval, "a recipe by folds of spatial blocks, and the ensemble of its members"
    )
    sub.add_argument("recipe", type=Path, help="such as recipes/step1.yaml; then step2.yaml, step3.yaml")
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data.blocks.folds=5")
    sub.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    return parser


def _runs(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run, or hf-hub:ORG/NAME")
    sub.add_argument("--region", type=Path, help="region.yaml (default: the first run's)")
    sub.add_argument("--batch-size", type=int, default=256, help="points in a batch (default: 256)")


def _licence(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--licence", default="not stated", help="of the weights, e.g. cc-by-4.0: mind the data's terms"
    )


def _demo(given: argparse.Namespace) -> None:
    from glczoo.demo import demo

    demo(given.out, seed=given.seed)


def _init(given: argparse.Namespace) -> None:
    from glczoo.regions.init import init_region

    said = dict(word.partition("=")[::2] for word in given.columns)
    print(init_region(given.folder, given.po, given.pa, given.name, said).text())


def _check(given: argparse.Namespace) -> None:
    from glczoo.data.region import Region
    from glczoo.regions.check import check_region

    beside = given.region if given.region.is_dir() else given.region.parent
    picture = given.out or beside / "check.png"
    region = Region.load(given.region)
    check = check_region(region, given.patch_size, picture=picture, buffer_km=given.buffer)
    print(check.text() + (f"\n\npicture: {check.picture}" if check.picture else ""))
    _json(given.json, check.to_json())


def _stats(given: argparse.Namespace) -> None:
    from glczoo.data.patches import PatchSource
    from glczoo.data.region import Region
    from glczoo.data.splits import split_samples
    from glczoo.data.tables import read_samples, read_species

    region = Region.load(given.region)
    surveys = read_samples(region, given.table, read_species(region))
    if region.split and given.table == "pa":
        training = split_samples(region, surveys, kind="file", validation=0).train
    else:
        share = {"pa": 0.2, "po": 0.02}[given.table]
        training = split_samples(region, surveys, kind="random", validation=share).train
    source = PatchSource(region, None, given.patch_size)
    training = training.subset(source.complete(training, "training surveys", drop=True))
    found = source.statistics(training)
    print(f"{region.name}: {len(training)} training surveys, patches of {source.size} cells")
    print(f"{'band':12} {'mean':>14} {'std':>14} {'filled':>8}")
    for band, *values in zip(source.bands, found.mean, found.std, found.filled, strict=True):
        print(f"{band:12} {values[0]:14.4f} {values[1]:14.4f} {100 * values[2]:6.2f} %")
    _json(given.json, {"bands": source.bands, "surveys": len(training), **vars(found)})


def _densities(given: argparse.Namespace) -> None:
    from glczoo.data.region import Region
    from glczoo.regions.densities import write_densities

    made = write_densities(Region.load(given.region), given.out, given.cells)
    print(f"{given.out}: {len(made.modalities[-1].bands)} bands; name it: region={given.out}")


def _make_virtual(given: argparse.Namespace) -> None:
    from glczoo.regions.virtual import make_virtual

    keys = ("species", "po", "pa", "test", "size", "grid", "patch_size", "seed")
    made = make_virtual(given.folder, **{key: getattr(given, key) for key in keys})
    print(
        f"{made.folder}: {made.num_species} species; {made.num_po} presence-only records at "
        f"{made.num_po_places} places; {made.num_pa} surveys of {made.mean_set_size:.1f} species; "
        f"{made.num_test} test rows; {made.num_patches} patches. Now: glczoo region check {made.folder}"
    )


def _pack(given: argparse.Namespace) -> None:
    from glczoo.data.region import Region
    from glczoo.regions.pack import pack_region, pack_text

    region = Region.load(given.region)
    print(pack_text(pack_region(region, given.out, decoded=given.decoded, verify=given.verify)))


def _evaluate(given: argparse.Namespace) -> None:
    from glczoo.data.region import Region
    from glczoo.evaluation.evaluate import evaluate, markdown

    region = Region.load(given.region) if given.region else None
    found = evaluate(
        given.runs, part=given.part, region=region, truth=given.truth, k=given.k, batch_size=given.batch_size
    )
    if _first_process():
        print(
            f"{found['region']}, {found['part']}: {found['surveys']} surveys, "
            f"{found['species_per_survey']:.2f} species each\n"
        )
        print(markdown(found["rows"], {key: key for key in _EVALUATED}))
        _json(given.json, found)


def _predict(given: argparse.Namespace) -> None:
    from glczoo.data.region import Region
    from glczoo.data.tables import read_points
    from glczoo.decoding import Decoding
    from glczoo.prediction.points import predict_points, probabilities_at, write_submission
    from glczoo.runs.run import locate, region_of

    region = Region.load(given.region) if given.region else region_of(locate(given.runs[0]))
    described = region.table("test") if given.submission else None
    path = region.find(*described.file) if described else given.points
    points = read_points(region, path, described)
    if given.points:
        told = predict_points(
            given.runs, region, points, given.out, k=given.k, top=given.top, batch_size=given.batch_size
        )
        if _first_process():
            number, each, decoding = told["points"], told["set_size"], told["decoding"]
            print(f"{given.out}: {number} points, {each:.1f} species each ({decoding})")
            for reason, count in told["left_out"].items():
                print(f"left out: {count} of {len(points)} points {reason}; see {told['left_out_file']}")
        return
    found = probabilities_at(given.runs, region, points, batch_size=given.batch_size)
    probabilities, species, decoding = found
    decoding = Decoding("top_k", given.k) if given.k else decoding
    mask = decoding(probabilities, points.datasets)
    if _first_process():
        write_submission(given.out, points, mask, species)
        each = float(mask.sum(1).double().mean())
        print(f"{given.out}: {len(points)} points, {each:.1f} species each ({decoding})")


def _map(given: argparse.Namespace) -> None:
    from glczoo.data.region import Region
    from glczoo.prediction.map import make_map

    found = make_map(
        given.runs, given.out, resolution=given.resolution, bbox=given.bbox, polygon=given.polygon,
        points=given.points, crs=given.crs, species=given.species,
        region=Region.load(given.region) if given.region else None,
        applicability=given.applicability, masked=given.masked, batch_size=given.batch_size,
    )  # fmt: skip
    if _first_process():
        print(
            f"{found['file']}: {found['height']} x {found['width']} cells, {found['cells']} with data; "
            f"{found['places']} places asked for {found['computed']} cells in {found['seconds']:.1f} s"
        )
        if found["applicable"] is not None:
            print(
                f"{100 * found['applicable']:.1f} % of them lie in the area of applicability (dissimilarity "
                f"up to {found['threshold']:.3g})"
            )


def _report(given: argparse.Namespace) -> None:
    from glczoo.data.region import Region
    from glczoo.evaluation.report import report

    found = report(
        given.model, given.out, part=given.part, truth=given.truth, species=given.species,
        sample=given.sample, region=Region.load(given.region) if given.region else None,
        batch_size=given.batch_size, command=shlex.join(["glczoo", *given.words]),
    )  # fmt: skip
    if _first_process():
        told = found["results"]
        print(
            f"{given.out}: {told['surveys']} {found['where']}, F1 "
            f"{told['rules'][0]['f1']:.3f} ({told['rules'][0]['rule']})"
        )


def _app(given: argparse.Namespace) -> None:
    from glczoo.data.region import Region
    from glczoo.prediction.app import serve

    region = Region.load(given.region) if given.region else None
    serve(given.runs, region, host=given.host, port=given.port, batch_size=given.batch_size)


def _ensemble(given: argparse.Namespace) -> None:
    from glczoo.runs.combine import combine

    out = combine(given.runs, given.out, given.average)
    print(f'{out}: {len(given.runs)} members; timm.create_model("local-dir:{out}", pretrained=True)')


def _forest(given: argparse.Namespace) -> None:
    from glczoo.recipe import read_recipe
    from glczoo.training.fit_forest import fit_forest

    run = fit_forest(read_recipe(given.recipe, given.overrides), given.trees, given.min_leaf)
    print(f"{run}: {given.trees} trees. Average it: glczoo ensemble {run} RUN --out DIR")


def _save(given: argparse.Namespace) -> None:
    from glczoo.hub.publish import save

    out = save(given.folder, given.out, repo_id=given.name, licence=given.licence)
    name = given.name or "ORG/NAME"
    print(f"{out}: read {out / 'README.md'}, add what it does not know, then: glczoo push {out} {name}")


def _push(given: argparse.Namespace) -> None:
    from glczoo.hub.publish import push

    address = push(
        given.runs, given.name, private=given.private or None, revision=given.revision,
        create_pr=given.create_pr, tag=given.tag, licence=given.licence,
    )  # fmt: skip
    print(f"{address}\nload it: timm.create_model({'hf-hub:' + given.name!r}, pretrained=True)")


def _pull(given: argparse.Namespace) -> None:
    from glczoo.hub_client import pull

    print(pull(given.name))


def _verify(given: argparse.Namespace) -> None:
    from glczoo.hub.publish import verify

    found = verify(given.model)
    print(
        f"{found['folder']}: whole. {found['architecture']}, {len(found['bands'])} bands, {found['species']} "
        f"species; golden logits differ by {found['difference']:.2g} at most"
    )


def _bench(given: argparse.Namespace) -> None:
    from glczoo.bench import bench, bench_text

    paths = [word for word in given.overrides if "=" not in word]
    if len(paths) > 1:
        raise ValueError(f"one recipe is measured at a time, given {paths}")
    found = bench(
        Path(paths[0]) if paths else None,
        [word for word in given.overrides if "=" in word],
        region=given.region, device=given.device, seconds=given.seconds, size=given.size,
    )  # fmt: skip
    print(bench_text(found))
    _json(given.json, found)


def _study(given: argparse.Namespace) -> None:
    from glczoo.evaluation.study import run_study, table_text

    table = run_study(given.study, given.overrides, given.truth, given.jobs)
    if _first_process():
        print(f"{table['name']}, {table['part']}: {table['surveys']} surveys, seeds {table['seeds']}\n")
        print(table_text(table))


def _crossval(given: argparse.Namespace) -> None:
    from glczoo.evaluation.crossval import crossval
    from glczoo.evaluation.evaluate import markdown

    found = crossval(given.recipe, given.overrides)
    if _first_process():
        print(markdown(found["rows"], {key: key for key in ("fold", "surveys", "rule", "f1", "auc", "size")}))
        mean, low, high = found["f1"]
        print(
            f"\nF1 of {found['surveys']} surveys, each by the member that did not see its block: {mean:.3f} "
            f"[{low:.3f}, {high:.3f}], 95 % by resampling blocks\ntheir ensemble: {found['ensemble']}"
        )
        _json(given.json, found)


def _first_process() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def _json(path: Path | None, found: dict[str, Any]) -> None:
    if path:
        write_text(path, json.dumps(found, indent=1) + "\n")
