"""Region files: what they say, and what they may not."""

from pathlib import Path

import pytest

from glczoo.data.region import LARGEST_PATCH, Region

REGION = """
name: here
modalities:
  - name: climate
    {key}: CHELSA
    bands: [{{name: bio1, file: bio1.tif, {key}: a station}}]
tables: {{}}
"""
PLAIN = REGION.format(key="provenance")


def written(tmp_path: Path, old: str, new: str) -> Path:
    assert old in PLAIN
    (tmp_path / "region.yaml").write_text(PLAIN.replace(old, new), "utf-8")
    return tmp_path


def test_the_earlier_name_of_provenance_is_read(tmp_path: Path):
    for key in ("provenance", "source"):
        (tmp_path / "region.yaml").write_text(REGION.format(key=key))
        (modality,) = Region.load(tmp_path).modalities
        assert (modality.provenance, modality.bands[0].provenance) == ("CHELSA", "a station")


@pytest.mark.parametrize(
    "name", ["../../x", "/etc", ".", "..", ".hidden", "a/b", "a\\b", "", "x" * 101, "a\nb", "<b>"]
)
@pytest.mark.parametrize("key", ["name: here", "- name: climate", "name: bio1"])
def test_names_are_no_paths(tmp_path: Path, key: str, name: str):
    quoted = '"' + name.replace("\\", "\\\\").replace("\n", "\\n") + '"'
    with pytest.raises(ValueError, match="name: "):
        Region.load(written(tmp_path, key, f"{key.split(':')[0]}: {quoted}"))


@pytest.mark.parametrize("name", ["bio1", "wc2.1_10m_bio_1", "Österreich", "Swiss trees", "density_1.5_12"])
def test_names_that_people_give(tmp_path: Path, name: str):
    assert Region.load(written(tmp_path, "name: here", f"name: {name}")).name == name


@pytest.mark.parametrize("file", [".", "", "../rgb", "/rgb", "a/../../b"])
def test_the_folder_of_a_jpeg_tree_lies_inside(tmp_path: Path, file: str):
    new = f'kind: jpeg\n    bands: [{{name: red, file: "{file}"}}]\n  - name: other\n    bands: ['
    with pytest.raises(ValueError, match="modality climate: .* is no folder of a JPEG tree"):
        Region.load(written(tmp_path, "bands: [", new))


def test_a_patch_has_a_largest_size(tmp_path: Path):
    with pytest.raises(ValueError, match=f"patch_size: .*{LARGEST_PATCH}"):
        Region.load(written(tmp_path, "name: here", f"name: here\npatch_size: {LARGEST_PATCH + 1}"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: here", "name: here\nroot: ."),
        ("name: here", "name: here\nvirtual_files: true"),
        ("name: here", "name: here\npacked: /tmp"),
        ("    provenance: CHELSA", "    folder: /etc"),
        ("    provenance: CHELSA", "    folder: climate/../.."),
        ("file: bio1.tif", "file: /vsicurl/http:example.org"),
        ("file: bio1.tif", 'file: "NETCDF:a"'),
        ("tables: {}", "tables: {po: {file: [po.csv, ../po.csv]}}"),
        ("tables: {}", "tables: {}\nsplit: {file: ~/split.csv}"),
        ("tables: {}", "tables: {}\nspecies: {file: /etc/passwd}"),
        ("tables: {}", "tables: {pa: {file: pa.csv, without_species: ../pa.csv}}"),
    ],
)
def test_a_published_description_reaches_nothing(tmp_path: Path, old: str, new: str):
    Region.load(written(tmp_path, old, new))  # one's own may
    with pytest.raises(ValueError, match="published model and may name files inside of the data folder only"):
        Region.load(tmp_path, published=True)


def test_what_is_published_can_be_loaded_as_published(tmp_path: Path):
    new = "name: here\nroot: /data\npacked: /shards\nvirtual_files: true"
    region = Region.load(written(tmp_path, "name: here", new))
    region.modalities[0].folder, region.modalities[0].bands[0].file = "../../densities", "/data/bio1.tif"
    (tmp_path / "region.yaml").write_text(region.published_text(), "utf-8")
    again = Region.load(tmp_path, published=True)
    assert (again.packed, again.modalities[0].folder, again.modalities[0].bands[0].file) == (
        "shards", "densities", "bio1.tif",
    )  # fmt: skip
