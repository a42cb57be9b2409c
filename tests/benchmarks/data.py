"""How fast the data are read, beside the ways that a user would otherwise choose.

    python tests/benchmarks/data.py FOLDER [--json FILE] [--rounds 7] [--images]

FOLDER is what full_size.py made; 16 GB of memory are needed. With --images it is any folder: only cubes and
TIFFs of samples are read, which are made there. In every round each way reads other random
points, one way after the other, so that what slows the machine slows them all; a row's figure is the ratio of
the medians, with the smallest and the largest ratio of a round behind it. Seconds, and those of speeds, are
CPU time of one thread (of the clock for two loader threads), with the files in the page cache. A sample is 33
channels of 128 x 128: 28 raster bands of one grid, one of another, a colour and an infrared JPEG. "all in
memory" is what one writes first: float32 arrays of the normalised rasters, cut and stacked for each sample by
numpy, JPEGs by PIL, DataLoader.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import rasterio
import torch
from PIL import Image
from rasterio.windows import Window
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg, read_file

from glczoo.data import jpeg
from glczoo.data.jpeg import JpegTree
from glczoo.data.loader import load
from glczoo.data.occurrences import Points
from glczoo.data.patch_source import PatchSource
from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.data.sample_images import sample_files
from glczoo.regions.pack import pack_region

SIZE, BATCH = 128, 64
Way = tuple[int, Callable[[np.ndarray], object]]  # points in a round, and what reads them
RASTERS = ["bioclim", "soil", "footprint"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="made by full_size.py")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", action="store_true", help="only cubes and TIFFs of samples")
    given = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.pop("GLCZOO_DATA", None)
    os.environ["GLCZOO_CACHE"] = str(given.folder / "cache")
    rows = sample_images(given.folder / "samples", given.rounds)
    if not given.images:
        rows = [*start_up(given.folder), *tables(given.folder), *speeds(given.folder, given.rounds), *rows]
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}\n")
    print("| what | to reach | measured | |\n|---|---:|---:|---|")
    for row in rows:
        print(f"| {row['what']} | {row['target']} | {row['measured']} | {row['detail']} |")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


# --- what is measured once, each in a fresh process -----------------------------------------------------

PROLOGUE = """
import json, os, resource, sys, time
import torch
torch.set_num_threads(1)
from glczoo.data.tables import read_species, read_samples
from glczoo.data.patch_source import PatchSource
from glczoo.data.region import Region
from glczoo.data.sample_images import sample_files
import pandas
def memory(key):
    lines = open("/proc/self/status").read().split(key + ":")
    return int(lines[1].split()[0]) / 1e6
region = Region.load(sys.argv[1])
private, peak = memory("RssAnon"), memory("VmHWM")
wall, cpu = time.perf_counter(), time.process_time()
"""
EPILOGUE = """
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps([cpu, memory("RssAnon") - private, memory("VmHWM") - peak, wall]))
"""


def once(code: str, folder: Path, cache: Path) -> tuple[float, float, float, float]:
    """CPU seconds, private GB and peak GB (above what the imports take), seconds of some lines of code."""
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + code + EPILOGUE, str(folder)],
        env=os.environ | {"GLCZOO_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    cpu, private, peak, wall = json.loads(done.stdout)
    return cpu, private, peak, wall


def start_up(folder: Path) -> list[dict[str, Any]]:
    opening = f"source = PatchSource(region, {RASTERS})"
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        built = once(opening, folder, Path(cache))
    once(opening, folder, folder / "cache")
    ready = [once(opening, folder, folder / "cache") for _ in range(3)]
    seconds, private = (median(part) for part in list(zip(*ready, strict=True))[:2])
    return [
        row(
            "store build of the full raster set",
            "< 60 s",
            f"{built[0]:.0f} s",
            f"by the clock {built[3]:.0f} s",
        ),
        row("its peak memory above torch", "< 0.5 GB", f"{built[2]:.2f} GB", "one process"),
        row("start-up once built", "< 0.5 s", f"{seconds:.3f} s", "29 bands"),
        row("private memory above torch", "< 0.15 GB", f"{max(private, 0):.3f} GB", "stacks opened"),
    ]


def tables(folder: Path) -> list[dict[str, Any]]:
    reading = """
