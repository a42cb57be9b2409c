"""Regions that a fit can do little with: it says so before the work, or does what is left."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from glczoo.data.region import Region
from glczoo.data.tables import read_samples, read_species
from glczoo.errors import GlczooError
from glczoo.fit.fit import Fitted, fit
from glczoo.fit.inputs import _refuse_few
from glczoo.fit.settings import Fit
from glczoo.runs.run import Run

TINY = [
    "modalities=[soil]", "patch_size=3", "windows=[1, 3]", "folds=2", "blocks=8", "records.copies=1",
    "records.epochs_species=1", "records.epochs_sites=1", "records.windows=[1]", "linear.iterations=5",
    "forest.trees=3", "densities=false", "candidates=[points, linear]",
]  # fmt: skip


def tiny(region: Path, out: Path, *overrides: str) -> Fitted:
    return fit(region, out, None, 1, [*TINY, *overrides], log=lambda _: None)


def changed(world: Path, folder: Path, tables: dict) -> Path:
    """The virtual region with other tables: files that lie in `folder`, or none of a kind."""
    region = yaml.safe_load((world / "region.yaml").read_text("utf-8"))
    region |= {"root": str(world), "name": "odd"}
    for kind, frame in tables.items():
        if frame is None:
            region["tables"].pop(kind)
            continue
        frame.to_csv(folder / f"{kind}.csv", sep=";", index=False)
        region["tables"][kind]["file"] = str(folder / f"{kind}.csv")
    region["tables"].pop("test", None)
    (folder / "region.yaml").write_text(yaml.safe_dump(region), "utf-8")
    return folder


def table(world: Path, kind: str) -> pd.DataFrame:
    region = Region.load(world)
    return pd.read_csv(region.find(*region.tables[kind].file), sep=";")


def test_few_surveys_are_refused_before_anything_is_fitted(world, tmp_path):
    with pytest.raises(GlczooError, match="12 surveys of region virtual train, fewer than 20") as error:
        tiny(world, tmp_path / "run", "data.pa_fraction=0.1")
    assert "leave the table pa out of region.yaml" in str(error.value)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["fit.json"]


def test_surveys_of_one_place_cannot_be_held_out(world):
    region = Region.load(world)
    surveys = read_samples(region, "pa", read_species(region))
    together = replace(surveys, lon=np.full(len(surveys), 5.0), lat=np.full(len(surveys), 45.0))
    with pytest.raises(GlczooError, match="lie at so few places that they make 1 blocks, fewer than 4 folds"):
        _refuse_few(Fit(), region, together)


def test_surveys_that_found_nothing_teach_nothing(world):
    region = Region.load(world)
    surveys = read_samples(region, "pa", read_species(region))
    empty = replace(surveys, offsets=np.zeros_like(surveys.offsets), species=surveys.species[:0])
    with pytest.raises(GlczooError, match="no survey of region virtual that trains found a species"):
        _refuse_few(Fit(), region, empty)


def test_a_region_without_surveys_and_records_has_nothing_to_fit_to(world, tmp_path):
    region = changed(world, tmp_path, {"po": None, "pa": None})
    with pytest.raises(GlczooError, match="neither surveys nor records"):
        tiny(region, tmp_path / "run")


def test_an_empty_table_of_records_is_as_good_as_none(world, tmp_path):
    region = changed(world, tmp_path, {"po": table(world, "po").iloc[:0]})
    board = tiny(region, tmp_path / "run").leaderboard
    assert board.left_out["presence-only records"] == "the table has none"
    assert [line.name for line in board.lines if "records" in line.name] == []


def test_a_single_species_is_fitted(world, tmp_path):
    surveys = table(world, "pa")
    frequent = surveys["speciesId"].value_counts().index[0]
    records = table(world, "po")
    tables = {
        "po": records[records["speciesId"] == frequent],
        "pa": surveys[surveys["speciesId"] == frequent],
    }
    region = changed(world, tmp_path, tables)
    text = yaml.safe_load((region / "region.yaml").read_text("utf-8"))
    text.pop("species", None)
    (region / "region.yaml").write_text(yaml.safe_dump(text), "utf-8")
    fitted = tiny(region, tmp_path / "run")
    assert len(fitted.leaderboard.lines) == 2 and len(Run.find(fitted.folder).species) == 1
