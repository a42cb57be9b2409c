"""Patches against a slow twin that reads every pixel by its own, in float64.

x[B, C, S, S] · values[S, S]: one band around one point, nan where there is no data.
"""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
import torch
from conftest import SURVEYS, place, write_patch
from PIL import Image

from glczoo.data import jpeg, patches, rasters
from glczoo.data.jpeg import JpegTree
from glczoo.data.occurrences import Points, Samples
from glczoo.data.patch_source import PatchSource
from glczoo.data.patches import PatchBuilder, dihedral
from glczoo.data.region import Band, Region
from glczoo.data.satellite import SatellitePatches
from glczoo.data.tables import read_samples, read_species

BANDS = ["first", "plain", "second", "shifted", "holes", "red", "green", "blue", "nir", "metres", "real"]
DIRECTORIES = {patch_id: directories for patch_id, _, _, _, directories, _ in SURVEYS}
SIZE = 6


def pixels(region: Region, band: Band, kind: str, patch_id: int, lon: float, lat: float) -> np.ndarray:
    """values[S, S] of one band around one point, pixel by pixel."""
    start = (128 - SIZE) // 2
    if kind == "jpeg":
        path = region.root_path / "jpeg" / band.file / DIRECTORIES[patch_id] / f"{patch_id}.jpeg"
        planes = np.asarray(Image.open(path), float).reshape(128, 128, -1)
        return planes[start : start + SIZE, start : start + SIZE, band.index - 1]
    with rasterio.open(region.root_path / "rasters" / band.file) as source:
        values = source.read(band.index).astype(float)
        (x,), (y,) = rasterio.warp.transform("EPSG:4326", source.crs, [lon], [lat])
        row, col = source.index(x, y)
        out = np.full((SIZE, SIZE), np.nan)
        for i, j in itertools.product(range(SIZE), repeat=2):
            r, c = row - SIZE // 2 + i, col - SIZE // 2 + j
            if 0 <= r < source.height and 0 <= c < source.width:
                missing = source.nodata is not None and np.isclose(values[r, c], source.nodata)
                out[i, j] = np.nan if missing else values[r, c]
    return out


def all_pixels(region: Region, points: Points) -> np.ndarray:
    """values[N, C, S, S] in float64."""
    return np.stack(
        [
            [pixels(region, band, m.kind, *where) for band, m in region.bands()]
            for where in zip(points.patch_id.tolist(), points.lon, points.lat, strict=True)
        ]
    )


@pytest.fixture
def surveys(address_region: Region) -> Samples:
    return read_samples(address_region, "pa", read_species(address_region))


@pytest.fixture
def source(address_region: Region) -> PatchSource:
    return PatchSource(address_region)


def at(*cells: tuple[int, int], patch_id: int = 123) -> Points:
    lon, lat = np.array([place(*cell) for cell in cells]).T
    return Points(lon, lat, np.full(len(cells), patch_id), np.arange(len(cells)))


# --- x --------------------------------------------------------------------------------------------------