surveys = read_samples(region, "po", read_species(region))
assert len(surveys) > 0
"""
    naive = "table = pandas.read_csv(region.find(*region.table('po').file), sep=';')"
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        plain = once(naive, folder, Path(cache))
        first = once(reading, folder, Path(cache))
        again = once(reading, folder, Path(cache))
    usual = f"pandas.read_csv of all columns: {plain[0]:.1f} s, {plain[2]:.2f} GB"
    lines = sum(1 for _ in open(Region.load(folder).find(*Region.load(folder).table("po").file), "rb")) - 1
    return [
        row(
            f"{lines / 1e6:.1f} M PO rows, first read",
            "< 20 s",
            f"{first[0]:.1f} s",
            f"by the clock {first[3]:.1f} s",
        ),
        row("its peak memory above torch", "< 1.5 GB", f"{first[2]:.2f} GB", usual),
        row("the same from the cache", "< 1 s", f"{again[0]:.3f} s", f"by the clock {again[3]:.3f} s"),
    ]


# --- what is measured in turns --------------------------------------------------------------------------


def speeds(folder: Path, rounds: int) -> list[dict[str, Any]]:
    region = Region.load(folder)
    source = PatchSource(region, RASTERS)
    points = random_points(region, folder, 20_000)
    mean, std = np.linspace(500, 1500, 29), np.linspace(100, 500, 29)
    build = PatchBuilder(source, points, mean.tolist(), std.tolist())
    map_pages(source)
    strips = [rasterio.open(path) for path in raster_files(region)]
    tiled = [rasterio.open(path) for path in tiled_stacks(folder, source)]

    def windows(files: list[rasterio.DatasetReader], i: int) -> np.ndarray:
        parts = []
        for file in files:
            row, col = file.index(points.lon[i], points.lat[i])
            parts.append(file.read(window=Window(col - SIZE // 2, row - SIZE // 2, SIZE, SIZE)))
        return np.concatenate(parts)

    def normalised(files: list[rasterio.DatasetReader], i: int) -> np.ndarray:
        cells = windows(files, i)
        values = (cells - mean[:, None, None].astype(np.float32)) / std[:, None, None].astype(np.float32)
        values[cells == -32768] = 0
        return values

    for i in range(3):  # all read the same
        ours = np.concatenate([part[0].permute(2, 0, 1).numpy() for part in build.gather(torch.tensor([i]))])
        assert np.array_equal(ours, windows(strips, i)) and np.array_equal(ours, windows(tiled, i))
        np.testing.assert_allclose(build(torch.tensor([i]))[0].numpy(), normalised(tiled, i), atol=1e-5)

    cells = [part.numpy() for part in build.gather(torch.arange(BATCH))]
    copies, x = [part.copy() for part in cells], build.empty(BATCH)

    def memcpy(index: Tensor) -> None:
        for copy, part in zip(copies, cells, strict=True):
            np.copyto(copy[: len(index)], part[: len(index)])

    found = compare(
        {
            "gather": (512, batched(lambda index: build.gather(index))),
            "memcpy": (512, batched(memcpy)),
            "strips": (8, lambda chosen: [windows(strips, i) for i in chosen]),
            "tiled": (64, lambda chosen: [windows(tiled, i) for i in chosen]),
            "x": (256, batched(lambda index: build(index, out=x))),
            "strips, float": (8, lambda chosen: [normalised(strips, i) for i in chosen]),
            "tiled, float": (64, lambda chosen: [normalised(tiled, i) for i in chosen]),
        },
        len(points),
        rounds,
    )
    rows = [
        ratio(found, "rasters, integers ÷ rasterio windows, strips as published", "300", "gather", "strips"),
        ratio(found, "the same ÷ rasterio windows, one tiled stack", "9", "gather", "tiled"),
        ratio(found, "rasters, exact float32 on the CPU ÷ strips", "100", "x", "strips, float"),
        ratio(found, "the same ÷ one tiled stack", "3", "x", "tiled, float"),
        ratio(found, "gather of a batch: time ÷ memcpy of its bytes", "≤ 2.5", "memcpy", "gather"),
    ]
    for file in strips + tiled:
        file.close()
    return rows + whole_samples(folder, region, points, mean, std, rounds)


def whole_samples(
    folder: Path, region: Region, points: Points, mean: np.ndarray, std: np.ndarray, rounds: int
) -> list[dict[str, Any]]:
    opened, without_tables = {}, region.model_copy(update={"tables": {}})  # they name more than there are
    for name, decoded in (("packed", False), ("decoded", True)):
        pack_region(without_tables, (folder / name).resolve(), decoded=decoded, progress=False)
        opened[name] = region.model_copy(update={"packed": str((folder / name).resolve())})
        opened[name]._folder = region._folder
    mean, std = np.insert(mean, [28] * 4, 100), np.insert(std, [28] * 4, 50)
    source = {name: PatchSource(r) for name, r in opened.items()}
    build = {name: PatchBuilder(s, points, mean.tolist(), std.tolist()) for name, s in source.items()}
    trees = [JpegTree(folder / "SatelliteImages" / name) for name in ("rgb", "nir")]
    files = {patch: [tree.path(patch) for tree in trees] for patch in set(points.patch_id.tolist())}
    blobs = {patch: [np.fromfile(path, np.uint8) for path in pair] for patch, pair in files.items()}
    naive = InMemory(region, points, mean.astype(np.float32), std.astype(np.float32), files)
    np.testing.assert_allclose(build["packed"](torch.tensor([0]))[0].numpy(), naive[0].numpy(), atol=1e-5)
    planes, x = torch.empty(BATCH, 4, SIZE, SIZE, dtype=torch.uint8), build["packed"].empty(BATCH)

    for opened_source in source.values():
        map_pages(opened_source)
        for patch_id in files:
            opened_source.jpegs.read(patch_id, SIZE)

    def satellite(name: str, index: Tensor) -> None:
        for k, i in enumerate(index.tolist()):
            source[name].jpegs.read(int(points.patch_id[i]), SIZE, planes[k])

    def integers(name: str) -> Callable[[Tensor], None]:
        def read(index: Tensor) -> None:
            build[name].gather(index)
            satellite(name, index)

        return read

    def from_blobs(chosen: np.ndarray) -> None:
        for k, i in enumerate(chosen):
            colour, infrared = blobs[points.patch_id[i]]
            planes[k % BATCH, :3] = torch.from_numpy(jpeg.decode(colour, True, ""))
            planes[k % BATCH, 3:] = torch.from_numpy(jpeg.decode(infrared, False, ""))

    def by_torchvision(chosen: np.ndarray) -> None:
        for k, i in enumerate(chosen):
            colour, infrared = files[points.patch_id[i]]
            planes[k % BATCH, :3] = decode_jpeg(read_file(str(colour)), ImageReadMode.RGB)
            planes[k % BATCH, 3:] = decode_jpeg(read_file(str(infrared)), ImageReadMode.GRAY)

    def by_pil(chosen: np.ndarray) -> None:
        for k, i in enumerate(chosen):
            colour, infrared = (np.asarray(Image.open(path)) for path in files[points.patch_id[i]])
            planes[k % BATCH, :3] = torch.from_numpy(colour.transpose(2, 0, 1).copy())
            planes[k % BATCH, 3] = torch.from_numpy(infrared.copy())

    def in_memory(chosen: np.ndarray) -> None:
        for batch in DataLoader(naive, BATCH, sampler=chosen.tolist()):
            assert batch.dtype == torch.float32

    found = compare(
        {
            "packed": (256, batched(integers("packed"))),
            "packed, float": (256, batched(lambda index: build["packed"](index, out=x))),
            "decoded": (512, batched(integers("decoded"))),
            "rasters": (512, batched(lambda index: build["packed"].gather(index))),
            "satellite": (256, batched(lambda index: satellite("packed", index))),
            "JPEGs in memory": (256, from_blobs),
            "torchvision": (256, by_torchvision),
            "PIL": (256, by_pil),
            "in memory": (64, in_memory),
        },
        len(points),
        rounds,
    )
    return [
        ratio(found, "whole sample from packed JPEGs, integers ÷ all in memory", "12", "packed", "in memory"),
        ratio(found, "the same, exact float32 on the CPU", "–", "packed, float", "in memory"),
        ratio(found, "rasters resident: from shards ÷ decoding alone", "0.9", "satellite", "JPEGs in memory"),
        ratio(found, "decoded beforehand: whole sample ÷ rasters alone", "0.85", "decoded", "rasters"),
        ratio(found, "satellite from shards ÷ files by torchvision", "–", "satellite", "torchvision"),
        ratio(found, "satellite from shards ÷ files by PIL", "–", "satellite", "PIL"),
        two_threads(build["packed"], rounds),
    ]


SAMPLES = 2000
IMAGES = """
name: samples
patch_size: 64
modalities:
  - {name: landsat, kind: cube, file: "landsat/landsat_{id}_cube.pt", columns: l1..l6}
  - {name: climate, kind: cube, file: "climate/climate_{id}_cube.pt", columns: c1..c4}
  - {name: sentinel, kind: tiff, file: "tiffs/{cd}/{ab}/{id}.tiff", columns: s1..s4}
