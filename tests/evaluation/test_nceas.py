"""The NCEAS benchmark on a region of a few places: read, trained, judged by surveys, kept."""

import json

import numpy as np
import pytest
import yaml

from glczoo.cli import main
from glczoo.evaluation.nceas import _Covariates, run_benchmark
from glczoo.training import presence_only


def write(path, **columns):
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", "utf-8")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Two species, one of cold and one of warm places, and a category that says nothing."""
    monkeypatch.setattr(presence_only, "_LINEAR", {"quadratic": {}})
    monkeypatch.setattr(presence_only, "_TREES", {})
    generator = np.random.default_rng(0)
    folder = tmp_path / "data" / "xyz"
    folder.mkdir(parents=True)

    def places(number):
        x, y = generator.uniform(6e5, 7e5, number), generator.uniform(2e5, 3e5, number)
        warm, soil = generator.normal(size=number), generator.integers(0, 3, number)
        return {"siteid": range(number), "x": x, "y": y}, {"warm": warm, "soil": soil}

    where, values = places(200)
    species = np.where(values["warm"] + generator.normal(size=200) > 0, "b", "a")
    write(folder / "po.csv", **where, spid=species, group=["tree"] * 200, **values)
    where, values = places(50)
    write(folder / "background.csv", **where, **values)
    where, values = places(60)
    write(folder / "env_tree.csv", **where, **values)
    write(folder / "pa_tree.csv", **where, a=1 * (values["warm"] < 0), b=1 * (values["warm"] > 0))
    path = tmp_path / "study.yaml"
    region = {"crs": "EPSG:21781", "categorical": ["soil"], "published": {"MaxEnt": 0.75}}
    content = {"name": "small", "benchmark": "nceas", "root": str(tmp_path / "data"), "runs": str(tmp_path)}
    path.write_text(yaml.safe_dump(content | {"regions": {"xyz": region}}), "utf-8")
    return path


def test_records_train_and_surveys_judge(study, capsys):
    main(["study", str(study)])
    text = capsys.readouterr().out
    (score,) = json.loads((study.parent / "small" / "table.json").read_text("utf-8"))["each"]
    assert score["auc"] > 0.9 and set(score["auc_each"]) == {"a", "b"} and score["surveys"] == 60
    assert "| xyz " in text and "0.750" in text and "MaxEnt" in text


def test_what_is_finished_is_kept(study):
    run_benchmark(study)
    kept = study.parent / "small" / "xyz_seed0.json"
    content = json.loads(kept.read_text("utf-8")) | {"auc": 0.123}
    kept.write_text(json.dumps(content), "utf-8")
    assert run_benchmark(study).each[0].auc == 0.123


def test_surveys_of_other_sites_are_refused(study):
    path = study.parent / "data" / "xyz" / "pa_tree.csv"
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]), "utf-8")
    with pytest.raises(ValueError, match="env_tree.csv and pa_tree.csv are not the same sites"):
        run_benchmark(study)


def test_a_category_is_a_channel_for_each_level():
    table = {"x": np.array(["1", "2", "3"]), "t": np.array(["1", "NA", "3"]), "c": np.array(["7", "9", "7"])}
    covariates = _Covariates.of(table, ["c"])
    assert covariates.levels == (1, 2)
    assert covariates(table).tolist() == [[-1, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert covariates(table | {"c": np.array(["8", "NA", "7"])})[:, 1:].tolist() == [[0, 0], [0, 0], [1, 0]]


def test_a_region_of_several_groups_is_judged_by_the_surveys_of_each(study):
    folder = study.parent / "data" / "xyz"
    header, *rows = (folder / "po.csv").read_text("utf-8").splitlines()
    others = [row.replace(",a,tree,", ",c,moss,").replace(",b,tree,", ",d,moss,") for row in rows]
    (folder / "po.csv").write_text("\n".join([header, *rows, *others]) + "\n", "utf-8")
    for kind in ("env", "pa"):
        text = (folder / f"{kind}_tree.csv").read_text("utf-8")
        lines = text.replace("siteid,x,y,a,b", "siteid,x,y,c,d").splitlines()
        (folder / f"{kind}_moss.csv").write_text("\n".join(lines[:41]) + "\n", "utf-8")
    (score,) = run_benchmark(study).each
    assert set(score.auc_each) == {"a", "b", "c", "d"} and min(score.auc_each.values()) > 0.9
    assert score.surveys == 60 + 40
