"""The house keeps its floors: a module imports only from lower ones, and each library has its door."""

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "glczoo"

ORDER = [
    {"errors"},
    {"files", "progress"},
    {"packaged", "yaml_text"},
    {"losses", "metrics", "expected_f1", "calibration", "figures", "published_files"},
    {"decoding", "hub_client"},
    {"models", "data"},
    {"recipe", "regions"},
    {"runs"},
    {"training"},
    {"train", "prediction"},
    {"evaluation", "bench"},
    {"fit"},  # trains and compares; a card shows its leaderboard
    {"hub"},
    {"demo"},
    {"cli"},
    {"__main__", ""},  # the face of the package: registers the models
]
"""Rooms at the top of the package, lowest first: a module imports from its own room and lower ones."""

DOORS = {
    "tqdm": {"progress"},
    "pandas": {
        "data.archives",
        "data.geo_files",
        "data.occurrences",
        "data.places",
        "data.presence",
        "data.record_filters",
        "data.table_files",
        "data.table_rows",
        "data.table_writer",
        "data.tables",
        "data.text_tables",
        "prediction.points",
        "regions.columns",
        "regions.guessed_table",
        "regions.labels",
        "regions.species_names",
        "regions.visits",
    },
    "rasterio": {
        "regions.band_look",
        "regions.bands",
        "regions.mosaics",
        "regions.coordinates",
        "regions.densities",
        "data.raster_files",
        "data.rasters",
        "regions.virtual_files",
        "regions.virtual_world",
        "prediction.cartography",
        "prediction.grids",
    },
    "accelerate": {
        "bench",
        "train",
        "runs.scoring",
        "runs.trained",
        "evaluation.evaluate",
        "evaluation.held_out",
        "evaluation.records",
        "evaluation.report",
        "evaluation.steps",
        "prediction.points",
        "prediction.map",
        "training.checkpoints",
        "training.prepare",
        "training.trackers",
        "training.tuning",
    },
    "yaml": {"data.region", "recipe.reading", "yaml_text"},
    "pydantic": {
        "data.schema",
        "data.region_sections",
        "data.region",
        "recipe.keys",
        "recipe.schema",
        "recipe.sections",
        "models.published",
        "evaluation.nceas",
        "evaluation.study",
        "fit.settings",
    },
    "matplotlib": {
        "demo",
        "figures.click_map",
        "figures.region",
        "figures.report",
        "figures.style",
        "prediction.cartography",
    },
    "gradio": {"prediction.app"},
    "huggingface_hub": {"hub_client", "hub.metadata"},
    "jinja2": {"hub.card", "evaluation.report"},
    "simplejpeg": {"data.jpeg"},
    "sklearn": {"training.fit_forest", "training.held_out_records"},
    "click": {
        "cli",
        "cli.prediction",
        "cli.publishing",
        "cli.region",
        "cli.training",
        "cli.verbs",
        "train",
    },
}


@cache
def modules() -> dict[str, ast.Module]:
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        trees[name] = ast.parse(path.read_text())
    return trees


def imports(tree: ast.Module) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_room_has_its_place():
    assert {room(module) for module in modules()} == {name for floor in ORDER for name in floor}


def test_imports_go_down():
    floor_of = {name: number for number, floor in enumerate(ORDER) for name in floor}
    upward = [
        (module, name)
        for module, tree in modules().items()
        for name in imports(tree)
        if name.startswith("glczoo.")
        and room(name[7:]) in floor_of
        and room(name[7:]) != room(module)
        and floor_of[room(name[7:])] >= floor_of[room(module)]
    ]
    assert upward == []


def test_every_library_has_its_door():
    users = {
        library: {
            m for m, tree in modules().items() if any(n.split(".")[0] == library for n in imports(tree))
        }
        for library in DOORS
    }
    assert users == DOORS


def test_no_room_without_a_name():
    nameless = {"utils", "common", "base", "helpers", "misc"}
    assert not nameless & {name.split(".")[-1] for name in modules()}


def test_text_is_utf_8_whatever_the_machine_prefers():
    implicit = [
        (module, node.lineno)
        for module, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("read_text", "write_text")
        and len(node.args) < (1 if node.func.attr == "read_text" else 2)
        and not any(keyword.arg == "encoding" for keyword in node.keywords)
    ]
    assert implicit == []
