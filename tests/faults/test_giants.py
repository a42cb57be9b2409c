"""Small files that name something vast, and tables of which a cell is empty: the likeliest hostile days."""

import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from glczoo.data.occurrences import SpeciesIndex
from glczoo.data.region import Region
from glczoo.data.tables import read_and_report, read_samples, read_species
from glczoo.errors import GlczooError
from glczoo.models.published import build, read_config

MEMBER = {"architecture": "test_bioresnet_glc23", "args": {"branches": {"bioclim": 19}}}
GIANTS = {  # what a config.json may ask for: architecture and arguments
    "layers": ("test_bioresnet_glc23", {"layers": [10**9, 1, 1, 1]}),
    "channels": ("test_bioresnet_glc23", {"channels": [10**6] * 4}),
    "deep": ("resnetv2_152x4_bit", {}),
    "vast": ("vit_giant_patch14_clip_224", {}),
    "members": ("ensemble_glc23", {"members": [MEMBER] * 200}),
    "trees": ("forest_glc23", {"trees": 10**9, "nodes": 10**9}),
}


@pytest.fixture(scope="module")
def run(trained_run) -> Path:
    return trained_run("step1", model="test_bioresnet_glc23")


@pytest.mark.parametrize("name", GIANTS)
def test_a_small_file_that_names_a_giant_takes_no_memory(run, tmp_path, name):
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    config = json.loads((folder / "config.json").read_text())
    config["architecture"], arguments = GIANTS[name]
    config["model_args"] = config["model_args"] | arguments
    (folder / "config.json").write_text(json.dumps(config))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(GlczooError, match="config.json|model.safetensors"):
        build(folder, read_config(folder))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # kB


HEAD = "patchID;dayOfYear;lon;lat;speciesId;datasetName"
REGION = """
name: tables
bounds: [0, 40, 10, 50]
modalities: [{name: m, folder: ., bands: [{name: b, file: b.tif}]}]
tables: {pa: {file: pa.csv}, po: {file: po.csv}}
"""


def region(folder: Path, *rows: str, head: str = HEAD, more: str = "") -> Region:
    for name in ("pa.csv", "po.csv"):
        (folder / name).write_text("\n".join([head, *rows]) + "\n")
    (folder / "region.yaml").write_text(REGION + more)
    return Region.load(folder)


ROWS = ("1;10;5.0;45.0;3;trees", "2;10;6.0;46.0;4;")


def test_an_empty_name_of_a_data_set_is_a_data_set_without_name(tmp_path):
    own = region(tmp_path, *ROWS)
    for kind in ("pa", "po"):
        samples = read_samples(own, kind, read_species(own))
        assert samples.dataset_names == ("", "trees") and len(samples) == 2


@pytest.mark.parametrize("cell", ["", "NA", "  "])
def test_a_blank_species_is_named_or_left_out(tmp_path, cell):
    own = region(tmp_path, *ROWS, f"3;10;7.0;47.0;{cell};plots")
    species = SpeciesIndex(np.array([3, 4]))
    with pytest.raises(GlczooError, match=r"name no species, the first: line\(s\) \[4\]"):
        read_samples(own, "po", species)
    _, reading = read_and_report(own, "po", species)
    assert reading.left_out["without a species"] == 1
    assert len(read_samples(own, "pa", species)) == 3  # a survey that found nothing


def test_columns_are_found_whatever_their_letter_case(tmp_path):
    own = region(tmp_path, *ROWS, head=HEAD.upper())
    assert read_species(own).ids.tolist() == [3, 4]
    assert len(read_samples(own, "pa", read_species(own))) == 2


def test_an_empty_species_table_is_named(tmp_path):
    (tmp_path / "species.csv").write_text("speciesId;name\n")
    own = region(tmp_path, *ROWS, more="species: {file: species.csv, name: name}\n")
    with pytest.raises(GlczooError, match="species.csv: the species table has a header and no rows"):
        read_species(own)
