"""What test files share: threads, the cache, real data, a Hub, and a region whose pixels are addresses."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from loopback_hub import HUB, HubServer  # first: see there

# isort: split
import numpy as np
import pytest
import rasterio
import rasterio.warp
import torch
import yaml
from torchvision.io import write_jpeg

from glczoo.data.rasters import RasterStack
from glczoo.data.region import Region
from glczoo.recipe import read_recipe
from glczoo.regions.virtual import make_virtual
from glczoo.train import train

ROWS, COLS, CELL, WEST, NORTH = 14, 20, 0.01, 5.0, 45.0
"""The grid of the address region: cell (row, col) has its centre at `place(row, col)`."""

FLOAT_NODATA = -3.4e38

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLCZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data folder that the user has set must not replace the folders that tests write."""
    monkeypatch.delenv("GLCZOO_DATA", raising=False)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """The stand-in of the Hub, with a cold cache and nobody logged in."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    HUB.store.repos.clear()
    HUB.log.clear()
    HUB.faults.clear()
    return HUB


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real data. Unset skips; set to a folder that is not there fails."""
    folder = os.environ.get("GLCZOO_TEST_DATA")
    if not folder:
        pytest.skip("GLCZOO_TEST_DATA is not set: tests on real data are not run")
    if not Path(folder).is_dir():
        pytest.fail(f"GLCZOO_TEST_DATA is {folder}, which is no folder")
    return Path(folder)


def place(row: float, col: float) -> tuple[float, float]:
    """Longitude and latitude of the centre of a cell of the address grid."""
    return WEST + (col + 0.5) * CELL, NORTH - (row + 0.5) * CELL


def addresses(rows: int, cols: int, band: int, dtype: str) -> np.ndarray:
    """values[rows, cols]: 1000 for each row, 1 for each column, 100 for each band of the file."""
    return np.add.outer(1000 * np.arange(rows), np.arange(cols) + 100 * band).astype(dtype)