def test_x_equals_the_slow_twin_on_both_back_ends(
    address_region: Region, source: PatchSource, surveys: Samples
) -> None:
    assert source.bands == address_region.band_names == BANDS
    assert source.modalities == {"base": 3, "other": 2, "satellite": 4, "last": 2}
    mean, std = [7000.0 + k for k in range(11)], [500.0 + 10 * k for k in range(11)]
    for k in range(5, 9):
        mean[k], std[k] = 100.0 + k, 30.0 + k
    order = [3, 0, 4, 1, 2, 0]
    raw = all_pixels(address_region, surveys)[order]
    expected = (raw - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    assert 0.1 < np.isnan(expected).mean() < 0.5  # corners and cells without data are there
    xs = [
        PatchBuilder(source, surveys, mean, std, resident=resident)(torch.tensor(order))
        for resident in (False, True, None)
    ]
    for x in xs:
        assert x.shape == (6, 11, SIZE, SIZE) and x.dtype == torch.float32
        assert x.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_allclose(x.double().numpy(), np.nan_to_num(expected), rtol=0, atol=5e-6)
        assert torch.equal(x, xs[0])


def test_a_large_batch_is_built_in_parts(address_region: Region, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "_AT_ONCE", 5 * 64 * 64 * 3)
    source = PatchSource(address_region, ["base"], 64)
    points = at(*[(i % 14, i % 20) for i in range(40)])
    builder = PatchBuilder(source, points, [0.0] * 3, [1.0] * 3)
    x = builder(torch.arange(40))
    alone = [builder(torch.tensor([i])) for i in range(40)]
    assert torch.equal(x, torch.cat(alone))
    assert x[7, :, 32, 32].tolist() == [7007, 7207, 7107]


def test_chosen_modalities_keep_the_order_of_the_region(address_region: Region) -> None:
    assert PatchSource(address_region, ["last", "base"]).bands == [*BANDS[:3], *BANDS[-2:]]
    with pytest.raises(ValueError, match=r"region address has no modality \['soil'\]; it has \['base', "):
        PatchSource(address_region, ["soil"])


def test_bad_statistics_and_points_outside_are_refused(source: PatchSource, surveys: Samples) -> None:
    with pytest.raises(ValueError, match="one value for each of 11 bands, they have 11 and 3"):
        PatchBuilder(source, surveys, [0.0] * 11, [1.0] * 3)
    with pytest.raises(ValueError, match="points lie outside the grid of shifted; leave them out first"):
        PatchBuilder(source, at((0, 5)), [0.0] * 11, [1.0] * 11)


# --- statistics -----------------------------------------------------------------------------------------


def test_statistics_equal_brute_force_over_all_patches(
    address_region: Region, source: PatchSource, surveys: Samples
) -> None:
    found = source.statistics(surveys)
    raw = all_pixels(address_region, surveys).transpose(1, 0, 2, 3).reshape(11, -1)
    np.testing.assert_allclose(found.filled, np.isnan(raw).mean(1), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(found.mean, np.nanmean(raw, 1), rtol=1e-9)
    np.testing.assert_allclose(found.std, np.nanstd(raw, 1), rtol=1e-9)
    shares = source.filled(surveys)
    assert shares == {b: pytest.approx(f) for b, f in zip(BANDS, found.filled, strict=True) if b in shares}
    assert len(shares) == 7


def test_statistics_without_any_cell_to_fill(address_region: Region) -> None:
    source, points = PatchSource(address_region, ["base"]), at((7, 10), (7, 10), (6, 9), (9, 12))
    found = source.statistics(points)
    bands = [band for band, modality in address_region.bands() if modality.name == "base"]
    raw = np.stack([pixels(address_region, band, "raster", 0, *place(6, 9)) for band in bands])
    assert found.filled == [0, 0, 0]
    # An address grows by 1001 from a cell to the one south-east of it.
    every = np.concatenate([raw.reshape(3, -1) + 1001 * steps for steps in (1, 1, 0, 3)], 1)
    np.testing.assert_allclose(found.mean, every.mean(1), rtol=1e-9)
    np.testing.assert_allclose(found.std, every.std(1), rtol=1e-9)


def test_a_constant_band_is_divided_by_one(address_region: Region) -> None:
    found = PatchSource(address_region, ["base"], 1).statistics(at((3, 4)))
    assert found.mean == [3004, 3204, 3104] and found.std == [1, 1, 1]


def test_statistics_of_a_band_without_data_in_any_patch(address_region: Region) -> None:
    source = PatchSource(address_region, ["other"], 1)
    with pytest.raises(ValueError, match=r"no patch of 1 surveys has data in \['holes'\]; are the points at"):
        source.statistics(at((2, 3)))


# --- turns ----------------------------------------------------------------------------------------------


def test_turns_are_a_function_of_seed_epoch_and_index() -> None:
    index = torch.arange(8000)
    found = dihedral(1, 2, index)
    assert found.dtype == torch.int64
    counts = found.bincount(minlength=8)
    assert len(counts) == 8 and counts.min() > 850 and counts.max() < 1150
    shuffled = torch.randperm(8000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dihedral(1, 2, shuffled), found[shuffled])
    assert torch.equal(torch.cat([dihedral(1, 2, part) for part in index.split(7)]), found)
    for other in (dihedral(2, 2, index), dihedral(1, 3, index), dihedral(1, 2, index + 1)):
        assert 0.05 < (other == found).double().mean() < 0.2  # 1 in 8 by chance


def test_turned_patches_equal_flips_and_quarter_turns(source: PatchSource, surveys: Samples) -> None:
    builder = PatchBuilder(source, surveys, [0.0] * 11, [1.0] * 11)
    items = torch.zeros(8, dtype=torch.int64)
    plain, turned = builder(items), builder(items, torch.arange(8))
    assert turned.is_contiguous(memory_format=torch.channels_last)
    for code in range(8):
        expected = torch.rot90(plain[code], code % 4, (1, 2))
        assert torch.equal(turned[code], expected.flip(2) if code >= 4 else expected), code
    for i, j in itertools.combinations(range(8), 2):
        assert not torch.equal(turned[i, 0], turned[j, 0])
    mixed = torch.tensor([5, 0, 3, 5, 1])
    order = [0, 1, 2, 3, 4]
    together = builder(torch.tensor(order), mixed)
    for i in order:
        assert torch.equal(together[i], builder(torch.tensor([i]), mixed[i : i + 1])[0])


# --- JPEG patches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patch_id", "directories"),
    [
        (3018575, "75/85"),
        (100, "00/1"),
        (123, "23/1"),
        (123, "23/01"),
        (45, "45"),
        (45, "45/00"),
        (7, "7"),
        (7, "07/00"),
        (1200, "00/12"),
    ],
)
def test_the_path_rule(tmp_path: Path, patch_id: int, directories: str) -> None:
    path = write_patch(tmp_path, patch_id, directories, 1)
    tree = JpegTree(tmp_path)
    assert tree.path(patch_id) == path
    patches = SatellitePatches([(Band(name="nir", file="nir"), tree)])
    assert patches.missing(np.array([patch_id, 8, patch_id, -1])).tolist() == [False, True, False, True]


def test_the_unpadded_path_comes_first(tmp_path: Path) -> None:
    padded = write_patch(tmp_path, 123, "23/01", 1)
    tree = JpegTree(tmp_path)
    assert tree.path(123) == padded
    assert tree.path(123) != write_patch(tmp_path, 123, "23/1", 1) == tree.path(123)


@pytest.mark.parametrize("size", [1, 5, 128])
def test_a_patch_is_the_centre_of_its_file(tmp_path: Path, size: int) -> None:
    path = write_patch(tmp_path, 3018575, "75/85", 3)
    bands = [Band(name=name, file="rgb", index=i) for i, name in ((3, "blue"), (1, "red"))]
    tree = JpegTree(tmp_path)
    patch = SatellitePatches([(band, tree) for band in bands]).read(3018575, size)
    start = (128 - size) // 2
    expected = np.asarray(Image.open(path))[start : start + size, start : start + size, [2, 0]]
    np.testing.assert_array_equal(patch.permute(1, 2, 0).numpy(), expected)


def test_bad_patches_are_named(tmp_path: Path) -> None:
    tree = SatellitePatches([(Band(name="nir", file="nir"), JpegTree(tmp_path))])
    with pytest.raises(FileNotFoundError, match=r"patch 75 has no JPEG under .*data\.incomplete=drop"):
        tree.read(75, 8)
    path = write_patch(tmp_path, 3018575, "75/85", 1)
    with pytest.raises(ValueError, match="JPEG patches are 128 x 128 pixels, patch_size is 129"):
        tree.read(3018575, 129)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"no picture at all", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"3018575\.jpeg is not a whole JPEG: "):
            tree.read(3018575, 8)
    write_patch(tmp_path, 3018575, "75/85", 1, side=64)
    with pytest.raises(ValueError, match=r"3018575\.jpeg must be 128 x 128 pixels, it is \(64, 64\)"):
        tree.read(3018575, 8)


