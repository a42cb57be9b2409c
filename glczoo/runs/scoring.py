"""A network's probabilities at many places, by one process or several."""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from glczoo.data.loader import load, shares
from glczoo.data.occurrences import Samples
from glczoo.data.patches import PatchBuilder
from glczoo.decoding import Decoding, f1_by_k
from glczoo.metrics import sample_f1
from glczoo.models.ensemble import activate
from glczoo.progress import Track

__all__ = ["default_accelerator", "mean_f1", "score"]

_LARGEST = 100  # sets that are tried where no decoding is given


def default_accelerator() -> Accelerator:
    """The device that verbs use where the caller names none: the accelerator if there is one."""
    return Accelerator(cpu=not torch.accelerator.is_available())


def score(
    accelerator: Accelerator, model: nn.Module, build: PatchBuilder, batch_size: int, activation: str
) -> Tensor:
    """Probabilities of every point of a builder, float32[N, K] on the CPU.

    Every process computes its share and gets the whole. `activation`: see `models.ensemble.activate`.
    """
    whole: Tensor | None = None
    for index, probabilities in _probabilities(accelerator, model, build, batch_size, activation):
        if whole is None:
            whole = torch.empty(len(build), probabilities.shape[1])
        if accelerator.num_processes > 1:  # the last share may be shorter on some: filled up with -1
            share = accelerator.pad_across_processes((index.to(build.device), probabilities), pad_index=-1)
            index, probabilities = accelerator.gather(share)
            index, probabilities = index[index >= 0], probabilities[index >= 0]
        whole[index.cpu()] = probabilities.cpu()
    return torch.empty(0, 0) if whole is None else whole


def mean_f1(
    accelerator: Accelerator,
    model: nn.Module,
    build: PatchBuilder,
    samples: Samples,
    batch_size: int,
    activation: str,
    decoding: Decoding | None = None,
) -> float:
    """Mean F1 (eq. 3) of samples by a decoding, or by the best k of 1 to 100 without one.

    Batch by batch on the device: [N, K] is held nowhere. Every process computes its share and gets the whole.
    """
    total: Tensor | float = 0.0
    for index, probabilities in _probabilities(accelerator, model, build, batch_size, activation):
        target = samples.targets(index, probabilities.shape[1], probabilities.device)
        if decoding:
            f1 = sample_f1(decoding(probabilities), target)[:, None]
        else:
            f1 = f1_by_k(probabilities, target, _LARGEST)
        total = total + f1.sum(0)
    return float((accelerator.reduce(total) / len(samples)).max())


def _probabilities(
    accelerator: Accelerator, model: nn.Module, build: PatchBuilder, batch_size: int, activation: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """index[B] and probabilities[B, K] on the device, of this process's share of the points."""
    training = model.training
    model.eval()
    process, processes = accelerator.process_index, accelerator.num_processes
    batches = shares(len(build), batch_size, process, processes)
    hidden = process > 0 or len(batches) < 20
    bar = Track(load(build, batches), "predicting", len(batches), unit="batches", hidden=hidden)
    for index, x in bar:
        with torch.inference_mode():
            probabilities = activate(model(x), activation)
        yield index, probabilities
    model.train(training)
