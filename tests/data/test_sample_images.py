"""Bands of `kind: cube` and `kind: tiff`: files of each sample, read as they lie and from shards."""

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from conftest import CELL, NORTH, WEST, addresses, write_raster

from glczoo.data.occurrences import Points
from glczoo.data.patch_source import PatchSource
from glczoo.data.patches import PatchBuilder, dihedral
from glczoo.data.region import Region
from glczoo.data.sample_files import LARGEST_IMAGE, SampleFiles, read_image
from glczoo.data.sample_images import patch_cells
from glczoo.data.tables import read_points
from glczoo.errors import GlczooError
from glczoo.regions.check import check_region
from glczoo.regions.pack import pack_region

SAMPLES = [3018575, 42, 6004321, 9, 1327]  # 9 has no cube, 1327 no TIFF
CUBE, TIFF = (3, 2, 5), (2, 8, 8)
MODALITIES = [
    {"name": "base", "bands": [{"name": "height", "file": "height.tif"}]},
    {
        "name": "months", "kind": "cube", "columns": ["rain", "cold", "warm"],
        "file": ["cubes/PA-train_{id}_cube.pt", "nowhere/{id}.pt", "cubes/more/PA-test_{id}_cube.pt"],
    },
    {
        "name": "satellite", "kind": "tiff", "file": "tiffs/{cd}/{ab}/{id}.tiff",
        "bands": [{"name": "nir", "index": 2, "scale": 0.5}, {"name": "red"}],
    },
]  # fmt: skip


def cube_of(sample: int) -> torch.Tensor:
    cube = torch.arange(30.0).reshape(5, 2, 3).permute(2, 1, 0) + sample  # not contiguous, as GeoPlant's are
    cube[1, 1, 4] = torch.nan
    return cube


def tiff_of(sample: int) -> np.ndarray:
    values = (np.arange(128).reshape(TIFF) + sample % 1000).astype("int16")
    values[0, 3, 4] = -1
    return values


def write_tiff(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    planes, height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=planes, height=height, width=width, dtype=values.dtype,
        nodata=-1, compress="lzw", crs="EPSG:3035", transform=rasterio.Affine(10, 0, 4e6, 0, -10, 3e6),
    ) as target:  # fmt: skip
        target.write(values)


@pytest.fixture
def region(tmp_path: Path) -> Region:
    write_raster(tmp_path / "height.tif", [addresses(10, 10, 0, "int16")])
    (tmp_path / "cubes/more").mkdir(parents=True)
    for number, sample in enumerate(SAMPLES):
        if sample != 9:
            name = f"PA-train_{sample}_cube.pt" if number < 4 else f"more/PA-test_{sample}_cube.pt"
            torch.save(cube_of(sample), tmp_path / "cubes" / name)
        if sample != 1327:
            digits = f"{sample:04d}"
            write_tiff(tmp_path / "tiffs" / digits[-2:] / digits[-4:-2] / f"{sample}.tiff", tiff_of(sample))
    rows = [
        f"{sample};{WEST + 5.5 * CELL};{NORTH - (number + 3) * CELL};{number % 2}"
        for number, sample in enumerate(SAMPLES)
    ]
    (tmp_path / "test.csv").write_text("\n".join(["surveyId;lon;lat;speciesId", *rows]) + "\n")
    table = {"file": "test.csv", "patch": "surveyId", "id": "surveyId"}
    (tmp_path / "region.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "here",
                "patch_size": 4,
                "modalities": MODALITIES,
                "tables": {"test": table, "po": table},
            }
        )
    )
    return Region.load(tmp_path)


@pytest.fixture(params=["files", "shards"])
def stored(region: Region, request: pytest.FixtureRequest) -> Region:
    if request.param == "shards":
        pack_region(region, progress=False)
    return region


def points_of(region: Region) -> Points:
    return read_points(region, region.root_path / "test.csv", region.table("test"))


def nearest(values: np.ndarray, size: int) -> np.ndarray:
    """The slow, obvious way: values[J, size, size] of the cells that are nearest."""
    rows, cols = (np.floor((np.arange(size) + 0.5) * n / size).astype(int) for n in values.shape[1:])
    return values[:, rows[:, None], cols]


def test_a_patch_is_the_resized_cube_and_the_centre_of_the_tiff(stored: Region):
    source = PatchSource(stored)
    points = points_of(stored).at(np.arange(3))
    assert source.bands == ["height", "rain", "cold", "warm", "nir", "red"]
    x = PatchBuilder(source, points, [0.0] * 6, [1.0] * 6)(torch.arange(3)).numpy()
    for number, sample in enumerate(SAMPLES[:3]):
        cube = np.nan_to_num(nearest(cube_of(sample).numpy(), 4))
        np.testing.assert_array_equal(x[number, 1:4], cube)
        red, nir = tiff_of(sample)[:, 2:6, 2:6].astype("float32")
        red[1, 2] = 0  # no data
        np.testing.assert_array_equal(x[number, 4:], [0.5 * nir, red])


