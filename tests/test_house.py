"""The house keeps its floors: a module imports only from lower ones, and each library has its door."""

import ast
import importlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "glczoo"

ORDER = [
    {"errors"},
    {"files", "memory", "progress"},
    {"packaged", "yaml_text"},
    {"json_text"},
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
    {"demo", "make_sample"},
    {"cli"},
    {"__main__", ""},  # the face of the package: registers the models
]
"""Rooms at the top of the package, lowest first: a module imports from its own room and lower ones."""

DOORS = {
    "tqdm": {"progress"},
    "psutil": {"memory"},
    "pandas": {
        "data.table_files.archives",
        "data.table_files.geo",
        "data.occurrences",
        "data.places",
        "data.point_tables",
        "data.presence",
        "data.record_filters",
        "data.sample_columns",
        "data.table_files",
        "data.table_rows",
        "data.table_files.writing",
        "data.tables",
        "data.table_files.text",
        "data.truth",
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
        "regions.sample_region",
        "regions.virtual_files",
        "regions.virtual_glc24",
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

OURS = {"CheckpointError", "DamagedError", "ExistsError", "GlczooError", "HubError", "MissingError"}
"""What a user can mend is one of these, with what, where and a remedy; the command prints it in one line."""

MADE_OF_OURS = {
    "of_system",
    "type(error)",
    "_bomb",
}  # a GlczooError of an OSError; one of ours again, with more words

OTHER_ERRORS = {
    ("files", "OSError"): "the system's own with its errno, and the path, which the system may have left out",
    (
        "data.cache",
        "OSError",
    ): "a full disk, foreseen: the errno of one that is met while writing",
    ("models.stem", "TypeError"): "a mistake in a program: no recipe and no word of a command leads there",
}
"""Errors of Python that are raised by purpose, and why; `errors.of_system` explains those of the system."""


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


def raised(tree: ast.Module) -> list[tuple[str, int]]:
    """Names of the exceptions that a module makes and raises, with their lines."""
    calls = [
        node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
    ]
    return [(ast.unparse(call.func), call.lineno) for call in calls]


def test_every_error_that_a_user_can_cause_is_one_of_ours():
    others = [
        (module, name, line)
        for module, tree in modules().items()
        for name, line in raised(tree)
        if name not in OURS | MADE_OF_OURS
        and not name.startswith("click.")
        and (module, name) not in OTHER_ERRORS
    ]
    assert others == []


def test_no_error_of_python_is_allowed_that_is_not_raised():
    found = {(module, name) for module, tree in modules().items() for name, _ in raised(tree)}
    assert OTHER_ERRORS.keys() <= found


def test_our_errors_are_glczoo_errors():
    errors = importlib.import_module("glczoo.errors")
    hub = importlib.import_module("glczoo.hub_client")
    kinds = {getattr(errors, name, None) or getattr(hub, name) for name in OURS}
    assert all(issubclass(kind, errors.GlczooError) for kind in kinds)


def test_a_message_of_a_thousand_columns_is_cut_and_keeps_its_advice():
    error = importlib.import_module("glczoo.errors").GlczooError(f"it has {['column'] * 1000}; name them")
    assert len(str(error)) < 1600 and str(error).endswith("name them")
