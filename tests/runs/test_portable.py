"""A model in one file predicts without glczoo what it predicts here, and is kept only if it does."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from glczoo.cli import main
from glczoo.errors import GlczooError
from glczoo.runs import portable
from glczoo.runs.combine import combine
from glczoo.runs.portable import Portable, export_portable
from glczoo.runs.run import Run
from glczoo.training.fit_forest import grow

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript and onnxruntime are not installed: pip install 'glczoo[onnx]'",
)


@pytest.fixture(scope="module")
def run(trained_run) -> Path:
    return trained_run("step1", model="test_bioresnet_glc23")


@pytest.fixture(scope="module")
def written(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("portable") / "model.pt2"
    main(["export", str(run), "--out", str(out)])
    return out


def values_at(run: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches of survey places in the bands' units, NaN where filled, and our probabilities."""
    found = Run(run)
    model, points = found.model, found.samples("validation")
    x = model.builder(points)(torch.arange(len(points))).clone()
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (model.mean, model.std))
    values = torch.where(x == 0, torch.nan, x * std + mean)  # cells without data are exactly the mean
    return values, model.probabilities(points)


ALONE = """
import sys, json, numpy as np, torch
extra = {"glczoo.json": ""}
model = torch.export.load(sys.argv[1], extra_files=extra).module()
np.save(sys.argv[3], model(torch.from_numpy(np.load(sys.argv[2]))).detach().numpy())
print(extra["glczoo.json"])
assert "glczoo" not in sys.modules and "timm" not in sys.modules
"""


def test_it_predicts_alone_what_the_run_predicts_at_places(run, written, tmp_path):
    values, expected = values_at(run)
    np.save(tmp_path / "x.npy", values.numpy())
    command = [sys.executable, "-c", ALONE, written, tmp_path / "x.npy", tmp_path / "p.npy"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), expected.numpy(), atol=1e-5)
    described = json.loads(done.stdout)
    assert [band["name"] for band in described["bands"]] == Run(run).config.glczoo.band_names
    assert described["species"] == Run(run).species.ids.tolist()


def test_cells_without_data_count_as_the_mean(run):
    model = Portable(Run(run).model).eval()
    mean = model.mean.expand(1, -1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(model(torch.full_like(mean, torch.nan)), model(mean))


def test_an_ensemble_is_written_too(run, trained_run, tmp_path):
    other = trained_run("step1", model="test_fusresnet_glc23")
    both = combine([run, other], tmp_path / "both", weights=[0.25, 0.75])
    assert export_portable(both, tmp_path / "both.pt2") < 1e-5


def test_a_model_that_an_earlier_release_published_is_written(tmp_path):
    earlier = Path(__file__).parents[1] / "fixtures" / "published_0.1.0"
    assert export_portable(earlier, tmp_path / "quadratic.pt2") < 1e-5


def test_a_forest_takes_batches_of_any_size_when_exported():
    values = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    forest, _ = grow(values, (values[:, :3] > 0).astype(np.float32), trees=40)
    x = torch.from_numpy(values[:, :, None, None])
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(forest, (x[:3],), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(program(x), forest(x))


def test_a_file_that_predicts_something_else_is_not_kept(run, tmp_path, monkeypatch):
    monkeypatch.setattr(portable, "_predict_torch", lambda path: lambda x: torch.zeros(len(x), 24))
    with pytest.raises(GlczooError, match="is not kept: its probabilities differ"):
        export_portable(run, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_traced_is_named_and_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no such operator\nand more")

    monkeypatch.setattr(portable, "_as_torch", fail)
    with pytest.raises(GlczooError, match="bioresnet_glc23 cannot be written as torch: no such operator$"):
        export_portable(run, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_without_onnx_the_message_says_how_to_get_it(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(GlczooError, match=r"ONNX needs onnx. pip install 'glczoo\[onnx\]'"):
        export_portable(run, tmp_path / "model.onnx", "onnx")


@needs_onnx
def test_onnx_predicts_what_the_run_predicts(run, tmp_path):
    import onnxruntime

    assert export_portable(run, tmp_path / "model.onnx", "onnx") < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    values, expected = values_at(run)
    (probabilities,) = session.run(None, {"patches": values.numpy()})
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=1e-4)
    described = json.loads(session.get_modelmeta().custom_metadata_map["glczoo"])
    assert described["species"] == Run(run).species.ids.tolist()
