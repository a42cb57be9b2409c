"""Rasters and JPEG patches as anybody may send them: cut off, altered, and claiming to be vast."""

import struct
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from mutations import changed_bytes, changed_text, fuzzed, refused_or_read, written
from rasterio.io import MemoryFile
from torchvision.io import encode_jpeg

from glczoo.data.jpeg import SIDE, decode, num_planes
from glczoo.data.raster_files import BandFile, open_raster
from glczoo.data.rasters import open_stacks
from glczoo.data.region import Band
from glczoo.regions.bands import find_modalities

# rasterio's own, of a rotated grid
pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")

ROWS, COLS = 12, 20


def geotiff(**options: object) -> bytes:
    """A small GeoTIFF with a gradient."""
    values = np.add.outer(100 * np.arange(ROWS), np.arange(COLS)).astype(str(options.get("dtype", "int16")))
    settings = dict(
        driver="GTiff", height=ROWS, width=COLS, count=2, dtype=values.dtype, crs="EPSG:4326", nodata=-1,
        transform=rasterio.Affine(0.01, 0, 5, 0, -0.01, 45),
    )  # fmt: skip
    with MemoryFile() as file:
        with file.open(**settings | options) as target:
            for band in range(1, target.count + 1):
                target.write(values, band)
        return file.read()


TIFFS = [
    geotiff(),
    geotiff(dtype="float32", compress="deflate"),
    geotiff(compress="lzw", predictor=2, tiled=True, blockxsize=16, blockysize=16),
    geotiff(bigtiff="yes", crs="EPSG:3035", transform=rasterio.Affine(1000, 0, 4e6, 0, -1000, 3e6)),
]
GRID = """ncols 20
nrows 12
xllcorner 5
yllcorner 44.88
cellsize 0.01
NODATA_value -9999
""" + "\n".join(" ".join(str(100 * row + col) for col in range(COLS)) for row in range(ROWS))
VRT = f"""<VRTDataset rasterXSize="{COLS}" rasterYSize="{ROWS}"><SRS>EPSG:4326</SRS>
<GeoTransform>5, 0.01, 0, 45, 0, -0.01</GeoTransform><VRTRasterBand dataType="Int16" band="1">
<SimpleSource><SourceFilename relativeToVRT="1">whole.tif</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand></VRTDataset>"""


@pytest.fixture(autouse=True)
def _short_cache(monkeypatch, tmp_path):
    """Stacks of fuzzed rasters are not kept."""
    monkeypatch.setenv("GLCZOO_CACHE", str(tmp_path / "cache"))


def read_raster(path: Path) -> None:
    """All that is done with a raster, each way for itself."""

    def stack() -> None:
        (stack,) = open_stacks([BandFile(Band(name="b", file=path.name), path, "EPSG:4326")], 4)
        stack.values_at(np.array([5.05, 0.0]), np.array([44.95, 0.0]))
        _ = stack.bounds

    def published() -> None:
        with open_raster(path, published=True) as source:
            source.profile  # noqa: B018

    for read in (stack, published, lambda: find_modalities(path.parent)):
        refused_or_read(read)


@fuzzed
@given(content=st.sampled_from(TIFFS).flatmap(changed_bytes))
def test_fuzzed_geotiffs(content, tmp_path):
    read_raster(written(tmp_path / "rasters/a.tif", content))


@fuzzed
@given(text=changed_text(GRID))
def test_fuzzed_text_rasters(text, tmp_path):
    read_raster(written(tmp_path / "rasters/a.asc", text))


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # rasterio's log of such a message
@fuzzed
@example(text='<VRTDataset ÀrasterXSize="20" rasterYSize="12"><SRS>EPSG:4326</SRS></VRTDataset>')
@given(text=changed_text(VRT))
def test_fuzzed_virtual_rasters(text, tmp_path):
    written(tmp_path / "rasters/whole.tif", TIFFS[0])
    read_raster(written(tmp_path / "rasters/a.vrt", text))


def tiff_of_tags(entries: list[tuple[int, int, int, int]]) -> bytes:
    """A TIFF of nothing but a header: tags (number, type, count, value), GDAL's reading of 8 more bytes."""
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries))
    return (
        head + b"".join(struct.pack("<HHII", *entry) for entry in entries) + struct.pack("<I", 0) + b"\0" * 64
    )


SIZES = st.sampled_from([0, 1, 20, 65_535, 200_000, 2**20, 2**31 - 1, 2**31, 2**32 - 1])


@fuzzed
@given(width=SIZES, height=SIZES, bits=st.sampled_from([1, 8, 16, 32, 64]), samples=SIZES, block=SIZES)
def test_fuzzed_claims_of_size(width, height, bits, samples, block, tmp_path):
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 8), (277, 4, 1, samples), (278, 4, 1, block), (279, 4, 1, block),
    ]  # fmt: skip
    read_raster(written(tmp_path / "rasters/a.tif", tiff_of_tags(entries)))


def jpeg(planes: int, side: int = SIDE) -> bytes:
    noise = torch.randint(0, 256, (planes, side // 8, side // 8), dtype=torch.uint8)
    picture = noise.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return bytes(encode_jpeg(picture, quality=80).numpy())


torch.manual_seed(0)
JPEGS = [jpeg(3), jpeg(1)]


def read_jpeg(path: Path) -> None:
    data = np.fromfile(path, np.uint8)
    for colour in (True, False):
        refused_or_read(lambda colour=colour: decode(data, colour, path.name))
    refused_or_read(lambda: num_planes(path))


@fuzzed
@given(content=st.sampled_from(JPEGS).flatmap(changed_bytes) | st.binary(max_size=100))
def test_fuzzed_jpegs(content, tmp_path):
    read_jpeg(written(tmp_path / "1.jpeg", content))


@fuzzed
@given(height=st.integers(0, 65_535), width=st.integers(0, 65_535), which=st.sampled_from(JPEGS))
def test_fuzzed_claims_of_jpegs(height, width, which, tmp_path):
    at = which.index(b"\xff\xc0") + 5
    read_jpeg(written(tmp_path / "1.jpeg", which[:at] + struct.pack(">HH", height, width) + which[at + 4 :]))
