"""The demo, as a newcomer meets it."""

import csv
import re

from matplotlib.image import imread

from glczoo import demo as demo_module
from glczoo.demo import demo


def test_the_demo_makes_everything_it_names_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    small = {"species": 20, "po": 200, "pa": 60, "test": 30, "size": 64, "grid": 6, "patch_size": 16}
    short = {name: values | {"epochs": 1} for name, values in demo_module._RECIPES.items()}
    monkeypatch.setattr(demo_module, "_WORLD", small)
    monkeypatch.setattr(demo_module, "_RECIPES", short)
    report = demo(tmp_path / "demo", seed=3).read_text()
    for row in ("baseline, one branch", "1, three branches", "1+2+3, one branch", "ensemble of the two"):
        assert f"| {row}" in report
    assert re.search(r"three steps beat step 1 \| 0\.\d{3} → 0\.\d{3} \| (yes|level|NO)", report)
    assert imread(tmp_path / "demo" / "demo.png").shape[0] > 500
    with open(tmp_path / "demo" / "submission.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30 and list(rows[0]) == ["Id", "Predicted"]
    capsys.readouterr()
    demo(tmp_path / "demo", seed=3)
    printed = capsys.readouterr().out
    assert printed.count("is finished already") == 7 and "epoch 1/1" not in printed
