"""The notebooks run from top to bottom without a network, and show what their words say."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"


def outputs(name: str, folder: Path) -> str:
    """Run a notebook in a folder, and return all that its cells print and show as text."""
    notebook = nbformat.read(FOLDER / name, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "notebooks are kept without outputs"
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in shown if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in shown), "no figure was drawn"
    return "\n".join(output.get("text", output.get("data", {}).get("text/plain", "")) for output in shown)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def test_from_a_place_to_its_species(offline):
    text = outputs("place_to_species.ipynb", offline)
    assert "Pelmosta nitrophila" in text and "truth" in text
    assert "('species_85', 'richness'" in text
    assert "outside the grid of bio1" in text


def test_what_each_of_the_three_steps_does(offline):
    text = outputs("three_steps.ipynb", offline)
    rows = {line.split()[0]: [float(word) for word in line.split()[1:]] for line in text.splitlines()
            if line.startswith(("step1 ", "step2 ", "step3 "))}  # fmt: skip
    f1, auc, total = ({step: values[i] for step, values in rows.items()} for i in range(3))
    assert f1["step2"] < f1["step1"] < f1["step3"] and auc["step1"] < auc["step3"]
    assert total["step2"] == 1 and total["step3"] > 9