def test_a_tiff_smaller_than_the_patch_is_resized(stored: Region):
    source = PatchSource(stored, ["satellite"], 12)
    x = PatchBuilder(source, points_of(stored), [0.0, 0.0], [1.0, 1.0])(torch.tensor([0])).numpy()
    np.testing.assert_array_equal(x[0, 0], 0.5 * nearest(tiff_of(SAMPLES[0]), 12)[1])


def test_cubes_are_not_turned_and_tiffs_are_turned_like_rasters(stored: Region):
    points = points_of(stored).at(np.arange(3))
    build = PatchBuilder(PatchSource(stored), points, [0.0] * 6, [1.0] * 6)
    index = torch.arange(3)
    plain, turns = build(index).clone(), torch.tensor([1, 5, 6])
    turned = build(index, turns)
    assert torch.equal(plain[:, 1:4], turned[:, 1:4])
    for number, code in enumerate(turns.tolist()):
        expected = torch.rot90(plain[number], code % 4, (1, 2))
        expected = expected.flip(2) if code > 3 else expected
        for channel in (0, 4, 5):
            assert torch.equal(expected[channel], turned[number, channel])
    assert len(set(dihedral(0, 0, torch.arange(50)).tolist())) == 8


def test_statistics_are_those_of_the_patches(stored: Region):
    source = PatchSource(stored)
    points = points_of(stored).at(np.array([0, 1, 2, 2]))
    statistics = source.statistics(points)
    x = PatchBuilder(source, points, [0.0] * 6, [1.0] * 6)(torch.arange(4)).numpy().astype(float)
    x[:, 2, 2:, 3] = np.nan  # the cold month without data, resized
    x[:, 5, 1, 2] = np.nan
    assert statistics.mean == pytest.approx(np.nanmean(x, (0, 2, 3)).tolist())
    assert statistics.std == pytest.approx(np.nanstd(x, (0, 2, 3)).tolist())
    assert statistics.filled == pytest.approx(np.isnan(x).mean((0, 2, 3)).tolist())


def test_samples_without_a_file_stop_or_are_left_out(stored: Region):
    source, points = PatchSource(stored), points_of(stored)
    with pytest.raises(GlczooError, match=r"2 of 5 cannot be read: 1 without a cube of months .* patchID 9"):
        source.complete(points, "samples")
    assert source.complete(points, "samples", drop=True).tolist() == [True, True, True, False, False]


def test_where_asked_they_are_filled_with_the_mean(stored: Region):
    source, points = PatchSource(stored, fill=True), points_of(stored)
    assert source.complete(points, "samples").all()
    statistics = source.statistics(points)
    assert statistics.filled[3] == pytest.approx(0.2) and statistics.filled[4] == pytest.approx(0.2)
    x = PatchBuilder(source, points, statistics.mean, statistics.std)(torch.arange(5))
    assert (x[3, 1:4] == 0).all() and (x[4, 4:] == 0).all() and (x[3, 4:] != 0).any()
    unknown = replace(points, patch_id=np.array([7, 7, 9, 7, 7]))
    reason = "without values: they need a surveyId that has a cube of months or a surveyId that has a tiff of"
    reasons = {text: mask.tolist() for text, mask in source.unanswerable(unknown).items() if mask.any()}
    assert reasons == {f"{reason} satellite": [True, True, False, True, True]}


def test_pack_lists_what_is_missing_and_what_cannot_be_read(region: Region):
    (region.root_path / "cubes/PA-train_42_cube.pt").write_bytes(b"PK no cube")
    packed = pack_region(region, progress=False)
    assert packed.trees["months"].patches == 3 and packed.trees["months"].missing == 1
    missing = (packed.folder / "missing.csv").read_text()
    assert "9;months;no file" in missing and "1327;satellite;no file" in missing
    assert "42;months;" in missing and "is no file of torch.save" in missing


def test_a_pack_goes_on_and_is_verified(region: Region):
    pack_region(region, progress=False)
    torch.save(cube_of(9), region.root_path / "cubes/PA-train_9_cube.pt")
    assert pack_region(region, progress=False, verify=True).trees["months"].patches == 5
    (region.root_path / "packed/months/samples/42.bin").write_bytes(b"short")
    with pytest.raises(GlczooError, match="42.bin is damaged"):
        PatchSource(region)


def test_check_names_what_cannot_be_read(region: Region):
    (region.root_path / "tiffs/42/00/42.tiff").write_bytes(b"II*\x00")
    check = check_region(region, progress=False, picture=region.root_path / "check.png")
    problems = "\n".join(check.problems)
    assert "1 patches cannot be decoded" in problems and "42.tiff cannot be read as a TIFF" in problems
    assert "test: 1 of 5 without a cube of months (rain, cold, warm), the first: patchID 9" in problems
    assert check.picture


