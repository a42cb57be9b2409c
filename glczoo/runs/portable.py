"""A trained model in one file that predicts without glczoo: `glczoo export RUN --format torch --out FILE`.

The file holds normalisation, network and activation. Its input `patches` float32[B, C, S, S] holds values in
the bands' units, the channels in the order of `bands`, NaN where there is no data; its output `probabilities`
float32[B, K] is in the order of `species`. What both are stands in the file: torch's as `glczoo.json`
(`torch.export.load(FILE, extra_files={"glczoo.json": ""})`), ONNX's as the metadata entry `glczoo`.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from glczoo.errors import GlczooError
from glczoo.files import whole
from glczoo.models.ensemble import activate
from glczoo.runs.run import Run
from glczoo.runs.trained import TrainedModel

__all__ = ["Format", "Portable", "export_portable", "format_of"]

Format = Literal["torch", "onnx"]
"""`torch.export`, or ONNX."""
_DESCRIBED = "glczoo.json"
_TOLERANCE = 1e-4  # of probabilities: other kernels sum in another order


class Portable(nn.Module):
    """Probabilities[B, K] of patches[B, C, S, S] in the bands' units; NaN counts as the band's mean."""

    def __init__(self, trained: TrainedModel) -> None:
        """Take over the weights of a model, on the CPU."""
        super().__init__()
        self.network = trained.to("cpu").model
        self.activation = trained.activation
        self.mean, self.std = (
            nn.Buffer(torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1))
            for values in (trained.mean, trained.std)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """patches[B, C, S, S] to probabilities[B, K]."""
        x = (patches - self.mean) / self.std
        x = torch.where(torch.isnan(patches), torch.zeros_like(x), x)
        return activate(self.network(x), self.activation)


_SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".pt2": "torch"}


def format_of(out: Path, kind: Format | None) -> Format:
    """The format of a file: the one that is asked for, else the one of its name.

    Raises:
        GlczooError: its name is that of the other format.
    """
    named = _SUFFIXES.get(out.suffix.lower())
    if kind and named and kind != named:
        suffix = next(suffix for suffix, other in _SUFFIXES.items() if other == kind)
        raise GlczooError(
            f"{out} is the name of a file of format {named}, asked for is {kind}: name it *{suffix}, or "
            "leave --format out"
        )
    return kind or named or "torch"


def export_portable(run: str | Path | Run, out: Path, kind: Format = "torch") -> float:
    """Write a model as one file, which is loaded and compared with ours before it is kept.

    Args:
        run: folder of a finished run, an ensemble or a published model, or `hf-hub:ORG/NAME`.
        out: file to write, replaced if it is there: whole, or not there.
        kind: `torch` (a program of torch.export), or `onnx`, which needs `glczoo[onnx]`.

    Returns:
        The largest difference between the file's probabilities and ours.

    Raises:
        MissingError: the run is not there.
        GlczooError: ONNX is not installed, the architecture cannot be written so, or the file does not
            predict what the model predicts.
    """
    found = Run.find(run)
    if kind == "onnx":
        _require_onnx()
    model, trained = Portable(found.model).eval(), found.model
    example = _example(trained)
    serialised, predict = {"torch": (_as_torch, _predict_torch), "onnx": (_as_onnx, _predict_onnx)}[kind]
    with torch.inference_mode():
        expected = model(example)
    try:
        written = serialised(model, example, json.dumps(_described(found), ensure_ascii=False))
    except Exception as error:  # whatever a tracer raises for an architecture that it does not know
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise GlczooError(f"{found.config.architecture} cannot be written as {kind}: {reason}") from error
    with whole(out) as partial:
        partial.write_bytes(written)
        difference = _compared(predict(partial), example, expected)
        if not difference <= _TOLERANCE:
            raise GlczooError(
                f"{out} is not kept: its probabilities differ from the model's by {difference:.2g}",
                remedy="Try the other --format.",
            )
    return difference


def _example(trained: TrainedModel) -> Tensor:
    """Three patches of noise around the training samples' mean, a tenth of their cells without data."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, len(trained.bands), trained.patch_size, trained.patch_size)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (trained.mean, trained.std))
    values = torch.randn(shape, generator=generator) * std + mean
    return values.masked_fill(torch.rand(shape, generator=generator) < 0.1, torch.nan)


def _described(run: Run) -> dict[str, Any]:
    """What the channels and the columns of the output are."""
    species = run.species
    return {
        "model": run.name,
        **run.config.glczoo.to_json(),
        "mean": run.model.mean,
        "std": run.model.std,
        "species": species.ids.tolist(),
        "names": list(species.names),
    }


def _compared(predict: Callable[[Tensor], Tensor], example: Tensor, expected: Tensor) -> float:
    """The largest difference, of all patches at once and of one alone: batches of any size are taken."""
    together, alone = predict(example), predict(example[:1])
    difference = max(float((together - expected).abs().max()), float((alone - expected[:1]).abs().max()))
    return difference if together.isfinite().all() and alone.isfinite().all() else float("inf")


def _as_torch(model: Portable, example: Tensor, described: str) -> bytes:
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    file = io.BytesIO()  # on a full disk torch's writer ends the process
    torch.export.save(program, file, extra_files={_DESCRIBED: described})
    return file.getvalue()


def _predict_torch(path: Path) -> Callable[[Tensor], Tensor]:
    with open(path, "rb") as file:
        module = torch.export.load(file).module()

    def predict(patches: Tensor) -> Tensor:
        with torch.inference_mode():
            return module(patches)

    return predict


def _require_onnx() -> None:
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise GlczooError(f"ONNX needs {error.name}", remedy="pip install 'glczoo[onnx]'") from None
    assert onnx and onnxruntime and onnxscript


def _as_onnx(model: Portable, example: Tensor, described: str) -> bytes:
    import onnx

    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        input_names=["patches"],
        output_names=["probabilities"],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"glczoo": described})
    return proto.SerializeToString()


def _predict_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def predict(patches: Tensor) -> Tensor:
        (probabilities,) = session.run(None, {"patches": patches.numpy()})
        return torch.from_numpy(probabilities)

    return predict