tables: {}
"""


def sample_images(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Files of the shapes, types, names and compression of GeoPlant's, from shards and one by one."""
    write_samples(folder)
    (folder / "region.yaml").write_text(IMAGES)
    region = Region.load(folder)
    pack_region(region, progress=False)
    source = PatchSource(region)
    ids = np.arange(1000, 1000 + SAMPLES)
    points = Points(np.zeros(SAMPLES), np.zeros(SAMPLES), ids, ids)
    build = PatchBuilder(source, points, [100.0] * 14, [50.0] * 14)
    files = {
        images.modality: sample_files(region, m)
        for images, m in zip(source.images, region.modalities, strict=True)
    }
    paths = {name: [each.path(number) for number in ids.tolist()] for name, each in files.items()}

    def from_shards(names: list[str]) -> Callable[[Tensor], None]:
        chosen = [images for images in source.images if images.modality in names]
        return lambda index: [images.read(ids[index.numpy()]) for images in chosen] and None

    def by_torch(i: int) -> list[np.ndarray]:
        cubes = [torch.load(paths[name][i], weights_only=True) for name in ("landsat", "climate")]
        return [cube.float().numpy() for cube in cubes]

    def by_rasterio(i: int) -> np.ndarray:
        with rasterio.open(paths["sentinel"][i]) as file:
            values = file.read().astype(np.float32)
            values[values == file.nodata] = np.nan
            return values

    for i in range(3):  # all read the same
        ours = [images.read(ids[i : i + 1])[0] for images in source.images]
        for values, other in zip(ours, [*by_torch(i), by_rasterio(i)], strict=True):
            np.testing.assert_array_equal(values, other)
    found = compare(
        {
            "cubes": (1024, batched(from_shards(["landsat", "climate"]))),
            "TIFFs": (512, batched(from_shards(["sentinel"]))),
            "torch.load": (256, lambda chosen: [by_torch(i) for i in chosen]),
            "rasterio": (128, lambda chosen: [by_rasterio(i) for i in chosen]),
            "x": (512, batched(lambda index: build(index))),
            "files": (128, lambda chosen: [(by_torch(i), by_rasterio(i)) for i in chosen]),
        },
        SAMPLES,
        rounds,
    )
    return [
        ratio(found, "two cubes of a sample, from shards ÷ torch.load", "5", "cubes", "torch.load"),
        ratio(found, "a TIFF of a sample, from shards ÷ rasterio", "5", "TIFFs", "rasterio"),
        ratio(found, "patches of all three, exact float32 ÷ reading the files alone", "–", "x", "files"),
    ]


