"""The house keeps its floors: a module imports only from lower ones, and each library has its door."""

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "glczoo"

FLOORS = [
    {
        "data.region",
        "maps.applicability",
        "calibration",
        "losses",
        "estimates",
        "metrics",
        "decoding",
        "data.world",
        "data.cache",
        "data.first_recipes",
        "data.jpeg",
        "data.occurrences",
        "data.shards",
        "files",
        "plots",
        "remote",
        "models",
        "models.fusresnet",
        "models.ensemble",
        "models.forest",
        "models.prior",
        "models.published",
        "models.quadratic",
        "models.stem",
        "data",
        "maps",
    },
    {"data.tables", "data.rasters", "data.satellite", "data.virtual"},
    {"data.patches", "data.splits", "data.pack", "data.bands", "data.columns", "maps.grids"},
    {"data.suspects", "data.densities", "data.loader", "data.discover", "recipe", "maps.cartography"},
    {"data.check"},
    {"runs", "finetune", "card"},
    {"start", "resume", "lineage", "settle"},
    {"objective"},
    {"train", "evaluate", "predict", "combine", "explain", "forest", "maps.layers"},
    {"study", "crossval", "hub", "bench", "mapping", "report"},
    {"guide"},
    {"app", "demo"},
    {"cli"},
    {"__main__", ""},
]

DOORS = {
    "pandas": {"data.occurrences", "data.tables", "data.columns"},
    "rasterio": {
        "data.bands",
        "data.densities",
        "data.rasters",
        "data.virtual",
        "data.world",
        "maps.cartography",
        "maps.grids",
    },
    "accelerate": {"bench", "train", "evaluate", "predict", "mapping", "report", "resume", "settle"},
    "yaml": {"data.region", "recipe"},
    "pydantic": {"data.region", "recipe", "study"},
    "matplotlib": {"demo", "plots", "maps.cartography"},
    "gradio": {"app"},
    "huggingface_hub": {"remote", "card"},
    "jinja2": {"card", "report"},
    "simplejpeg": {"data.jpeg"},
    "sklearn": {"study", "forest"},
}


@cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        found[name] = ast.parse(path.read_text())
    return found


def imports(tree: ast.Module) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def test_every_module_stands_on_a_floor():
    standing = [module for floor in FLOORS for module in floor]
    assert sorted(modules()) == sorted(standing)


def test_imports_go_down():
    floor_of = {module: number for number, floor in enumerate(FLOORS) for module in floor}
    upward = [
        (module, name)
        for module, tree in modules().items()
        for name in imports(tree)
        if name.startswith("glczoo.")
        and name[7:] in floor_of
        and name[7:] != module
        and floor_of[name[7:]] >= floor_of[module]
        and not (floor_of[module] == 0 and floor_of[name[7:]] == 0)
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