def test_other_shapes_and_too_few_bands_are_refused(region: Region):
    torch.save(torch.zeros(3, 2, 4), region.root_path / "cubes/PA-train_42_cube.pt")
    with pytest.raises(GlczooError, match=r"42_cube.pt has the shape \(3, 2, 4\), others have \(3, 2, 5\)"):
        PatchSource(region).images[0].read(np.array(SAMPLES))
    torch.save(torch.zeros(2, 2, 5), region.root_path / "cubes/PA-train_3018575_cube.pt")
    with pytest.raises(GlczooError, match="has 2 bands, modality months asks for 3"):
        PatchSource(region).images[0].read(np.array(SAMPLES[:1]))


def test_files_are_found_where_the_pattern_says(tmp_path: Path):
    for name in ("75/85/3018575.t", "42/00/42.t", "42/42.t", "11/22/1327.t", "75/85/note.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    files = SampleFiles("tiff", [(tmp_path, "{cd}/{ab}/{id}.t")])
    assert {number for number, _ in files.find()} == {3018575, 42}
    assert files.has(np.array([42, 3018575, 1327, -1])).tolist() == [True, True, False, False]


def hostile(path: Path, kind: str) -> None:
    if kind == "strides of 0":
        torch.save(torch.zeros(1).expand(10**6, 10**6, 10**3), path)
    elif kind == "a bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/data.pkl", b"")
            archive.writestr("a/data/0", bytes(10**8))
    elif kind == "no tensor":
        torch.save({"a": torch.zeros(3)}, path)
    elif kind == "code":
        torch.save(print, path)
    elif kind == "of old":
        torch.save(torch.zeros(1, 2, 2), path, _use_new_zipfile_serialization=False)
    elif kind == "cut short":
        torch.save(torch.zeros(3, 9, 9), path)
        path.write_bytes(path.read_bytes()[:400])
    else:
        torch.save(torch.zeros(LARGEST_IMAGE + 1, dtype=torch.uint8).view(1, 1, -1), path)


@pytest.mark.parametrize(
    "kind", ["strides of 0", "a bomb", "no tensor", "code", "of old", "cut short", "too large"]
)
def test_hostile_cubes_end_in_a_line(tmp_path: Path, kind: str):
    path = tmp_path / "1_cube.pt"
    hostile(path, kind)
    with pytest.raises(GlczooError, match="1_cube.pt"):
        read_image(path, "cube")


def test_a_tiff_that_claims_much_is_not_read(tmp_path: Path):
    with rasterio.open(
        tmp_path / "a.tiff", "w", driver="GTiff", count=1, height=50_000, width=50_000, dtype="int16",
        sparse_ok=True, tiled=True, transform=rasterio.Affine(10, 0, 4e6, 0, -10, 3e6),
    ):  # fmt: skip
        pass
    with pytest.raises(GlczooError, match="claims 1 bands of 50,000 x 50,000 cells"):
        read_image(tmp_path / "a.tiff", "tiff")


def test_nan_as_the_value_for_no_data(tmp_path: Path):
    with rasterio.open(
        tmp_path / "1.tiff", "w", driver="GTiff", count=1, height=2, width=2, dtype="float32",
        nodata=np.nan, transform=rasterio.Affine(10, 0, 4e6, 0, -10, 3e6),
    ) as target:  # fmt: skip
        target.write(np.array([[[1, np.nan], [3, 4]]], "float32"))
    assert read_image(tmp_path / "1.tiff", "tiff").nodata is None


@pytest.mark.parametrize("file", ["/etc/{id}.pt", "../{id}.pt", ["cubes/{id}.pt", "~/{id}.pt"]])
def test_a_published_description_reads_no_file_elsewhere(region: Region, file: str | list[str]):
    described = yaml.safe_load((region.root_path / "region.yaml").read_text())
    described["modalities"][1]["file"] = file
    (region.root_path / "region.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(GlczooError, match="inside of the data folder only"):
        Region.load(region.root_path, published=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "cubes/cube.pt"}, "is no pattern of files"),
        ({"file": "cubes/{id.__class__}.pt"}, "is no pattern of files"),
        ({"file": []}, "need a pattern of files"),
        ({"columns": []}, "the names of their bands"),
    ],
)
def test_what_a_modality_of_images_needs_is_said(region: Region, changes: dict, message: str):
    described = yaml.safe_load((region.root_path / "region.yaml").read_text())
    described["modalities"][1] |= changes
    (region.root_path / "region.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(GlczooError, match=message):
        Region.load(region.root_path)


def test_turned_cells_of_a_square():
    cells = patch_cells((2, 2), 2, "tiff")
    assert cells[0].tolist() == [0, 1, 2, 3] and len({tuple(row) for row in cells.tolist()}) == 8


def test_the_benchmark_s_own_files(test_data: Path):
    """One file of every kind of GeoLifeCLEF 2024 and 2025, as malpolon ships them."""
    folder = test_data / "glc24-sample"
    cubes = sorted(folder.rglob("*_cube.pt"))
    assert {read_image(path, "cube").values.shape for path in cubes} == {(4, 19, 12), (6, 4, 21)}
    tiff = next(folder.rglob("1027998.tiff"))
    image = read_image(tiff, "tiff")
    assert image.values.shape == (4, 64, 64) and image.nodata == -1 and image.values.dtype == np.int16