# --- what cannot be read --------------------------------------------------------------------------------


def test_a_jpeg_that_claims_to_be_huge_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    data = np.fromfile(write_patch(tmp_path, 123, "23/1", 3), np.uint8)
    frame = data.tobytes().index(bytes([0xFF, 0xC0]))
    data[frame + 5 : frame + 9] = 255
    with pytest.raises(ValueError, match=r"a\.jpeg must be 128 x 128 pixels, it is \(65535, 65535\)"):
        jpeg.decode(data, True, "a.jpeg")
    data.tofile(tmp_path / "a.jpeg")
    with pytest.raises(ValueError, match="claims 65535 x 65535 pixels"):
        jpeg.num_planes(tmp_path / "a.jpeg")


def test_statistics_of_a_large_raster_are_taken_block_by_block(
    source: PatchSource, surveys: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, filled = source.statistics(surveys), source.filled(surveys)
    monkeypatch.setattr(rasters, "_BLOCK", 50)  # cells: two rows
    blocks = source.statistics(surveys)
    np.testing.assert_allclose(blocks.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(blocks.std, whole.std, rtol=1e-12)
    assert blocks.filled == whole.filled and source.filled(surveys) == filled


def test_incomplete_points_are_dropped_or_named(source: PatchSource, surveys: Samples) -> None:
    assert source.complete(surveys, "pa").all()
    points = at((5, 5), (0, 5), (6, 6))
    points = replace(points, patch_id=np.array([123, 123, 999]))
    assert source.complete(points, "po", drop=True).tolist() == [True, False, False]
    message = (
        r"^po: 2 of 3 cannot be read: 1 outside the grid of shifted, the first: patchID 123 at lon 5\.05500, "
        r"lat 44\.99500; 1 without a JPEG patch \(red … nir\), the first: patchID 999 at lon .* "
        r"`glczoo region check` lists them all; data\.incomplete=drop leaves them out$"
    )
    with pytest.raises(ValueError, match=message):
        source.complete(points, "po")
    with pytest.raises(ValueError, match="po: 2 of 2 cannot be read"):
        source.complete(points.at(np.array([1, 2])), "po", drop=True)


def test_a_missing_raster_is_named(address_region: Region) -> None:
    (address_region.root_path / "rasters/holes.tif").unlink()
    with pytest.raises(FileNotFoundError, match=r"rasters/holes\.tif not found under"):
        PatchSource(address_region)
