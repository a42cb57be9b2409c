"""Shards hold what the tree holds, a killed pack goes on, and whatever is damaged is named."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SURVEYS, write_address_region, write_patch

from glczoo.cli import main
from glczoo.data import jpeg, shards
from glczoo.data.jpeg import JpegTree, decode
from glczoo.data.patch_source import PatchSource
from glczoo.data.region import Region
from glczoo.data.shards import Shards, is_packed, write_shards
from glczoo.regions.pack import pack_region

IDS = sorted({survey[0] for survey in SURVEYS})


@pytest.fixture
def region(tmp_path: Path) -> Region:
    region = write_address_region(tmp_path / "address")
    for patch_id, directories in ((7, "7"), (107, "07/1"), (8, "08/00"), (7008, "08/70")):
        write_patch(region.root_path / "jpeg/rgb", patch_id, directories, 3)
        write_patch(region.root_path / "jpeg/nir", patch_id, directories, 1)
    return region


# --- decoding -------------------------------------------------------------------------------------------


def real_files(test_data: Path) -> list[Path]:
    return sorted((test_data / "glc23-sample/SatelliteImages").rglob("*.jpeg"))


@pytest.mark.real_data
def test_real_patches_decode_to_the_same_values_either_way(
    test_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = real_files(test_data)
    assert len(files) == 200
    assert_decoders_agree([np.fromfile(path, np.uint8) for path in files], monkeypatch)


def test_virtual_patches_decode_to_the_same_values_either_way(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted((world / "SatelliteImages").rglob("*.jpeg"))[::20]
    assert len(files) > 20
    assert_decoders_agree([np.fromfile(path, np.uint8) for path in files], monkeypatch)


def assert_decoders_agree(blobs: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg", reason="simplejpeg is not installed: there is one decoder only")
    fast = [decode(blob, colour, "a") for blob in blobs for colour in (True, False)]
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    slow = [decode(blob, colour, "a") for blob in blobs for colour in (True, False)]
    for one, other in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("installed", [True, False])
def test_damaged_bytes_have_one_verdict(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = np.fromfile(write_patch(tmp_path, 1234, "34/12", 3), np.uint8)
    if not installed:
        monkeypatch.setattr(jpeg, "simplejpeg", None)
    for data in (whole[: len(whole) // 2], whole[:2], np.zeros(50, np.uint8)):
        with pytest.raises(ValueError, match="^here is not a whole JPEG: "):
            decode(data, True, "here")
    # Bytes before a marker are a flaw that torchvision passes over and simplejpeg does not.
    flawed = np.concatenate([whole[:-2], np.full(400, 7, np.uint8), whole[-2:]])
    if jpeg.simplejpeg is not None:
        with pytest.raises(ValueError, match="extraneous bytes"):
            jpeg.simplejpeg.decode_jpeg(flawed)
    np.testing.assert_array_equal(decode(flawed, True, "here"), decode(whole, True, "here"))


def test_a_patch_is_decoded_into_its_place_in_a_batch(region: Region) -> None:
    patches = PatchSource(region).jpegs
    batch = torch.full((3, 4, 6, 6), 255, dtype=torch.uint8)
    assert patches.read(123, 6, out=batch[1]).data_ptr() == batch[1].data_ptr()
    assert torch.equal(batch[1], patches.read(123, 6)) and (batch[[0, 2]] == 255).all()


@pytest.mark.parametrize("packed", [None, "encoded", "decoded"])
def test_patches_decoded_together_are_those_decoded_one_by_one(packed: str | None, region: Region) -> None:
    if packed:
        pack_region(region, decoded=packed == "decoded", progress=False)
    patches = PatchSource(region).jpegs
    together = patches.read_together([123, 7, 123], 6, torch.device("cpu"))
    if packed == "decoded":  # nothing is left to decode
        assert together is None
    else:
        assert torch.equal(together, torch.stack([patches.read(patch, 6) for patch in (123, 7, 123)]))


def test_what_cannot_be_decoded_together_is_named_by_reading_it(region: Region) -> None:
    patches = PatchSource(region).jpegs
    path = JpegTree(region.root_path / "jpeg/nir").path(123)
    path.write_bytes(path.read_bytes()[:200])
    for patch_ids in ([7, 123], [7, 999_999]):
        assert patches.read_together(patch_ids, 6, torch.device("cpu")) is None
        with pytest.raises((ValueError, FileNotFoundError), match=str(patch_ids[1])):
            patches.read(patch_ids[1], 6)


# --- shards are the tree --------------------------------------------------------------------------------


@pytest.mark.parametrize("decoded", [False, True])
def test_shards_read_like_the_tree(decoded: bool, region: Region) -> None:
    tree = PatchSource(region).jpegs
    assert pack_region(region, decoded=decoded, progress=False).is_default
    packed = PatchSource(region).jpegs
    (files,) = {type(files) for files in packed._files}
    assert files is Shards and {f.decoded for f in packed._files} == {decoded}
    asked = np.array([*IDS, 7, 107, 8, 7008, 0, 9, 100, 207, 3018574, -1, -25, 123])
    assert packed.missing(asked).tolist() == tree.missing(asked).tolist() == [
        *[False] * (len(IDS) + 4), *[True] * 7, False
    ]  # fmt: skip
    for patch_id in asked[: len(IDS) + 4].tolist():
        for size in (1, 6, 128):
            assert torch.equal(packed.read(patch_id, size), tree.read(patch_id, size))
    with pytest.raises(FileNotFoundError, match=r"patch 207 has no JPEG under .*packed"):
        packed.read(207, 6)


def test_the_tree_may_go_once_it_is_packed(region: Region) -> None:
    expected = PatchSource(region).jpegs.read(123, 6)
    pack_region(region, progress=False)
    shutil.rmtree(region.root_path / "jpeg")
    assert torch.equal(PatchSource(region, ["satellite"]).jpegs.read(123, 6), expected)
    assert pack_region(region, verify=True, progress=False).trees["satellite/rgb"].patches == 8


def test_a_pack_elsewhere_is_named_in_the_region(region: Region, tmp_path: Path) -> None:
    assert not pack_region(region, tmp_path / "elsewhere", progress=False).is_default
    assert {type(files) for files in PatchSource(region).jpegs._files} == {JpegTree}
    named = region.model_copy(update={"packed": str(tmp_path / "elsewhere")})
    named._folder = region._folder
    assert {type(files) for files in PatchSource(named).jpegs._files} == {Shards}
    shutil.rmtree(tmp_path / "elsewhere/satellite/nir")
    with pytest.raises(FileNotFoundError, match=r"says packed: .*elsewhere, and .*nir is no whole pack"):
        PatchSource(named)


def test_what_is_missing_or_unreadable_is_listed(region: Region, capsys: pytest.CaptureFixture[str]) -> None:
    root = region.root_path
    (root / "jpeg/nir/23/1/123.jpeg").unlink()
    (root / "jpeg/rgb/07/1/107.jpeg").write_bytes(b"no picture")
    write_patch(root / "jpeg/rgb", 5555, "01/01", 3)  # not where the path rule looks
    main(["pack", str(root)])
    printed = capsys.readouterr().out
    assert "satellite/rgb: 7 patches" in printed and "1 files cannot be decoded, 0 patches that" in printed
    assert "satellite/nir: 7 patches" in printed and "0 files cannot be decoded, 1 patches that" in printed
    listed = (root / "packed/missing.csv").read_text().splitlines()
    assert listed[0] == "patchID;tree;reason" and listed[2:] == ["123;satellite/nir;no file"]
    assert listed[1].startswith("107;satellite/rgb;") and "107.jpeg is not a whole JPEG" in listed[1]
    assert PatchSource(region).jpegs.missing(np.array([123, 107, 5555, 45])).tolist() == [True] * 3 + [False]


def test_verify_takes_in_what_the_tree_has_got_since(region: Region) -> None:
    root, asked = region.root_path, np.array([107, 45, 2045])
    sound = (root / "jpeg/rgb/07/1/107.jpeg").read_bytes()
    (root / "jpeg/rgb/07/1/107.jpeg").write_bytes(sound[:300])
    packed = pack_region(region, progress=False)
    assert packed.trees["satellite/rgb"].unreadable == 1
    (root / "jpeg/rgb/07/1/107.jpeg").write_bytes(sound)
    for tree, planes in (("rgb", 3), ("nir", 1)):
        write_patch(root / "jpeg" / tree, 2045, "45/20", planes)
    assert PatchSource(region).jpegs.missing(asked).tolist() == [True, False, True]
    pack_region(region, progress=False)
    assert PatchSource(region).jpegs.missing(asked).tolist() == [True, False, True]
    rgb = pack_region(region, verify=True, progress=False).trees["satellite/rgb"]
    assert (rgb.patches, rgb.unreadable) == (9, 0)
    assert not PatchSource(region).jpegs.missing(asked).any()


def test_a_region_without_jpegs_has_nothing_to_pack(region: Region) -> None:
    rasters = [m for m in region.modalities if m.kind == "raster"]
    with pytest.raises(ValueError, match="no JPEG patches, cubes or TIFFs"):
        pack_region(region.model_copy(update={"modalities": rasters}))


# --- killed, damaged, of another kind -------------------------------------------------------------------


def test_a_killed_pack_goes_on(region: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, whole, folder = region.root_path / "jpeg/rgb", tmp_path / "whole", tmp_path / "killed"
    manifest = write_shards(tree, whole, colour=True, progress=False)
    names = list(manifest.shards)
    assert names == ["07", "08", "21", "23", "45", "7", "75"]
    write, written = shards._write_shard, []

    def dies(tree: Path, folder: Path, name: str, *options: bool) -> dict:
        if name == "23" and "23" not in written:
            written.append(name)
            raise KeyboardInterrupt
        written.append(name)
        return write(tree, folder, name, *options)

    monkeypatch.setattr(shards, "_write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        write_shards(tree, folder, colour=True, progress=False)
    assert not is_packed(folder)
    with pytest.raises(ValueError, match="killed holds no whole pack; `glczoo pack REGION`"):
        Shards(folder)
    write_shards(tree, folder, colour=True, progress=False)
    assert written == ["07", "08", "21", "23", "23", "45", "7", "75"]  # none of the finished again
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in whole.iterdir()
    }


def test_nothing_is_deleted_that_glczoo_did_not_write(region: Region, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    for name in (".bashrc", ".75.bin", ".75-123.bin", "notes.txt"):
        (folder / name).write_text("mine")
    write_shards(region.root_path / "jpeg/rgb", folder, colour=True, progress=False)
    for name in (".bashrc", ".75.bin", ".75-123.bin", "notes.txt"):
        assert (folder / name).read_text() == "mine"


def test_a_shard_that_cannot_be_written_leaves_no_part_of_it(
    region: Region, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_shards(region.root_path / "jpeg/rgb", tmp_path / "pack", colour=True, progress=False)
    assert list((tmp_path / "pack").iterdir()) == []


def test_damaged_shards_are_named_and_mended(region: Region, tmp_path: Path) -> None:
    tree, folder = region.root_path / "jpeg/nir", tmp_path / "nir"
    write_shards(tree, folder, colour=False, progress=False)
    sound = {path.name: path.read_bytes() for path in folder.iterdir()}

    def mended() -> bool:
        write_shards(tree, folder, colour=False, verify=True, progress=False)
        return {path.name: path.read_bytes() for path in folder.iterdir()} == sound

    os.truncate(folder / "75.bin", 100)
    with pytest.raises(ValueError, match=r"75\.bin is damaged: it has 100 bytes, .* --verify` packs such"):
        Shards(folder)
    assert mended()
    (folder / "23.npy").unlink()
    with pytest.raises(ValueError, match=r"23\.npy is missing"):
        Shards(folder)
    assert mended()
    os.truncate(folder / "45.npy", 130)
    with pytest.raises(ValueError, match=r"45\.npy is damaged"):
        Shards(folder).has(np.array([45]))
    assert mended()
    for name in ("75.bin", "75.npy"):  # as long as before
        changed = bytearray(sound[name])
        changed[-8:] = bytes(8)
        (folder / name).write_bytes(changed)
        Shards(folder)
        assert mended()
    damaged = sound["75.bin"][: len(sound["75.bin"]) // 2].ljust(len(sound["75.bin"]), b"\0")
    (folder / "75.bin").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"75\.bin is damaged: patch 3018575 is not a whole JPEG: .*verify"):
        Shards(folder).read(3018575, [(slice(1), slice(1))], np.empty((1, 6, 6), np.uint8))
    shutil.rmtree(tree)
    with pytest.raises(ValueError, match=r"75\.bin or 75\.npy is damaged.*, and .*75 is not there to pack"):
        mended()


def test_packs_of_another_kind_or_format_are_refused(region: Region, tmp_path: Path) -> None:
    tree, folder = region.root_path / "jpeg/nir", tmp_path / "nir"
    write_shards(tree, folder, colour=False, progress=False)
    with pytest.raises(ValueError, match="decoded=False, colour=False; this one has decoded=True, colour=F"):
        write_shards(tree, folder, colour=False, decoded=True, progress=False)
    manifest = json.loads((folder / "pack.json").read_text())
    (folder / "pack.json").write_text(json.dumps(manifest | {"format": 7}))
    with pytest.raises(ValueError, match=r"pack\.json has format 7, this glczoo reads 1"):
        Shards(folder)
    (folder / "pack.json").write_text("{")
    with pytest.raises(ValueError, match=r"pack\.json is damaged"):
        is_packed(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no JPEG patches: its top directories"):
        write_shards(tmp_path / "empty", tmp_path / "out", colour=False, progress=False)