def write_samples(folder: Path) -> None:
    rng = np.random.default_rng(0)
    smooth = rng.normal(1000, 300, (4, 9, 9)).repeat(8, 1).repeat(8, 2)[:, :64, :64]
    for number in range(1000, 1000 + SAMPLES):
        digits = str(number)
        path = folder / "tiffs" / digits[-2:] / digits[-4:-2] / f"{number}.tiff"
        if path.exists():
            continue
        for name, shape in (("landsat", (6, 4, 21)), ("climate", (4, 19, 12))):
            (folder / name).mkdir(parents=True, exist_ok=True)
            cube = torch.from_numpy(rng.integers(0, 256, shape[::-1]).astype(np.float32)).permute(2, 1, 0)
            torch.save(cube, folder / name / f"{name}_{number}_cube.pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        values = (smooth + rng.integers(0, 40, smooth.shape)).astype("int16")
        with rasterio.open(
            path, "w", driver="GTiff", count=4, height=64, width=64, dtype="int16", nodata=-1, compress="lzw",
            crs="EPSG:3035", transform=rasterio.Affine(10, 0, 4e6, 0, -10, 3e6),
        ) as file:  # fmt: skip
            file.write(values)


def two_threads(build: PatchBuilder, rounds: int) -> dict[str, Any]:
    """By the clock, so it needs two free cores (or `chrt --fifo 10` before the command)."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {"2 threads": [], "1 thread": []}
    for number in range(rounds + 1):
        for threads, name in ((1, "1 thread"), (2, "2 threads")):
            batches = [torch.from_numpy(rng.integers(len(build), size=BATCH)) for _ in range(12)]
            start = time.perf_counter()
            for _ in load(build, batches, threads=threads):
                pass
            if number:
                found[name].append(len(batches) * BATCH / (time.perf_counter() - start))
    return ratio(found, "loader with 2 threads ÷ 1, exact float32", "1.6", "2 threads", "1 thread")


def map_pages(source: PatchSource) -> None:
    """Touch every page of the memory maps once, as the first thousands of samples would."""
    for stack in source.stacks:
        stack.values[:, ::16].max()


class InMemory(Dataset):
    """What one writes first: every raster a float array, every sample cut, scaled and stacked by numpy."""

    def __init__(
        self,
        region: Region,
        points: Points,
        mean: np.ndarray,
        std: np.ndarray,
        files: dict[int, list[Path]],
    ) -> None:
        self.points, self.files, self.rasters, self.to_cell = points, files, [], []
        keep = np.delete(np.arange(33), range(28, 32))
        for path, m, s in zip(raster_files(region), mean[keep], std[keep], strict=True):
            with rasterio.open(path) as file:
                cells = file.read(1)
                values = (cells - m) / s
                values[cells == -32768] = 0
                self.rasters.append(values)
                self.to_cell.append(~file.transform)
        self.mean, self.std = mean[28:32, None, None], std[28:32, None, None]

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, i: int) -> Tensor:
        parts = []
        for values, to_cell in zip(self.rasters, self.to_cell, strict=True):
            col, row = (int(np.floor(v)) for v in to_cell * (self.points.lon[i], self.points.lat[i]))
            parts.append(values[None, row - SIZE // 2 : row + SIZE // 2, col - SIZE // 2 : col + SIZE // 2])
        colour, infrared = (np.asarray(Image.open(path)) for path in self.files[int(self.points.patch_id[i])])
        image = np.concatenate([colour.transpose(2, 0, 1), infrared[None]]).astype(np.float32)
        return torch.from_numpy(np.concatenate([*parts[:28], (image - self.mean) / self.std, parts[28]]))


def compare(ways: dict[str, Way], num_points: int, rounds: int) -> dict[str, list[float]]:
    """Samples per CPU second of each way in each round, after one that does not count."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, (count, read) in ways.items():
            chosen = rng.integers(num_points, size=count)
            start = time.process_time()
            read(chosen)
            if number:
                found[name].append(count / (time.process_time() - start))
    return found


def batched(read: Callable[[Tensor], object]) -> Callable[[np.ndarray], object]:
    return lambda chosen: [read(part) for part in torch.from_numpy(chosen).split(BATCH)]


def ratio(found: dict[str, list[float]], what: str, target: str, over: str, under: str) -> dict[str, Any]:
    each = [a / b for a, b in zip(found[over], found[under], strict=True)]
    value = median(found[over]) / median(found[under])
    detail = f"{min(each):.3g} to {max(each):.3g}; {over} {median(found[over]):,.0f}/s, {under} " + (
        f"{median(found[under]):,.0f}/s"
    )
    return row(what, target, f"{value:.3g}", detail) | {"rounds": {k: found[k] for k in (over, under)}}


def row(what: str, target: str, measured: str, detail: str) -> dict[str, Any]:
    return {"what": what, "target": target, "measured": measured, "detail": detail}


def random_points(region: Region, folder: Path, number: int) -> Points:
    """Places whose patches lie within every grid, with patches that the tree has."""
    rng = np.random.default_rng(1)
    west, south, east, north = region.bounds or (0, 0, 0, 0)
    lon, lat = rng.uniform(west + 1, east - 1, number), rng.uniform(south + 1, north - 1, number)
    ids = np.array([int(path.stem) for path in (folder / "SatelliteImages/rgb").rglob("*.jpeg")])
    return Points(lon, lat, rng.choice(np.sort(ids), number), np.arange(number))


def raster_files(region: Region) -> list[Path]:
    modalities = [m for m in region.modalities if m.kind == "raster"]
    return [region.find(f"{m.folder}/{band.file}") for m in modalities for band in m.bands]


def tiled_stacks(folder: Path, source: PatchSource) -> list[Path]:
    """The same rasters in the layout that rasterio reads fastest: one tiled file for each grid."""
    paths = []
    for stack in source.stacks:
        path = folder / f"tiled_{len(stack.bands)}.tif"
        paths.append(path)
        if path.exists():
            continue
        height, width = stack.shape
        partial = path.with_name(f".{path.name}")
        with rasterio.open(
            partial, "w", driver="GTiff", height=height, width=width, count=len(stack.bands), crs=stack.crs,
            dtype=stack.values.dtype, transform=stack.transform, tiled=True, blockxsize=SIZE, blockysize=SIZE,
            interleave="pixel", bigtiff="yes",
        ) as file:  # fmt: skip
            for top in range(0, height, 512):
                rows = min(512, height - top)
                cells = stack.values[stack.pad + top : stack.pad + top + rows, stack.pad : stack.pad + width]
                file.write(cells.transpose(2, 0, 1), window=Window(0, top, width, rows))
        shutil.move(partial, path)
    return paths


if __name__ == "__main__":
    main()