def write_raster(
    path: Path,
    bands: list[np.ndarray],
    *,
    west: float = WEST,
    north: float = NORTH,
    cell: float = CELL,
    crs: str | None = "EPSG:4326",
    nodata: float | None = None,
) -> Path:
    """Write a GeoTIFF; `west`, `north` and `cell` are in the units of the CRS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = bands[0].shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=len(bands), dtype=bands[0].dtype,
        crs=crs, nodata=nodata, transform=rasterio.Affine(cell, 0, west, 0, -cell, north),
    ) as target:  # fmt: skip
        for number, values in enumerate(bands, 1):
            target.write(values, number)
    return path


def write_patch(folder: Path, patch_id: int, directories: str, planes: int, side: int = 128) -> Path:
    """Write one JPEG patch of noise that depends on its id and on the number of planes."""
    path = folder / directories / f"{patch_id}.jpeg"
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(patch_id + planes)
    coarse = torch.randint(0, 256, (planes, side // 8, side // 8), dtype=torch.uint8, generator=generator)
    write_jpeg(coarse.repeat_interleave(8, 1).repeat_interleave(8, 2), str(path), quality=95)
    return path


def gathered(stack: RasterStack, row: np.ndarray, col: np.ndarray, size: int) -> np.ndarray:
    """The slow, obvious way: values[B, size, size, C] around every cell, which is at [size // 2]."""
    half = size // 2 - stack.pad
    slices = [
        stack.values[r - half : r - half + size, c - half : c - half + size]
        for r, c in zip(row, col, strict=True)
    ]
    return np.stack(slices)


SURVEYS = [  # patchID, dayOfYear, row, col, directories of the JPEG, species
    (3018575, 160, 6, 9, "75/85", [11, 12, 15]),
    (3018575, 201, 6, 9, "75/85", [12]),  # a repeat visit of the same place
    (123, 160, 1, 1, "23/1", [15]),  # a short id as it is
    (45, 150, 13, 19, "45/00", [11, 20]),  # a short id padded to four digits
    (6004321, 140, 2, 17, "21/43", [12]),
]


def write_address_region(folder: Path) -> Region:
    """A region of tiny rasters whose value is their address, JPEG patches and GLC23 tables.

    Cells (2, 3) and (7, 10) of `holes` and (0, 0) and (6, 8) of `real` have no data. `plain` has no nodata
    tag, `shifted` lies one cell south-east of the others, `metres` on a grid of its own in EPSG:3035.
    """
    rasters = folder / "rasters"
    write_raster(rasters / "pair.tif", [addresses(ROWS, COLS, b, "int32") for b in (0, 1)])
    write_raster(rasters / "plain.tif", [addresses(ROWS, COLS, 2, "uint16")])
    write_raster(
        rasters / "shifted.tif", [addresses(ROWS, COLS, 3, "int32")], west=WEST + CELL, north=NORTH - CELL
    )
    holes = addresses(ROWS, COLS, 4, "int16")
    holes[2, 3] = holes[7, 10] = -9999
    write_raster(rasters / "holes.tif", [holes], nodata=-9999)
    real = addresses(ROWS, COLS, 5, "float32")
    real[0, 0] = real[6, 8] = FLOAT_NODATA
    write_raster(rasters / "real.tif", [real], nodata=FLOAT_NODATA)
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", "EPSG:3035", *zip(place(7, 10), strict=True))
    metres = addresses(30, 30, 6, "int32")
    write_raster(
        rasters / "metres.tif", [metres], west=x - 15000, north=y + 15000, cell=1000, crs="EPSG:3035"
    )
    for patch_id, _, _, _, directories, _ in SURVEYS:
        write_patch(folder / "jpeg/rgb", patch_id, directories, 3)
        write_patch(folder / "jpeg/nir", patch_id, directories, 1)
    _write_tables(folder)
    modalities = [
        ("base", ["pair.tif", "plain.tif", "pair.tif"], ["first", "plain", "second"], [1, 1, 2]),
        ("other", ["shifted.tif", "holes.tif"], ["shifted", "holes"], [1, 1]),
        ("satellite", ["rgb", "rgb", "rgb", "nir"], ["red", "green", "blue", "nir"], [1, 2, 3, 1]),
        ("last", ["metres.tif", "real.tif"], ["metres", "real"], [1, 1]),
    ]
    described = {
        "name": "address",
        "bounds": [4.5, 44.5, 5.5, 45.5],
        "patch_size": 6,
        "modalities": [
            {
                "name": name,
                "kind": "jpeg" if name == "satellite" else "raster",
                "folder": "jpeg" if name == "satellite" else "rasters",
                "bands": [
                    {"name": band, "file": file, "index": index}
                    for file, band, index in zip(files, bands, indices, strict=True)
                ],
            }
            for name, files, bands, indices in modalities
        ],
        "tables": {"po": {"file": "po.csv"}, "pa": {"file": "pa.csv"}, "test": {"file": "test.csv"}},
    }
    (folder / "region.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    return Region.load(folder)


def _write_tables(folder: Path) -> None:
    head = (
        "glcID;gbifID;observer;datasetName;date;dayOfYear;year;lon;lat;x_EPSG3035;y_EPSG3035;"
        "geoUncertaintyInM;speciesId;patchID;timeSerieID"
    )
    rows = []
    for patch_id, day, row, col, _, species in SURVEYS:
        lon, lat = place(row, col)
        rows += [
            f";;somebody;{{}};2020-06-01;{day};2020;{lon:.6f};{lat:.6f};;;10.0;{s};{patch_id};"
            for s in species
        ]
    (folder / "pa.csv").write_text("\n".join([head, *(r.format("survey") for r in rows)]) + "\n")
    (folder / "po.csv").write_text("\n".join([head, *(r.format("record") for r in rows[:5])]) + "\n")
    places = [
        f"{100 + i};{day};{patch};{place(row, col)[0]:.6f};{place(row, col)[1]:.6f}"
        for i, (patch, day, row, col, *_) in enumerate(SURVEYS)
    ]
    (folder / "test.csv").write_text("\n".join(["Id;dayOfYear;patchID;lon;lat", *places]) + "\n")


@pytest.fixture
def address_region(tmp_path: Path) -> Region:
    return write_address_region(tmp_path / "address")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual region in the complete GLC23 layout, small enough for a test that trains on it."""
    folder = tmp_path_factory.mktemp("virtual") / "region"
    make_virtual(folder, species=24, po=400, pa=120, test=40, size=64, patch_size=16, seed=1, progress=False)
    return folder


TrainedRun = Callable[..., Path]


@pytest.fixture(scope="session")
def trained_run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """Tiny runs on `world`: `trained_run("step1", "step3", model=NAME, epochs=2, **{"data.places": True})`.

    Trains the recipes one after another, each from the weights of the one before and the first from random
    ones, and returns the folder of the last; those before it, and other models with the same overrides, lie
    beside it. What was trained once in a session is not trained again, so tests copy a run that they change.
    """
    folders: dict[tuple[str, ...], Path] = {}
    runs: dict[tuple[object, ...], Path] = {}

    def trained(*steps: str, model: str = "test_fusresnet_glc23", **overrides: object) -> Path:
        settings = {"patch_size": 16, "epochs": 1, "batch_size": 32, "top_k": 5} | overrides
        if "decoding" in overrides:
            del settings["top_k"]
        words = tuple(f"{key}={value}" for key, value in settings.items())
        if words not in folders:
            folders[words] = tmp_path_factory.mktemp("runs")
        for number, step in enumerate(steps):
            key = (words, model, *steps[: number + 1])
            if key not in runs:
                init = steps[number - 1] if number else "random"
                places = [f"region={world}", f"runs={folders[words]}", f"model={model}", f"init={init}"]
                runs[key] = train(read_recipe(RECIPES / f"{step}.yaml", [*places, *words]))
        return runs[(words, model, *steps)]

    return trained
