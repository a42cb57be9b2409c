"""Densities of presence-only records: what a band holds, and that the region names it."""

from pathlib import Path

import numpy as np
import pytest
import rasterio

from glczoo.data.patch_source import PatchSource
from glczoo.data.region import Region
from glczoo.data.tables import read_samples, read_species
from glczoo.regions.densities import write_densities


def test_a_band_is_the_share_of_the_records_nearby(world, tmp_path):
    region = Region.load(world)
    made = write_densities(region, tmp_path / "out", [2.0, 40.0])
    species, records = read_species(region), read_samples(region, "po", read_species(region))
    assert made.band_names[33:] == [f"density_{w}_{i}" for w in (2, 40) for i in species.ids.tolist()]
    source = PatchSource(made, ["densities"], 1)
    stack = source.stacks[0]
    row, col = stack.locate(records.lon, records.lat)
    found = source.values(records.subset(np.arange(5)))
    share = np.bincount(records.species, minlength=len(species)) / len(records)
    for point in range(5):
        away = (row - row[point]) ** 2 + (col - col[point]) ** 2
        weight = np.exp(-away / 2 / 2.0**2)
        near = np.bincount(records.species, weight, minlength=len(species))
        expected = np.log((near + 2 * share).clip(1e-6) / (weight.sum() + 2))
        np.testing.assert_allclose(
            found[point, : len(species)], expected, atol=2e-3
        )  # kernels end at 4 widths
    with (
        rasterio.open(tmp_path / "out" / "density_2.tif") as file,
        rasterio.open(
            region.find("EnvironmentalRasters/Climate/BioClimatic_Average_1981-2010/bio1.tif")
        ) as base,
    ):
        assert (file.transform, file.crs, file.shape) == (base.transform, base.crs, base.shape)
        assert file.descriptions == tuple(str(i) for i in species.ids.tolist())
        assert np.isfinite(file.read()).all()
    assert made.root_path == region.root_path.resolve()
    assert [p.name for p in sorted((tmp_path / "out").iterdir())] == [
        "density_2.tif", "density_40.tif", "region.yaml"
    ]  # fmt: skip


def test_what_cannot_be_counted(world, tmp_path):
    region = Region.load(world)
    for cells in ([], [0.0], [2.0, 2.0]):
        with pytest.raises(ValueError, match="different numbers above 0"):
            write_densities(region, tmp_path / "none", cells)
    satellite = [m for m in region.modalities if m.kind == "jpeg"]
    with pytest.raises(ValueError, match="has no rasters"):
        write_densities(region.model_copy(update={"modalities": satellite}), tmp_path / "none")
    with pytest.raises(ValueError, match="would take .* GB"):
        write_densities(region, tmp_path / "none", np.arange(1, 10**5).tolist())
    assert not Path(tmp_path / "none").exists()
    (tmp_path / "region.yaml").touch()
    with pytest.raises(FileExistsError, match="name another folder"):
        write_densities(region, tmp_path)


def test_who_has_none_is_told_how_to_make_them_anew(world, tmp_path):
    made = write_densities(Region.load(world), tmp_path / "out", [2.0, 5.5], coarser=4)
    published = tmp_path / "published"
    published.mkdir()
    (published / "region.yaml").write_text(made.published_text())
    theirs = Region.load(published, published=True)
    theirs._folder = world  # whose data they have, without densities
    command = "glczoo region densities REGION --cells 2 5.5 --coarser 4 --out OUT"
    assert theirs.modalities[-1].made_by == command
    with pytest.raises(FileNotFoundError, match=f"`{command}` makes it anew of the same records"):
        PatchSource(theirs, ["densities"], 1)
    again = write_densities(theirs, tmp_path / "again", [2.0, 5.5], coarser=4)
    assert again.band_names == made.band_names
    with (
        rasterio.open(tmp_path / "out/density_2.tif") as one,
        rasterio.open(tmp_path / "again/density_2.tif") as two,
    ):
        assert np.array_equal(one.read(), two.read()) and one.transform == two.transform
